//! What services say of the ports of the pods behind them, ready or not. The first service by name that says anything is
//! believed. It is looked up when it is asked for: a pod has few services.

use std::collections::{BTreeMap, BTreeSet};

use tasuki_resources::EndpointSlice;
use tasuki_resources::core::endpoint_slice::SliceEndpoint;
use tasuki_resources::core::service::{ServicePort, Transport};
use tasuki_xds::model::listener::DeclaredProtocol;

use super::config::Declaration;
use super::services::JoinId;
use super::workloads::Workload;
use super::{Mesh, endpoints, protocol};

/// The ports that anybody declared of a pod.
pub type Ports = BTreeMap<u16, DeclaredProtocol>;

/// Of a pod that is declared.
pub(super) fn of(mesh: &Mesh, workload: &Workload) -> Ports {
    let mut ports = Ports::new();
    for (port, protocol) in said(mesh, workload) {
        let known = ports.entry(port).or_default();
        if *known == DeclaredProtocol::Auto {
            *known = protocol;
        }
    }
    ports
}

/// One of them.
pub(super) fn one_of(mesh: &Mesh, workload: &Workload, port: u16) -> DeclaredProtocol {
    let mut said = said(mesh, workload);
    let found =
        said.find(|(number, protocol)| *number == port && *protocol != DeclaredProtocol::Auto);
    found.map_or(DeclaredProtocol::Auto, |(_, protocol)| protocol)
}

/// All that anybody says, in the order in which it is believed.
fn said(mesh: &Mesh, workload: &Workload) -> impl Iterator<Item = (u16, DeclaredProtocol)> {
    let selecting = mesh.config.joins.selecting(workload);
    let selecting: BTreeSet<JoinId> = selecting.into_iter().collect();
    let mut slices: BTreeMap<JoinId, Vec<&EndpointSlice>> = BTreeMap::new();
    for (join, slice) in mesh.joins.slices_of(workload) {
        // Nobody says what the ports of another namespace's pods speak.
        if slice.meta.name.namespace == workload.id.namespace && lists(mesh, slice, workload) {
            slices.entry(join).or_default().push(slice);
        }
    }
    let joins: BTreeSet<JoinId> = selecting.iter().chain(slices.keys()).copied().collect();
    joins.into_iter().flat_map(move |join| {
        let selects = selecting.contains(&join);
        let slices = slices.remove(&join).unwrap_or_default();
        let tcp = ports_of(mesh, join).filter(|port| port.transport == Transport::Tcp);
        tcp.flat_map(move |port| {
            let target = selects.then(|| endpoints::target_port(workload, port));
            let listed = slices.iter().flat_map(|slice| &slice.ports);
            let listed = listed.filter(|listed| listed.name == port.name);
            let protocol = protocol::declared(port.protocol());
            let numbers = target.flatten().into_iter().chain(listed.map(|p| p.port));
            let all: Vec<_> = numbers.map(|number| (number, protocol)).collect();
            all
        })
    })
}

fn ports_of(mesh: &Mesh, join: JoinId) -> impl Iterator<Item = &ServicePort> {
    let ports = match mesh.config.joins.declaration(join) {
        Some(Declaration::Service(service)) => service.ports.as_slice(),
        Some(Declaration::Entry(_)) | None => &[],
    };
    ports.iter()
}

/// Whether the pod is one of the endpoints.
fn lists(mesh: &Mesh, slice: &EndpointSlice, workload: &Workload) -> bool {
    // Most endpoints are others', of which nothing need be looked up.
    let may_be_it = |endpoint: &&SliceEndpoint| match (&endpoint.pod, endpoint.addresses.first()) {
        (Some(pod), _) => *pod == workload.id,
        (None, Some(address)) => workload.addresses.contains(address),
        (None, None) => false,
    };
    let mut endpoints = slice.endpoints.iter().filter(may_be_it);
    endpoints.any(|endpoint| {
        endpoints::workload_behind(endpoint, &mesh.workloads)
            .is_some_and(|found| found.id == workload.id)
    })
}
