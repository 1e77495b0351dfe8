//! What is asked for and what is signed: requests are read here, and leaves described.

use std::net::IpAddr;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType, SerialNumber,
};

use crate::csr::uri_name;
use crate::error::Error;
use crate::id::SpiffeId;
use crate::pod_record::PodRecord;

/// Longest text of a request that is looked at; ours have about 500 bytes, RSA 4096 makes about 1,800.
const MAX_CSR: usize = 16 * 1024;

/// Checks the request's own signature and that it asks for one name, `id`.
pub(super) fn read_request(
    csr_pem: &str,
    id: &SpiffeId,
) -> Result<CertificateSigningRequestParams, Error> {
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

pub(super) fn server_name(name: &str) -> Result<SanType, Error> {
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

pub(super) fn params(
    id: &SpiffeId,
    pod: Option<&PodRecord>,
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
    params.custom_extensions = pod.map(PodRecord::extension).into_iter().collect();
    Ok(params)
}

/// RFC 5280 section 4.1.2.2: unique, positive, at most 20 octets. 127 random bits.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
