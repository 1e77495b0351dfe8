//! Files of the state dir: whole or not at all, whatever crashes when.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

pub(crate) const SECRET: u32 = 0o600;
pub(crate) const PUBLIC: u32 = 0o644;

/// Creates `path` and its parents.
pub(crate) fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(Error::io(path))
}

/// Replaces `path`: readers see the old text or the new, never a part, and after a power cut too.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let temporary = write_temporary(path, text, mode)?;
    let moved = fs::rename(&temporary, path).map_err(Error::io(path));
    if moved.is_err() {
        // Leaves nothing secret behind; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
    }
    moved?;
    sync_parent(path)
}

/// Creates `path` unless it exists; `false` means that another process was first, and its text stands.
pub(crate) fn create_new(path: &Path, text: &str, mode: u32) -> Result<bool, Error> {
    let temporary = write_temporary(path, text, mode)?;
    // A hard link, unlike a rename, fails when the target exists.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(Error::io(&temporary))?;
    match linked {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io(path)(e)),
    }
}

pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

fn write_temporary(path: &Path, text: &str, mode: u32) -> Result<PathBuf, Error> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
    let temporary = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(Error::io(&temporary))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(Error::io(&temporary))?;
    Ok(temporary)
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io(parent))
}
