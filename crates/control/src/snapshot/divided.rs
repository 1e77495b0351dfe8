//! Half-migrated services as an Envoy sees them: the endpoints that are mesh peers, and those that are not, each a cluster.
//!
//! An Envoy speaks one HTTP version to all endpoints of a cluster. Mesh peers take HTTP/2 only, and a plain endpoint of a
//! port that is not declared HTTP/2 takes what its application takes. Choosing by ALPN (`auto_config`) is no way out: Envoy
//! refuses it for a cluster with a plaintext transport socket, and knows `h2` only by that name. So where both kinds are
//! present, routes give each its share of the requests, by the number of its endpoints. Where they are not, everything is as
//! for any other service.

use tasuki_xds::codec::Dialect;
use tasuki_xds::model::cluster::HttpProtocol;
use tasuki_xds::model::endpoint::Health;
use tasuki_xds::model::route::{Route, RouteAction, WeightedCluster};

use super::Name;
use super::clusters::http_protocol;
use super::tls::chosen;
use super::viewer::Viewer;
use crate::mesh::services::Backend;

/// Into so many parts a cluster's share is divided: a service of 100 endpoints is still told apart.
const PARTS: u32 = 10_000;

/// The name of the other half of a cluster.
fn plain_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound-plain|{port}|{subset}|{host}")
}

/// Whether an endpoint is a mesh peer that wants mesh TLS.
pub fn is_meshed(backend: &Backend) -> bool {
    backend.endpoint.tls_mode.is_some()
}

/// How much of the traffic mesh peers get, of [`PARTS`]; `None` where the cluster is in one piece for this viewer.
pub fn meshed_share(viewer: &Viewer<'_>, port: u16, subset: &str, host: &str) -> Option<u32> {
    if viewer.client.dialect != (Dialect::Envoy { secrets: true }) {
        return None;
    }
    let service = viewer.mesh.services.exact(host, viewer.namespace())?;
    let declared = service.port(port)?.protocol;
    let wanted = (!subset.is_empty()).then_some(subset);
    let rules = &viewer.mesh.destination_rules;
    let rule = rules.find(host, &service.namespace, viewer.namespace());
    let policy = rule.map(|rule| rule.effective(wanted, port));
    let policy = policy.unwrap_or_default();
    // A rule that says what TLS there is says it for all endpoints.
    if policy.tls.is_some()
        || http_protocol(declared, policy.connection_pool.as_ref()) == HttpProtocol::Http2
    {
        return None;
    }
    let backends = chosen(viewer, service, port, wanted);
    let (meshed, plain): (Vec<&Backend>, Vec<&Backend>) =
        backends.into_iter().partition(|backend| is_meshed(backend));
    if meshed.is_empty() || plain.is_empty() {
        return None;
    }
    let (a, b) = match (ready(&meshed), ready(&plain)) {
        (0, 0) => (1, 1),
        ready => ready,
    };
    let share = u64::from(PARTS) * a / (a + b);
    u32::try_from(share).ok()
}

fn ready(backends: &[&Backend]) -> u64 {
    let ready = backends
        .iter()
        .filter(|backend| backend.endpoint.health == Health::Healthy);
    ready
        .map(|backend| u64::from(backend.endpoint.weight))
        .sum()
}

/// The same routes, each cluster that is in two pieces for this viewer replaced by both.
pub fn routes(viewer: &Viewer<'_>, mut routes: Vec<Route>) -> Vec<Route> {
    for route in &mut routes {
        if let RouteAction::Forward(forward) = &mut route.action {
            divide(viewer, &mut forward.clusters);
        }
    }
    routes
}

fn divide(viewer: &Viewer<'_>, clusters: &mut Vec<WeightedCluster>) {
    let shares: Vec<Option<(u32, String)>> = clusters
        .iter()
        .map(|cluster| match Name::parse(&cluster.name) {
            Some(Name::Outbound { port, subset, host }) => {
                let share = meshed_share(viewer, port, subset, host)?;
                Some((share, plain_name(port, subset, host)))
            }
            _ => None,
        })
        .collect();
    if shares.iter().all(Option::is_none) {
        return;
    }
    let total: u64 = clusters
        .iter()
        .map(|cluster| u64::from(cluster.weight))
        .sum();
    // Envoy adds the weights up in 32 bits.
    let parts = (u64::from(u32::MAX) / total.max(1)).clamp(1, u64::from(PARTS));
    let scaled = |weight: u32, of_parts: u64| {
        u32::try_from(u64::from(weight) * of_parts).unwrap_or(u32::MAX)
    };
    let mut plain_halves = Vec::new();
    for (cluster, share) in clusters.iter_mut().zip(shares) {
        let weight = cluster.weight;
        cluster.weight = scaled(weight, parts);
        if let Some((share, name)) = share {
            let meshed = u64::from(share) * parts / u64::from(PARTS);
            cluster.weight = scaled(weight, meshed);
            plain_halves.push(WeightedCluster {
                name,
                weight: scaled(weight, parts - meshed),
                ..cluster.clone()
            });
        }
    }
    clusters.extend(plain_halves);
}
