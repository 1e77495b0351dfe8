//! Istio's `Gateway`: what a proxy at the edge of the mesh listens to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::host::Host;
use crate::object::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub meta: Metadata,
    /// Labels of the gateway's Pod. Empty selects every gateway, as in Istio.
    pub selector: BTreeMap<String, String>,
    /// Never empty.
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: Option<String>,
    pub port: u16,
    pub port_name: String,
    pub protocol: GatewayProtocol,
    /// `None`: every address.
    pub bind: Option<IpAddr>,
    /// Never empty.
    pub hosts: Vec<ServerHost>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatewayProtocol {
    Http,
    Http2,
    Grpc,
}

/// `NAMESPACE/HOST`: the hosts that VirtualServices of these namespaces may bind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerHost {
    /// `None`: of any namespace. `.` has been replaced by the Gateway's own.
    pub namespace: Option<String>,
    /// Not expanded: a short name stays short, since DNS names of the edge are meant. Lower case.
    pub host: Host,
}

impl Server {
    /// The hosts of a VirtualService that this server serves: each pair's narrower one.
    pub fn serves(&self, virtual_service_namespace: &str, host: &Host) -> Option<Host> {
        self.hosts
            .iter()
            .filter(|h| h.namespace.as_deref().is_none_or(|ns| ns == virtual_service_namespace))
            .filter_map(|h| h.host.intersection(host))
            .max_by_key(|h| h.specificity())
    }
}
