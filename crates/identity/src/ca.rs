//! The certificate authority of one trust domain: its roots, its signature, its rotation.
//!
//! [`KeyRing`] is the authority as a value. It is kept in one directory, `STATE/ca`, held by one process at a time through
//! `lock`, or by the control plane's replicas in a Secret, whose keys are the same names:
//!
//! | file | is |
//! |---|---|
//! | `state.json` | which roots there are and in which phase they are; the only file that decides anything |
//! | `<root>.crt.pem`, `<root>.key.pem` | a root's certificate and key, 0600, written before `state.json` names them |
//! | `root-cert.pem` | all trusted roots, for `--control-ca`; rewritten from `state.json` whenever it differs |
//!
//! A root that was plugged in has `<root>.chain.pem` and `<root>.anchors.pem` too ([`PlugIn`]).
//!
//! Each step of a rotation is one atomic replacement of `state.json`, so a crash leaves either the phase before or the one
//! after, and whoever drives the rotation goes on from the phase it finds.

mod keyring;
mod leaf;
mod plugin;
mod root;
pub mod rotation;
mod state;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::certificate::{Roots, WorkloadCertificate};
use crate::error::Error;
use crate::files;
use crate::id::{SpiffeId, TrustDomain};

pub use keyring::{Issued, KeyRing, MIN_TTL};
pub use plugin::PlugIn;
pub use state::Phase;

/// All trusted roots, for whoever must verify the control plane before it knows them better.
const BUNDLE: &str = "root-cert.pem";

/// An authority in a directory of its own.
pub struct CertificateAuthority {
    dir: PathBuf,
    keys: KeyRing,
    /// Released when dropped, also by a crash.
    _lock: File,
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
        let kept = KeyRing::load(trust_domain, |file| files::read(&dir.join(file)));
        let keys = match kept.map_err(|error| error.within(&dir))? {
            Some(keys) => keys,
            None => {
                let keys = KeyRing::create(trust_domain, None, now)?;
                save(&dir, &keys)?;
                keys
            }
        };
        sweep(&dir, &keys)?;
        write_bundle(&dir, &keys)?;
        Ok(Self {
            dir,
            keys,
            _lock: lock,
        })
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

    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        self.keys.trust_domain()
    }

    /// All roots that are to be trusted now.
    pub fn roots(&self) -> &Roots {
        self.keys.roots()
    }

    /// See [`KeyRing::sign`].
    pub fn sign(
        &mut self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, Error> {
        self.record_ttl(ttl)?;
        self.keys.sign(csr_pem, id, None, ttl, now)
    }

    /// See [`KeyRing::server_certificate`].
    pub fn server_certificate(
        &mut self,
        id: &SpiffeId,
        names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        self.record_ttl(ttl)?;
        self.keys.server_certificate(id, names, ttl, now)
    }

    /// See [`KeyRing::workload_certificate`].
    pub fn workload_certificate(
        &mut self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadCertificate, Error> {
        self.record_ttl(ttl)?;
        self.keys.workload_certificate(id, ttl, now)
    }

    /// See [`KeyRing::record_ttl`].
    pub fn record_ttl(&mut self, ttl: Duration) -> Result<(), Error> {
        match self.keys.record_ttl(ttl) {
            Some(next) => self.commit(next),
            None => Ok(()),
        }
    }

    /// One step of a rotation.
    pub fn step(
        &mut self,
        step: impl FnOnce(&KeyRing) -> Result<KeyRing, Error>,
    ) -> Result<(), Error> {
        let next = step(&self.keys)?;
        self.commit(next)
    }

    /// Writes the new state, then takes it over: memory never runs ahead of the disk.
    fn commit(&mut self, next: KeyRing) -> Result<(), Error> {
        save(&self.dir, &next)?;
        self.keys = next;
        write_bundle(&self.dir, &self.keys)?;
        sweep(&self.dir, &self.keys)
    }
}

/// New roots first, then in one step the state that names them.
fn save(dir: &Path, keys: &KeyRing) -> Result<(), Error> {
    let mut texts = keys.files()?;
    texts.remove(BUNDLE);
    let state = texts.remove(state::FILE).unwrap_or_default();
    for (file, text) in texts {
        // A root's files never change.
        files::create_new(&dir.join(file), &text, files::SECRET)?;
    }
    files::replace(&dir.join(state::FILE), &state, files::PUBLIC)
}

fn write_bundle(dir: &Path, keys: &KeyRing) -> Result<(), Error> {
    let path = dir.join(BUNDLE);
    let text = keys.roots().to_pem();
    if files::read(&path)?.as_deref() == Some(&text) {
        return Ok(());
    }
    files::replace(&path, &text, files::PUBLIC)
}

/// Deletes the files of roots that the state does not name: a retired one's, or what a crash between two steps left. Keys first:
/// a certificate without key is harmless.
fn sweep(dir: &Path, keys: &KeyRing) -> Result<(), Error> {
    let named = keys.files()?;
    let mut orphans = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let file = name.unwrap_or_default();
        let unfinished = [".root-", ".plugin-", ".state.json."]
            .iter()
            .any(|prefix| file.starts_with(prefix));
        if unfinished || (is_root_file(file) && !named.contains_key(file)) {
            orphans.push(path);
        }
    }
    orphans.sort_by_key(|path| !path.to_string_lossy().ends_with(".key.pem"));
    orphans.iter().try_for_each(|path| files::remove(path))
}

/// `root-cert.pem` has no second dot.
fn is_root_file(file: &str) -> bool {
    let ours = file.starts_with("root-") || file.starts_with("plugin-");
    let part = file.split_once('.').map(|(_, part)| part);
    ours && matches!(
        part,
        Some("key.pem" | "crt.pem" | "chain.pem" | "anchors.pem")
    )
}

/// `STATE/ca`.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("ca")
}

/// Where the trusted roots are for whoever dials the control plane by TLS.
pub fn bundle_path(state_dir: &Path) -> PathBuf {
    directory(state_dir).join(BUNDLE)
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

#[cfg(test)]
mod tests;
