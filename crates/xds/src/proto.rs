//! Messages: our own from `proto/`, and short names for the discovery messages of Envoy.

pub use envoy_types::pb::envoy::config::core::v3::Node;
pub use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

#[allow(missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tasuki.xds.v1.rs"));
}

pub use generated::{Rejected, TrustBundle};

/// `type_url` of [`TrustBundle`].
pub const TRUST_BUNDLE_URL: &str = "type.googleapis.com/tasuki.xds.v1.TrustBundle";

/// `type_url` of [`Rejected`].
pub const REJECTED_URL: &str = "type.googleapis.com/tasuki.xds.v1.Rejected";
