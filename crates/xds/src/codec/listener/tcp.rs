//! `TcpProxy` behind network RBAC filters.

use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as RbacFilter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster as PbWeighted, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::google::protobuf::Any;

use super::network_filter;
use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, Within, duration, each, optional_duration, pack, read_bool, refuse, required,
    unpack,
};
use crate::codec::{rbac, route};
use crate::model::Rbac;
use crate::model::listener::TcpProxy;
use crate::model::route::{HeaderMutations, WeightedCluster};

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const RBAC: &str = "envoy.filters.network.rbac";

pub(super) fn write(of: &TcpProxy, dialect: &Dialect) -> Vec<Filter> {
    let TcpProxy {
        stat_prefix,
        clusters,
        rbac: policies,
        idle_timeout,
    } = of;
    let filter = |policy| {
        network_filter(
            RBAC,
            pack(&RbacFilter {
                rules: Some(rbac::write(policy)),
                stat_prefix: non_empty(stat_prefix),
                ..RbacFilter::default()
            }),
        )
    };
    let proxy = pb::TcpProxy {
        stat_prefix: if *dialect == Dialect::Tasuki {
            stat_prefix.clone()
        } else {
            non_empty(stat_prefix)
        },
        cluster_specifier: Some(specifier(clusters, dialect)),
        idle_timeout: idle_timeout.and_then(duration),
        ..pb::TcpProxy::default()
    };
    policies
        .iter()
        .map(filter)
        .chain([network_filter(TCP_PROXY, pack(&proxy))])
        .collect()
}

/// Envoy wants a character here.
pub(super) fn non_empty(stat_prefix: &str) -> String {
    if stat_prefix.is_empty() {
        "tasuki".to_owned()
    } else {
        stat_prefix.to_owned()
    }
}

fn specifier(clusters: &[WeightedCluster], dialect: &Dialect) -> ClusterSpecifier {
    let plain = *dialect != Dialect::Tasuki;
    if let [only] = clusters
        && (plain || only.weight == 1)
    {
        return ClusterSpecifier::Cluster(only.name.clone());
    }
    // Envoy refuses a weight of 0 here.
    let clusters = clusters.iter().filter(|c| !plain || c.weight > 0);
    let clusters = clusters
        .map(|c| ClusterWeight {
            name: c.name.clone(),
            weight: c.weight,
            metadata_match: None,
        })
        .collect();
    ClusterSpecifier::WeightedClusters(PbWeighted { clusters })
}

pub(super) fn read(last: &Any, before: Vec<Any>) -> Read<TcpProxy> {
    let rbac = each("", before, |any| read_rbac(&any))?;
    let mut proxy = read_proxy(unpack(last).within("last")?)?;
    proxy.rbac = rbac;
    Ok(proxy)
}

fn read_rbac(any: &Any) -> Read<Rbac> {
    let RbacFilter {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix: _,
        stat_prefix: _,
        enforcement_type,
        delay_deny,
    } = unpack(any)?;
    refuse!(
        matcher,
        shadow_rules,
        shadow_matcher,
        enforcement_type,
        delay_deny
    );
    rbac::read(required("rules", rules)?).within("rules")
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_proxy(message: pb::TcpProxy) -> Read<TcpProxy> {
    let pb::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = message;
    refuse!(
        on_demand,
        metadata_match,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log
    );
    refuse!(
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration
    );
    refuse!(
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval
    );
    refuse!(
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy
    );
    refuse!(upstream_connect_mode, max_early_data_bytes);
    if read_bool(check_drain_close) == Some(true) {
        return Err(Fault::not_honoured("check_drain_close"));
    }
    let clusters = match required("cluster_specifier", cluster_specifier)? {
        ClusterSpecifier::Cluster(name) => vec![weighted(name, 1)],
        ClusterSpecifier::WeightedClusters(PbWeighted { clusters }) => {
            each("weighted_clusters.clusters", clusters, read_weight)?
        }
    };
    route::read_weight_sum(clusters.iter().map(|c| c.weight)).within("weighted_clusters")?;
    if clusters.iter().any(|c| c.name.is_empty()) {
        return Err(Fault::new("cluster", "empty name"));
    }
    let idle_timeout = optional_duration("idle_timeout", idle_timeout)?;
    Ok(TcpProxy {
        stat_prefix,
        clusters,
        rbac: Vec::new(),
        idle_timeout,
    })
}

fn read_weight(message: ClusterWeight) -> Read<WeightedCluster> {
    let ClusterWeight {
        name,
        weight,
        metadata_match,
    } = message;
    refuse!(metadata_match);
    Ok(weighted(name, weight))
}

fn weighted(name: String, weight: u32) -> WeightedCluster {
    let none = HeaderMutations::default;
    WeightedCluster {
        name,
        weight,
        request_headers: none(),
        response_headers: none(),
    }
}
