//! `config.cluster.v3.Cluster`.

mod http;
mod outliers;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
    LbConfig, LbPolicy, LeastRequestLbConfig, OriginalDstLbConfig, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::core::v3::{
    BindConfig, RoutingPriority, SocketAddress, TcpKeepalive as PbKeepalive, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint_pb;
use envoy_types::pb::google::protobuf::Struct;

use super::Dialect;
use super::field::{
    Fault, Read, Within, ads, each, optional_duration, percent, read_ads, read_percent, read_uint,
    refuse, required, uint,
};
use super::metadata::{self, TASUKI};
use super::{endpoint, tls};
use crate::model::Cluster;
use crate::model::cluster::{
    Balance, Discovery, Limits, RetryBudget, ServiceRef, TcpKeepalive, TlsMatch,
};

/// Envoy's default.
const ENVOY_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ENVOY_DNS_REFRESH: Duration = Duration::from_secs(60);
const ENVOY_THRESHOLD: u32 = 1024;
const ENVOY_RETRIES: u32 = 3;
const ENVOY_PANIC: f64 = 50.0;

/// What [`Cluster::retry_budget`] means when it is `None`, written out for Envoy, which has no budget by default.
const DEFAULT_BUDGET: RetryBudget = RetryBudget {
    percent: 20.0,
    min_concurrent: 3,
};

#[allow(
    deprecated,
    reason = "`dns_refresh_rate` is what Envoy 1.40 and all before it read for STRICT_DNS"
)]
pub(super) fn write(of: &Cluster, dialect: &Dialect) -> pb::Cluster {
    let Cluster {
        name,
        discovery,
        connect_timeout,
        balance,
        limits,
        retry_budget,
        outliers,
        tls,
        http: protocol,
        panic_percent,
        service,
        keepalive,
        idle_timeout,
    } = of;
    let mut message = pb::Cluster {
        name: name.clone(),
        connect_timeout: super::field::duration(*connect_timeout),
        circuit_breakers: Some(breakers(limits, retry_budget.as_ref(), dialect)),
        outlier_detection: outliers.as_ref().map(|o| outliers::write(o, dialect)),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: percent(f64::from(*panic_percent)),
            ..CommonLbConfig::default()
        }),
        upstream_connection_options: keepalive.map(connection_options),
        ..pb::Cluster::default()
    };
    write_discovery(&mut message, name, discovery, dialect);
    write_balance(&mut message, *balance, discovery, dialect);
    write_tls(&mut message, tls, dialect);
    let mut facts = metadata::Builder::default();
    if let Some(ServiceRef {
        host,
        name,
        namespace,
    }) = service
    {
        let entry = metadata::record([
            ("host", host.as_str()),
            ("name", name),
            ("namespace", namespace),
        ]);
        facts.set("istio", "services", metadata::list([entry]));
    }
    if !matches!(dialect, Dialect::Grpc { .. }) {
        let meshed = dialect != &Dialect::Tasuki && speaks_mesh(&message);
        http::write(
            &mut message,
            &mut facts,
            *protocol,
            limits,
            *idle_timeout,
            meshed,
            dialect,
        );
    }
    message.metadata = facts.build();
    message
}

/// Envoy speaks one protocol to all endpoints of a cluster, and mesh peers take only HTTP/2.
fn speaks_mesh(message: &pb::Cluster) -> bool {
    message
        .transport_socket_matches
        .iter()
        .any(|m| m.r#match.as_ref().is_some_and(|s| !s.fields.is_empty()))
}

fn breakers(
    limits: &Limits,
    budget: Option<&RetryBudget>,
    dialect: &Dialect,
) -> pb::CircuitBreakers {
    let budget = match dialect {
        Dialect::Tasuki => budget,
        Dialect::Envoy { .. } => Some(budget.unwrap_or(&DEFAULT_BUDGET)),
        Dialect::Grpc { .. } => None,
    };
    let thresholds = Thresholds {
        priority: RoutingPriority::Default as i32,
        max_connections: uint(limits.max_connections),
        max_pending_requests: uint(limits.max_pending_requests),
        max_requests: uint(limits.max_requests),
        max_retries: uint(limits.max_retries),
        retry_budget: budget.map(|b| thresholds::RetryBudget {
            budget_percent: percent(b.percent),
            min_retry_concurrency: uint(b.min_concurrent),
            ..thresholds::RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    pb::CircuitBreakers {
        thresholds: vec![thresholds],
        per_host_thresholds: Vec::new(),
    }
}

fn connection_options(of: TcpKeepalive) -> pb::UpstreamConnectionOptions {
    let TcpKeepalive {
        probes,
        time,
        interval,
    } = of;
    let seconds = |d: Duration| uint(u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
    pb::UpstreamConnectionOptions {
        tcp_keepalive: Some(PbKeepalive {
            keepalive_probes: probes.and_then(uint),
            keepalive_time: time.and_then(seconds),
            keepalive_interval: interval.and_then(seconds),
        }),
        ..pb::UpstreamConnectionOptions::default()
    }
}

#[allow(deprecated, reason = "see `write`")]
fn write_discovery(message: &mut pb::Cluster, name: &str, of: &Discovery, dialect: &Dialect) {
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
            message.dns_refresh_rate = super::field::duration(*refresh);
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

fn write_balance(
    message: &mut pb::Cluster,
    balance: Balance,
    discovery: &Discovery,
    dialect: &Dialect,
) {
    let policy = match (balance, discovery, dialect) {
        (_, Discovery::OriginalDestination { .. }, _) => LbPolicy::ClusterProvided,
        // gRPC refuses a cluster with any other policy that we have.
        (_, _, Dialect::Grpc { .. }) | (Balance::RoundRobin, _, _) => LbPolicy::RoundRobin,
        (Balance::Random, _, _) => LbPolicy::Random,
        (Balance::LeastRequest { choices }, _, _) => {
            message.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: uint(choices.clamp(2, 10)),
                ..LeastRequestLbConfig::default()
            }));
            LbPolicy::LeastRequest
        }
    };
    message.lb_policy = policy as i32;
}

fn write_tls(message: &mut pb::Cluster, of: &[TlsMatch], dialect: &Dialect) {
    if matches!(dialect, Dialect::Grpc { .. }) {
        // One socket for all endpoints is what gRPC knows; A29.
        message.transport_socket = of
            .first()
            .and_then(|m| tls::client(m.tls.as_ref()?, dialect));
        return;
    }
    message.transport_socket_matches = of
        .iter()
        .map(
            |TlsMatch {
                 name,
                 tls_mode,
                 tls,
             }| TransportSocketMatch {
                name: name.clone(),
                r#match: Some(Struct {
                    fields: tls_mode
                        .iter()
                        .map(|mode| ("tlsMode".to_owned(), metadata::text(mode)))
                        .collect(),
                }),
                transport_socket: Some(
                    tls.as_ref()
                        .and_then(|tls| tls::client(tls, dialect))
                        .unwrap_or_else(tls::plaintext),
                ),
            },
        )
        .collect();
    if *dialect == (Dialect::Envoy { secrets: false }) {
        // Without secrets a mesh match would only repeat the plaintext one.
        message
            .transport_socket_matches
            .retain(|m| m.r#match.as_ref().is_none_or(|s| s.fields.is_empty()));
    }
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
pub(super) fn read(message: pb::Cluster) -> Read<Cluster> {
    let pb::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name: _,
        stats_matcher: _,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes: _, // buffers are bounded by the proxy's own settings
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family: _, // both families are tried
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init: _, // routes always wait for their clusters
        outlier_detection,
        cleanup_interval: _,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal: _, // only with active health checks
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics: _,
        track_timeout_budgets: _,
        upstream_config,
        track_cluster_stats: _,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = message;
    refuse!(
        transport_socket_matcher,
        per_connection_buffer_high_watermark_timeout,
        health_checks
    );
    refuse!(
        max_requests_per_connection,
        upstream_http_protocol_options,
        common_http_protocol_options
    );
    refuse!(
        http_protocol_options,
        http2_protocol_options,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl
    );
    refuse!(
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config
    );
    refuse!(
        lb_subset_config,
        protocol_selection,
        close_connections_on_host_health_failure,
        filters
    );
    refuse!(
        load_balancing_policy,
        lrs_server,
        upstream_config,
        preconnect_policy
    );
    refuse!(connection_pool_per_downstream_connection, queuing_policies);
    if name.is_empty() {
        return Err(Fault::missing("name"));
    }
    let parts = DiscoveryParts {
        eds_cluster_config,
        load_assignment,
        dns_refresh_rate,
        upstream_bind_config,
    };
    let discovery = read_discovery(required("type", cluster_discovery_type)?, parts)?;
    let balance = read_balance(lb_policy, lb_config, &discovery)?;
    let (mut limits, retry_budget) = read_breakers(circuit_breakers).within("circuit_breakers")?;
    let options = http::read(
        typed_extension_protocol_options,
        metadata.as_ref(),
        &mut limits,
    )?;
    let tls = read_tls(transport_socket_matches, transport_socket)?;
    Ok(Cluster {
        name,
        discovery,
        connect_timeout: optional_duration("connect_timeout", connect_timeout)?
            .unwrap_or(ENVOY_CONNECT_TIMEOUT),
        balance,
        limits,
        retry_budget,
        outliers: outlier_detection
            .map(outliers::read)
            .transpose()
            .within("outlier_detection")?,
        tls,
        http: options.protocol,
        panic_percent: read_common_lb(common_lb_config).within("common_lb_config")?,
        service: read_service(metadata.as_ref())?,
        keepalive: read_connection_options(upstream_connection_options)
            .within("upstream_connection_options")?,
        idle_timeout: options.idle_timeout,
    })
}

struct DiscoveryParts {
    eds_cluster_config: Option<EdsClusterConfig>,
    load_assignment: Option<endpoint_pb::ClusterLoadAssignment>,
    dns_refresh_rate: Option<envoy_types::pb::google::protobuf::Duration>,
    upstream_bind_config: Option<BindConfig>,
}

fn read_discovery(kind: ClusterDiscoveryType, parts: DiscoveryParts) -> Read<Discovery> {
    let DiscoveryParts {
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

fn read_balance(policy: i32, config: Option<LbConfig>, discovery: &Discovery) -> Read<Balance> {
    let policy = LbPolicy::try_from(policy).map_err(|_| Fault::not_honoured("lb_policy"))?;
    let original = matches!(discovery, Discovery::OriginalDestination { .. });
    match (policy, config) {
        (LbPolicy::ClusterProvided, None) if original => Ok(Balance::Random),
        (LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(config))) if original => {
            let OriginalDstLbConfig {
                use_http_header,
                http_header_name,
                upstream_port_override,
                metadata_key,
            } = config;
            refuse!(
                use_http_header,
                http_header_name,
                upstream_port_override,
                metadata_key
            );
            Ok(Balance::Random)
        }
        (_, _) if original => Err(Fault::new(
            "lb_policy",
            "ORIGINAL_DST needs CLUSTER_PROVIDED",
        )),
        (LbPolicy::RoundRobin, None) => Ok(Balance::RoundRobin),
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let pb::cluster::RoundRobinLbConfig { slow_start_config } = config;
            refuse!(slow_start_config);
            Ok(Balance::RoundRobin)
        }
        (LbPolicy::Random, None) => Ok(Balance::Random),
        (LbPolicy::LeastRequest, None) => Ok(Balance::LeastRequest { choices: 2 }),
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            read_least_request(config)
        }
        (_, Some(_)) => Err(Fault::not_honoured("lb_config")),
        (
            LbPolicy::RingHash
            | LbPolicy::Maglev
            | LbPolicy::ClusterProvided
            | LbPolicy::LoadBalancingPolicyConfig,
            None,
        ) => Err(Fault::not_honoured("lb_policy")),
    }
}

fn read_least_request(config: LeastRequestLbConfig) -> Read<Balance> {
    let LeastRequestLbConfig {
        choice_count,
        active_request_bias,
        slow_start_config,
    } = config;
    refuse!(active_request_bias, slow_start_config);
    match read_uint(choice_count).unwrap_or(2) {
        0 | 1 => Err(Fault::new(
            "least_request_lb_config.choice_count",
            "below 2",
        )),
        choices => Ok(Balance::LeastRequest {
            choices: choices.min(10),
        }),
    }
}

fn read_breakers(message: Option<pb::CircuitBreakers>) -> Read<(Limits, Option<RetryBudget>)> {
    let pb::CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = message.unwrap_or_default();
    refuse!(per_host_thresholds);
    let mut found = None;
    for (i, threshold) in thresholds.into_iter().enumerate() {
        // The high priority is never used: routes that ask for it are refused.
        if threshold.priority == RoutingPriority::Default as i32 && found.is_none() {
            found = Some(read_threshold(threshold).within(&format!("thresholds[{i}]"))?);
        }
    }
    found.map_or_else(|| read_threshold(Thresholds::default()), Ok)
}

fn read_threshold(message: Thresholds) -> Read<(Limits, Option<RetryBudget>)> {
    let Thresholds {
        priority: _,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining: _,
        max_connection_pools,
    } = message;
    refuse!(max_connection_pools);
    let limits = Limits {
        max_connections: read_uint(max_connections).unwrap_or(ENVOY_THRESHOLD),
        max_pending_requests: read_uint(max_pending_requests).unwrap_or(ENVOY_THRESHOLD),
        max_requests: read_uint(max_requests).unwrap_or(ENVOY_THRESHOLD),
        max_retries: read_uint(max_retries).unwrap_or(ENVOY_RETRIES),
        ..Limits::default()
    };
    Ok((
        limits,
        retry_budget
            .map(read_budget)
            .transpose()
            .within("retry_budget")?,
    ))
}

fn read_budget(message: thresholds::RetryBudget) -> Read<RetryBudget> {
    let thresholds::RetryBudget {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = message;
    refuse!(budget_interval);
    let percent = budget_percent
        .map(|p| read_percent("budget_percent", p))
        .transpose()?;
    Ok(RetryBudget {
        percent: percent.unwrap_or(DEFAULT_BUDGET.percent),
        min_concurrent: read_uint(min_retry_concurrency).unwrap_or(DEFAULT_BUDGET.min_concurrent),
    })
}

fn read_tls(
    matches: Vec<TransportSocketMatch>,
    socket: Option<envoy_types::pb::envoy::config::core::v3::TransportSocket>,
) -> Read<Vec<TlsMatch>> {
    let mut found = each("transport_socket_matches", matches, read_match)?;
    // What Envoy uses when no match fits.
    if let Some(socket) = socket {
        let tls = tls::read_client(socket).within("transport_socket")?;
        found.push(TlsMatch {
            name: "transport_socket".to_owned(),
            tls_mode: None,
            tls,
        });
    }
    Ok(found)
}

fn read_match(message: TransportSocketMatch) -> Read<TlsMatch> {
    let TransportSocketMatch {
        name,
        r#match,
        transport_socket,
    } = message;
    let Struct { fields } = r#match.unwrap_or_default();
    if fields.keys().any(|key| key != "tlsMode") {
        return Err(Fault::new("match", "only `tlsMode` is honoured"));
    }
    let tls_mode = fields
        .get("tlsMode")
        .map(|value| metadata::read_text("match.tlsMode", value))
        .transpose()?;
    let tls = tls::read_client(required("transport_socket", transport_socket)?)
        .within("transport_socket")?;
    Ok(TlsMatch {
        name,
        tls_mode,
        tls,
    })
}

fn read_common_lb(message: Option<CommonLbConfig>) -> Read<u32> {
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window: _, // how often Envoy rebuilds
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = message.unwrap_or_default();
    refuse!(
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change
    );
    refuse!(
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier
    );
    let threshold = healthy_panic_threshold
        .map(|p| read_percent("healthy_panic_threshold", p))
        .transpose()?;
    Ok(threshold.unwrap_or(ENVOY_PANIC) as u32)
}

fn read_connection_options(
    message: Option<pb::UpstreamConnectionOptions>,
) -> Read<Option<TcpKeepalive>> {
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections: _,
        happy_eyeballs_config,
    } = message.unwrap_or_default();
    refuse!(happy_eyeballs_config);
    let seconds = |value| read_uint(value).map(|s| Duration::from_secs(u64::from(s)));
    Ok(tcp_keepalive.map(
        |PbKeepalive {
             keepalive_probes,
             keepalive_time,
             keepalive_interval,
         }| TcpKeepalive {
            probes: read_uint(keepalive_probes),
            time: seconds(keepalive_time),
            interval: seconds(keepalive_interval),
        },
    ))
}

fn read_service(
    facts: Option<&envoy_types::pb::envoy::config::core::v3::Metadata>,
) -> Read<Option<ServiceRef>> {
    let Some(value) = metadata::find(facts, "istio", "services") else {
        return Ok(None);
    };
    let Some(first) = metadata::read_list("metadata.istio.services", value)?.first() else {
        return Ok(None);
    };
    let read = |field| metadata::member(first, field).within("metadata.istio.services");
    Ok(Some(ServiceRef {
        host: read("host")?,
        name: read("name")?,
        namespace: read("namespace")?,
    }))
}

/// Key of the streams bound in our metadata, where the protocol has no field for it.
pub(super) const STREAMS: (&str, &str) = (TASUKI, "maxConcurrentStreams");
