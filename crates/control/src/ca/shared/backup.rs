//! etcd restored from a backup: the Secret is again what it was, and must not be believed. Certificates that were signed since
//! would not be trusted, and roots that were retired would be.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use tasuki_identity::ca::KeyRing;
use tokio::time::sleep;

use super::{Shared, difference, is_older, load};
use crate::ca::vault::{Changes, VaultError};
use crate::ca::{Authority, lock};

/// For the leader to write back what a restored backup has undone, before others do.
pub(super) const LEADERS_TURN: Duration = Duration::from_secs(10);
/// After the API server did not answer.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

impl Authority {
    /// Sees to it that a backup of the cluster's store brings back no authority of the past; never ends, to be spawned.
    pub(in crate::ca) async fn guard(&self) {
        let Some(shared) = self.shared() else { return };
        loop {
            shared.doubts.notified().await;
            while let Err(error) = shared.look_again(self).await {
                tracing::debug!(%error, "{}", shared.vault.name());
                sleep(AGAIN).await;
            }
            while shared.is_undone() {
                sleep(LEADERS_TURN).await;
                if let Err(error) = shared.write_back(self).await {
                    tracing::warn!(%error, "what a backup has undone is not written back yet");
                }
            }
        }
    }
}

impl Shared {
    pub(super) fn is_undone(&self) -> bool {
        lock(&self.held).undone.is_some()
    }

    /// Whether the vault is older than it was, or we were told of it late. To ask it is enough: it answers with nothing older
    /// than what it has confirmed, unless that has been undone.
    async fn look_again(&self, authority: &Authority) -> Result<(), VaultError> {
        let known = lock(&self.held).version.clone();
        let seen = self.vault.read().await?;
        match seen {
            Some(kept) if is_older(&kept.version, known.as_deref()) => {
                let mut held = lock(&self.held);
                if held.version == known {
                    tracing::error!(
                        version = kept.version,
                        known,
                        "{} is older than it was, as after a restored backup; what is in memory goes on and is written back",
                        self.vault.name()
                    );
                    held.version = Some(kept.version.clone());
                    held.undone = Some(kept.version);
                }
            }
            seen => self.observe(authority, seen),
        }
        Ok(())
    }

    /// Our clients have what is in memory: nobody has to trust anything else for a backup's sake.
    pub(super) async fn write_back(&self, authority: &Authority) -> anyhow::Result<()> {
        let Some(version) = lock(&self.held).undone.clone() else {
            return Ok(());
        };
        let seen = self.vault.read().await?;
        let past = match seen {
            Some(kept) if kept.version == version => kept,
            other => {
                self.observe(authority, other);
                return Ok(());
            }
        };
        let keys = authority.keys();
        let old = match load(&*self.vault, authority.trust_domain(), &past) {
            Ok(keys) => keys.files()?,
            Err(_) => BTreeMap::new(),
        };
        let changes = difference(&old, keys.files()?);
        let changed = self.vault.change(changes, Changes::new(), Some(&version));
        let kept = changed
            .await
            .map_err(|error| anyhow!("{}: {error}", self.vault.name()))?;
        tracing::warn!("{} is again what it was", self.vault.name());
        self.take(authority, KeyRing::clone(&keys), kept);
        Ok(())
    }
}
