//! Istio's `ServiceEntry`: hosts outside (or beside) Kubernetes that the mesh knows by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::export::{self, ExportTo};
use crate::fields::{Fields, Value, host, is_dns_subdomain, port_name};
use crate::host::Host;
use crate::object::Metadata;
use crate::protocol::{PortProtocol, declared_protocol};

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

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<ServiceEntry> {
    let spec = spec?;
    if spec.has("workloadSelector") && spec.has("endpoints") {
        spec.error_at(
            "endpoints",
            "only one of WorkloadSelector or Endpoints can be set",
            "",
        );
    }
    read_workload_selector(&spec);
    spec.not_honoured(&["subjectAltNames"]);
    let hosts = spec
        .require("hosts")
        .map(|v| read_hosts(&v))
        .unwrap_or_default();
    let resolution = read_resolution(&spec);
    let ports = spec
        .get("ports")
        .map(|v| read_ports(&v))
        .unwrap_or_default();
    if ports.is_empty() && !spec.has("ports") {
        spec.value
            .warn("no ports: nothing can be called", "give at least one port");
    }
    let addresses = spec
        .get("addresses")
        .map(|v| read_addresses(&v, resolution))
        .unwrap_or_default();
    let endpoints = spec
        .get("endpoints")
        .map(|v| read_endpoints(&v, resolution, &ports))
        .unwrap_or_default();
    check_resolution(&spec, resolution, &hosts, endpoints.is_empty());
    let location = spec.get("location").and_then(|v| {
        v.choice(&[
            ("MESH_EXTERNAL", Location::External),
            ("MESH_INTERNAL", Location::Internal),
        ])
    });
    let export_to = export::read(spec.get("exportTo"));
    spec.finish();
    let location = location.unwrap_or_default();
    Some(ServiceEntry {
        meta,
        hosts,
        addresses,
        ports,
        location,
        resolution: resolution?,
        endpoints,
        export_to,
    })
}

/// What each resolution needs in order to find an address.
fn check_resolution(
    spec: &Fields<'_>,
    resolution: Option<Resolution>,
    hosts: &[Host],
    no_endpoints: bool,
) {
    match resolution {
        Some(Resolution::Static) if !spec.has("endpoints") && !spec.has("workloadSelector") => {
            spec.error_at(
                "endpoints",
                "is missing",
                "STATIC needs the addresses behind the host",
            );
        }
        Some(Resolution::Dns) if no_endpoints && hosts.iter().any(Host::is_wildcard) => {
            spec.error_at(
                "hosts",
                "a wildcard cannot be resolved",
                "with DNS give full names, or endpoints",
            );
        }
        _ => {}
    }
}

/// Checked as Istio does, so that the message is about the mistake rather than about what is missing here.
fn read_workload_selector(spec: &Fields<'_>) {
    let Some(value) = spec.get("workloadSelector") else {
        return;
    };
    let labels = value.fields().and_then(|s| s.get("labels"));
    if let Some(labels) = labels {
        crate::fields::label_map(&labels);
    }
    value.not_honoured("");
}

fn read_hosts(value: &Value<'_>) -> Vec<Host> {
    let items = value.list();
    if items.is_empty() {
        value.error("is empty", "a ServiceEntry names at least one host");
    }
    let mut hosts: Vec<Host> = Vec::new();
    for item in &items {
        // Hosts of a ServiceEntry are DNS names of the outside: short names stay short.
        let Some(host) = host(item, None) else {
            continue;
        };
        if host == Host::Suffix(String::new()) {
            item.error("hostname cannot be wildcard", "name the hosts");
        } else if hosts.contains(&host) {
            item.error(format!("host {host} is given twice"), "");
        } else {
            hosts.push(host);
        }
    }
    hosts
}

/// `None` after a report, also for what is not honoured.
fn read_resolution(spec: &Fields<'_>) -> Option<Resolution> {
    let Some(value) = spec.get("resolution") else {
        none_mode(spec);
        spec.error_at(
            "resolution",
            "not honoured yet: NONE, which an absent resolution means",
            "write STATIC or DNS",
        );
        return None;
    };
    let known = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];
    match value.choice(&known.map(|name| (name, name)))? {
        "STATIC" => return Some(Resolution::Static),
        "DNS" => return Some(Resolution::Dns),
        "DNS_ROUND_ROBIN" if spec.get("endpoints").is_some_and(|v| v.list().len() > 1) => {
            spec.error_at(
                "endpoints",
                "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
                "",
            );
        }
        "NONE" => none_mode(spec),
        _ => {}
    }
    value.not_honoured(value.node.as_str().unwrap_or_default());
    None
}

fn none_mode(spec: &Fields<'_>) {
    if spec.has("endpoints") {
        spec.error_at(
            "endpoints",
            "NONE mode cannot set endpoints",
            "write resolution: STATIC or DNS",
        );
    }
}

fn read_addresses(value: &Value<'_>, resolution: Option<Resolution>) -> Vec<Cidr> {
    let read = |item: &Value<'_>| {
        let text = item.address()?;
        let Some(cidr) = Cidr::parse(&text) else {
            item.error(
                format!("{text:?} is not an address"),
                "write an IP address or a block like 10.1.0.0/16",
            );
            return None;
        };
        if text.contains('/') && resolution == Some(Resolution::Dns) {
            item.error(
                "CIDR addresses are allowed only for NONE/STATIC resolution types",
                "write single addresses",
            );
        }
        Some(cidr)
    };
    value.list().iter().filter_map(read).collect()
}

fn read_ports(value: &Value<'_>) -> Vec<EntryPort> {
    let mut ports: Vec<EntryPort> = Vec::new();
    for item in value.list() {
        let Some(port) = read_port(&item) else {
            continue;
        };
        if ports.iter().any(|p| p.number == port.number) {
            item.error(
                format!("port number cannot be duplicated: {}", port.number),
                "",
            );
        }
        if ports.iter().any(|p| p.name == port.name) {
            item.error(
                format!("Duplicate value: the port name {:?}", port.name),
                "",
            );
        }
        ports.push(port);
    }
    ports
}

fn read_port(value: &Value<'_>) -> Option<EntryPort> {
    let port = value.fields()?;
    let number = port.require("number").and_then(|v| v.port());
    let name = port.require("name").and_then(|v| port_name(&v));
    let target = port.get("targetPort").map(|v| v.port());
    let protocol = port.get("protocol").and_then(|v| {
        let text = v.text()?;
        let known = PortProtocol::parse(text);
        match known {
            None if text.eq_ignore_ascii_case("udp") => v.not_honoured("UDP"),
            None => v.error(
                format!("unknown protocol {text:?}"),
                "write HTTP, HTTP2, GRPC, HTTPS, TLS or TCP",
            ),
            Some(_) => {}
        }
        known
    });
    port.finish();
    let (number, name) = (number?, name?);
    let target = target.unwrap_or(Some(number))?;
    let protocol = protocol.unwrap_or_else(|| declared_protocol(None, &name, number));
    Some(EntryPort {
        number,
        name,
        protocol,
        target,
    })
}

fn read_endpoints(
    value: &Value<'_>,
    resolution: Option<Resolution>,
    ports: &[EntryPort],
) -> Vec<EntryEndpoint> {
    value
        .list()
        .iter()
        .filter_map(|item| read_endpoint(item, resolution, ports))
        .collect()
}

fn read_endpoint(
    value: &Value<'_>,
    resolution: Option<Resolution>,
    ports: &[EntryPort],
) -> Option<EntryEndpoint> {
    let endpoint = value.fields()?;
    endpoint.not_honoured(&["network", "locality"]);
    let address = endpoint
        .require("address")
        .and_then(|v| read_address(&v, resolution));
    let mut own_ports = BTreeMap::new();
    for (name, number) in endpoint.get("ports").iter().flat_map(Value::entries) {
        if !ports.iter().any(|p| p.name == name) {
            number.error(
                format!("the entry has no port named {name:?}"),
                "use the names of spec.ports",
            );
        }
        own_ports.extend(number.port().map(|number| (name.to_owned(), number)));
    }
    let labels = endpoint
        .get("labels")
        .map(|v| v.string_map())
        .unwrap_or_default();
    let weight = endpoint.get("weight").and_then(|v| v.u32());
    let service_account = endpoint.get("serviceAccount").and_then(|v| {
        let text = v.text()?;
        if !is_dns_subdomain(text) {
            v.error(format!("{text:?} is not a service account"), "");
        }
        Some(text.to_owned())
    });
    endpoint.finish();
    Some(EntryEndpoint {
        address: address?,
        ports: own_ports,
        labels,
        weight,
        service_account,
    })
}

fn read_address(value: &Value<'_>, resolution: Option<Resolution>) -> Option<EntryAddress> {
    let text = value.text()?;
    if let Ok(address) = text.parse() {
        return Some(EntryAddress::Ip(address));
    }
    if text.starts_with("unix://") {
        value.not_honoured("Unix sockets");
        return None;
    }
    if resolution == Some(Resolution::Static) {
        value.error(
            format!("{text:?} is not an IP address"),
            "with STATIC endpoints are addresses; names need DNS",
        );
        return None;
    }
    match host(value, None)? {
        Host::Exact(name) => Some(EntryAddress::Name(name)),
        Host::Suffix(_) => {
            value.error(
                "a wildcard cannot be resolved",
                "write a DNS name or an IP address",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryAddress, Location, Resolution, ServiceEntry};
    use crate::{Host, Object, PortProtocol, parse_documents};

    fn read(spec: &str) -> ServiceEntry {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x}}\nspec: {spec}\n"
        );
        let document = parse_documents("", &text).remove(0);
        match document.object {
            Some(Object::ServiceEntry(entry)) => entry,
            other => panic!("{other:?}: {:?}", document.problems),
        }
    }

    #[test]
    fn static_endpoints_and_names() {
        let entry = read(
            "{hosts: [Pay.Example], addresses: [192.0.2.0/24, 2001:db8::], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 443, name: https, protocol: https}, {number: 80, name: http-web, targetPort: 8080}], endpoints: [{address: 192.0.2.1, ports: {https: 8443}, weight: 5, labels: {v: a}, serviceAccount: pay}]}",
        );
        assert_eq!(entry.hosts, [Host::Exact("pay.example".into())]);
        assert_eq!(
            (entry.location, entry.resolution, entry.addresses.len()),
            (Location::Internal, Resolution::Static, 2)
        );
        assert_eq!(
            (entry.ports[0].protocol, entry.ports[1].protocol),
            (PortProtocol::Tls, PortProtocol::Http)
        );
        let endpoint = &entry.endpoints[0];
        assert_eq!(
            (
                endpoint.port(&entry.ports[0]),
                endpoint.port(&entry.ports[1])
            ),
            (8443, 8080)
        );
        let dns = read(
            "{hosts: [a.example, b.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: Real.Example}]}",
        );
        assert_eq!(
            dns.endpoints[0].address,
            EntryAddress::Name("real.example".into())
        );
        let own = read("{hosts: [a.example], resolution: DNS, ports: [{number: 80, name: http}]}");
        assert!(own.endpoints.is_empty());
    }
}
