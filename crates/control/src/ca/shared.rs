//! The authority that replicas have in common: kept in a [`Vault`], used from memory.
//!
//! Whoever comes first makes it; whoever comes second reads that. Only the leader moves a rotation on. What is in memory goes on
//! signing whatever happens to the vault:
//!
//! | the Secret | a replica that runs | one that starts |
//! |---|---|---|
//! | cannot be reached | goes on | waits |
//! | is deleted | goes on; the leader makes it again from memory, so that nobody has to trust anything new | waits while there is a leader, else makes a new authority |
//! | cannot be read, or is of another trust domain | goes on, says so, and nothing is written over it | ends with an error that names Secret and key |
//! | is another authority | takes it over, and says loudly that nobody was prepared | uses it |
//! | is older than it was (etcd was restored from a backup) | goes on; the leader writes what it has back, and without one whoever comes first | uses it, and then what is written back |

mod backup;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use tasuki_identity::ca::rotation::{Progress, Request};
use tasuki_identity::ca::{KeyRing, PlugIn};
use tasuki_identity::{Error, TrustDomain};
use tasuki_kubernetes::names;
use tasuki_runtime::Backoff;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::vault::{Changes, Kept, Vault, VaultError};
use super::{Authority, Store, lock};

/// See the module.
pub(super) struct Shared {
    vault: Box<dyn Vault>,
    held: Mutex<Held>,
    plugin: Mutex<Option<PlugIn>>,
    /// An older version than the known one was seen: told late, or the past has come back.
    doubts: Notify,
}

/// What this replica knows of the vault.
#[derive(Default)]
struct Held {
    /// Of the key ring in use. `None`: the vault is gone.
    version: Option<String>,
    annotations: BTreeMap<String, String>,
    /// Why what is there cannot be used.
    broken: Option<String>,
    /// The version of the past that has come back: what it holds is not used, and is to be written over.
    undone: Option<String>,
}

/// Asked when there is no authority: whether a replica runs that has it in memory.
#[tonic::async_trait]
pub trait Led: Send + Sync {
    async fn is_led(&self) -> bool;
}

impl Authority {
    /// Opens the authority that is kept in `vault`, or makes it with `plugin`, if there is one. An API server that is away is
    /// waited for.
    ///
    /// # Errors
    /// When the vault holds something else.
    pub async fn open_shared(
        vault: Box<dyn Vault>,
        plugin: Result<Option<PlugIn>, String>,
        trust_domain: &TrustDomain,
        ttl: Duration,
        led: &dyn Led,
    ) -> anyhow::Result<Self> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 0.3);
        let mut complained = String::new();
        let (keys, kept) = loop {
            match open(&*vault, &plugin, trust_domain, ttl, led).await {
                Ok(Some(opened)) => break opened,
                Ok(None) | Err(Opening::Vault(VaultError::Conflict | VaultError::Gone)) => {}
                Err(Opening::Broken(reason)) => bail!(reason),
                Err(Opening::Vault(VaultError::Unknown(reason))) => {
                    if complained != reason {
                        tracing::warn!(reason, "{} cannot be read yet", vault.name());
                        complained = reason;
                    }
                }
            }
            sleep(backoff.next_delay()).await;
        };
        let held = Held {
            version: Some(kept.version),
            annotations: kept.annotations,
            broken: None,
            undone: None,
        };
        let shared = Shared {
            vault,
            doubts: Notify::new(),
            held: Mutex::new(held),
            // A broken one is reported by whoever follows it, and changes nothing.
            plugin: Mutex::new(plugin.unwrap_or_default()),
        };
        Ok(Self::with(keys, Store::Shared(shared), ttl))
    }

    /// The vault as it was seen just now; `None`: it is gone.
    pub(super) fn observe(&self, seen: Option<Kept>) {
        if let Some(shared) = self.shared() {
            shared.observe(self, seen);
        }
    }

    /// A plug-in root that is to be used from now on; the leader sees to it.
    pub(super) fn plug_in(&self, plugin: Option<PlugIn>) {
        if let Some(shared) = self.shared() {
            *lock(&shared.plugin) = plugin;
        }
    }

    /// The plug-in root that is not in use yet.
    pub(super) fn awaiting(&self) -> Option<PlugIn> {
        let plugin = lock(&self.shared()?.plugin).clone()?;
        (!self.keys().has_plugged(&plugin)).then_some(plugin)
    }

    /// Whether the newest root was made elsewhere and is still wanted there.
    pub(super) fn plugged(&self) -> bool {
        let wanted = |shared: &Shared| lock(&shared.plugin).is_some();
        self.shared().is_some_and(wanted) && self.keys().is_plugged()
    }

    /// Makes room for certificates that are to live longer than before; never ends, to be spawned. Until then they do not.
    pub(super) async fn record_ttl(&self) {
        let mut asked = self.0.ttl.subscribe();
        let mut again = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 0.3);
        loop {
            let ttl = *asked.borrow_and_update();
            if self.keys().record_ttl(ttl).is_none() {
                again.reset();
                if asked.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let step = |keys: &KeyRing| Ok(keys.record_ttl(ttl).unwrap_or_else(|| keys.clone()));
            if let Err(error) = self.step(step).await {
                tracing::warn!(%error, "certificates do not live longer yet");
                sleep(again.next_delay()).await;
            }
        }
    }

    /// Leader only: makes a vault that has been deleted again, and what is in it if a backup has undone it.
    pub(super) async fn restore(&self) -> anyhow::Result<()> {
        match self.shared() {
            Some(shared) => shared.restore(self).await,
            None => Ok(()),
        }
    }
}

/// Why there is no authority yet.
enum Opening {
    Vault(VaultError),
    Broken(String),
}

/// `None`: to be tried again.
async fn open(
    vault: &dyn Vault,
    plugin: &Result<Option<PlugIn>, String>,
    trust_domain: &TrustDomain,
    ttl: Duration,
    led: &dyn Led,
) -> Result<Option<(KeyRing, Kept)>, Opening> {
    let found = vault.read().await.map_err(Opening::Vault)?;
    let broken = |error: Error| Opening::Broken(in_vault(vault, error));
    let (keys, kept) = match found {
        Some(kept) if !kept.files.is_empty() => (
            load(vault, trust_domain, &kept).map_err(Opening::Broken)?,
            kept,
        ),
        absent => {
            if led.is_led().await {
                tracing::warn!(
                    "{} is missing; waiting for the leader to restore it",
                    vault.name()
                );
                return Ok(None);
            }
            // To start with a root of our own instead would be the opposite of what was asked for.
            let plugin = plugin
                .as_ref()
                .map_err(|reason| Opening::Broken(reason.clone()))?;
            let keys = KeyRing::create(trust_domain, plugin.as_ref(), SystemTime::now())
                .map_err(broken)?;
            let files = keys.files().map_err(broken)?;
            let kept = match absent {
                None => vault.create(files).await,
                // Made empty by whoever installed us.
                Some(empty) => {
                    let files = files.into_iter().map(|(key, text)| (key, Some(text)));
                    let version = Some(empty.version.as_str());
                    vault.change(files.collect(), Changes::new(), version).await
                }
            };
            let kept = kept.map_err(Opening::Vault)?;
            tracing::info!("{} has a new certificate authority", vault.name());
            (keys, kept)
        }
    };
    // Before anything is signed: the leader counts on it.
    let Some(longer) = keys.record_ttl(ttl) else {
        return Ok(Some((keys, kept)));
    };
    let (old, new) = (
        keys.files().map_err(broken)?,
        longer.files().map_err(broken)?,
    );
    let changes = difference(&old, new);
    let version = Some(kept.version.as_str());
    let kept = vault.change(changes, Changes::new(), version).await;
    Ok(Some((longer, kept.map_err(Opening::Vault)?)))
}

fn load(vault: &dyn Vault, trust_domain: &TrustDomain, kept: &Kept) -> Result<KeyRing, String> {
    let loaded = KeyRing::load(trust_domain, |key| Ok(kept.files.get(key).cloned()));
    let loaded = loaded.map_err(|error| in_vault(vault, error))?;
    loaded.ok_or_else(|| format!("{}: key state.json is missing", vault.name()))
}

/// The same, with Secret and key.
fn in_vault(vault: &dyn Vault, error: Error) -> String {
    match error {
        Error::State { path, reason } => {
            format!("{}: key {}: {reason}", vault.name(), path.display())
        }
        other => format!("{}: {other}", vault.name()),
    }
}

/// What turns the files of one key ring into those of the next.
fn difference(old: &BTreeMap<String, String>, new: BTreeMap<String, String>) -> Changes {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let mut changes: Changes = gone.map(|key| (key.clone(), None)).collect();
    let written = new
        .into_iter()
        .filter(|(key, text)| old.get(key) != Some(text));
    changes.extend(written.map(|(key, text)| (key, Some(text))));
    changes
}

impl Shared {
    /// One compare-and-swap. After a failure the key ring is what it was; the next look at the vault says what is true.
    pub(super) async fn step(
        &self,
        authority: &Authority,
        step: impl Fn(&KeyRing) -> Result<KeyRing, Error> + Send,
    ) -> anyhow::Result<()> {
        let (keys, version) = {
            let held = lock(&self.held);
            if let Some(reason) = &held.broken {
                bail!("nothing is changed: {reason}");
            }
            if held.undone.is_some() {
                bail!(
                    "nothing is changed before {} is put right",
                    self.vault.name()
                );
            }
            (authority.keys(), held.version.clone())
        };
        let version = version.ok_or_else(|| anyhow!("{} is gone", self.vault.name()))?;
        let next = step(&keys)?;
        let changes = difference(&keys.files()?, next.files()?);
        let changed = self.vault.change(changes, Changes::new(), Some(&version));
        match changed.await {
            Ok(kept) => {
                self.take(authority, next, kept);
                Ok(())
            }
            Err(error) => {
                // A conflict says that we were told late: look now instead of waiting for the watch.
                if let Ok(seen) = self.vault.read().await {
                    self.observe(authority, seen);
                }
                Err(anyhow!("{}: {error}", self.vault.name()))
            }
        }
    }

    /// Keys and version change together.
    fn take(&self, authority: &Authority, keys: KeyRing, kept: Kept) {
        let mut held = lock(&self.held);
        if !is_older(&kept.version, held.version.as_deref()) {
            authority.adopt(keys);
            held.version = Some(kept.version);
            held.annotations = kept.annotations;
            held.broken = None;
            held.undone = None;
        }
    }

    fn observe(&self, authority: &Authority, seen: Option<Kept>) {
        let Some(kept) = seen else {
            let gone = lock(&self.held).version.take();
            if gone.is_some() {
                tracing::error!("{} was deleted; signing goes on", self.vault.name());
            }
            return;
        };
        {
            let held = lock(&self.held);
            if is_older(&kept.version, held.version.as_deref()) {
                self.doubts.notify_one();
                return;
            }
            if held.undone.as_ref() == Some(&kept.version) {
                return;
            }
        }
        match load(&*self.vault, authority.trust_domain(), &kept) {
            Ok(keys) => {
                let known = authority.roots();
                let theirs = keys.roots().certificates();
                if !theirs
                    .iter()
                    .any(|root| known.certificates().contains(root))
                {
                    tracing::error!(
                        "{} has another authority now: nothing that was signed before is trusted by its roots",
                        self.vault.name()
                    );
                }
                self.take(authority, keys, kept);
            }
            Err(reason) => {
                let mut held = lock(&self.held);
                if held.broken.as_ref() != Some(&reason) {
                    tracing::error!(reason, "the authority goes on with what it has");
                }
                held.version = Some(kept.version);
                held.broken = Some(reason);
                held.undone = None;
            }
        }
    }

    async fn restore(&self, authority: &Authority) -> anyhow::Result<()> {
        if self.is_undone() {
            return self.write_back(authority).await;
        }
        if lock(&self.held).version.is_some() {
            return Ok(());
        }
        let keys = authority.keys();
        match self.vault.create(keys.files()?).await {
            Ok(kept) => {
                tracing::warn!("{} was made again", self.vault.name());
                self.take(authority, KeyRing::clone(&keys), kept);
                Ok(())
            }
            Err(VaultError::Conflict) => {
                let seen = self.vault.read().await;
                self.observe(authority, seen.map_err(|e| anyhow!(e.to_string()))?);
                Ok(())
            }
            Err(error) => Err(anyhow!("{} cannot be restored: {error}", self.vault.name())),
        }
    }

    pub(super) fn requested(&self) -> Option<Request> {
        let held = lock(&self.held);
        let id = held.annotations.get(names::ROTATION_REQUEST)?.clone();
        // Whoever may annotate may also ask; what it says is only shown again.
        (!id.is_empty() && id.len() <= 64).then_some(Request { id })
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        let held = lock(&self.held);
        let text = held.annotations.get(names::ROTATION_PROGRESS)?;
        serde_json::from_str(text).ok()
    }

    /// Reporting completion takes the request away with it.
    pub(super) async fn report(
        &self,
        authority: &Authority,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        if self.is_undone() {
            bail!(
                "nothing is reported before {} is put right",
                self.vault.name()
            );
        }
        let text = serde_json::to_string(progress)?;
        let mut annotations = Changes::from([(names::ROTATION_PROGRESS.to_owned(), Some(text))]);
        if progress.done {
            annotations.insert(names::ROTATION_REQUEST.to_owned(), None);
        }
        let changed = self.vault.change(Changes::new(), annotations, None).await;
        let kept = changed.map_err(|error| anyhow!("{}: {error}", self.vault.name()))?;
        self.observe(authority, Some(kept));
        Ok(())
    }
}

/// Versions are numbers that grow on every API server there is; should one have others, what comes last is believed.
fn is_older(version: &str, known: Option<&str>) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(version), known.and_then(number)) {
        (Some(version), Some(known)) => version < known,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
