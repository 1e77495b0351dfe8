//! A signing certificate made elsewhere, in the layout that Istio's Secret `cacerts` has.
//!
//! | key | is |
//! |---|---|
//! | `ca-cert.pem`, `ca-key.pem` | the certificate that signs leaves, and its key |
//! | `cert-chain.pem` | from that certificate up; the root may be there too; may be missing where the root itself signs |
//! | `root-cert.pem` | what everybody is to trust |
//!
//! It is tried before it is used: a leaf is signed and verified as a peer would.

use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::keyring::KeyRing;
use super::root::Root;
use crate::certificate::{Roots, pem_block};
use crate::error::Error;
use crate::id::{SpiffeId, TrustDomain};
use crate::peer::hex;

/// Longest text of one key: a chain of certificates with RSA 4096 keys has some 2 KiB each.
const MAX_TEXT: usize = 64 * 1024;

/// See the module; holds together, as far as could be tried.
#[derive(Clone, PartialEq, Eq)]
pub struct PlugIn {
    certificate: String,
    key: String,
    chain: String,
    anchors: String,
    digest: String,
}

impl PlugIn {
    /// `read` gives the text of a key. Errors name the key.
    pub fn read(
        trust_domain: &TrustDomain,
        now: SystemTime,
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let require = |key: &str| match read(key) {
            Some(text) if text.len() > MAX_TEXT => Err(Error::state(key, "longer than 64 KiB")),
            Some(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(Error::state(key, "missing")),
        };
        let certificate = first_certificate("ca-cert.pem", &require("ca-cert.pem")?)?;
        let roots = require("root-cert.pem")?;
        let anchors = Roots::from_pem(roots.as_bytes())
            .map_err(|e| Error::state("root-cert.pem", e.to_string()))?;
        let chain = match read("cert-chain.pem") {
            Some(text) if !text.trim().is_empty() => certificates("cert-chain.pem", &text)?,
            _ => Vec::new(),
        };
        // The signing certificate, then what leads from it to the root, which everybody has.
        let mut sent = vec![certificate.clone()];
        sent.extend(chain);
        sent.dedup();
        sent.retain(|der| !anchors.certificates().contains(der));
        let key = require("ca-key.pem")?;
        let block = |der: &CertificateDer<'_>| pem_block("CERTIFICATE", der);
        let mut plugin = Self {
            certificate: block(&certificate),
            key,
            chain: sent.iter().map(block).collect(),
            anchors: anchors.to_pem(),
            digest: String::new(),
        };
        plugin.digest = plugin.sum();
        plugin.rehearse(trust_domain, &anchors, now)?;
        Ok(plugin)
    }

    /// Tells one from another; says nothing about the key.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn root(&self) -> Result<Root, Error> {
        Root::plugged(
            &self.digest,
            self.certificate.clone(),
            self.key.clone(),
            self.chain.clone(),
            self.anchors.clone(),
        )
    }

    fn sum(&self) -> String {
        let mut sum = Sha256::new();
        for part in [&self.certificate, &self.chain, &self.anchors] {
            sum.update(part);
            sum.update([0]);
        }
        hex(&sum.finalize()[..8])
    }

    /// Signs a leaf and verifies it: the key belongs to the certificate, the chain leads to a root, nothing has expired and no
    /// constraint forbids our names.
    fn rehearse(
        &self,
        trust_domain: &TrustDomain,
        anchors: &Roots,
        now: SystemTime,
    ) -> Result<(), Error> {
        let minute = Duration::from_secs(60);
        let ring = KeyRing::create(trust_domain, Some(self), now)?;
        let ring = ring.record_ttl(minute).unwrap_or(ring);
        let id = SpiffeId::new(trust_domain, "rehearsal", "rehearsal")?;
        let leaf = ring.workload_certificate(&id, minute, now)?;
        let [leaf, intermediates @ ..] = leaf.chain() else {
            return Err(Error::state("ca-cert.pem", "nothing was signed"));
        };
        let refused = |error: webpki::Error| {
            let reason = format!("peers would refuse what it signs: {error}");
            Error::state("ca-cert.pem", reason)
        };
        let anchors = anchors.certificates().iter().map(anchor_from_trusted_cert);
        let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &anchors,
                    intermediates,
                    UnixTime::since_unix_epoch(since.unwrap_or_default()),
                    KeyUsage::client_auth(),
                    None,
                    None,
                )
                .map(|_| ())
            })
            .map_err(refused)
    }
}

fn certificates(key: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::state(key, e.to_string()))
}

fn first_certificate(key: &str, text: &str) -> Result<CertificateDer<'static>, Error> {
    let first = certificates(key, text)?.into_iter().next();
    first.ok_or_else(|| Error::state(key, "no certificate"))
}
