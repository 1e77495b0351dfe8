//! rustls configurations of both ends of a mesh connection.
//!
//! **No session resumption, on either side.** A resumed session skips the certificate: a peer whose root was retired, whose
//! certificate expired or whose endpoint now belongs to another identity would stay trusted. Mesh connections
//! are few and long (HTTP/2), so a full handshake each costs little. Hence no tickets, no session cache and no 0-RTT.
//!
//! Mesh TLS is TLS 1.3 only. TLS 1.2 is taken only where the other side may be no mesh peer: servers that do not require
//! a client certificate (the control plane's own port, gateways) and clients of servers known by DNS name.

mod verify;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::certificate::{Roots, WorkloadCertificate};
use crate::error::Error;
use crate::id::{SpiffeId, TrustDomain};

/// What a server wants to see of its clients. A certificate that is shown is always verified: its chain, and that its
/// SPIFFE id is of the server's own trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
    Optional,
    None,
}

/// Who a server must be, beyond having a chain to a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIdentity {
    /// One of these; empty refuses every server.
    AnyOf(Vec<SpiffeId>),
    /// Any workload of the trust domain.
    TrustDomain(TrustDomain),
    /// The name that is dialled (the `ServerName` given to rustls), as on the Web.
    Dns,
    /// One of these DNS names, whatever name is dialled (`subjectAltNames` of SIMPLE TLS); empty refuses every server.
    DnsAnyOf(Vec<String>),
}

const MESH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const OPEN: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// `alpn` in order of preference; a client that offers ALPN but none of these is refused by rustls, one without ALPN is not.
pub fn server_config(
    certificate: &WorkloadCertificate,
    roots: &Roots,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
) -> Result<Arc<ServerConfig>, Error> {
    let versions = if client_auth == ClientAuth::Required {
        MESH
    } else {
        OPEN
    };
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let trust_domain = TrustDomain::new(certificate.id().trust_domain())?;
    let builder = match client_auth {
        ClientAuth::Required => builder.with_client_cert_verifier(Arc::new(
            verify::ClientVerifier::new(roots, trust_domain, true)?,
        )),
        ClientAuth::Optional => builder.with_client_cert_verifier(Arc::new(
            verify::ClientVerifier::new(roots, trust_domain, false)?,
        )),
        ClientAuth::None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.certified())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// `certificate` is shown when the server asks for one. For [`ServerIdentity::AnyOf`] and [`ServerIdentity::TrustDomain`] the
/// `ServerName` given to rustls only becomes the SNI; it is not compared with anything.
pub fn client_config(
    certificate: Option<&WorkloadCertificate>,
    roots: &Roots,
    expected: ServerIdentity,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let mesh = matches!(
        expected,
        ServerIdentity::AnyOf(_) | ServerIdentity::TrustDomain(_)
    );
    let versions = if mesh { MESH } else { OPEN };
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match expected {
        ServerIdentity::Dns => builder.with_root_certificates(store(roots)?),
        other => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::ServerVerifier::new(roots, other)?)),
    };
    let mut config = match certificate {
        Some(own) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// aws-lc-rs with hybrid post-quantum key exchange first; P-256 last, for foreign peers that know nothing else.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn store(roots: &Roots) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for root in roots.certificates() {
        store.add(root.clone())?;
    }
    Ok(store)
}

#[cfg(test)]
mod tests;
