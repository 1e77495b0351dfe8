//! One root: what signs, and what is to be trusted for it. Either our own, a self-signed certificate, or plugged in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::{Roots, pem_block};
use crate::error::Error;
use crate::id::TrustDomain;
use crate::peer::hex;

/// Ten years, as Istio's self-signed root.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Verifiers' clocks may be behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Names of plugged-in roots begin with this, names of our own with `root-`.
const PLUGGED: &str = "plugin-";

pub(super) struct Root {
    name: String,
    /// The certificate that signs.
    pem: String,
    key_pem: String,
    /// When the first of the certificates that are sent expires.
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
    /// What goes with each leaf, PEM: nothing for a root that signs itself.
    intermediates: Vec<String>,
    anchors: Roots,
}

impl Root {
    /// Makes a root. The name is in the subject too: two roots of one domain must differ there, since verifiers find a leaf's
    /// issuer by subject.
    pub(super) fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
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
        Self::from_texts(name, certificate.pem(), key.serialize_pem(), None)
    }

    /// A root that was made elsewhere: `chain` are the certificates from the signing one up, as far as they are to be sent.
    pub(super) fn plugged(
        digest: &str,
        pem: String,
        key_pem: String,
        chain: String,
        anchors: String,
    ) -> Result<Self, Error> {
        let name = format!("{PLUGGED}{digest}");
        Self::from_texts(name, pem, key_pem, Some((chain, anchors)))
    }

    /// As it is kept; `read` gives the text of a file by its name.
    pub(super) fn load(
        name: &str,
        read: &mut impl FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<Self, Error> {
        let mut require = |file: String| {
            let text = read(&file)?;
            text.ok_or_else(|| Error::state(&file, "missing"))
        };
        let pem = require(format!("{name}.crt.pem"))?;
        let key_pem = require(format!("{name}.key.pem"))?;
        let plugged = if name.starts_with(PLUGGED) {
            let chain = require(format!("{name}.chain.pem"))?;
            Some((chain, require(format!("{name}.anchors.pem"))?))
        } else {
            None
        };
        Self::from_texts(name.to_owned(), pem, key_pem, plugged)
    }

    fn from_texts(
        name: String,
        pem: String,
        key_pem: String,
        plugged: Option<(String, String)>,
    ) -> Result<Self, Error> {
        let wrong = |part: &str, reason: String| Error::state(&format!("{name}.{part}"), reason);
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| wrong("crt.pem", e.to_string()))?;
        let mut ends = not_after(&der).map_err(|reason| wrong("crt.pem", reason))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|e| wrong("key.pem", e.to_string()))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| wrong("crt.pem", e.to_string()))?;
        let (intermediates, anchors) = match plugged {
            None => (Vec::new(), Roots::from_der(vec![der.to_vec()])?),
            Some((chain, anchors)) => {
                let anchors = Roots::from_pem(anchors.as_bytes())
                    .map_err(|e| wrong("anchors.pem", e.to_string()))?;
                let sent = CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|e| wrong("chain.pem", e.to_string()))?;
                for der in &sent {
                    let end = not_after(der).map_err(|reason| wrong("chain.pem", reason))?;
                    ends = ends.min(end);
                }
                let block = |der: &CertificateDer<'_>| pem_block("CERTIFICATE", der);
                (sent.iter().map(block).collect(), anchors)
            }
        };
        Ok(Self {
            name,
            pem,
            key_pem,
            not_after: ends,
            issuer,
            intermediates,
            anchors,
        })
    }

    /// What [`Root::load`] reads. One of them is the key.
    pub(super) fn files(&self) -> BTreeMap<String, String> {
        let file = |part: &str| format!("{}.{part}", self.name);
        let mut files = BTreeMap::from([
            (file("crt.pem"), self.pem.clone()),
            (file("key.pem"), self.key_pem.clone()),
        ]);
        if self.is_plugged() {
            files.insert(file("chain.pem"), self.intermediates.concat());
            files.insert(file("anchors.pem"), self.anchors.to_pem());
        }
        files
    }

    pub(super) fn is_plugged(&self) -> bool {
        self.name.starts_with(PLUGGED)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn intermediates(&self) -> &[String] {
        &self.intermediates
    }

    pub(super) fn anchors(&self) -> &Roots {
        &self.anchors
    }
}

fn not_after(der: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    let seconds = parsed.validity().not_after.timestamp();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0)))
}
