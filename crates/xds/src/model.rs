//! The validated form of every resource that travels over xDS.
//!
//! A value of these types cannot be wrong: the codec refuses what does not fit, naming the field.
//! The control plane builds them (`tasuki-control`'s snapshot), the codec turns them into Envoy's
//! messages and back, the proxy compiles them into what its request path reads.

pub mod cluster;
pub mod departure;
pub mod endpoint;
pub mod listener;
pub mod matching;
pub mod proxy_settings;
pub mod rbac;
pub mod route;
pub mod tls;
pub mod trust;

pub use cluster::Cluster;
pub use departure::Departure;
pub use endpoint::{ClusterLoadAssignment, Endpoint};
pub use listener::Listener;
pub use proxy_settings::ProxySettings;
pub use rbac::Rbac;
pub use route::RouteConfiguration;
pub use trust::TrustBundle;

/// The resource types that our planes exchange, in the order in which a stream carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Own resource: the trust bundle, `tasuki.xds.v1.TrustBundle`. First, so that every proxy trusts a root before a leaf uses it.
    TrustBundle,
    /// Own resource: what the mesh says to every proxy, `tasuki.xds.v1.ProxySettings`.
    ProxySettings,
    /// SDS, for Envoy only: `default` and `ROOTCA`.
    Secret,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// Own resource: the client's own Pod leaves, `tasuki.xds.v1.Departure`. Last, since it tells what became of the others.
    Departure,
}

/// One decoded resource of any type.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "decoded one at a time and moved on, never kept in bulk"
)]
pub enum Resource {
    TrustBundle(TrustBundle),
    ProxySettings(ProxySettings),
    Cluster(Cluster),
    Endpoint(ClusterLoadAssignment),
    Listener(Listener),
    Route(RouteConfiguration),
    Departure(Departure),
}

impl Resource {
    /// The name under which the resource is subscribed to.
    pub fn name(&self) -> &str {
        match self {
            Resource::TrustBundle(r) => &r.name,
            Resource::ProxySettings(r) => &r.name,
            Resource::Cluster(r) => &r.name,
            Resource::Endpoint(r) => &r.cluster,
            Resource::Listener(r) => &r.name,
            Resource::Route(r) => &r.name,
            Resource::Departure(r) => &r.name,
        }
    }
}
