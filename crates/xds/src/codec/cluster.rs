//! `config.cluster.v3.Cluster`.

mod balance;
mod breakers;
mod discovery;
mod http;
mod outliers;
mod sockets;

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use envoy_types::pb::envoy::config::core::v3::TcpKeepalive as PbKeepalive;

use super::Dialect;
use super::field::{
    Fault, Read, Within, duration, optional_duration, percent, read_percent, read_uint, refuse,
    required, uint,
};
use super::metadata::{self, TASUKI};
use crate::model::Cluster;
use crate::model::cluster::{ServiceRef, TcpKeepalive};

/// Envoy's default.
const ENVOY_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ENVOY_PANIC: f64 = 50.0;

/// Key of the streams bound in our metadata, where the protocol has no field for it.
pub(super) const STREAMS: (&str, &str) = (TASUKI, "maxConcurrentStreams");

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
        connect_timeout: duration(*connect_timeout),
        circuit_breakers: Some(breakers::write(limits, retry_budget.as_ref(), dialect)),
        outlier_detection: outliers.as_ref().map(|o| outliers::write(o, dialect)),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: percent(f64::from(*panic_percent)),
            ..CommonLbConfig::default()
        }),
        upstream_connection_options: keepalive.map(connection_options),
        ..pb::Cluster::default()
    };
    discovery::write(&mut message, name, discovery, dialect);
    balance::write(&mut message, *balance, discovery, dialect);
    sockets::write(&mut message, tls, dialect);
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
    let parts = discovery::Parts {
        eds_cluster_config,
        load_assignment,
        dns_refresh_rate,
        upstream_bind_config,
    };
    let discovery = discovery::read(required("type", cluster_discovery_type)?, parts)?;
    let balance = balance::read(lb_policy, lb_config, &discovery)?;
    let (mut limits, retry_budget) = breakers::read(circuit_breakers).within("circuit_breakers")?;
    let options = http::read(
        typed_extension_protocol_options,
        metadata.as_ref(),
        &mut limits,
    )?;
    let tls = sockets::read(transport_socket_matches, transport_socket)?;
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
