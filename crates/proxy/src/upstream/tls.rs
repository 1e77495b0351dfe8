//! How an endpoint is secured, and the rustls configuration for it.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tasuki_identity::{Roots, ServerIdentity, SpiffeId, TrustDomain, client_config};
use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::tls::ClientTls;

use super::connect::Use;
use crate::cluster::{Cluster, Endpoint};
use crate::error::Error;
use crate::identity::Identity;

/// ALPN between mesh peers; its presence in a cluster's offer marks mesh TLS.
pub const MESH_HTTP: &str = "tasuki-h2";
const MESH_TCP: &str = "tasuki-tcp";

/// What the first matching `transport_socket_match` says for an endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Security<'a> {
    Plain,
    /// Mutual TLS with a peer of the mesh.
    Mesh(&'a ClientTls),
    /// TLS that a DestinationRule asks for.
    Tls(&'a ClientTls),
}

impl<'a> Security<'a> {
    pub fn of(cluster: &'a Cluster, endpoint: &Endpoint) -> Self {
        let matches = |mode: &Option<String>| mode.is_none() || *mode == endpoint.tls_mode;
        let tls = cluster
            .config
            .tls
            .iter()
            .find(|entry| matches(&entry.tls_mode))
            .and_then(|entry| entry.tls.as_ref());
        match tls {
            None => Self::Plain,
            Some(tls) if tls.alpn.iter().any(|alpn| alpn == MESH_HTTP) => Self::Mesh(tls),
            Some(tls) => Self::Tls(tls),
        }
    }

    pub fn is_mesh(self) -> bool {
        matches!(self, Self::Mesh(_))
    }

    pub fn is_mutual(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Mesh(_) => true,
            Self::Tls(tls) => tls.certificate.is_some(),
        }
    }
}

/// The configuration and server name for a handshake.
pub fn client(
    cluster: &Cluster,
    endpoint: &Endpoint,
    identity: Option<&Arc<Identity>>,
    purpose: Use,
) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, Error> {
    let failed = |error: tasuki_identity::Error| Error::TlsFailed(error.to_string());
    match Security::of(cluster, endpoint) {
        Security::Plain => Ok(None),
        Security::Mesh(tls) => {
            let identity =
                identity.ok_or_else(|| Error::TlsFailed("no workload certificate yet".into()))?;
            not_expired(identity)?;
            let expected = expected(tls, endpoint, identity)?;
            let alpn = match purpose {
                Use::Http1 | Use::Http2 => MESH_HTTP,
                Use::Tcp => MESH_TCP,
            };
            let config = identity
                .client(&expected, &[alpn.to_owned()])
                .map_err(failed)?;
            Ok(Some((
                config,
                server_name(tls, cluster, endpoint.address.ip()),
            )))
        }
        Security::Tls(tls) => {
            let alpn = alpn(tls, purpose);
            let config = other(tls, endpoint, identity, &alpn)?;
            Ok(Some((
                config,
                server_name(tls, cluster, endpoint.address.ip()),
            )))
        }
    }
}

/// No peer takes an expired certificate, and over TLS 1.3 it would say so only after the handshake: the request would be
/// lost without a reason.
fn not_expired(identity: &Identity) -> Result<(), Error> {
    let end = identity.certificate.not_after();
    if SystemTime::now() < end {
        return Ok(());
    }
    let end = httpdate::fmt_http_date(end);
    Err(Error::TlsFailed(format!(
        "the workload certificate expired at {end}"
    )))
}

/// What the server must prove to be: what the endpoint may be, else what the cluster says, else anybody of the domain.
fn expected(
    tls: &ClientTls,
    endpoint: &Endpoint,
    identity: &Identity,
) -> Result<ServerIdentity, Error> {
    let names = if endpoint.identities.is_empty() {
        &tls.server_identities
    } else {
        &endpoint.identities
    };
    if names.is_empty() {
        let domain = TrustDomain::new(identity.id().trust_domain());
        return domain
            .map(ServerIdentity::TrustDomain)
            .map_err(|error| Error::TlsFailed(error.to_string()));
    }
    let ids = names
        .iter()
        .map(|name| SpiffeId::parse(name))
        .collect::<Result<Vec<_>, _>>();
    ids.map(ServerIdentity::AnyOf)
        .map_err(|error| Error::TlsFailed(error.to_string()))
}

fn alpn(tls: &ClientTls, purpose: Use) -> Vec<String> {
    match purpose {
        Use::Tcp => tls.alpn.clone(),
        Use::Http2 => vec!["h2".to_owned()],
        Use::Http1 => vec!["http/1.1".to_owned()],
    }
}

/// TLS that is not the mesh's own. Built per connection: these are few, and the settings are the cluster's.
fn other(
    tls: &ClientTls,
    endpoint: &Endpoint,
    identity: Option<&Arc<Identity>>,
    alpn: &[String],
) -> Result<Arc<ClientConfig>, Error> {
    let failed = |error: tasuki_identity::Error| Error::TlsFailed(error.to_string());
    let missing = || Error::TlsFailed("no workload certificate yet".into());
    let identity_needed = tls.certificate.is_some() || tls.trust.is_some();
    if identity_needed && identity.is_none() {
        return Err(missing());
    }
    let certificate = match &tls.certificate {
        Some(_) => {
            let identity = identity.ok_or_else(missing)?;
            not_expired(identity)?;
            Some(&identity.certificate)
        }
        None => None,
    };
    let (roots, expected) = match &tls.trust {
        Some(_) => {
            let identity = identity.ok_or_else(missing)?;
            (&identity.roots, expected(tls, endpoint, identity)?)
        }
        // `subjectAltNames` say what the server must be called, whatever SNI it is asked by.
        None if !tls.server_names.is_empty() => (
            system_roots()?,
            ServerIdentity::DnsAnyOf(tls.server_names.clone()),
        ),
        None if tls.server_names.is_empty() => (system_roots()?, ServerIdentity::Dns),
        None => (
            system_roots()?,
            ServerIdentity::DnsAnyOf(tls.server_names.clone()),
        ),
    };
    let alpn: Vec<&[u8]> = alpn.iter().map(String::as_bytes).collect();
    client_config(certificate, roots, expected, &alpn).map_err(failed)
}

fn system_roots() -> Result<&'static Roots, Error> {
    static ROOTS: OnceLock<Result<Roots, String>> = OnceLock::new();
    ROOTS
        .get_or_init(|| Roots::system().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| Error::TlsFailed(error.clone()))
}

/// SNI: the cluster's, else the name that is verified, else the one that was resolved, else the address (which is not sent
/// as SNI).
fn server_name(tls: &ClientTls, cluster: &Cluster, address: IpAddr) -> ServerName<'static> {
    let resolved = match &cluster.config.discovery {
        Discovery::Dns { hosts, .. } => hosts.first().map(|(host, _)| host),
        Discovery::Eds { .. } | Discovery::Static(_) | Discovery::OriginalDestination { .. } => {
            None
        }
    };
    let name = tls
        .sni
        .as_ref()
        .or_else(|| tls.server_names.first())
        .or(resolved);
    name.and_then(|name| ServerName::try_from(name.clone()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.into()))
}
