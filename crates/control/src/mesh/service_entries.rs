//! ServiceEntries as services of the registry.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tasuki_identity::{SpiffeId, TrustDomain};
use tasuki_resources::service_entry::{
    EntryAddress, EntryEndpoint, EntryPort, Location, Resolution,
};
use tasuki_resources::{Cidr, ServiceEntry};
use tasuki_xds::model::endpoint::{Endpoint, Health};

use super::endpoints::of_workload;
use super::peer_authentication::PeerAuthentications;
use super::protocol::declared;
use super::services::{Backend, Backends, JoinId, Origin, Service, ServicePort};
use super::workloads::{State, Workloads, reference};

/// Ports that are the proxy's own on loopback (contract section 5).
pub const PROXY_PORTS: [u16; 5] = [15000, 15001, 15006, 15020, 15021];
/// Istio's `dnsRefreshRate`.
const DNS_REFRESH: Duration = Duration::from_secs(60);

/// One service for each host of the entry, all with the endpoints of `join`, and what was left out: field and reason.
pub fn services(entry: &ServiceEntry, join: JoinId) -> (Vec<Service>, Vec<(String, String)>) {
    let mut left_out = Vec::new();
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        if reaches_proxy(entry, endpoint) {
            left_out.push((
                format!("spec.endpoints[{index}]"),
                "reaches the proxy's own ports; left out".to_owned(),
            ));
        }
    }
    let (addresses, ranges): (Vec<Cidr>, Vec<Cidr>) =
        entry.addresses.iter().partition(|a| a.is_single());
    let addresses: Vec<IpAddr> = addresses.into_iter().map(|a| a.address).collect();
    let mut services = Vec::new();
    for (index, host) in entry.hosts.iter().enumerate() {
        let name = host.to_string();
        if entry.resolution == Resolution::Dns && is_loopback_name(&name) {
            left_out.push((
                format!("spec.hosts[{index}]"),
                "is the proxy's own machine; left out".to_owned(),
            ));
            continue;
        }
        services.push(Service {
            backends: match entry.resolution {
                Resolution::Static => Backends::Known(join),
                Resolution::Dns => names(entry, &name),
            },
            literals: literals(entry),
            host: name,
            pattern: host.clone(),
            name: entry.meta.name.name.clone(),
            namespace: entry.meta.name.namespace.clone(),
            origin: Origin::ServiceEntry,
            addresses: addresses.clone(),
            ranges: ranges.clone(),
            ports: entry.ports.iter().map(port).collect(),
            exported: entry.export_to.clone(),
        });
    }
    (services, left_out)
}

/// Endpoints that may be used.
fn usable(entry: &ServiceEntry) -> impl Iterator<Item = &EntryEndpoint> {
    let endpoints = entry.endpoints.iter();
    endpoints.filter(|endpoint| !reaches_proxy(entry, endpoint))
}

fn literals(entry: &ServiceEntry) -> Vec<(SocketAddr, u16)> {
    if entry.resolution == Resolution::Dns {
        return Vec::new();
    }
    let of_port = |port| {
        let address = move |endpoint: &EntryEndpoint| match &endpoint.address {
            EntryAddress::Ip(ip) => Some(SocketAddr::new(*ip, endpoint.port(port))),
            EntryAddress::Name(_) => None,
        };
        usable(entry).filter_map(address).map(|a| (a, port.number))
    };
    entry.ports.iter().flat_map(of_port).collect()
}

fn port(port: &EntryPort) -> ServicePort {
    ServicePort {
        number: port.number,
        name: port.name.clone(),
        protocol: declared(port.protocol),
    }
}

/// The names that the proxy is to resolve.
fn names(entry: &ServiceEntry, host: &str) -> Backends {
    let of_port = |port: &EntryPort| {
        let hosts = if entry.endpoints.is_empty() {
            vec![(host.to_owned(), port.target)]
        } else {
            usable(entry)
                .map(|e| (name_of(&e.address), e.port(port)))
                .collect()
        };
        (port.number, hosts)
    };
    Backends::Dns {
        hosts: entry.ports.iter().map(of_port).collect(),
        refresh: DNS_REFRESH,
    }
}

/// The endpoints of an entry that lists them, by port.
pub fn backends(
    entry: &ServiceEntry,
    trust_domain: &TrustDomain,
    workloads: &Workloads,
    modes: &PeerAuthentications,
) -> BTreeMap<u16, Vec<Backend>> {
    if entry.resolution == Resolution::Dns {
        return BTreeMap::new();
    }
    let of_port = |declared: &EntryPort| {
        let list = usable(entry).filter_map(|endpoint| {
            pod(entry, endpoint, declared, workloads, modes)
                .or_else(|| backend(entry, endpoint, declared, trust_domain))
        });
        (declared.number, list.collect())
    };
    entry.ports.iter().map(of_port).collect()
}

/// The addresses at which a pod makes a difference to the entry's endpoints.
pub fn pod_addresses(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    let internal = entry.location == Location::Internal && entry.resolution == Resolution::Static;
    let endpoints = entry.endpoints.iter().filter(move |_| internal);
    endpoints.filter_map(|endpoint| match &endpoint.address {
        EntryAddress::Ip(ip) => Some(*ip),
        EntryAddress::Name(_) => None,
    })
}

/// An endpoint of a MESH_INTERNAL entry that is a pod is spoken to as one; outside the mesh nobody has its TLS.
fn pod(
    entry: &ServiceEntry,
    endpoint: &EntryEndpoint,
    port: &EntryPort,
    workloads: &Workloads,
    modes: &PeerAuthentications,
) -> Option<Backend> {
    let EntryAddress::Ip(address) = &endpoint.address else {
        return None;
    };
    let workload = (entry.location == Location::Internal)
        .then(|| workloads.at(*address))
        .flatten()?;
    let health = match workload.state {
        State::Ready | State::NotReady => Health::Healthy,
        State::Draining => Health::Draining,
    };
    let address = SocketAddr::new(*address, endpoint.port(port));
    let mut backend = of_workload(workload, address, health, modes);
    backend.endpoint.weight = endpoint.weight.unwrap_or(1).max(1);
    backend.labels.extend(endpoint.labels.clone());
    Some(backend)
}

fn backend(
    entry: &ServiceEntry,
    endpoint: &EntryEndpoint,
    port: &EntryPort,
    trust_domain: &TrustDomain,
) -> Option<Backend> {
    let EntryAddress::Ip(address) = &endpoint.address else {
        return None;
    };
    let account = endpoint.service_account.as_deref();
    let identity =
        account.and_then(|a| SpiffeId::new(trust_domain, &entry.meta.name.namespace, a).ok());
    let owner = entry.meta.name.name.as_str();
    let endpoint_model = Endpoint {
        address: SocketAddr::new(*address, endpoint.port(port)),
        weight: endpoint.weight.unwrap_or(1).max(1),
        health: Health::Healthy,
        tls_mode: None,
        identities: identity.iter().map(ToString::to_string).collect(),
        workload: reference(
            &entry.meta.name,
            &endpoint.labels,
            account.unwrap_or_default(),
            owner,
        ),
    };
    Some(Backend {
        endpoint: endpoint_model,
        labels: endpoint.labels.clone(),
        locality: String::new(),
        strict: false,
    })
}

fn name_of(address: &EntryAddress) -> String {
    match address {
        EntryAddress::Ip(ip) => ip.to_string(),
        EntryAddress::Name(name) => name.clone(),
    }
}

fn reaches_proxy(entry: &ServiceEntry, endpoint: &EntryEndpoint) -> bool {
    let local = match &endpoint.address {
        EntryAddress::Ip(ip) => is_local(*ip),
        EntryAddress::Name(name) => is_loopback_name(name),
    };
    local
        && entry
            .ports
            .iter()
            .any(|port| PROXY_PORTS.contains(&endpoint.port(port)))
}

fn is_local(ip: IpAddr) -> bool {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    ip.is_loopback() || ip.is_unspecified()
}

fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_in_every_spelling() {
        for local in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "::ffff:127.0.0.1",
            "localhost",
            "a.localhost",
        ] {
            assert!(is_loopback_name(local), "{local}");
        }
        for remote in [
            "10.0.0.1",
            "example.com",
            "localhost.example.com",
            "fd00::1",
        ] {
            assert!(!is_loopback_name(remote), "{remote}");
        }
    }
}
