//! The shelf's side of the manager: what is accepted is written down, what was written down is taken up again.
//!
//! A disk that is full or read-only never stops anything: what could not be written is tried again later.

use std::time::Duration;

use tasuki_xds::ResourceType;
use tokio::time::Instant;

use super::Manager;
use crate::state::dependencies::Key;
use crate::state::persist::Kept;

/// How long changes are gathered before they are written.
pub(super) const FLUSH: Duration = Duration::from_secs(1);

/// How long after a failed write the next try is.
const RETRY: Duration = Duration::from_secs(30);

/// Changes that wait to be written; more are not kept.
const MOST_UNSAVED: usize = 16_384;

impl Manager {
    /// The resource is to be written, or with `None` removed.
    pub(super) fn remember(&mut self, key: Key, kept: Option<Kept>) {
        if self.unsaved.len() < MOST_UNSAVED || self.unsaved.contains_key(&key) {
            self.unsaved.insert(key, kept);
        }
    }

    /// Writes what has changed, if it is time.
    pub(super) fn flush(&mut self, now: Instant) {
        if now < self.next_flush {
            return;
        }
        let failed = self.write();
        self.next_flush = now + if failed { RETRY } else { FLUSH };
    }

    /// Everything goes to the shelf; for the end of the process.
    pub fn save(&mut self) {
        self.write();
    }

    /// True if something could not be written, which is then kept for another try.
    fn write(&mut self) -> bool {
        let mut failure = None;
        for (key, kept) in std::mem::take(&mut self.unsaved) {
            let written = match &kept {
                None => self.shelf.remove(key.0, &key.1),
                Some(kept) => self.shelf.put(kept),
            };
            if let Err(error) = written {
                self.metrics.state_write_failures.inc();
                failure = Some(error);
                self.unsaved.insert(key, kept);
            }
        }
        // Once for each time that the disk fails, or a full one fills the log too.
        match (&failure, self.writes_fail) {
            (Some(error), false) => tracing::warn!(
                %error,
                waiting = self.unsaved.len(),
                "the state dir cannot be written; a restart without control plane would serve an older configuration"
            ),
            (None, true) => tracing::info!("the state dir can be written again"),
            _ => {}
        }
        self.writes_fail = failure.is_some();
        failure.is_some()
    }

    /// Takes up the kept form of a resource, if there is a usable one.
    pub(super) fn restore_named(&mut self, ty: ResourceType, name: &str) -> bool {
        let kept = self.shelf.get(ty, name);
        kept.is_some_and(|kept| self.restore(&kept))
    }

    /// The same for a kept form that has been read.
    pub(super) fn restore(&mut self, kept: &Kept) -> bool {
        match self.ads.restore(kept.ty, &kept.version, &kept.any) {
            Ok(resource) => {
                self.apply(resource);
                true
            }
            Err(refusal) => {
                tracing::warn!(name = kept.name, %refusal, "kept resource is not usable any more");
                false
            }
        }
    }
}
