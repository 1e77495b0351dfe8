//! Reading the folder: which files there are and which of them have changed since the last look.
//!
//! Editors that rename over the file and ConfigMap volumes that swap a `..data` symlink both end as a
//! different inode or modification time. Hidden entries are skipped, so the targets of such symlinks
//! are not read twice, nor are editors' swap files.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Larger files are reported, not read.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Symlinks could lead round in circles.
const MAX_DEPTH: usize = 16;
/// A file younger than this may change again without a new modification time (the kernel's clock tick
/// is up to 10 ms; network file systems have whole seconds), so it is read again.
const YOUNG: Duration = Duration::from_secs(2);
/// A file that never stays as it is for long enough is read after this long all the same.
const READ_AT_LAST: Duration = Duration::from_millis(300);

/// What the scanner remembers.
#[derive(Debug, Default)]
pub struct Scanner {
    seen: BTreeMap<PathBuf, Fingerprint>,
    /// Files that somebody seems to be writing, and since when.
    unsettled: BTreeMap<PathBuf, SystemTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

/// What is different since the last look. Paths are relative to the folder.
#[derive(Debug, Default)]
pub struct Changes {
    /// Contents of new and possibly changed files, or why they cannot be read.
    pub read: Vec<(PathBuf, Result<String, String>)>,
    /// Files that are gone.
    pub removed: Vec<PathBuf>,
    /// Files were left for later, since they changed a moment ago.
    pub unsettled: bool,
}

impl Scanner {
    /// Looks at the folder. A file that has changed is left as it was known until it has been quiet for `quiet`: the
    /// first half of a document is often a document too.
    ///
    /// # Errors
    /// When the folder itself cannot be listed; then nothing is known to be gone.
    pub fn scan(&mut self, root: &Path, quiet: Duration) -> io::Result<Changes> {
        let mut found = BTreeMap::new();
        list(root, root, 0, &mut found)?;
        let mut changes = Changes::default();
        for (path, metadata) in &found {
            let metadata = match metadata {
                Ok(metadata) => metadata,
                Err(reason) => {
                    // Read again as soon as it can be.
                    self.seen.insert(path.clone(), Fingerprint::default());
                    changes.read.push((path.clone(), Err(reason.clone())));
                    continue;
                }
            };
            let fingerprint = Fingerprint::of(metadata);
            let known = self.seen.get(path) == Some(&fingerprint);
            if known && !is_young(&fingerprint) {
                continue;
            }
            if !known && self.is_unsettled(path, &fingerprint, quiet) {
                changes.unsettled = true;
                continue;
            }
            self.unsettled.remove(path);
            let content = read(&root.join(path), metadata.len());
            self.seen.insert(path.clone(), fingerprint);
            changes.read.push((path.clone(), content));
        }
        changes.removed = self
            .seen
            .keys()
            .filter(|path| !found.contains_key(*path))
            .cloned()
            .collect();
        for path in &changes.removed {
            self.seen.remove(path);
        }
        self.unsettled.retain(|path, _| found.contains_key(path));
        Ok(changes)
    }

    /// Whether any file was there at the last scan.
    pub fn has_seen_any(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Whether the file was there at the last scan.
    pub fn has_seen(&self, path: &Path) -> bool {
        self.seen.contains_key(path)
    }

    fn is_unsettled(&mut self, path: &Path, fingerprint: &Fingerprint, quiet: Duration) -> bool {
        // A time of the future says nothing.
        if age(fingerprint).is_none_or(|age| age >= quiet) {
            return false;
        }
        let now = SystemTime::now();
        let since = *self.unsettled.entry(path.to_owned()).or_insert(now);
        now.duration_since(since)
            .is_ok_and(|passed| passed < READ_AT_LAST)
    }
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn is_young(fingerprint: &Fingerprint) -> bool {
    age(fingerprint).is_none_or(|age| age < YOUNG)
}

fn age(fingerprint: &Fingerprint) -> Option<Duration> {
    let modified = fingerprint.modified?;
    SystemTime::now().duration_since(modified).ok()
}

fn list(
    root: &Path,
    folder: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, Result<Metadata, String>>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        let relative = || path.strip_prefix(root).unwrap_or(&path).to_owned();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // Vanished between the listing and now: the next look settles it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                // It is there, so what it declared is not gone.
                if is_document(&path) {
                    found.insert(relative(), Err(format!("cannot be read: {error}")));
                }
                continue;
            }
        };
        if metadata.is_dir() {
            if depth < MAX_DEPTH
                && let Err(error) = list(root, &path, depth + 1, found)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        } else if metadata.is_file() && is_document(&path) {
            found.insert(relative(), Ok(metadata));
        }
    }
    Ok(())
}

fn is_document(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn read(path: &Path, length: u64) -> Result<String, String> {
    if length > MAX_FILE_BYTES {
        return Err(format!("{length} bytes; at most {MAX_FILE_BYTES} are read"));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}
