//! Which cluster, or which of several by weight.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;

use super::authority_of;
use crate::codec::Dialect;
use crate::codec::field::{Fault, Read, Within, each, refuse, uint};
use crate::codec::headers;
use crate::codec::route::{read_response_headers, read_weight};
use crate::model::route::{HeaderMutations, WeightedCluster};

pub(super) fn write(clusters: &[WeightedCluster], dialect: &Dialect) -> ClusterSpecifier {
    if let [only] = clusters {
        let WeightedCluster {
            name,
            weight,
            request_headers,
            response_headers,
        } = only;
        let plain = *request_headers == HeaderMutations::default()
            && *response_headers == HeaderMutations::default();
        // Alone it takes everything, whatever its weight; Envoy refuses a sum of 0.
        if plain && (*weight == 1 || *dialect != Dialect::Tasuki) {
            return ClusterSpecifier::Cluster(name.clone());
        }
    }
    let alone = clusters.len() == 1;
    let clusters = clusters
        .iter()
        .map(|c| cluster_weight(c, alone, dialect))
        .collect();
    ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
        clusters,
        ..pb::WeightedCluster::default()
    })
}

fn cluster_weight(of: &WeightedCluster, alone: bool, dialect: &Dialect) -> ClusterWeight {
    let WeightedCluster {
        name,
        weight,
        request_headers,
        response_headers,
    } = of;
    let (request_headers_to_add, request_headers_to_remove) =
        headers::write(request_headers, dialect);
    let (response_headers_to_add, response_headers_to_remove) =
        headers::write(response_headers, dialect);
    let authority = (*dialect != Dialect::Tasuki)
        .then(|| authority_of(request_headers))
        .flatten();
    ClusterWeight {
        name: name.clone(),
        weight: uint(if alone { (*weight).max(1) } else { *weight }),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        host_rewrite_specifier: authority
            .map(pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

pub(super) fn read(specifier: ClusterSpecifier) -> Read<Vec<WeightedCluster>> {
    let clusters = match specifier {
        ClusterSpecifier::Cluster(name) => vec![WeightedCluster::new(&name, 1)],
        ClusterSpecifier::WeightedClusters(weighted) => {
            read_weighted(weighted).within("weighted_clusters")?
        }
        ClusterSpecifier::ClusterHeader(_) => return Err(Fault::not_honoured("cluster_header")),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            return Err(Fault::not_honoured("cluster_specifier_plugin"));
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(Fault::not_honoured("inline_cluster_specifier_plugin"));
        }
    };
    if clusters.iter().any(|c| c.name.is_empty()) {
        return Err(Fault::new("cluster", "empty name"));
    }
    Ok(clusters)
}

#[allow(deprecated, reason = "every field must be named, to be refused")]
fn read_weighted(message: pb::WeightedCluster) -> Read<Vec<WeightedCluster>> {
    let pb::WeightedCluster {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = message;
    refuse!(total_weight, runtime_key_prefix, random_value_specifier);
    let clusters = each("clusters", clusters, read_cluster_weight)?;
    read_weight_sum(clusters.iter().map(|c| c.weight))?;
    Ok(clusters)
}

/// As Envoy: the sum is at least 1 and fits `uint32`.
pub(in crate::codec) fn read_weight_sum(weights: impl Iterator<Item = u32>) -> Read<()> {
    match weights.map(u64::from).sum::<u64>() {
        0 => Err(Fault::new("clusters", "weights sum up to 0")),
        sum if sum > u64::from(u32::MAX) => {
            Err(Fault::new("clusters", "weights sum up to more than 2^32-1"))
        }
        _ => Ok(()),
    }
}

fn read_cluster_weight(message: ClusterWeight) -> Read<WeightedCluster> {
    let ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = message;
    refuse!(
        cluster_header,
        metadata_match,
        typed_per_filter_config,
        host_rewrite_specifier
    );
    Ok(WeightedCluster {
        name,
        weight: read_weight("weight", weight)?,
        request_headers: headers::read(
            "request",
            request_headers_to_add,
            request_headers_to_remove,
        )?,
        response_headers: read_response(response_headers_to_add, response_headers_to_remove)?,
    })
}

fn read_response(add: Vec<HeaderValueOption>, remove: Vec<String>) -> Read<HeaderMutations> {
    read_response_headers(add, remove)
}
