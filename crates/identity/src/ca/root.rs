//! One root: a self-signed certificate, its key, and their files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::Error;
use crate::files;
use crate::id::TrustDomain;
use crate::peer::hex;

/// Ten years, as Istio's self-signed root.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Verifiers' clocks may be behind.
const BACKDATE: Duration = Duration::from_secs(3600);

pub(super) struct Root {
    name: String,
    pem: String,
    der: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    /// Makes a root and its files. The name is in the subject too: two roots of one domain must differ there, since verifiers
    /// find a leaf's issuer by subject.
    pub(super) fn create(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let name = format!("root-{}", hex(&rand::random::<[u8; 8]>()));
        let key = KeyPair::generate().map_err(|e| Error::Key(e.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, format!("tasuki {name}"));
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + LIFETIME).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(|e| Error::Certificate(e.to_string()))?;
        files::create_new(&key_path(dir, &name), &key.serialize_pem(), files::SECRET)?;
        files::create_new(
            &certificate_path(dir, &name),
            &certificate.pem(),
            files::SECRET,
        )?;
        Self::load(dir, &name)
    }

    pub(super) fn load(dir: &Path, name: &str) -> Result<Self, Error> {
        let path = certificate_path(dir, name);
        let wrong = |path: &Path, reason: String| Error::State {
            path: path.to_owned(),
            reason,
        };
        let pem = require(&path)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| wrong(&path, e.to_string()))?;
        let not_after = {
            let (_, parsed) =
                X509Certificate::from_der(&der).map_err(|e| wrong(&path, e.to_string()))?;
            let seconds = parsed
                .validity()
                .not_after
                .timestamp()
                .try_into()
                .unwrap_or(0);
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let key_path = key_path(dir, name);
        let key =
            KeyPair::from_pem(&require(&key_path)?).map_err(|e| wrong(&key_path, e.to_string()))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| wrong(&path, e.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            pem,
            der,
            not_after,
            issuer,
        })
    }

    /// The key first: a certificate without key is harmless, and nothing names either any more.
    pub(super) fn delete(dir: &Path, name: &str) -> Result<(), Error> {
        files::remove(&key_path(dir, name))?;
        files::remove(&certificate_path(dir, name))
    }

    /// Deletes the files of roots that `state.json` does not name: left by a crash between two steps.
    pub(super) fn sweep(dir: &Path, named: &[&str]) -> Result<(), Error> {
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let file = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let unfinished = file.starts_with(".root-") || file.starts_with(".state.json.");
            let root = file
                .starts_with("root-")
                .then(|| file.split_once('.'))
                .flatten();
            let orphan = root.is_some_and(|(name, rest)| {
                matches!(rest, "key.pem" | "crt.pem") && !named.contains(&name)
            });
            if unfinished || orphan {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

fn require(path: &Path) -> Result<String, Error> {
    files::read(path)?.ok_or_else(|| Error::State {
        path: path.to_owned(),
        reason: "missing".to_owned(),
    })
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key.pem"))
}

fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.crt.pem"))
}
