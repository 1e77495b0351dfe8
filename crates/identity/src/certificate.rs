//! A workload's own certificate with its key, and the roots against which peers are checked.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use webpki::anchor_from_trusted_cert;

use crate::error::Error;
use crate::id::SpiffeId;
use crate::peer;

/// A certificate chain, its private key and the one identity that it carries. Cheap to clone.
#[derive(Clone)]
pub struct WorkloadCertificate(Arc<Inner>);

struct Inner {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    chain_pem: String,
    key_pem: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Trusted roots; never empty. Cheap to clone.
#[derive(Clone)]
pub struct Roots {
    certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl WorkloadCertificate {
    /// `chain` is the leaf followed by intermediates, PEM; `key` is its PKCS#8 or SEC1 key, PEM. Refuses a key that does not
    /// belong to the leaf and a leaf without exactly one SPIFFE URI SAN.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, Error> {
        let certificates = certificates_from_pem(chain.as_bytes()).map_err(Error::Certificate)?;
        let leaf = certificates
            .first()
            .ok_or_else(|| Error::Certificate("no certificate in the PEM".to_owned()))?;
        let details = peer::read(leaf)?;
        let key_der =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| Error::Key(e.to_string()))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(certificates, key_der, &provider)?;
        Ok(Self(Arc::new(Inner {
            id: details.peer.id,
            certified: Arc::new(certified),
            chain_pem: chain.to_owned(),
            key_pem: key.to_owned(),
            not_before: details.not_before,
            not_after: details.peer.not_after,
        })))
    }

    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Half of the lifetime, moved by up to 1 % of it; `jitter` is a random number from -1.0 to 1.0, so that the workloads
    /// of a mesh do not renew in step.
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        let lifetime = self
            .0
            .not_after
            .duration_since(self.0.not_before)
            .unwrap_or(Duration::ZERO);
        self.0.not_before + lifetime.mul_f64(0.5 + 0.01 * jitter.clamp(-1.0, 1.0))
    }

    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.0.not_before <= now && now < self.0.not_after
    }

    /// Leaf first.
    pub fn chain_pem(&self) -> &str {
        &self.0.chain_pem
    }

    /// Secret: only for a file of mode 0600.
    pub fn key_pem(&self) -> &str {
        &self.0.key_pem
    }

    /// Leaf first, DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.certified)
    }
}

impl fmt::Debug for WorkloadCertificate {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("id", &self.0.id)
            .field("not_after", &self.0.not_after)
            .finish_non_exhaustive()
    }
}

impl Roots {
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, Error> {
        Self::from_certificates(certificates.into_iter().map(CertificateDer::from).collect())
    }

    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        Self::from_certificates(certificates_from_pem(pem).map_err(Error::Roots)?)
    }

    pub fn from_file(path: &Path) -> Result<Self, Error> {
        Self::from_pem(&std::fs::read(path).map_err(Error::io(path))?)
    }

    /// The machine's own roots, for TLS to hosts outside the mesh.
    pub fn system() -> Result<Self, Error> {
        // Debian and Alpine, Fedora, openSUSE.
        const BUNDLES: [&str; 3] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
        ];
        let found = BUNDLES.iter().map(Path::new).find(|path| path.exists());
        let path =
            found.ok_or_else(|| Error::Roots(format!("none of {} exists", BUNDLES.join(", "))))?;
        Self::from_file(path)
    }

    fn from_certificates(certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        if certificates.is_empty() {
            return Err(Error::Roots("no certificate".to_owned()));
        }
        for certificate in &certificates {
            anchor_from_trusted_cert(certificate).map_err(|e| Error::Roots(e.to_string()))?;
        }
        Ok(Self {
            certificates: Arc::new(certificates),
        })
    }

    /// These and those, each once.
    pub fn union(&self, others: &Roots) -> Roots {
        let mut certificates = self.certificates.to_vec();
        for other in others.certificates() {
            if !certificates.contains(other) {
                certificates.push(other.clone());
            }
        }
        Self {
            certificates: Arc::new(certificates),
        }
    }

    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.certificates.iter().map(|c| c.to_vec()).collect()
    }

    pub fn to_pem(&self) -> String {
        self.certificates
            .iter()
            .map(|c| pem_block("CERTIFICATE", c))
            .collect()
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Eq for Roots {}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.certificates.len())
    }
}

fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())
}

/// RFC 7468: 64 characters a line.
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
