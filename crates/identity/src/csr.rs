//! A workload's key and the request to have it certified.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};

use crate::error::Error;
use crate::id::SpiffeId;

/// A private key, PKCS#8 PEM. Its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPem(String);

/// A PKCS#10 certificate signing request, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsrPem(String);

/// A new ECDSA P-256 key and a request for a certificate whose only name is `id`.
pub fn key_and_csr(id: &SpiffeId) -> Result<(KeyPem, CsrPem), Error> {
    let key = KeyPair::generate().map_err(|e| Error::Key(e.to_string()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_name(id)?];
    let csr = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(|e| Error::Csr(e.to_string()))?;
    Ok((KeyPem(key.serialize_pem()), CsrPem(csr)))
}

pub(crate) fn uri_name(id: &SpiffeId) -> Result<SanType, Error> {
    let uri = id
        .as_str()
        .try_into()
        .map_err(|e: rcgen::Error| Error::Csr(e.to_string()))?;
    Ok(SanType::URI(uri))
}

impl KeyPem {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CsrPem {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(..)")
    }
}
