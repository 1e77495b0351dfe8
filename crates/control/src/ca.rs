//! The certificate authority in service: one handle that signs, publishes the trust bundle and rotates.
//!
//! | file | does |
//! |---|---|
//! | `service.rs` | answers `CreateCertificate` |
//! | `limit.rs` | how often one identity may have something signed |
//! | `server_tls.rs` | keeps the control plane's own certificate fresh |
//! | `rotation.rs` | moves a rotation from phase to phase |

pub mod limit;
pub mod rotation;
pub mod server_tls;
pub mod service;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tasuki_identity::ca::{CertificateAuthority, Issued, Phase};
use tasuki_identity::{Error, Roots, SpiffeId, TrustDomain, WorkloadCertificate};
use tasuki_xds::model::TrustBundle;
use tokio::sync::watch;

pub use service::{CertificateService, WorkloadDirectory};

/// The authority, shared by everything in the process. Cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    state_dir: PathBuf,
    ttl: Mutex<Duration>,
    trust_domain: TrustDomain,
    authority: Mutex<CertificateAuthority>,
    bundle: watch::Sender<TrustBundle>,
}

impl Authority {
    /// Opens or makes the authority below `state_dir`; certificates live for `ttl` unless less is asked for.
    pub fn open(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        ttl: Duration,
    ) -> Result<Self, Error> {
        let authority = CertificateAuthority::open(state_dir, trust_domain, SystemTime::now())?;
        let (bundle, _) = watch::channel(bundle_of(&authority));
        Ok(Self(Arc::new(Inner {
            state_dir: state_dir.to_owned(),
            ttl: Mutex::new(ttl),
            trust_domain: trust_domain.clone(),
            authority: Mutex::new(authority),
            bundle,
        })))
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
        self.lock().roots().clone()
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase().clone()
    }

    pub fn state_dir(&self) -> &Path {
        &self.0.state_dir
    }

    /// How long certificates live that are signed from now on.
    pub fn set_ttl(&self, ttl: Duration) {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl;
    }

    fn ttl(&self) -> Duration {
        *self.0.ttl.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a request of `id`; see [`CertificateAuthority::sign`]. `asked` can only shorten the life.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        asked: Option<Duration>,
    ) -> Result<Issued, Error> {
        let most = self.ttl();
        let ttl = asked.map_or(most, |asked| asked.min(most));
        self.lock().sign(csr_pem, id, ttl, SystemTime::now())
    }

    /// Key and certificate for a client that cannot make its own: Envoy's SDS secret `default`.
    pub fn workload_certificate(&self, id: &SpiffeId) -> Result<WorkloadCertificate, Error> {
        self.lock()
            .workload_certificate(id, self.ttl(), SystemTime::now())
    }

    fn server_certificate(
        &self,
        id: &SpiffeId,
        names: &[String],
    ) -> Result<WorkloadCertificate, Error> {
        self.lock()
            .server_certificate(id, names, self.ttl(), SystemTime::now())
    }

    /// One step of a rotation; the bundle is published if it changed.
    fn step(
        &self,
        step: impl FnOnce(&mut CertificateAuthority) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut authority = self.lock();
        let result = step(&mut authority);
        // Also after an error: part of a step may be on disk, and then it is in force.
        let bundle = bundle_of(&authority);
        self.0.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            *current = bundle;
            changed
        });
        result
    }

    /// The authority changes itself only after the disk has, so a panic elsewhere leaves nothing half done in it.
    fn lock(&self) -> MutexGuard<'_, CertificateAuthority> {
        self.0
            .authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn bundle_of(authority: &CertificateAuthority) -> TrustBundle {
    TrustBundle {
        name: authority.trust_domain().as_str().to_owned(),
        roots: authority.roots().to_der(),
    }
}

#[cfg(test)]
mod tests;
