//! `config.endpoint.v3.ClusterLoadAssignment`.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{
    Address, HealthStatus, Locality as PbLocality, SocketAddress,
};
use envoy_types::pb::envoy::config::core::v3::{address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::endpoint::v3 as pb;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use super::Dialect;
use super::field::{Fault, Read, Within, each, read_port, read_uint, refuse, required, uint};
use super::metadata::{self, TASUKI};
use crate::model::ClusterLoadAssignment;
use crate::model::endpoint::{Endpoint, Health, Locality, WorkloadRef};

/// Where Envoy looks for what `transport_socket_matches` compares.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

pub(super) fn write(of: &ClusterLoadAssignment, dialect: &Dialect) -> pb::ClusterLoadAssignment {
    let ClusterLoadAssignment {
        cluster,
        localities,
    } = of;
    pb::ClusterLoadAssignment {
        cluster_name: cluster.clone(),
        endpoints: localities.iter().map(|l| locality(l, dialect)).collect(),
        ..pb::ClusterLoadAssignment::default()
    }
}

fn locality(of: &Locality, dialect: &Dialect) -> pb::LocalityLbEndpoints {
    let Locality {
        region,
        zone,
        subzone,
        priority,
        weight,
        endpoints,
    } = of;
    let weight = match dialect {
        // gRPC drops a locality that has no weight, so it gets what its endpoints weigh together.
        Dialect::Grpc { .. } => Some(weight.unwrap_or_else(|| sum_of_weights(endpoints))),
        Dialect::Tasuki | Dialect::Envoy { .. } => *weight,
    };
    pb::LocalityLbEndpoints {
        locality: Some(PbLocality {
            region: region.clone(),
            zone: zone.clone(),
            sub_zone: subzone.clone(),
        }),
        lb_endpoints: endpoints.iter().map(|e| endpoint(e, dialect)).collect(),
        load_balancing_weight: weight.and_then(uint),
        priority: *priority,
        ..pb::LocalityLbEndpoints::default()
    }
}

fn sum_of_weights(endpoints: &[Endpoint]) -> u32 {
    endpoints
        .iter()
        .fold(0u32, |sum, e| sum.saturating_add(e.weight))
        .max(1)
}

fn endpoint(of: &Endpoint, dialect: &Dialect) -> pb::LbEndpoint {
    let Endpoint {
        address,
        weight,
        health,
        tls_mode,
        identities,
        workload,
    } = of;
    let health = match health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Draining => HealthStatus::Draining,
        Health::Unhealthy => HealthStatus::Unhealthy,
    };
    let mut facts = metadata::Builder::default();
    if let Some(mode) = tls_mode {
        facts.set(SOCKET_MATCH, "tlsMode", metadata::text(mode));
    }
    if *dialect == Dialect::Tasuki {
        if !identities.is_empty() {
            facts.set(
                TASUKI,
                "identities",
                metadata::list(identities.iter().map(metadata::text)),
            );
        }
        if *workload != WorkloadRef::default() {
            facts.set(TASUKI, "workload", metadata::workload(workload));
        }
    }
    pb::LbEndpoint {
        health_status: health as i32,
        metadata: facts.build(),
        load_balancing_weight: uint((*weight).max(1)),
        host_identifier: Some(HostIdentifier::Endpoint(pb::Endpoint {
            address: socket_address(*address),
            ..pb::Endpoint::default()
        })),
    }
}

pub(super) fn socket_address(of: SocketAddr) -> Option<Address> {
    host_address(of.ip().to_string(), of.port())
}

pub(super) fn host_address(host: String, port: u16) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host,
            port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
            ..SocketAddress::default()
        })),
    })
}

pub(super) fn read(message: pb::ClusterLoadAssignment) -> Read<ClusterLoadAssignment> {
    let pb::ClusterLoadAssignment {
        cluster_name,
        endpoints,
        named_endpoints,
        policy,
    } = message;
    refuse!(named_endpoints);
    if let Some(policy) = policy {
        read_policy(policy).within("policy")?;
    }
    let localities = each("endpoints", endpoints, read_locality)?;
    Ok(ClusterLoadAssignment {
        cluster: cluster_name,
        localities,
    })
}

fn read_policy(policy: pb::cluster_load_assignment::Policy) -> Read<()> {
    let pb::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = policy;
    refuse!(
        drop_overloads,
        endpoint_stale_after,
        weighted_priority_health
    );
    // 140 is Envoy's default.
    match read_uint(overprovisioning_factor) {
        None | Some(140) => Ok(()),
        Some(_) => Err(Fault::not_honoured("overprovisioning_factor")),
    }
}

fn read_locality(message: pb::LocalityLbEndpoints) -> Read<Locality> {
    // Metadata of a locality changes nothing here.
    let pb::LocalityLbEndpoints {
        locality,
        metadata: _,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = message;
    refuse!(proximity, lb_config);
    if priority > 128 {
        return Err(Fault::new("priority", "above 128"));
    }
    let PbLocality {
        region,
        zone,
        sub_zone,
    } = locality.unwrap_or_default();
    Ok(Locality {
        region,
        zone,
        subzone: sub_zone,
        priority,
        weight: read_weight(read_uint(load_balancing_weight))?,
        endpoints: each("lb_endpoints", lb_endpoints, read_endpoint)?,
    })
}

fn read_weight(weight: Option<u32>) -> Read<Option<u32>> {
    if weight == Some(0) {
        Err(Fault::new("load_balancing_weight", "0; must be at least 1"))
    } else {
        Ok(weight)
    }
}

fn read_endpoint(message: pb::LbEndpoint) -> Read<Endpoint> {
    let pb::LbEndpoint {
        health_status,
        metadata,
        load_balancing_weight,
        host_identifier,
    } = message;
    let health = match HealthStatus::try_from(health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Degraded) | Err(_) => return Err(Fault::not_honoured("health_status")),
    };
    let address = match required("host_identifier", host_identifier)? {
        HostIdentifier::Endpoint(endpoint) => read_host(endpoint).within("endpoint")?,
        HostIdentifier::EndpointName(_) => return Err(Fault::not_honoured("endpoint_name")),
    };
    let facts = metadata.as_ref();
    let tls_mode = metadata::find(facts, SOCKET_MATCH, "tlsMode")
        .map(|v| metadata::read_text("metadata.tlsMode", v))
        .transpose()?;
    let identities = match metadata::find(facts, TASUKI, "identities") {
        None => Vec::new(),
        Some(value) => metadata::read_list("metadata.tasuki.identities", value)?
            .iter()
            .map(|v| metadata::read_text("metadata.tasuki.identities", v))
            .collect::<Read<_>>()?,
    };
    let workload = match metadata::find(facts, TASUKI, "workload") {
        None => WorkloadRef::default(),
        Some(value) => metadata::read_workload(value).within("metadata.tasuki.workload")?,
    };
    let weight = read_weight(read_uint(load_balancing_weight))?.unwrap_or(1);
    Ok(Endpoint {
        address,
        weight,
        health,
        tls_mode,
        identities,
        workload,
    })
}

fn read_host(endpoint: pb::Endpoint) -> Read<SocketAddr> {
    // The host name is for active health checks and host rewriting, neither of which is honoured elsewhere.
    let pb::Endpoint {
        address,
        health_check_config,
        hostname: _,
        additional_addresses,
        observability_name: _,
    } = endpoint;
    refuse!(health_check_config, additional_addresses);
    read_socket_address(address)
}

/// An address that is an IP address and a port.
pub(super) fn read_socket_address(address: Option<Address>) -> Read<SocketAddr> {
    let (host, port) = read_host_address(address)?;
    let ip: IpAddr = host
        .parse()
        .map_err(|_| Fault::new("address", format!("`{host}` is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// An address of which the host may be a DNS name.
pub(super) fn read_host_address(address: Option<Address>) -> Read<(String, u16)> {
    match required("address", required("address", address)?.address)? {
        address::Address::SocketAddress(socket) => read_socket(socket).within("socket_address"),
        address::Address::Pipe(_) => Err(Fault::not_honoured("pipe")),
        address::Address::EnvoyInternalAddress(_) => {
            Err(Fault::not_honoured("envoy_internal_address"))
        }
    }
}

pub(super) fn read_socket(socket: SocketAddress) -> Read<(String, u16)> {
    let SocketAddress {
        protocol,
        address,
        resolver_name,
        ipv4_compat: _,
        network_namespace_filepath,
        port_specifier,
    } = socket;
    refuse!(protocol, resolver_name, network_namespace_filepath);
    match port_specifier {
        Some(PortSpecifier::PortValue(port)) => Ok((address, read_port("port_value", port)?)),
        Some(PortSpecifier::NamedPort(_)) => Err(Fault::not_honoured("named_port")),
        None => Err(Fault::missing("port_specifier")),
    }
}
