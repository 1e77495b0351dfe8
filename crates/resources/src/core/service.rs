//! `v1 Service`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::object::Metadata;
use crate::protocol::{PortProtocol, declared_protocol};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub meta: Metadata,
    pub kind: ServiceKind,
    /// `None`: endpoints are given as EndpointSlices (or there are none).
    pub selector: Option<BTreeMap<String, String>>,
    pub ports: Vec<ServicePort>,
    /// Endpoints that are not ready count too.
    pub publish_not_ready: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceKind {
    /// Behind virtual addresses, one per IP family (ClusterIP, NodePort, LoadBalancer). Empty until assigned.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: DNS answers with the pods' own addresses.
    #[default]
    Headless,
    /// A DNS alias; not part of the mesh.
    ExternalName(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty only where the service has one port.
    pub name: String,
    pub port: u16,
    pub target: TargetPort,
    pub transport: Transport,
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// What the port is declared to speak: `appProtocol`, then the name, then the number.
    pub fn protocol(&self) -> PortProtocol {
        declared_protocol(self.app_protocol.as_deref(), &self.name, self.port)
    }
}

/// Where a service's port goes in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
    Sctp,
}
