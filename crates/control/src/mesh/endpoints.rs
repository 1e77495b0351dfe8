//! Endpoints of Kubernetes Services: from EndpointSlices where there are any, otherwise derived from the
//! Pods that the Service selects.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tasuki_resources::core::endpoint_slice::SliceEndpoint;
use tasuki_resources::core::service::{ServiceKind, ServicePort, TargetPort, Transport};
use tasuki_resources::peer_authentication::MtlsMode;
use tasuki_resources::{EndpointSlice, Service};
use tasuki_xds::model::endpoint::{Endpoint, Health, WorkloadRef};

use super::peer_authentication::PeerAuthentications;
use super::services::Backend;
use super::workloads::{State, TLS_MODE, Workload, Workloads};

/// Backends of every TCP port of `service`. `selected` are the pods that it selects; both lists are in order of their names,
/// and of two endpoints of one address the first is used.
pub fn backends<'s>(
    service: &Service,
    slices: impl Iterator<Item = &'s EndpointSlice> + Clone,
    selected: &[Arc<Workload>],
    workloads: &Workloads,
    modes: &PeerAuthentications,
) -> BTreeMap<u16, Vec<Backend>> {
    let tcp = service
        .ports
        .iter()
        .filter(|port| port.transport == Transport::Tcp);
    tcp.map(|port| {
        let mut list = match slices.clone().next() {
            None => from_pods(service, port, selected, modes),
            Some(_) => from_slices(service, port, slices.clone(), workloads, modes),
        };
        list.sort_by_key(|backend| backend.endpoint.address);
        list.dedup_by_key(|backend| backend.endpoint.address);
        (port.port, list)
    })
    .collect()
}

fn from_pods(
    service: &Service,
    port: &ServicePort,
    selected: &[Arc<Workload>],
    modes: &PeerAuthentications,
) -> Vec<Backend> {
    let wants_v6 = family(service);
    selected
        .iter()
        .filter_map(|workload| {
            let health = match workload.state {
                State::Ready => Health::Healthy,
                State::Draining => Health::Draining,
                State::NotReady if service.publish_not_ready => Health::Healthy,
                State::NotReady => return None,
            };
            let target = target_port(workload, port)?;
            let address = pick_address(&workload.addresses, wants_v6)?;
            Some(of_workload(
                workload,
                SocketAddr::new(address, target),
                health,
                modes,
            ))
        })
        .collect()
}

fn from_slices<'s>(
    service: &Service,
    port: &ServicePort,
    slices: impl Iterator<Item = &'s EndpointSlice>,
    workloads: &Workloads,
    modes: &PeerAuthentications,
) -> Vec<Backend> {
    let mut found = Vec::new();
    for slice in slices {
        let named = slice
            .ports
            .iter()
            .find(|p| p.transport == Transport::Tcp && p.name == port.name);
        let Some(slice_port) = named else { continue };
        for endpoint in &slice.endpoints {
            let Some(address) = endpoint.addresses.first() else {
                continue;
            };
            let health = match (endpoint.ready, endpoint.serving && endpoint.terminating) {
                (true, _) => Health::Healthy,
                (false, true) => Health::Draining,
                (false, false) if service.publish_not_ready => Health::Healthy,
                (false, false) => continue,
            };
            let address = SocketAddr::new(*address, slice_port.port);
            let mut backend = match behind(endpoint, address.ip(), workloads) {
                Behind::Workload(workload) => {
                    // The slice learns of a deletion later than we do, and the Pod's application ends when we say that nobody
                    // sends to it any more.
                    let health = match workload.state {
                        State::Draining => Health::Draining,
                        State::Ready | State::NotReady => health,
                    };
                    of_workload(workload, address, health, modes)
                }
                Behind::NoPod => unknown(address, health, &service.meta.name.namespace),
                Behind::NotYet => continue,
            };
            if let Some(zone) = &endpoint.zone {
                backend.locality = format!("/{zone}/");
            }
            found.push(backend);
        }
    }
    if found.iter().all(|b| b.endpoint.health != Health::Healthy) {
        // Better those that are ending and still serve than nobody: kube-proxy does the same.
        for backend in &mut found {
            backend.endpoint.health = Health::Healthy;
        }
    }
    found
}

/// What is known of the pod behind an endpoint.
enum Behind<'a> {
    Workload(&'a Workload),
    /// The endpoint is no pod of the mesh's cluster.
    NoPod,
    /// A pod that is not known yet, or no longer, at this address. Whether to use mesh TLS cannot be said before it is: plaintext
    /// would be refused, or go to whoever has the address now.
    NotYet,
}

fn behind<'a>(endpoint: &SliceEndpoint, address: IpAddr, workloads: &'a Workloads) -> Behind<'a> {
    let Some(pod) = &endpoint.pod else {
        return workloads
            .at(address)
            .map_or(Behind::NoPod, |workload| Behind::Workload(workload));
    };
    match workloads.get(pod) {
        Some(workload) if workload.is_at(address) => Behind::Workload(workload),
        _ => Behind::NotYet,
    }
}

/// The pod behind an endpoint, if it is known.
pub fn workload_behind<'a>(
    endpoint: &SliceEndpoint,
    workloads: &'a Workloads,
) -> Option<&'a Workload> {
    match behind(endpoint, *endpoint.addresses.first()?, workloads) {
        Behind::Workload(workload) => Some(workload),
        Behind::NoPod | Behind::NotYet => None,
    }
}

/// The number that a service port means in a pod.
pub fn target_port(workload: &Workload, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload.ports.get(name).copied(),
    }
}

/// An endpoint that is a pod. Its callers use mesh TLS unless its port is switched off for it: there the
/// sidecar would take the handshake for the application's own bytes.
pub fn of_workload(
    workload: &Workload,
    address: SocketAddr,
    health: Health,
    modes: &PeerAuthentications,
) -> Backend {
    let mode = || {
        modes.mode(
            &workload.id.namespace,
            &workload.labels,
            Some(address.port()),
        )
    };
    let mode = workload.meshed.then(mode);
    let mesh_tls = mode.is_some_and(|mode| mode != MtlsMode::Disable);
    Backend {
        endpoint: Endpoint {
            address,
            weight: 1,
            health,
            tls_mode: mesh_tls.then(|| TLS_MODE.to_owned()),
            identities: if workload.identity.is_empty() {
                Vec::new()
            } else {
                vec![workload.identity.clone()]
            },
            workload: workload.reference.clone(),
        },
        labels: workload.labels.clone(),
        locality: String::new(),
        strict: mode == Some(MtlsMode::Strict),
    }
}

fn unknown(address: SocketAddr, health: Health, namespace: &str) -> Backend {
    let workload = WorkloadRef {
        namespace: namespace.to_owned(),
        ..WorkloadRef::default()
    };
    let endpoint = Endpoint {
        address,
        weight: 1,
        health,
        tls_mode: None,
        identities: Vec::new(),
        workload,
    };
    Backend {
        endpoint,
        labels: BTreeMap::new(),
        locality: String::new(),
        strict: false,
    }
}

/// The family of the service's first address: its endpoints are of the same.
fn family(service: &Service) -> Option<bool> {
    match &service.kind {
        ServiceKind::ClusterIp(addresses) => addresses.first().map(IpAddr::is_ipv6),
        ServiceKind::Headless | ServiceKind::ExternalName(_) => None,
    }
}

fn pick_address(addresses: &[IpAddr], v6: Option<bool>) -> Option<IpAddr> {
    let preferred = addresses
        .iter()
        .find(|address| v6.is_none_or(|v6| address.is_ipv6() == v6));
    preferred.or(addresses.first()).copied()
}
