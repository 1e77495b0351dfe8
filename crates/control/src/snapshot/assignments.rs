//! Endpoints of clusters.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tasuki_resources::destination_rule::{TlsMode, TlsSettings};
use tasuki_xds::model::ClusterLoadAssignment;
use tasuki_xds::model::endpoint::{Health, Locality};

use super::tls::chosen;
use super::viewer::Viewer;
use super::{Name, divided};
use crate::mesh::endpoints::of_workload;
use crate::mesh::services::Backend;

/// The endpoints of the cluster of this name as `viewer` sees them.
pub fn assignment(viewer: &Viewer<'_>, name: &str) -> Option<ClusterLoadAssignment> {
    match Name::parse(name)? {
        Name::Outbound { port, subset, host } => {
            let half = divided::meshed_share(viewer, port, subset, host);
            outbound(viewer, name, (port, subset, host), |backend| {
                half.is_none() || divided::is_meshed(backend)
            })
        }
        Name::Plain { port, subset, host } => {
            divided::meshed_share(viewer, port, subset, host)?;
            outbound(viewer, name, (port, subset, host), |backend| {
                !divided::is_meshed(backend)
            })
        }
        Name::Pod { address, port } => {
            let workload = viewer.mesh.workloads.at(address)?;
            // Whoever calls a pod by its address means that pod, ready, ending or not.
            let health = Health::Healthy;
            let backend = of_workload(
                workload,
                SocketAddr::new(address, port),
                health,
                &viewer.mesh.peer_authentication,
            );
            Some(ClusterLoadAssignment {
                cluster: name.to_owned(),
                localities: localities([&backend].into_iter()),
            })
        }
        Name::Passthrough | Name::BlackHole | Name::Inbound { .. } => None,
    }
}

/// The endpoints of a service's port, or of a subset of it, that are `wanted`.
fn outbound(
    viewer: &Viewer<'_>,
    name: &str,
    (port, subset, host): (u16, &str, &str),
    wanted: impl Fn(&Backend) -> bool,
) -> Option<ClusterLoadAssignment> {
    let service = viewer.mesh.services.exact(host, viewer.namespace())?;
    service.port(port)?;
    let subset = (!subset.is_empty()).then_some(subset);
    let rules = &viewer.mesh.destination_rules;
    let rule = rules.find(host, &service.namespace, viewer.namespace());
    if let Some(subset) = subset {
        rule?.subset(subset)?;
    }
    let backends = chosen(viewer, service, port, subset);
    let mut localities = localities(backends.into_iter().filter(|backend| wanted(backend)));
    let tls = rule.and_then(|rule| rule.effective(subset, port).tls);
    if let Some(names) = tls.and_then(demanded) {
        let endpoints = localities.iter_mut().flat_map(|l| &mut l.endpoints);
        endpoints.for_each(|endpoint| endpoint.identities.clone_from(&names));
    }
    Some(ClusterLoadAssignment {
        cluster: name.to_owned(),
        localities,
    })
}

/// The names that a DestinationRule demands of mesh peers, whoever the endpoints are (contract section 5).
fn demanded(tls: TlsSettings) -> Option<Vec<String>> {
    let names = tls.subject_alt_names;
    (tls.mode == TlsMode::IstioMutual && !names.is_empty()).then_some(names)
}

fn localities<'b>(backends: impl Iterator<Item = &'b Backend>) -> Vec<Locality> {
    let mut by_locality: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        by_locality
            .entry(&backend.locality)
            .or_default()
            .push(backend);
    }
    by_locality
        .into_iter()
        .map(|(locality, backends)| {
            let mut parts = locality.splitn(3, '/').map(str::to_owned);
            Locality {
                region: parts.next().unwrap_or_default(),
                zone: parts.next().unwrap_or_default(),
                subzone: parts.next().unwrap_or_default(),
                priority: 0,
                weight: Some(backends.iter().map(|backend| backend.endpoint.weight).sum()),
                endpoints: backends
                    .into_iter()
                    .map(|backend| backend.endpoint.clone())
                    .collect(),
            }
        })
        .collect()
}
