//! The certificate authority of one trust domain: its roots, its signature, its rotation.
//!
//! One directory, `STATE/ca`, held by one process at a time through `lock`:
//!
//! | file | is |
//! |---|---|
//! | `state.json` | which roots there are and in which phase they are; the only file that decides anything |
//! | `<root>.crt.pem`, `<root>.key.pem` | a root's certificate and key, 0600, written before `state.json` names them |
//! | `root-cert.pem` | all trusted roots, for `--control-ca`; rewritten from `state.json` whenever it differs |
//!
//! Each step of a rotation is one atomic replacement of `state.json`, so a crash leaves either the phase before or the one
//! after, and whoever drives the rotation goes on from the phase it finds.

mod root;
pub mod rotation;
mod state;

use std::fs::{File, TryLockError};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use crate::certificate::{Roots, WorkloadCertificate};
use crate::csr::{KeyPem, key_and_csr, uri_name};
use crate::error::Error;
use crate::files;
use crate::id::{SpiffeId, TrustDomain};

use root::Root;
pub use state::Phase;
use state::State;

/// Longest text of a request that is looked at; ours have about 500 bytes, RSA 4096 makes about 1,800.
const MAX_CSR: usize = 16 * 1024;
/// Shortest certificate that is signed: X.509 times have whole seconds.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// A verifier's clock may be behind the signer's: certificates begin this much earlier, but at most a tenth of their life.
const BACKDATE: Duration = Duration::from_secs(300);

/// See the module.
pub struct CertificateAuthority {
    dir: PathBuf,
    trust_domain: TrustDomain,
    state: State,
    /// In the order of `state.roots`; one, or two during a rotation.
    roots: Vec<Root>,
    trusted: Roots,
    /// Released when dropped, also by a crash.
    _lock: File,
}

/// What a signature yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM, the leaf first. Roots sign leaves themselves, so there are no intermediates.
    pub leaf_pem: String,
    /// PEM of the root that signed.
    pub root_pem: String,
    pub not_after: SystemTime,
}

impl CertificateAuthority {
    /// Opens the authority below `state_dir`, making its first root if it has none. Fails with [`Error::InUse`] while another
    /// process has it open.
    pub fn open(
        state_dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let dir = directory(state_dir);
        // Proxies of other users read root-cert.pem here; the keys are 0600 each.
        files::create_dir(&dir, 0o755)?;
        let lock = lock_patiently(&dir)?;
        let state = match State::load(&dir)? {
            Some(state) => state,
            None => {
                let root = Root::create(&dir, trust_domain, now)?;
                let state = State::first(trust_domain, root.name());
                state.save(&dir)?;
                state
            }
        };
        if state.trust_domain != trust_domain.as_str() {
            let reason = format!(
                "it is for trust domain {}, not {trust_domain}",
                state.trust_domain
            );
            return Err(Error::State {
                path: dir.join(state::FILE),
                reason,
            });
        }
        Root::sweep(&dir, &state.phase.names())?;
        let roots = load_roots(&dir, &state)?;
        let trusted = trusted(&roots)?;
        let authority = Self {
            dir,
            trust_domain: trust_domain.clone(),
            state,
            roots,
            trusted,
            _lock: lock,
        };
        authority.write_bundle()?;
        Ok(authority)
    }

    /// True while some process has the authority open: a control plane runs on this state dir.
    pub fn is_open(state_dir: &Path) -> Result<bool, Error> {
        let dir = directory(state_dir);
        if !dir.is_dir() {
            return Ok(false);
        }
        match lock(&dir) {
            Ok(_) => Ok(false),
            Err(Error::InUse(_)) => Ok(true),
            Err(error) => Err(error),
        }
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

    /// Signs a certificate for `id`, if the request is for exactly that and proves possession of its key. What else the request
    /// asks for (subject, usages, lifetime) is not taken over.
    pub fn sign(
        &mut self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        let request = read_request(csr_pem, id)?;
        self.issue(
            &request.public_key,
            id,
            Vec::new(),
            ttl,
            self.state.phase.signer(),
            now,
        )
    }

    /// The control plane's own certificate: `id` and the names by which proxies dial it. During a rotation it stays on the old
    /// root to the end, because a proxy that was away knows only that one.
    pub fn server_certificate(
        &mut self,
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        let (key, csr) = key_and_csr(id)?;
        let request = read_request(csr.as_str(), id)?;
        let names = names
            .iter()
            .map(|name| server_name(name))
            .collect::<Result<Vec<_>, _>>()?;
        let oldest = self.state.phase.oldest();
        let issued = self.issue(&request.public_key, id, names, ttl, oldest, now)?;
        WorkloadCertificate::from_pem(&issued.leaf_pem, key.as_str())
    }

    /// A certificate with its key made here: for tests and for processes that are their own authority.
    pub fn workload_certificate(
        &mut self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        let (key, csr): (KeyPem, _) = key_and_csr(id)?;
        let issued = self.sign(csr.as_str(), id, ttl, now)?;
        WorkloadCertificate::from_pem(&issued.leaf_pem, key.as_str())
    }

    fn issue(
        &mut self,
        public_key: &impl PublicKeyData,
        id: &SpiffeId,
        more_names: Vec<SanType>,
        ttl: Duration,
        signer: String,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        if id.trust_domain() != self.trust_domain.as_str() {
            return Err(Error::Csr(format!(
                "{id} is not of trust domain {}",
                self.trust_domain
            )));
        }
        if ttl < MIN_TTL {
            return Err(Error::Csr(format!(
                "a certificate lives at least {} s",
                MIN_TTL.as_secs()
            )));
        }
        self.remember_ttl(ttl)?;
        let root = self.root(&signer)?;
        let not_after = (now + ttl).min(root.not_after());
        let params = leaf(id, more_names, now - (ttl / 10).min(BACKDATE), not_after)?;
        let leaf = params
            .signed_by(public_key, root.issuer())
            .map_err(|e| Error::Certificate(e.to_string()))?;
        Ok(Issued {
            leaf_pem: leaf.pem(),
            root_pem: root.pem().to_owned(),
            not_after,
        })
    }

    /// An old root is retired when the longest certificate it may have signed has expired, also after restarts with another
    /// `--certificate-ttl`.
    fn remember_ttl(&mut self, ttl: Duration) -> Result<(), Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        if seconds > self.state.longest_ttl_seconds {
            let next = State {
                longest_ttl_seconds: seconds,
                ..self.state.clone()
            };
            self.commit(next)?;
        }
        Ok(())
    }

    /// Rotation, step 1: a second root that everybody shall trust and nobody uses yet.
    pub fn add_root(&mut self, now: SystemTime) -> Result<(), Error> {
        let Phase::Steady { signer } = &self.state.phase else {
            return Err(Error::Rotation("one is under way already".to_owned()));
        };
        let old = signer.clone();
        let root = Root::create(&self.dir, &self.trust_domain, now)?;
        let phase = Phase::Adding {
            old,
            new: root.name().to_owned(),
        };
        self.commit(State {
            phase,
            ..self.state.clone()
        })
    }

    /// Step 2, once everybody trusts the new root: it signs from now on.
    pub fn switch_signer(&mut self, now: SystemTime) -> Result<(), Error> {
        let Phase::Adding { old, new } = &self.state.phase else {
            return Err(Error::Rotation("no root has been added".to_owned()));
        };
        let last_old_leaf = now + Duration::from_secs(self.state.longest_ttl_seconds);
        let phase = Phase::Switched {
            old: old.clone(),
            new: new.clone(),
            old_leaves_end: state::unix(last_old_leaf),
        };
        // From here on only what the new root signs matters to the rotation after this one.
        self.commit(State {
            phase,
            longest_ttl_seconds: 0,
            ..self.state.clone()
        })
    }

    /// Step 3, once every certificate of the old root has expired: it is trusted no more and its key is deleted.
    pub fn retire_old(&mut self, now: SystemTime) -> Result<(), Error> {
        let Phase::Switched {
            old,
            new,
            old_leaves_end,
        } = &self.state.phase
        else {
            return Err(Error::Rotation(
                "the signer has not been switched".to_owned(),
            ));
        };
        if state::unix(now) < *old_leaves_end {
            return Err(Error::Rotation(
                "certificates of the old root are still valid".to_owned(),
            ));
        }
        let (old, signer) = (old.clone(), new.clone());
        self.commit(State {
            phase: Phase::Steady { signer },
            ..self.state.clone()
        })?;
        Root::delete(&self.dir, &old)
    }

    /// Writes the new state, then takes it over: memory never runs ahead of the disk.
    fn commit(&mut self, state: State) -> Result<(), Error> {
        let roots = load_roots(&self.dir, &state)?;
        let trusted = trusted(&roots)?;
        state.save(&self.dir)?;
        self.state = state;
        self.roots = roots;
        self.trusted = trusted;
        self.write_bundle()
    }

    fn write_bundle(&self) -> Result<(), Error> {
        let path = self.dir.join("root-cert.pem");
        let text = self.trusted.to_pem();
        if files::read(&path)?.as_deref() == Some(&text) {
            return Ok(());
        }
        files::replace(&path, &text, files::PUBLIC)
    }

    fn root(&self, name: &str) -> Result<&Root, Error> {
        self.roots
            .iter()
            .find(|root| root.name() == name)
            .ok_or_else(|| Error::Rotation(format!("root {name} is not loaded")))
    }
}

/// `STATE/ca`.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("ca")
}

/// Where the trusted roots are for whoever dials the control plane by TLS.
pub fn bundle_path(state_dir: &Path) -> PathBuf {
    directory(state_dir).join("root-cert.pem")
}

/// A control plane that is being replaced needs a moment to end, and [`CertificateAuthority::is_open`] holds the lock for one.
fn lock_patiently(dir: &Path) -> Result<File, Error> {
    for _ in 0..50 {
        match lock(dir) {
            Err(Error::InUse(_)) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    lock(dir)
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io(path)(error)),
    }
}

fn load_roots(dir: &Path, state: &State) -> Result<Vec<Root>, Error> {
    state
        .phase
        .names()
        .into_iter()
        .map(|name| Root::load(dir, name))
        .collect()
}

fn trusted(roots: &[Root]) -> Result<Roots, Error> {
    Roots::from_der(roots.iter().map(|root| root.der().to_vec()).collect())
}

/// Checks the request's own signature and that it asks for one name, `id`.
fn read_request(csr_pem: &str, id: &SpiffeId) -> Result<CertificateSigningRequestParams, Error> {
    if csr_pem.len() > MAX_CSR {
        return Err(Error::Csr("longer than 16 KiB".to_owned()));
    }
    let request = CertificateSigningRequestParams::from_pem(csr_pem)
        .map_err(|e| Error::Csr(e.to_string()))?;
    match request.params.subject_alt_names.as_slice() {
        [SanType::URI(uri)] if uri.as_str() == id.as_str() => Ok(request),
        [SanType::URI(uri)] => Err(Error::Csr(format!(
            "it is for {}, the caller is {id}",
            uri.as_str()
        ))),
        _ => Err(Error::Csr(format!("its only name must be the URI {id}"))),
    }
}

fn server_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let dns = rustls_pki_types::DnsName::try_from(name);
    let dns = dns.map_err(|_| {
        Error::Certificate(format!("{name:?} is neither a DNS name nor an IP address"))
    })?;
    let text = dns.as_ref().to_ascii_lowercase();
    text.try_into()
        .map(SanType::DnsName)
        .map_err(|e: rcgen::Error| Error::Certificate(e.to_string()))
}

fn leaf(
    id: &SpiffeId,
    more_names: Vec<SanType>,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_name(id)?];
    params.subject_alt_names.extend(more_names);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    Ok(params)
}

/// RFC 5280 section 4.1.2.2: unique, positive, at most 20 octets. 127 random bits.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests;
