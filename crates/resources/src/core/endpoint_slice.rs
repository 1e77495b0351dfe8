//! `discovery.k8s.io/v1 EndpointSlice`.

use std::net::IpAddr;

use super::service::{Transport, read_ip, read_transport};
use crate::fields::{Fields, Value};
use crate::node::Node;
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

/// Reads an EndpointSlice. Slices of names (`addressType: FQDN`) have no endpoints for the mesh.
pub(crate) fn read(root: &Fields<'_>, meta: Metadata) -> Option<EndpointSlice> {
    let Some(service) = meta.label(SERVICE_NAME_LABEL).map(str::to_owned) else {
        root.error_at(
            "metadata.labels",
            &format!("has no {SERVICE_NAME_LABEL}"),
            "name the Service there",
        );
        return None;
    };
    let kind = root.require("addressType")?;
    let is_fqdn = kind.choice(&[("IPv4", false), ("IPv6", false), ("FQDN", true)])?;
    let ports = root
        .get("ports")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| read_port(&v))
        .collect();
    let endpoints = match root.get("endpoints") {
        Some(list) if !is_fqdn => list
            .list()
            .iter()
            .filter_map(|v| read_endpoint(v, &meta))
            .collect(),
        _ => Vec::new(),
    };
    Some(EndpointSlice {
        meta,
        service,
        ports,
        endpoints,
    })
}

/// A port without a number is "all ports" to Kubernetes and of no use here.
fn read_port(value: &Value<'_>) -> Option<EndpointPort> {
    let port = value.fields()?;
    let text = |name| port.get(name).and_then(|v| v.string().map(str::to_owned));
    Some(EndpointPort {
        name: text("name").unwrap_or_default(),
        port: port.get("port")?.port()?,
        transport: read_transport(&port),
        app_protocol: text("appProtocol"),
    })
}

fn read_endpoint(value: &Value<'_>, meta: &Metadata) -> Option<SliceEndpoint> {
    let endpoint = value.fields()?;
    let addresses: Vec<_> = endpoint
        .require("addresses")?
        .list()
        .iter()
        .filter_map(read_ip)
        .collect();
    if addresses.is_empty() {
        endpoint.error_at(
            "addresses",
            "is empty",
            "an endpoint has at least one address",
        );
        return None;
    }
    let conditions = endpoint.get("conditions").and_then(|v| v.fields());
    let condition = |name| {
        conditions
            .as_ref()
            .and_then(|c| c.get(name))
            .and_then(|v| v.boolean())
    };
    let ready = condition("ready").unwrap_or(true);
    let pod = endpoint
        .get("targetRef")
        .filter(|r| r.node.get("kind").and_then(Node::as_str) == Some("Pod"))
        .and_then(|r| {
            let text = |name| r.node.get(name).and_then(Node::as_str);
            Some(NamespacedName::new(
                text("namespace").unwrap_or(&meta.name.namespace),
                text("name")?,
            ))
        });
    let text = |name| endpoint.get(name).and_then(|v| v.text().map(str::to_owned));
    Some(SliceEndpoint {
        addresses,
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        pod,
        node: text("nodeName"),
        zone: text("zone"),
    })
}
