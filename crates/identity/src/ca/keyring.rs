//! The roots of one authority, which of them signs, and how a rotation moves it on: a value, which somebody else keeps.
//!
//! A step makes a new value out of this one. Whoever keeps it (a directory, a Secret) replaces the old by the new in one step or
//! not at all, and uses it only then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{PublicKeyData, SanType};

use super::leaf;
use super::plugin::PlugIn;
use super::root::Root;
use super::state::{self, Phase, State};
use crate::certificate::{Roots, WorkloadCertificate};
use crate::csr::{KeyPem, key_and_csr};
use crate::error::Error;
use crate::id::{SpiffeId, TrustDomain};
use crate::pod_record::PodRecord;

/// Shortest certificate that is signed: X.509 times have whole seconds.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// A verifier's clock may be behind the signer's: certificates begin this much earlier, but at most a tenth of their life. It may
/// be ahead as much: a root is not used so shortly before its end, if there is another.
const BACKDATE: Duration = Duration::from_secs(300);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing {
    trust_domain: TrustDomain,
    state: State,
    /// In the order of the phase's names; one, or two during a rotation.
    roots: Vec<Arc<Root>>,
    trusted: Roots,
}

/// What a signature yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM.
    pub leaf_pem: String,
    /// PEM, from the leaf's issuer up; none where a root signs itself.
    pub intermediates_pem: Vec<String>,
    /// PEM of the roots that the signature leads to.
    pub root_pem: String,
    pub not_after: SystemTime,
}

impl Issued {
    /// Leaf first, without root: what goes into a handshake.
    pub fn chain_pem(&self) -> String {
        self.leaf_pem.clone() + &self.intermediates_pem.concat()
    }
}

impl KeyRing {
    /// A first root: the one that is plugged in, or one made now.
    pub fn create(
        trust_domain: &TrustDomain,
        plugin: Option<&PlugIn>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let root = new_root(trust_domain, plugin, now)?;
        let state = State::first(trust_domain, root.name());
        Self::with(trust_domain, state, vec![Arc::new(root)])
    }

    /// As it was kept; `read` gives the text of a file of [`KeyRing::files`] by its name. `None` when nothing has been kept yet.
    pub fn load(
        trust_domain: &TrustDomain,
        mut read: impl FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<Option<Self>, Error> {
        let Some(text) = read(state::FILE)? else {
            return Ok(None);
        };
        let state = State::parse(&text)?;
        if state.trust_domain != trust_domain.as_str() {
            let theirs = &state.trust_domain;
            let reason = format!("it is for trust domain {theirs}, not {trust_domain}");
            return Err(Error::state(state::FILE, reason));
        }
        let names = state.phase.names();
        let roots = names.into_iter().map(|name| Root::load(name, &mut read));
        let roots = roots
            .map(|root| root.map(Arc::new))
            .collect::<Result<_, _>>()?;
        Self::with(trust_domain, state, roots).map(Some)
    }

    fn with(
        trust_domain: &TrustDomain,
        state: State,
        roots: Vec<Arc<Root>>,
    ) -> Result<Self, Error> {
        let mut anchors = roots.iter().map(|root| root.anchors());
        let first = anchors.next().cloned();
        let first = first.ok_or_else(|| Error::state(state::FILE, "it names no root"))?;
        let trusted = anchors.fold(first, |all, more| all.union(more));
        Ok(Self {
            trust_domain: trust_domain.clone(),
            state,
            roots,
            trusted,
        })
    }

    /// Everything that is to be kept, by the names of the module [`super`]'s table. Secret.
    pub fn files(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut files: BTreeMap<_, _> = self.roots.iter().flat_map(|root| root.files()).collect();
        files.insert(state::FILE.to_owned(), self.state.text()?);
        files.insert(super::BUNDLE.to_owned(), self.trusted.to_pem());
        Ok(files)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All roots that are to be trusted now.
    pub fn roots(&self) -> &Roots {
        &self.trusted
    }

    pub fn phase(&self) -> &Phase {
        &self.state.phase
    }

    /// Whether the root that signs, or is about to, was made elsewhere.
    pub fn is_plugged(&self) -> bool {
        self.roots.last().is_some_and(|root| root.is_plugged())
    }

    /// Whether that is the root of the newest generation.
    pub fn has_plugged(&self, plugin: &PlugIn) -> bool {
        let newest = self.roots.last();
        newest.is_some_and(|root| root.name().ends_with(plugin.digest()))
    }

    /// Signs a certificate for `id`, if the request is for exactly that and proves possession of its key. What else the request
    /// asks for (subject, usages, lifetime) is not taken over. It lives for `ttl`, but not for longer than has been recorded
    /// ([`KeyRing::record_ttl`]): by that record an old root is retired.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        pod: Option<&PodRecord>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let request = leaf::read_request(csr_pem, id)?;
        let names = (pod, Vec::new());
        let signer = self.lasting(&self.state.phase.signer(), now)?;
        if signer.not_after() <= now {
            let reason = format!("{} has expired: nothing can be signed", signer.name());
            return Err(Error::Certificate(reason));
        }
        self.issue(&request.public_key, id, names, ttl, signer, now)
    }

    /// The control plane's own certificate: `id` and the names by which proxies dial it. During a rotation it stays on the old
    /// root to the end, because a proxy that was away knows only that one; but not beyond that root's own end.
    pub fn server_certificate(
        &self,
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        let (key, csr) = key_and_csr(id)?;
        let request = leaf::read_request(csr.as_str(), id)?;
        let names = names.iter().map(|name| leaf::server_name(name));
        let names = (None, names.collect::<Result<Vec<_>, _>>()?);
        let signer = self.lasting(&self.state.phase.oldest(), now)?;
        let issued = self.issue(&request.public_key, id, names, ttl, signer, now)?;
        WorkloadCertificate::from_pem(&issued.chain_pem(), key.as_str())
    }

    /// A certificate with its key made here: for clients that cannot make their own, and for tests.
    pub fn workload_certificate(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        let (key, csr): (KeyPem, _) = key_and_csr(id)?;
        let issued = self.sign(csr.as_str(), id, None, ttl, now)?;
        WorkloadCertificate::from_pem(&issued.chain_pem(), key.as_str())
    }

    fn issue(
        &self,
        public_key: &impl PublicKeyData,
        id: &SpiffeId,
        (pod, more_names): (Option<&PodRecord>, Vec<SanType>),
        ttl: Duration,
        root: &Root,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        if id.trust_domain() != self.trust_domain.as_str() {
            return Err(Error::Csr(format!(
                "{id} is not of trust domain {}",
                self.trust_domain
            )));
        }
        let ttl = ttl.min(Duration::from_secs(self.state.longest_ttl_seconds));
        if ttl < MIN_TTL {
            return Err(Error::Csr(format!(
                "a certificate lives at least {} s",
                MIN_TTL.as_secs()
            )));
        }
        let not_after = (now + ttl).min(root.not_after());
        let not_before = now - (ttl / 10).min(BACKDATE);
        let params = leaf::params(id, pod, more_names, not_before, not_after)?;
        let leaf = params
            .signed_by(public_key, root.issuer())
            .map_err(|e| Error::Certificate(e.to_string()))?;
        Ok(Issued {
            leaf_pem: leaf.pem(),
            intermediates_pem: root.intermediates().to_vec(),
            root_pem: root.anchors().to_pem(),
            not_after,
        })
    }

    /// An old root is retired when the longest certificate it may have signed has expired, also after restarts with another
    /// `--certificate-ttl`, and whichever replica signed it: so each makes room for its own before it signs. `None`: there is.
    pub fn record_ttl(&self, ttl: Duration) -> Option<Self> {
        let seconds = seconds(ttl);
        (seconds > self.state.longest_ttl_seconds).then(|| {
            let mut next = self.clone();
            next.state.longest_ttl_seconds = seconds;
            next
        })
    }

    /// Rotation, step 1: a second root that everybody shall trust and nobody uses yet.
    pub fn add_root(&self, plugin: Option<&PlugIn>, now: SystemTime) -> Result<Self, Error> {
        let Phase::Steady { signer } = &self.state.phase else {
            return Err(Error::Rotation("one is under way already".to_owned()));
        };
        let root = new_root(&self.trust_domain, plugin, now)?;
        let phase = Phase::Adding {
            old: signer.clone(),
            new: root.name().to_owned(),
        };
        let mut roots = self.roots.clone();
        roots.push(Arc::new(root));
        self.moved(phase, roots)
    }

    /// Step 2, once everybody trusts the new root: it signs from now on, and for at most `ttl` until more is recorded.
    pub fn switch_signer(&self, ttl: Duration, now: SystemTime) -> Result<Self, Error> {
        let Phase::Adding { old, new } = &self.state.phase else {
            return Err(Error::Rotation("no root has been added".to_owned()));
        };
        let last_old_leaf = now + Duration::from_secs(self.state.longest_ttl_seconds);
        // No leaf outlives what signed it.
        let last_old_leaf = last_old_leaf.min(self.root(old)?.not_after());
        let phase = Phase::Switched {
            old: old.clone(),
            new: new.clone(),
            old_leaves_end: state::unix(last_old_leaf),
        };
        let mut next = self.moved(phase, self.roots.clone())?;
        // From here on only what the new root signs matters to the rotation after this one.
        next.state.longest_ttl_seconds = seconds(ttl);
        Ok(next)
    }

    /// Step 3, once every certificate of the old root has expired: it is trusted no more and its key is forgotten.
    pub fn retire_old(&self, now: SystemTime) -> Result<Self, Error> {
        let Phase::Switched {
            new,
            old_leaves_end,
            ..
        } = &self.state.phase
        else {
            let reason = "the signer has not been switched";
            return Err(Error::Rotation(reason.to_owned()));
        };
        if state::unix(now) < *old_leaves_end {
            let reason = "certificates of the old root are still valid";
            return Err(Error::Rotation(reason.to_owned()));
        }
        let kept = self.roots.iter().filter(|root| root.name() == new);
        let phase = Phase::Steady {
            signer: new.clone(),
        };
        self.moved(phase, kept.cloned().collect())
    }

    fn moved(&self, phase: Phase, roots: Vec<Arc<Root>>) -> Result<Self, Error> {
        let state = State {
            phase,
            ..self.state.clone()
        };
        Self::with(&self.trust_domain, state, roots)
    }

    /// When nothing can be signed any more, unless there is another root by then.
    pub fn ends(&self) -> Result<SystemTime, Error> {
        Ok(self.root(&self.state.phase.signer())?.not_after())
    }

    /// The root of that name; the newest that lasts, if that name's is about to end: those who do not know it yet would refuse what
    /// has expired too.
    fn lasting(&self, name: &str, now: SystemTime) -> Result<&Root, Error> {
        let wanted = self.root(name)?;
        let lasts = |root: &&Root| root.not_after() > now + BACKDATE;
        let newest = || self.roots.iter().rev().map(AsRef::as_ref).find(lasts);
        Ok(match lasts(&wanted) {
            true => wanted,
            false => newest().unwrap_or(wanted),
        })
    }

    fn root(&self, name: &str) -> Result<&Root, Error> {
        let found = self.roots.iter().find(|root| root.name() == name);
        found
            .map(AsRef::as_ref)
            .ok_or_else(|| Error::Rotation(format!("root {name} is not loaded")))
    }
}

fn new_root(
    trust_domain: &TrustDomain,
    plugin: Option<&PlugIn>,
    now: SystemTime,
) -> Result<Root, Error> {
    match plugin {
        Some(plugin) => plugin.root(),
        None => Root::create(trust_domain, now),
    }
}

fn seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}
