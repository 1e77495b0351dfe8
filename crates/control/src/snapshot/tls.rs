//! How a client secures its connections to a cluster (contract section 3): per endpoint where the
//! client can tell endpoints apart, in the dialect that it understands.

use std::collections::BTreeSet;

use tasuki_resources::destination_rule::{TlsMode, TlsSettings};
use tasuki_resources::labels::selects;
use tasuki_xds::codec::Dialect;
use tasuki_xds::model::cluster::TlsMatch;
use tasuki_xds::model::listener::DeclaredProtocol;
use tasuki_xds::model::tls::{CertificateSource, ClientTls};

use super::clusters::speaks_tls;
use super::inbound::ALPN_HTTP;
use super::viewer::Viewer;
use crate::mesh::services::{Backend, Service};
use crate::mesh::workloads::{TLS_MODE, Workload};

/// A rule asks for TLS that this client cannot do. It must not be left with plaintext instead, so it gets no cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incapable(pub &'static str);

/// TLS to a service's port, or to a subset of it.
///
/// # Errors
/// When a rule asks for TLS that the client cannot do.
pub fn of_service(
    viewer: &Viewer<'_>,
    service: &Service,
    port: u16,
    subset: Option<&str>,
    settings: Option<&TlsSettings>,
    protocol: DeclaredProtocol,
) -> Result<Vec<TlsMatch>, Incapable> {
    match settings.map(|settings| (settings.mode, settings)) {
        Some((TlsMode::Disable, _)) => return Ok(Vec::new()),
        Some((TlsMode::Simple, settings)) => {
            return simple(viewer, service, settings, protocol);
        }
        Some((TlsMode::IstioMutual, settings)) => {
            let identities = if settings.subject_alt_names.is_empty() {
                // Without names any certificate of the mesh would do.
                of_backends(viewer, &chosen(viewer, service, port, subset))
            } else {
                settings.subject_alt_names.clone()
            };
            let tls = mutual(viewer, identities).ok_or_else(|| incapable(viewer))?;
            return Ok(always(tls));
        }
        None => {}
    }
    let backends = chosen(viewer, service, port, subset);
    if let Dialect::Grpc { .. } = viewer.client.dialect {
        return Ok(grpc(viewer, &backends));
    }
    let identities = of_backends(viewer, &backends);
    let meshed = |backend: &&Backend| backend.endpoint.tls_mode.is_some();
    Ok(automatic(viewer, identities, backends.iter().any(meshed)))
}

/// What a client without TLS would have to have.
fn incapable(viewer: &Viewer<'_>) -> Incapable {
    Incapable(match viewer.client.dialect {
        Dialect::Grpc { .. } => {
            "a gRPC client has TLS only if node.metadata.CERTIFICATE_PROVIDER_INSTANCE names a certificate provider of its bootstrap"
        }
        Dialect::Tasuki | Dialect::Envoy { .. } => {
            "an Envoy has mesh TLS only if it has shown a token or a certificate"
        }
    })
}

/// TLS to one pod.
pub fn of_pod(viewer: &Viewer<'_>, workload: &Workload) -> Vec<TlsMatch> {
    let identities = match viewer.client.dialect {
        Dialect::Tasuki => Vec::new(),
        Dialect::Envoy { .. } | Dialect::Grpc { .. } => vec![workload.identity.clone()],
    };
    automatic(viewer, identities, workload.meshed)
}

/// Mesh TLS to endpoints that are meshed, plaintext to the others. A Tasuki proxy gets both always, so
/// that endpoints can change without the cluster; a client that must check names against the cluster's
/// own list gets mesh TLS only where there is somebody to check.
fn automatic(viewer: &Viewer<'_>, identities: Vec<String>, any_meshed: bool) -> Vec<TlsMatch> {
    let needed = any_meshed || viewer.client.dialect == Dialect::Tasuki;
    match mutual(viewer, identities) {
        Some(tls) if needed => vec![
            TlsMatch {
                name: "mesh".to_owned(),
                tls_mode: Some(TLS_MODE.to_owned()),
                tls: Some(tls),
            },
            TlsMatch {
                name: "plaintext".to_owned(),
                tls_mode: None,
                tls: None,
            },
        ],
        _ => Vec::new(),
    }
}

fn always(tls: ClientTls) -> Vec<TlsMatch> {
    vec![TlsMatch {
        name: "tls".to_owned(),
        tls_mode: None,
        tls: Some(tls),
    }]
}

/// gRPC knows TLS only for a whole cluster, and our servers take its ALPN only on STRICT ports.
fn grpc(viewer: &Viewer<'_>, backends: &[&Backend]) -> Vec<TlsMatch> {
    if backends.is_empty() || !backends.iter().all(|backend| backend.strict) {
        return Vec::new();
    }
    let tls = mutual(viewer, identities(backends.iter().copied()));
    tls.map(always).unwrap_or_default()
}

/// TLS to something that is not of the mesh, checked against the system's roots, or against those of a gRPC client's
/// certificate provider.
fn simple(
    viewer: &Viewer<'_>,
    service: &Service,
    settings: &TlsSettings,
    protocol: DeclaredProtocol,
) -> Result<Vec<TlsMatch>, Incapable> {
    let trust = match &viewer.client.dialect {
        Dialect::Tasuki | Dialect::Envoy { .. } => None,
        Dialect::Grpc { provider: None } => return Err(incapable(viewer)),
        Dialect::Grpc {
            provider: Some(provider),
        } => Some(CertificateSource::ProviderInstance(provider.clone())),
    };
    let sni = settings
        .sni
        .clone()
        .or_else(|| service.pattern.as_exact().map(str::to_owned));
    let server_names = if settings.subject_alt_names.is_empty() {
        sni.iter().cloned().collect()
    } else {
        settings.subject_alt_names.clone()
    };
    let alpn = match protocol {
        DeclaredProtocol::Http2 | DeclaredProtocol::Grpc => vec!["h2".to_owned()],
        DeclaredProtocol::Http => vec!["http/1.1".to_owned()],
        DeclaredProtocol::Auto | DeclaredProtocol::Tcp | DeclaredProtocol::Tls => Vec::new(),
    };
    Ok(always(ClientTls {
        certificate: None,
        trust,
        server_identities: Vec::new(),
        server_names,
        sni,
        alpn,
    }))
}

/// Mesh TLS in the client's dialect; `None` where it has none.
fn mutual(viewer: &Viewer<'_>, server_identities: Vec<String>) -> Option<ClientTls> {
    let dialect = &viewer.client.dialect;
    if !speaks_tls(dialect) {
        return None;
    }
    let instance = |name: &str| CertificateSource::ProviderInstance(name.to_owned());
    let (certificate, trust, alpn) = match dialect {
        Dialect::Tasuki => (
            instance("workload"),
            instance("workload"),
            vec![ALPN_HTTP.to_owned()],
        ),
        Dialect::Envoy { .. } => (
            CertificateSource::Sds("default".to_owned()),
            CertificateSource::Sds("ROOTCA".to_owned()),
            vec![ALPN_HTTP.to_owned()],
        ),
        Dialect::Grpc { provider } => {
            let name = provider.as_deref()?;
            (instance(name), instance(name), Vec::new())
        }
    };
    Some(ClientTls {
        certificate: Some(certificate),
        trust: Some(trust),
        server_identities,
        server_names: Vec::new(),
        sni: None,
        alpn,
    })
}

/// The names that a client of this dialect must find in the cluster.
fn of_backends(viewer: &Viewer<'_>, backends: &[&Backend]) -> Vec<String> {
    match viewer.client.dialect {
        // Each endpoint says it itself.
        Dialect::Tasuki => Vec::new(),
        Dialect::Envoy { .. } | Dialect::Grpc { .. } => identities(backends.iter().copied()),
    }
}

fn identities<'b>(backends: impl Iterator<Item = &'b Backend>) -> Vec<String> {
    let all: BTreeSet<String> = backends
        .flat_map(|backend| backend.endpoint.identities.iter().cloned())
        .collect();
    all.into_iter().collect()
}

/// The endpoints of a service's port, or of a subset as the viewer's DestinationRule defines it.
pub fn chosen<'s>(
    viewer: &Viewer<'s>,
    service: &Service,
    port: u16,
    subset: Option<&str>,
) -> Vec<&'s Backend> {
    let rule =
        viewer
            .mesh
            .destination_rules
            .find(&service.host, &service.namespace, viewer.namespace());
    let labels = match subset {
        None => None,
        Some(name) => match rule.and_then(|rule| rule.subset(name)) {
            Some(subset) => Some(&subset.labels),
            None => return Vec::new(),
        },
    };
    let all = viewer.mesh.backends(service, port).iter();
    all.filter(|backend| labels.is_none_or(|labels| selects(labels, &backend.labels)))
        .collect()
}
