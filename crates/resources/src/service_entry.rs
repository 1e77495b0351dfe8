//! Istio's `ServiceEntry`: hosts outside (or beside) Kubernetes that the mesh knows by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::export::ExportTo;
use crate::host::Host;
use crate::object::Metadata;
use crate::protocol::PortProtocol;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub meta: Metadata,
    /// Never empty.
    pub hosts: Vec<Host>,
    /// Virtual addresses by which the hosts are called; blocks only with [`Resolution::Static`].
    pub addresses: Vec<Cidr>,
    pub ports: Vec<EntryPort>,
    pub location: Location,
    pub resolution: Resolution,
    /// Empty with [`Resolution::Dns`]: the hosts themselves are resolved.
    pub endpoints: Vec<EntryEndpoint>,
    pub export_to: ExportTo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    pub number: u16,
    pub name: String,
    /// From `protocol`, else from the name, else from the number.
    pub protocol: PortProtocol,
    /// Port of the endpoints; `number` unless the user says otherwise.
    pub target: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Location {
    #[default]
    External,
    /// Part of the mesh: may have workload identities.
    Internal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The endpoints are addresses.
    Static,
    /// Names are resolved, and all their addresses used.
    Dns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint {
    pub address: EntryAddress,
    /// By the entry's port name; the port's target where absent.
    pub ports: BTreeMap<String, u16>,
    pub labels: BTreeMap<String, String>,
    /// `None`: 1.
    pub weight: Option<u32>,
    pub service_account: Option<String>,
}

impl EntryEndpoint {
    /// The number to dial for a port of the entry.
    pub fn port(&self, port: &EntryPort) -> u16 {
        self.ports.get(&port.name).copied().unwrap_or(port.target)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntryAddress {
    Ip(IpAddr),
    /// Only with [`Resolution::Dns`]; lower case.
    Name(String),
}
