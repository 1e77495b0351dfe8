//! `v1 Pod`.

use std::net::IpAddr;

use super::service::{TargetPort, Transport};
use crate::object::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub meta: Metadata,
    /// `default` when the Pod names none.
    pub service_account: String,
    pub node: Option<String>,
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub phase: Phase,
    /// `status.podIPs`, else `status.podIP`.
    pub ips: Vec<IpAddr>,
    /// The condition `Ready`; where a file gives no conditions, whether the Pod runs and has an address.
    pub ready: bool,
    /// `ownerReferences` of the controller, kind and name: `("ReplicaSet", "cart-v1-6c9f")`.
    pub controller: Option<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Empty when unnamed.
    pub name: String,
    pub port: u16,
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    Pending,
    /// Also when the file has no status.
    #[default]
    Running,
    Succeeded,
    Failed,
    Unknown,
}

impl Pod {
    /// Takes traffic or soon will: has an address and has not ended.
    pub fn is_live(&self) -> bool {
        !self.ips.is_empty() && !matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The port number that a service's target means in this pod.
    pub fn resolve_port(&self, target: &TargetPort, transport: Transport) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self
                .containers
                .iter()
                .flat_map(|c| &c.ports)
                .find(|p| p.name == *name && p.transport == transport)
                .map(|p| p.port),
        }
    }
}
