//! `v1 Service`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::fields::{Fields, Value};
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

/// Reads a Service; what the mesh does not use is Kubernetes's own business.
pub(crate) fn read(root: &Fields<'_>, meta: Metadata) -> Option<Service> {
    let spec = root.require("spec")?.fields()?;
    let kind = match spec.get("type").and_then(|v| v.string()) {
        Some("ExternalName") => {
            ServiceKind::ExternalName(spec.require("externalName")?.text()?.to_ascii_lowercase())
        }
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => addresses(&spec),
        Some(_) => {
            spec.error_at(
                "type",
                "unknown value",
                "write ClusterIP, NodePort, LoadBalancer or ExternalName",
            );
            return None;
        }
    };
    let ports: Vec<_> = spec
        .get("ports")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| read_port(&v))
        .collect();
    let unnamed = ports.iter().filter(|p| p.name.is_empty()).count();
    if unnamed > 0 && ports.len() > 1 {
        spec.error_at("ports", "with several ports each needs a name", "");
    }
    for (index, port) in ports.iter().enumerate() {
        if ports[..index]
            .iter()
            .any(|p| p.port == port.port && p.transport == port.transport)
        {
            spec.error_at("ports", &format!("port {} is given twice", port.port), "");
        }
    }
    let selector = spec
        .get("selector")
        .map(|v| v.string_map())
        .filter(|labels| !labels.is_empty());
    warn_of_what_is_left_out(root, &spec);
    let publish_not_ready = spec
        .get("publishNotReadyAddresses")
        .and_then(|v| v.boolean())
        .unwrap_or(false);
    Some(Service {
        meta,
        kind,
        selector,
        ports,
        publish_not_ready,
    })
}

/// What kube-proxy does for a Service and sidecars do not.
fn warn_of_what_is_left_out(root: &Fields<'_>, spec: &Fields<'_>) {
    let asks = |name, what: &str| {
        let value = spec.get(name)?;
        (value.node.as_str() == Some(what)).then_some(value)
    };
    if let Some(value) = asks("internalTrafficPolicy", "Local") {
        value.warn(
            "sidecars ignore it: endpoints of every node get requests",
            "",
        );
    }
    if let Some(value) = asks("sessionAffinity", "ClientIP") {
        value.warn(
            "sidecars ignore it: requests of one client go to all endpoints",
            "",
        );
    }
    if let Some(value) = spec.get("trafficDistribution") {
        value.warn(
            "sidecars ignore it: endpoints of every zone get the same share",
            "",
        );
    }
    let metadata = root.get("metadata").and_then(|v| v.fields());
    let annotations = metadata.and_then(|m| m.get("annotations")?.fields());
    if let Some(hints) = annotations.and_then(|a| a.get("service.kubernetes.io/topology-mode")) {
        hints.warn(
            "sidecars ignore it: endpoints of every zone get the same share",
            "",
        );
    }
}

/// `clusterIPs`, else `clusterIP`.
fn addresses(spec: &Fields<'_>) -> ServiceKind {
    let given = match spec
        .get("clusterIPs")
        .map(|v| v.list())
        .filter(|list| !list.is_empty())
    {
        Some(list) => list,
        None => spec.get("clusterIP").into_iter().collect(),
    };
    if given.iter().any(|v| v.node.as_str() == Some("None")) {
        return ServiceKind::Headless;
    }
    ServiceKind::ClusterIp(
        given
            .iter()
            .filter(|v| v.node.as_str() != Some(""))
            .filter_map(read_ip)
            .collect(),
    )
}

/// An IP address.
pub(super) fn read_ip(value: &Value<'_>) -> Option<IpAddr> {
    let text = value.string()?;
    let address = text.parse().ok();
    if address.is_none() {
        value.error(format!("{text:?} is not an IP address"), "");
    }
    address
}

/// `protocol` of a port: TCP unless it says otherwise.
pub(super) fn read_transport(port: &Fields<'_>) -> Transport {
    port.get("protocol")
        .and_then(|v| {
            v.choice(&[
                ("TCP", Transport::Tcp),
                ("UDP", Transport::Udp),
                ("SCTP", Transport::Sctp),
            ])
        })
        .unwrap_or_default()
}

fn read_port(value: &Value<'_>) -> Option<ServicePort> {
    let port = value.fields()?;
    let text = |name| port.get(name).and_then(|v| v.string().map(str::to_owned));
    let number = port.require("port")?.port()?;
    let target = match port.get("targetPort") {
        None => TargetPort::Number(number),
        Some(v) => match v.node.as_str() {
            Some(name) if !name.bytes().all(|b| b.is_ascii_digit()) => {
                TargetPort::Name(name.to_owned())
            }
            // Kubernetes takes numbers only unquoted, but a quoted one is what people mean.
            Some(digits) => {
                TargetPort::Number(digits.parse().ok().filter(|p| *p > 0).or_else(|| {
                    v.error(
                        format!("{digits:?} is not a port"),
                        "write 1 to 65535 or a port's name",
                    );
                    None
                })?)
            }
            None => TargetPort::Number(v.port()?),
        },
    };
    Some(ServicePort {
        name: text("name").unwrap_or_default(),
        port: number,
        target,
        transport: read_transport(&port),
        app_protocol: text("appProtocol"),
    })
}

#[cfg(test)]
mod tests;
