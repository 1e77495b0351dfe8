//! Messages: our own from `proto/`, and short names for the discovery messages of Envoy.

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;

pub use envoy_types::pb::envoy::config::core::v3::Node;
pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
pub use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

#[allow(missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tasuki.xds.v1.rs"));
}

pub use generated::proxy_settings::AccessLog as ProxyAccessLog;
pub use generated::{Departure, ProxySettings, Rejected, TrustBundle};

/// `type_url` of [`TrustBundle`].
pub const TRUST_BUNDLE_URL: &str = "type.googleapis.com/tasuki.xds.v1.TrustBundle";

/// `type_url` of [`Departure`].
pub const DEPARTURE_URL: &str = "type.googleapis.com/tasuki.xds.v1.Departure";

/// `type_url` of [`ProxySettings`].
pub const PROXY_SETTINGS_URL: &str = "type.googleapis.com/tasuki.xds.v1.ProxySettings";

/// `type_url` of [`Rejected`].
pub const REJECTED_URL: &str = "type.googleapis.com/tasuki.xds.v1.Rejected";

/// A string of `node.metadata`.
pub fn metadata_text(node: &Node, key: &str) -> Option<String> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// A map of strings in `node.metadata`; empty if there is none.
pub fn metadata_labels(node: &Node, key: &str) -> BTreeMap<String, String> {
    let value = node
        .metadata
        .as_ref()
        .and_then(|m| m.fields.get(key))
        .and_then(|v| v.kind.as_ref());
    let Some(Kind::StructValue(labels)) = value else {
        return BTreeMap::new();
    };
    let text = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    labels
        .fields
        .iter()
        .filter_map(|(k, v)| Some((k.clone(), text(v)?)))
        .collect()
}
