//! Endpoints (Envoy `config.endpoint.v3.ClusterLoadAssignment`).

use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterLoadAssignment {
    /// The cluster's name.
    pub cluster: String,
    pub localities: Vec<Locality>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
    /// 0 is the most preferred.
    pub priority: u32,
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub weight: u32,
    pub health: Health,
    /// `filter_metadata["envoy.transport_socket_match"].tlsMode`; `istio` when the workload is meshed.
    pub tls_mode: Option<String>,
    /// SPIFFE ids of which the server must show one; `filter_metadata["tasuki"].identities`.
    pub identities: Vec<String>,
    /// What metrics say of the destination; `filter_metadata["tasuki"].workload`.
    pub workload: WorkloadRef,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    #[default]
    Healthy,
    /// Serves what it has, gets nothing new.
    Draining,
    Unhealthy,
}

/// Istio's standard workload labels. Empty means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadRef {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub app: String,
    pub version: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    pub cluster: String,
}

impl ClusterLoadAssignment {
    /// Endpoints of one locality.
    pub fn new(cluster: &str, endpoints: Vec<Endpoint>) -> Self {
        let locality = Locality {
            endpoints,
            ..Locality::default()
        };
        Self {
            cluster: cluster.to_owned(),
            localities: vec![locality],
        }
    }
}

impl Endpoint {
    /// A healthy one outside the mesh.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            health: Health::Healthy,
            tls_mode: None,
            identities: Vec::new(),
            workload: WorkloadRef::default(),
        }
    }
}
