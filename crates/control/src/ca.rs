//! The certificate authority in service: one handle that signs, publishes the trust bundle and rotates.
//!
//! | file | does |
//! |---|---|
//! | `service.rs` | answers `CreateCertificate` |
//! | `limit.rs` | how often one identity may have something signed |
//! | `server_tls.rs` | keeps the control plane's own certificate fresh |
//! | `cluster.rs` | opens the authority of a cluster |
//! | `shared.rs`, `shared/backup.rs`, `vault.rs` | keeps the authority in a Secret, together with other replicas |
//! | `follow.rs` | follows that Secret, and the one with a plug-in root |
//! | `rotation.rs` | moves a rotation from phase to phase |
//! | `replicas.rs` | how far the other replicas are with a rotation |
//! | `roots_map.rs` | writes the trusted roots into every namespace |
//! | `voices.rs` | who must have taken over new roots before they are used |

pub mod cluster;
mod follow;
pub mod limit;
pub mod replicas;
pub mod roots_map;
pub mod rotation;
pub mod server_tls;
pub mod service;
pub mod shared;
pub mod vault;
pub mod voices;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tasuki_identity::ca::rotation::{Progress, Request};
use tasuki_identity::ca::{self, CertificateAuthority, Issued, KeyRing, Phase};
use tasuki_identity::{Error, PodRecord, Roots, SpiffeId, TrustDomain, WorkloadCertificate};
use tasuki_xds::model::TrustBundle;
use tokio::sync::watch;

pub use service::{CertificateService, WorkloadDirectory};
use shared::Shared;
use voices::{Voice, Voices};

/// How long before its end the authority says so, each time that the control plane's own certificate is renewed.
const END_IS_NEAR: Duration = Duration::from_secs(7 * 86_400);

/// The authority, shared by everything in the process. Cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    ttl: watch::Sender<Duration>,
    trust_domain: TrustDomain,
    keys: ArcSwap<KeyRing>,
    store: Store,
    bundle: watch::Sender<TrustBundle>,
    voices: Voices,
}

enum Store {
    /// This process has it alone.
    Directory {
        state_dir: PathBuf,
        authority: Mutex<CertificateAuthority>,
    },
    Shared(Shared),
}

impl Authority {
    /// Opens or makes the authority below `state_dir`; certificates live for `ttl` unless less is asked for.
    pub fn open(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let mut authority = CertificateAuthority::open(state_dir, trust_domain, SystemTime::now())?;
        authority.record_ttl(ttl)?;
        let keys = authority.keys().clone();
        let store = Store::Directory {
            state_dir: state_dir.to_owned(),
            authority: Mutex::new(authority),
        };
        Ok(Self::with(keys, store, ttl))
    }

    fn with(keys: KeyRing, store: Store, ttl: Duration) -> Self {
        let (bundle, _) = watch::channel(bundle_of(&keys));
        Self(Arc::new(Inner {
            ttl: watch::Sender::new(ttl),
            trust_domain: keys.trust_domain().clone(),
            keys: ArcSwap::from_pointee(keys),
            store,
            bundle,
            voices: Voices::default(),
        }))
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The trust bundle as the resource of that name, and each change of it.
    pub fn bundles(&self) -> watch::Receiver<TrustBundle> {
        self.0.bundle.subscribe()
    }

    pub fn bundle(&self) -> TrustBundle {
        self.0.bundle.borrow().clone()
    }

    pub fn roots(&self) -> Roots {
        self.keys().roots().clone()
    }

    pub fn phase(&self) -> Phase {
        self.keys().phase().clone()
    }

    /// Says so in the log when it will soon be unable to sign: nobody else looks at a plug-in intermediate's end.
    fn mention_end(&self) {
        let left = |end: SystemTime| end.duration_since(SystemTime::now()).unwrap_or_default();
        match self.keys().ends().map(left) {
            Ok(left) if left < END_IS_NEAR => tracing::error!(
                hours = left.as_secs() / 3600,
                "the authority's certificate expires soon, and then nobody gets certificates: replace Secret cacerts, or rotate"
            ),
            Ok(_) | Err(_) => {}
        }
    }

    /// One more who must say so before a new root is used; see [`voices`].
    pub fn voice(&self, name: &str) -> Arc<Voice> {
        self.0.voices.add(name)
    }

    /// How long certificates live that are signed from now on; more than before only after that has been recorded where the
    /// authority is kept.
    pub fn set_ttl(&self, ttl: Duration) {
        if let Store::Directory { authority, .. } = &self.0.store {
            let mut authority = lock(authority);
            if let Err(error) = authority.record_ttl(ttl) {
                tracing::error!(%error, "certificates do not live longer yet");
            }
            self.adopt(authority.keys().clone());
        }
        self.0.ttl.send_if_modified(|current| {
            let changed = *current != ttl;
            *current = ttl;
            changed
        });
    }

    fn ttl(&self) -> Duration {
        *self.0.ttl.borrow()
    }

    /// Signs a request of `id`; see [`KeyRing::sign`]. `asked` can only shorten the life.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        pod: Option<&PodRecord>,
        asked: Option<Duration>,
    ) -> Result<Issued, Error> {
        let most = self.ttl();
        let ttl = asked.map_or(most, |asked| asked.min(most));
        self.keys().sign(csr_pem, id, pod, ttl, SystemTime::now())
    }

    /// Key and certificate for a client that cannot make its own: Envoy's SDS secret `default`.
    pub fn workload_certificate(&self, id: &SpiffeId) -> Result<WorkloadCertificate, Error> {
        let now = SystemTime::now();
        self.keys().workload_certificate(id, self.ttl(), now)
    }

    pub(crate) fn server_certificate(
        &self,
        id: &SpiffeId,
        names: &[String],
    ) -> Result<WorkloadCertificate, Error> {
        let now = SystemTime::now();
        self.keys().server_certificate(id, names, self.ttl(), now)
    }

    fn keys(&self) -> Arc<KeyRing> {
        self.0.keys.load_full()
    }

    /// One step of a rotation; the bundle is published if it changed.
    async fn step(
        &self,
        step: impl Fn(&KeyRing) -> Result<KeyRing, Error> + Send,
    ) -> anyhow::Result<()> {
        match &self.0.store {
            Store::Directory { authority, .. } => {
                let mut authority = lock(authority);
                let result = authority.step(step);
                // Also after an error: part of a step may be on disk, and then it is in force.
                self.adopt(authority.keys().clone());
                Ok(result?)
            }
            Store::Shared(shared) => shared.step(self, step).await,
        }
    }

    /// From now on these are used.
    fn adopt(&self, keys: KeyRing) {
        let bundle = bundle_of(&keys);
        self.0.keys.store(Arc::new(keys));
        self.0.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            *current = bundle;
            changed
        });
    }

    /// The rotation that somebody has asked for.
    fn requested(&self) -> Result<Option<Request>, Error> {
        match &self.0.store {
            Store::Directory { state_dir, .. } => ca::rotation::requested(state_dir),
            Store::Shared(shared) => Ok(shared.requested()),
        }
    }

    fn progress(&self) -> Result<Option<Progress>, Error> {
        match &self.0.store {
            Store::Directory { state_dir, .. } => ca::rotation::progress(state_dir),
            Store::Shared(shared) => Ok(shared.progress()),
        }
    }

    async fn report(&self, progress: &Progress) -> anyhow::Result<()> {
        match &self.0.store {
            Store::Directory { state_dir, .. } => Ok(ca::rotation::report(state_dir, progress)?),
            Store::Shared(shared) => shared.report(self, progress).await,
        }
    }

    /// For how long after a step somebody may go on as before it: another replica whose watch broke silently.
    fn lag(&self) -> Duration {
        match &self.0.store {
            Store::Directory { .. } => Duration::ZERO,
            Store::Shared(_) => 2 * follow::WATCH,
        }
    }

    fn shared(&self) -> Option<&Shared> {
        match &self.0.store {
            Store::Directory { .. } => None,
            Store::Shared(shared) => Some(shared),
        }
    }
}

/// What is in these locks changes only after the disk has, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bundle_of(keys: &KeyRing) -> TrustBundle {
    TrustBundle {
        name: keys.trust_domain().as_str().to_owned(),
        roots: keys.roots().to_der(),
    }
}

#[cfg(test)]
mod tests;
