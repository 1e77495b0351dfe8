//! `v1 Pod`.

use std::net::IpAddr;

use super::service::{TargetPort, Transport, read_ip, read_transport};
use crate::fields::{Fields, Value};
use crate::node::Node;
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

/// Reads a Pod; what the mesh does not use is Kubernetes's own business.
pub(crate) fn read(root: &Fields<'_>, meta: Metadata) -> Option<Pod> {
    let spec = root.require("spec")?.fields()?;
    let text = |name| spec.get(name).and_then(|v| v.text().map(str::to_owned));
    let service_account = text("serviceAccountName").or_else(|| text("serviceAccount"));
    // A native sidecar is an init container, and may own a port that a Service names.
    let containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|name| spec.get(name))
        .flat_map(|v| v.list())
        .filter_map(|v| read_container(&v))
        .collect();
    let status = root.get("status").and_then(|v| v.fields());
    let (phase, ips, ready) = match &status {
        None => (Phase::default(), Vec::new(), false),
        Some(status) => read_status(status),
    };
    Some(Pod {
        controller: controller(root),
        meta,
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        node: text("nodeName"),
        host_network: spec
            .get("hostNetwork")
            .and_then(|v| v.boolean())
            .unwrap_or(false),
        containers,
        phase,
        ips,
        ready,
    })
}

fn read_status(status: &Fields<'_>) -> (Phase, Vec<IpAddr>, bool) {
    let phase = match status.get("phase").and_then(|v| v.string()) {
        None | Some("Running") => Phase::Running,
        Some("Pending") => Phase::Pending,
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        Some(_) => Phase::Unknown,
    };
    let mut ips: Vec<_> = status
        .get("podIPs")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| v.fields()?.require("ip"))
        .filter_map(|v| read_ip(&v))
        .collect();
    if ips.is_empty() {
        ips.extend(
            status
                .get("podIP")
                .filter(|v| v.node.as_str() != Some(""))
                .as_ref()
                .and_then(read_ip),
        );
    }
    let conditions: Vec<_> = status
        .get("conditions")
        .iter()
        .flat_map(Value::list)
        .collect();
    let is = |condition: &Node, name: &str, value: &str| {
        condition.get(name).and_then(Node::as_str) == Some(value)
    };
    let ready = match conditions.iter().find(|c| is(c.node, "type", "Ready")) {
        Some(condition) => is(condition.node, "status", "True"),
        None => phase == Phase::Running && !ips.is_empty(),
    };
    (phase, ips, ready)
}

fn read_container(value: &Value<'_>) -> Option<Container> {
    let container = value.fields()?;
    let ports = container.get("ports").map(|v| v.list()).unwrap_or_default();
    let ports = ports.iter().filter_map(|v| {
        let port = v.fields()?;
        Some(ContainerPort {
            name: port
                .get("name")
                .and_then(|v| v.string().map(str::to_owned))
                .unwrap_or_default(),
            port: port.require("containerPort")?.port()?,
            transport: read_transport(&port),
        })
    });
    Some(Container {
        name: container
            .get("name")
            .and_then(|v| v.string().map(str::to_owned))
            .unwrap_or_default(),
        ports: ports.collect(),
    })
}

fn controller(root: &Fields<'_>) -> Option<(String, String)> {
    let owners = root
        .get("metadata")?
        .fields()?
        .get("ownerReferences")?
        .list();
    let controls = |owner: &&Value<'_>| {
        owner
            .node
            .get("controller")
            .is_some_and(|n| n.tree == crate::node::Tree::Bool(true))
    };
    let owner = owners.iter().find(controls)?;
    let text = |name| {
        owner
            .node
            .get(name)
            .and_then(Node::as_str)
            .map(str::to_owned)
    };
    Some((text("kind")?, text("name")?))
}
