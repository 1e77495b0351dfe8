//! `discovery.k8s.io/v1 EndpointSlice`.

use std::net::IpAddr;

use super::service::Transport;
use crate::object::{Metadata, NamespacedName};

/// The label that ties a slice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub meta: Metadata,
    /// The Service's name, from the label `kubernetes.io/service-name`; same namespace.
    pub service: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Equals the Service port's name; empty when that is unnamed.
    pub name: String,
    pub port: u16,
    pub transport: Transport,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// At least one; consumers use the first, as Kubernetes says.
    pub addresses: Vec<IpAddr>,
    /// Unset counts as ready.
    pub ready: bool,
    /// Unset counts as `ready`.
    pub serving: bool,
    pub terminating: bool,
    /// The Pod behind it, when `targetRef` names one.
    pub pod: Option<NamespacedName>,
    pub node: Option<String>,
    pub zone: Option<String>,
}
