//! A copy of each file as it was when all of it could be read, in `STATE/.last-good`.
//!
//! A control plane that starts while a file is broken, empty or half-written goes on with what the file declared before:
//! contract section 11 holds over restarts too. The copies lie as the files do and are read in the same way. The
//! folder is hidden, so that a state dir within the watched folder is not taken for resources.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::scan::Scanner;

/// The folder of copies.
pub struct LastGood {
    root: PathBuf,
    /// The last write failed, which has been said.
    failing: bool,
}

impl LastGood {
    /// The copies in this state dir; it need not exist yet.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join(".last-good"),
            failing: false,
        }
    }

    /// Path and text of every copy. What cannot be read is as good as not there.
    pub fn all(&self) -> Vec<(PathBuf, String)> {
        let found = Scanner::default().scan(&self.root, Duration::ZERO);
        let read = found.map(|changes| changes.read).unwrap_or_default();
        let texts = read.into_iter();
        texts
            .filter_map(|(path, text)| Some((path, text.ok()?)))
            .collect()
    }

    /// The file is good as it is now.
    pub fn put(&mut self, path: &Path, text: &str) {
        let written = self.write(path, text);
        self.told(path, written);
    }

    /// The file is gone.
    pub fn remove(&mut self, path: &Path) {
        let removed = match fs::remove_file(self.root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.told(path, removed);
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let place = self.root.join(path);
        let name = place.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        let beside = place.with_file_name(hidden);
        if let Some(folder) = place.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        // No fsync: thousands of them would hold up a start, and a copy that a power cut emptied keeps nothing, no more.
        fs::write(&beside, text)?;
        fs::rename(&beside, &place).inspect_err(|_| drop(fs::remove_file(&beside)))
    }

    fn told(&mut self, path: &Path, outcome: io::Result<()>) {
        if let Err(error) = &outcome
            && !self.failing
        {
            warn!(
                file = %path.display(), %error,
                "its last good form cannot be kept; a restart while it is broken would lose what it declares"
            );
        }
        self.failing = outcome.is_err();
    }
}
