//! Where a cluster's endpoints come from: `type` and what belongs to each.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::{BindConfig, SocketAddress, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint_pb;

use crate::codec::field::{
    Fault, Read, Within, ads, duration, each, optional_duration, read_ads, refuse, required,
};
use crate::codec::{Dialect, endpoint};
use crate::model::cluster::Discovery;

const ENVOY_DNS_REFRESH: Duration = Duration::from_secs(60);

#[allow(
    deprecated,
    reason = "`dns_refresh_rate` is what Envoy 1.40 and all before it read for STRICT_DNS"
)]
pub(super) fn write(message: &mut pb::Cluster, name: &str, of: &Discovery, dialect: &Dialect) {
    let kind = match (of, dialect) {
        (Discovery::Eds { service_name }, _) => {
            message.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: ads(),
                service_name: service_name.clone().unwrap_or_default(),
            });
            DiscoveryType::Eds
        }
        // gRPC has no STRICT_DNS; its LOGICAL_DNS takes one host.
        (Discovery::Dns { hosts, refresh: _ }, Dialect::Grpc { .. }) => {
            message.load_assignment = Some(assignment(name, hosts.iter().take(1).cloned()));
            DiscoveryType::LogicalDns
        }
        (Discovery::Dns { hosts, refresh }, _) => {
            message.load_assignment = Some(assignment(name, hosts.iter().cloned()));
            message.dns_refresh_rate = duration(*refresh);
            message.dns_lookup_family = DnsLookupFamily::All as i32;
            DiscoveryType::StrictDns
        }
        (Discovery::Static(addresses), _) => {
            let hosts = addresses.iter().map(|a| (a.ip().to_string(), a.port()));
            message.load_assignment = Some(assignment(name, hosts));
            DiscoveryType::Static
        }
        (Discovery::OriginalDestination { bind }, _) => {
            message.upstream_bind_config = bind.map(bind_config);
            DiscoveryType::OriginalDst
        }
    };
    message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
}

fn assignment(
    name: &str,
    hosts: impl Iterator<Item = (String, u16)>,
) -> endpoint_pb::ClusterLoadAssignment {
    let lb_endpoints = hosts
        .map(|(host, port)| endpoint_pb::LbEndpoint {
            host_identifier: Some(endpoint_pb::lb_endpoint::HostIdentifier::Endpoint(
                endpoint_pb::Endpoint {
                    address: endpoint::host_address(host, port),
                    ..endpoint_pb::Endpoint::default()
                },
            )),
            ..endpoint_pb::LbEndpoint::default()
        })
        .collect();
    endpoint_pb::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint_pb::LocalityLbEndpoints {
            lb_endpoints,
            ..endpoint_pb::LocalityLbEndpoints::default()
        }],
        ..endpoint_pb::ClusterLoadAssignment::default()
    }
}

fn bind_config(address: IpAddr) -> BindConfig {
    BindConfig {
        source_address: Some(SocketAddress {
            address: address.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(0)),
            ..SocketAddress::default()
        }),
        ..BindConfig::default()
    }
}

/// The fields that say where endpoints come from.
pub(super) struct Parts {
    pub eds_cluster_config: Option<EdsClusterConfig>,
    pub load_assignment: Option<endpoint_pb::ClusterLoadAssignment>,
    pub dns_refresh_rate: Option<envoy_types::pb::google::protobuf::Duration>,
    pub upstream_bind_config: Option<BindConfig>,
}

pub(super) fn read(kind: ClusterDiscoveryType, parts: Parts) -> Read<Discovery> {
    let Parts {
        eds_cluster_config,
        load_assignment,
        dns_refresh_rate,
        upstream_bind_config,
    } = parts;
    let kind = match kind {
        ClusterDiscoveryType::Type(kind) => {
            DiscoveryType::try_from(kind).map_err(|_| Fault::not_honoured("type"))?
        }
        ClusterDiscoveryType::ClusterType(_) => return Err(Fault::not_honoured("cluster_type")),
    };
    if kind != DiscoveryType::OriginalDst {
        refuse!(upstream_bind_config);
    }
    match kind {
        DiscoveryType::Eds => {
            let EdsClusterConfig {
                eds_config,
                service_name,
            } = required("eds_cluster_config", eds_cluster_config)?;
            read_ads(eds_config).within("eds_cluster_config")?;
            Ok(Discovery::Eds {
                service_name: (!service_name.is_empty()).then_some(service_name),
            })
        }
        DiscoveryType::StrictDns => Ok(Discovery::Dns {
            hosts: read_assignment(load_assignment)?,
            refresh: optional_duration("dns_refresh_rate", dns_refresh_rate)?
                .unwrap_or(ENVOY_DNS_REFRESH),
        }),
        DiscoveryType::Static => {
            let hosts = read_assignment(load_assignment)?;
            Ok(Discovery::Static(each(
                "load_assignment",
                hosts,
                |(host, port)| {
                    let ip = host
                        .parse()
                        .map_err(|_| Fault::new("", format!("`{host}` is not an IP address")))?;
                    Ok(SocketAddr::new(ip, port))
                },
            )?))
        }
        DiscoveryType::OriginalDst => {
            let bind = upstream_bind_config
                .map(read_bind)
                .transpose()
                .within("upstream_bind_config")?;
            Ok(Discovery::OriginalDestination { bind })
        }
        DiscoveryType::LogicalDns => Err(Fault::new("type", "LOGICAL_DNS is not honoured")),
    }
}

fn read_bind(config: BindConfig) -> Read<IpAddr> {
    let BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        #[allow(deprecated)]
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces: _,
    } = config;
    refuse!(
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector
    );
    let (host, port) = endpoint::read_socket(required("source_address", source_address)?)?;
    if port != 0 {
        return Err(Fault::not_honoured("source_address.port_value"));
    }
    host.parse()
        .map_err(|_| Fault::new("source_address", format!("`{host}` is not an IP address")))
}

/// The hosts of an inline assignment, all alike: weights and health are for EDS.
fn read_assignment(
    assignment: Option<endpoint_pb::ClusterLoadAssignment>,
) -> Read<Vec<(String, u16)>> {
    let endpoint_pb::ClusterLoadAssignment {
        cluster_name: _,
        endpoints,
        named_endpoints,
        policy,
    } = assignment.unwrap_or_default();
    refuse!(named_endpoints, policy);
    let localities = each("load_assignment.endpoints", endpoints, |locality| {
        let endpoint_pb::LocalityLbEndpoints {
            locality: _,
            metadata: _,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity,
            lb_config,
        } = locality;
        refuse!(load_balancing_weight, priority, proximity, lb_config);
        each("lb_endpoints", lb_endpoints, read_plain_endpoint)
    })?;
    Ok(localities.into_iter().flatten().collect())
}

fn read_plain_endpoint(message: endpoint_pb::LbEndpoint) -> Read<(String, u16)> {
    let endpoint_pb::LbEndpoint {
        health_status,
        metadata: _,
        load_balancing_weight,
        host_identifier,
    } = message;
    refuse!(health_status, load_balancing_weight);
    match required("host_identifier", host_identifier)? {
        endpoint_pb::lb_endpoint::HostIdentifier::Endpoint(endpoint_pb::Endpoint {
            address,
            health_check_config,
            hostname: _,
            additional_addresses,
            observability_name: _,
        }) => {
            refuse!(health_check_config, additional_addresses);
            endpoint::read_host_address(address)
        }
        endpoint_pb::lb_endpoint::HostIdentifier::EndpointName(_) => {
            Err(Fault::not_honoured("endpoint_name"))
        }
    }
}
