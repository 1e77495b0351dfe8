//! The files source: a folder, watched.
//!
//! The kernel's notifications make a change live at once; looking every half second makes up for those
//! that never come (network file systems, notification limits, folders swapped by symlink).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Objects;
use super::folder::Folder;
use super::last_good::LastGood;
use super::scan::Scanner;

/// How often to look without being told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A burst of operations is read once, when it has been quiet for this long, so that a file which is
/// being written in pieces is not taken for a shorter one.
const SETTLE: Duration = Duration::from_millis(25);
/// But a folder that is never quiet is read this often.
const SETTLED_AT_LAST: Duration = Duration::from_millis(300);

/// A folder that is being followed. Dropping it does not stop the task; that ends with the runtime or
/// when nobody listens any more.
pub struct Files {
    root: PathBuf,
    scanner: Scanner,
    folder: Folder,
    last_good: Option<LastGood>,
    /// Files are declared as they were kept, and the folder has shown no file yet.
    from_memory: bool,
}

/// What a look has brought.
struct Look {
    different: bool,
    /// Something is being written.
    again: bool,
}

impl Files {
    /// Reads the folder once.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        Self::read(root, None)
    }

    /// Reads the folder once; files that are broken now declare what they did when they were last good, as kept in
    /// the state dir.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn open_with(root: &Path, state_dir: &Path) -> std::io::Result<Self> {
        Self::read(root, Some(LastGood::new(state_dir)))
    }

    fn read(root: &Path, last_good: Option<LastGood>) -> std::io::Result<Self> {
        let mut files = Self {
            root: root.to_owned(),
            scanner: Scanner::default(),
            folder: Folder::default(),
            last_good,
            from_memory: false,
        };
        let kept = files.last_good.iter().flat_map(LastGood::all);
        for (path, text) in kept {
            files.from_memory |= files.folder.put(&path.to_string_lossy(), Ok(text));
        }
        files.look()?;
        if files.from_memory {
            warn!(
                folder = %root.display(),
                "there is no file yet; what was declared before is kept until there is one"
            );
        }
        Ok(files)
    }

    /// Files that went while nobody looked take their objects with them, as those do that go under our eyes. But a folder
    /// that is altogether empty when the process starts is one that is not mounted or not filled yet.
    fn forget_unseen(&mut self) {
        let unseen = |path: &&str| !self.scanner.has_seen(Path::new(path));
        let gone: Vec<String> = self
            .folder
            .paths()
            .filter(unseen)
            .map(str::to_owned)
            .collect();
        for path in gone {
            self.removed(Path::new(&path));
        }
    }

    fn removed(&mut self, path: &Path) -> bool {
        if let Some(last_good) = &mut self.last_good {
            last_good.remove(path);
        }
        self.folder.remove(&path.to_string_lossy())
    }

    fn put(&mut self, path: &Path, content: Result<String, String>) -> bool {
        let name = path.to_string_lossy();
        if !self.folder.put(&name, content) {
            return false;
        }
        if let Some(last_good) = &mut self.last_good
            && let Some(text) = self.folder.good(&name)
        {
            last_good.put(path, text);
        }
        true
    }

    /// What the folder declares, as of the last look.
    pub fn objects(&self) -> Objects {
        self.folder.objects()
    }

    /// Looks again; true when something is different.
    ///
    /// # Errors
    /// When the folder cannot be listed; nothing is forgotten then.
    pub fn look(&mut self) -> std::io::Result<bool> {
        self.look_at_the_quiet(Duration::ZERO)
            .map(|look| look.different)
    }

    fn look_at_the_quiet(&mut self, quiet: Duration) -> std::io::Result<Look> {
        let changes = self.scanner.scan(&self.root, quiet)?;
        let mut different = false;
        for path in changes.removed {
            different |= self.removed(&path);
        }
        for (path, content) in changes.read {
            different |= self.put(&path, content);
        }
        if self.from_memory && !changes.unsettled && self.scanner.has_seen_any() {
            self.from_memory = false;
            self.forget_unseen();
            different = true;
        }
        Ok(Look {
            different,
            again: changes.unsettled,
        })
    }

    /// Follows the folder until nobody listens.
    pub fn follow(mut self) -> watch::Receiver<Arc<Objects>> {
        let (sender, receiver) = watch::channel(Arc::new(self.objects()));
        tokio::spawn(async move {
            let told = Arc::new(Notify::new());
            let _watcher = watcher(&self.root, told.clone());
            let mut reachable = true;
            while !sender.is_closed() {
                wait(&told).await;
                // File systems can block for long; the runtime's workers must not.
                let Ok((files, outcome)) = tokio::task::spawn_blocking(move || {
                    let outcome = self.look_at_the_quiet(SETTLE);
                    (self, outcome)
                })
                .await
                else {
                    warn!("the task that reads the folder has failed");
                    return;
                };
                self = files;
                match outcome {
                    Ok(look) => {
                        reachable = true;
                        if look.again {
                            told.notify_one();
                        }
                        if look.different {
                            self.publish(&sender);
                        }
                    }
                    Err(error) => {
                        if reachable {
                            warn!(folder = %self.root.display(), %error, "cannot list the folder; all is kept");
                        }
                        reachable = false;
                    }
                }
            }
        });
        receiver
    }

    fn publish(&self, sender: &watch::Sender<Arc<Objects>>) {
        let objects = self.objects();
        info!(
            objects = objects.objects.len(),
            problems = objects.problems.len(),
            "resources changed"
        );
        sender.send_replace(Arc::new(objects));
    }
}

/// Until something has changed and is quiet again, or it is time to look anyway.
async fn wait(told: &Notify) {
    if timeout(LOOK_EVERY, told.notified()).await.is_err() {
        return;
    }
    let last = Instant::now() + SETTLED_AT_LAST;
    while Instant::now() < last && timeout(SETTLE, told.notified()).await.is_ok() {}
}

/// `None` when the kernel has no watches left: then looking regularly has to do.
fn watcher(root: &Path, told: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let started =
        notify::recommended_watcher(move |_| told.notify_one()).and_then(|mut watcher| {
            watcher
                .watch(root, RecursiveMode::Recursive)
                .map(|()| watcher)
        });
    match started {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%error, "no notifications of file changes; the folder is read every half second");
            None
        }
    }
}

#[cfg(test)]
mod tests;
