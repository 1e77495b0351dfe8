//! What a peer's certificate says, once its chain has been verified.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::error::Error;
use crate::id::SpiffeId;
use crate::pod_record::PodRecord;

/// A verified peer: what `x-forwarded-client-cert`, RBAC and the access log need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    pub id: SpiffeId,
    /// RFC 2253, most specific first, as Envoy writes it; empty for leaves of our own CA.
    pub subject: String,
    /// SHA-256 of the DER, lower case hex, as Envoy's `Hash=`.
    pub sha256_hex: String,
    /// A long connection outlives its certificate: whoever grants something anew checks this again.
    pub not_after: SystemTime,
    /// For which Pod it was issued, where the authority knew.
    pub pod: Option<PodRecord>,
}

pub(crate) struct Details {
    pub(crate) peer: PeerCertificate,
    pub(crate) not_before: SystemTime,
}

/// The peer of a finished handshake. `None` when it showed no certificate. Only meaningful with a configuration from this
/// crate, whose verifiers have checked the chain and the identity.
pub fn peer_certificate(connection: &rustls::CommonState) -> Option<PeerCertificate> {
    let leaf = connection.peer_certificates()?.first()?;
    read(leaf).ok().map(|details| details.peer)
}

/// Parses a leaf; refuses one that carries other than exactly one URI SAN (X509-SVID section 2).
pub(crate) fn read(leaf: &CertificateDer<'_>) -> Result<Details, Error> {
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|e| Error::Certificate(format!("not X.509: {e}")))?;
    let id = spiffe_id(&certificate)?;
    let validity = certificate.validity();
    Ok(Details {
        peer: PeerCertificate {
            id,
            subject: rfc2253(certificate.subject()),
            sha256_hex: hex(&Sha256::digest(leaf)),
            not_after: at(validity.not_after.timestamp()),
            pod: PodRecord::of(&certificate)?,
        },
        not_before: at(validity.not_before.timestamp()),
    })
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Error> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| Error::Certificate(format!("subject alternative name: {e}")))?
        .ok_or_else(|| Error::Certificate("no subject alternative name".to_owned()))?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(SpiffeId::parse(uri)?),
        (None, _) => Err(Error::Certificate("no URI among its names".to_owned())),
        (Some(_), Some(_)) => Err(Error::Certificate(
            "more than one URI among its names".to_owned(),
        )),
    }
}

/// Seconds before 1970 do not occur in certificates that anyone accepts.
fn at(unix_seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds.try_into().unwrap_or(0))
}

/// SHA-256, lower case hex.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| {
            [
                DIGITS[usize::from(b >> 4)] as char,
                DIGITS[usize::from(b & 15)] as char,
            ]
        })
        .collect()
}

fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for attribute in name.iter_attributes() {
        let key = x509_parser::objects::oid2abbrev(
            attribute.attr_type(),
            x509_parser::objects::oid_registry(),
        )
        .map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        parts.push(format!(
            "{key}={}",
            escape(attribute.as_str().unwrap_or_default())
        ));
    }
    parts.reverse();
    parts.join(",")
}

/// RFC 2253 section 2.4.
fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (i, c) in value.chars().enumerate() {
        let edge_space = c == ' ' && (i == 0 || i == last);
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (c == '#' && i == 0)
            || edge_space
        {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
