//! What services say of the ports of the pods behind them, ready or not. The first service by name that says anything is
//! believed. It is looked up when it is asked for: a pod has few services.

use std::collections::{BTreeMap, BTreeSet};

use tasuki_resources::EndpointSlice;
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
    let selecting = mesh.config.joins.selecting(workload);
    let selecting: BTreeSet<JoinId> = selecting.into_iter().collect();
    let mut slices: BTreeMap<JoinId, Vec<&EndpointSlice>> = BTreeMap::new();
    for (join, slice) in mesh.joins.slices_of(workload) {
        // Nobody says what the ports of another namespace's pods speak.
        if slice.meta.name.namespace == workload.id.namespace {
            slices.entry(join).or_default().push(slice);
        }
    }
    let mut ports = Ports::new();
    let joins: BTreeSet<JoinId> = selecting.iter().chain(slices.keys()).copied().collect();
    for join in joins {
        let Some(Declaration::Service(service)) = mesh.config.joins.declaration(join) else {
            continue;
        };
        for port in service
            .ports
            .iter()
            .filter(|port| port.transport == Transport::Tcp)
        {
            let target = selecting
                .contains(&join)
                .then(|| endpoints::target_port(workload, port));
            let listed = slices.get(&join).into_iter().flatten();
            let listed = listed.flat_map(|slice| numbers(mesh, slice, port, workload));
            for number in target.flatten().into_iter().chain(listed) {
                say(&mut ports, number, protocol::declared(port.protocol()));
            }
        }
    }
    ports
}

fn say(ports: &mut Ports, port: u16, protocol: DeclaredProtocol) {
    let known = ports.entry(port).or_default();
    if *known == DeclaredProtocol::Auto {
        *known = protocol;
    }
}

/// The numbers of a service's port in a slice, if the pod is one of its endpoints.
fn numbers<'s>(
    mesh: &Mesh,
    slice: &'s EndpointSlice,
    port: &'s ServicePort,
    workload: &Workload,
) -> impl Iterator<Item = u16> + use<'s> {
    let is_it = |endpoint| {
        endpoints::workload_behind(endpoint, &mesh.workloads)
            .is_some_and(|found| found.id == workload.id)
    };
    let is_endpoint = slice.endpoints.iter().any(is_it);
    let named = slice.ports.iter().filter(|p| p.name == port.name);
    named.filter(move |_| is_endpoint).map(|p| p.port)
}
