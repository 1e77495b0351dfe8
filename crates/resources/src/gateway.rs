//! Istio's `Gateway`: what a proxy at the edge of the mesh listens to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::fields::{Fields, Value, host, is_dns_label, label_map, port_name};
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
    /// What this server serves of one host of a VirtualService: of each pair the narrower one. A wildcard there may meet several here.
    pub fn serves(&self, virtual_service_namespace: &str, host: &Host) -> Vec<Host> {
        let mut served: Vec<Host> = self
            .hosts
            .iter()
            .filter(|h| {
                h.namespace
                    .as_deref()
                    .is_none_or(|ns| ns == virtual_service_namespace)
            })
            .filter_map(|h| h.host.intersection(host))
            .collect();
        served.sort();
        served.dedup();
        served
    }
}

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<Gateway> {
    let spec = spec?;
    let selector = spec
        .get("selector")
        .map(|v| label_map(&v))
        .unwrap_or_default();
    let list = spec.require("servers")?;
    let items = list.list();
    if items.is_empty() {
        list.error("is empty", "a Gateway needs at least one server");
    }
    let servers: Vec<_> = items.iter().filter_map(read_server).collect();
    for (index, (server, item)) in servers.iter().zip(&items).enumerate() {
        if servers.len() == items.len()
            && servers[..index]
                .iter()
                .any(|other| other.port_name == server.port_name)
        {
            item.error(
                format!("port name {:?} is given twice", server.port_name),
                "port names are unique in a Gateway",
            );
        }
    }
    spec.finish();
    Some(Gateway {
        meta,
        selector,
        servers,
    })
}

fn read_server(value: &Value<'_>) -> Option<Server> {
    let server = value.fields()?;
    server.not_honoured(&["tls", "defaultEndpoint"]);
    let name = server.get("name").and_then(|v| v.text().map(str::to_owned));
    let bind = server
        .get("bind")
        .filter(|v| v.node.as_str() != Some(""))
        .and_then(|v| {
            let text = v.text()?;
            let address = text.parse().ok();
            match address {
                None if text.starts_with("unix://") => v.not_honoured("Unix sockets"),
                None => v.error(format!("{text:?} is not an IP address"), ""),
                Some(_) => {}
            }
            address
        });
    let hosts = server.require("hosts").map(|v| {
        let items = v.list();
        if items.is_empty() {
            v.error("is empty", "write \"*\" to serve every host");
        }
        items.iter().filter_map(read_host).collect()
    });
    let port = server.require("port").and_then(|v| read_port(&v));
    server.finish();
    let (port, port_name, protocol) = port?;
    Some(Server {
        name,
        port,
        port_name,
        protocol,
        bind,
        hosts: hosts?,
    })
}

fn read_port(value: &Value<'_>) -> Option<(u16, String, GatewayProtocol)> {
    let port = value.fields()?;
    port.not_honoured(&["targetPort"]);
    let number = port.require("number").and_then(|v| v.port());
    let name = port.require("name").and_then(|v| port_name(&v));
    let protocol = port.require("protocol").and_then(|v| {
        let text = v.text()?;
        match text.to_ascii_uppercase().as_str() {
            "HTTP" => return Some(GatewayProtocol::Http),
            "HTTP2" => return Some(GatewayProtocol::Http2),
            "GRPC" | "GRPC-WEB" => return Some(GatewayProtocol::Grpc),
            "HTTPS" | "TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => {
                v.not_honoured(&format!("protocol {text}"))
            }
            _ => v.error(
                format!("unknown protocol {text:?}"),
                "write HTTP, HTTP2 or GRPC",
            ),
        }
        None
    });
    port.finish();
    Some((number?, name?, protocol?))
}

/// `host`, `namespace/host`, `./host` or `*/host`.
fn read_host(value: &Value<'_>) -> Option<ServerHost> {
    let text = value.text()?;
    let (namespace, rest) = text
        .split_once('/')
        .map_or((None, text), |(namespace, host)| (Some(namespace), host));
    let namespace = match namespace {
        None | Some("*") => None,
        Some(".") => Some(value.report.namespace.clone()),
        Some(name) if is_dns_label(name) => Some(name.to_owned()),
        Some(other) => {
            value.error(
                format!("{other:?} is not a namespace"),
                "write NAMESPACE/HOST, ./HOST or */HOST",
            );
            return None;
        }
    };
    let node = crate::node::Node {
        line: value.node.line,
        tree: crate::node::Tree::String(rest.to_owned()),
    };
    let host = host(
        &Value {
            report: value.report,
            node: &node,
            path: value.path.clone(),
        },
        None,
    )?;
    Some(ServerHost { namespace, host })
}

#[cfg(test)]
mod tests {
    use super::{Gateway, GatewayProtocol};
    use crate::{Host, Object, parse_documents};

    fn read(spec: &str) -> Gateway {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: x, namespace: edge}}\nspec: {spec}\n"
        );
        let document = parse_documents("", &text).remove(0);
        match document.object {
            Some(Object::Gateway(gateway)) => gateway,
            other => panic!("{other:?}: {:?}", document.problems),
        }
    }

    #[test]
    fn servers_and_their_hosts() {
        let gateway = read(
            "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: http}, bind: 127.0.0.1, hosts: [\"*\"]}, {port: {number: 81, name: grpc, protocol: GRPC}, hosts: [\"./a.example\", \"shop/*.example\", \"*/c.example\"]}]}",
        );
        let [all, some] = gateway.servers.as_slice() else {
            panic!()
        };
        assert_eq!(
            (all.protocol, some.protocol),
            (GatewayProtocol::Http, GatewayProtocol::Grpc)
        );
        let exact = |name: &str| Host::Exact(name.to_owned());
        assert_eq!(
            all.serves("anywhere", &exact("x.example")),
            [exact("x.example")]
        );
        assert_eq!(
            some.serves("shop", &exact("x.example")),
            [exact("x.example")]
        );
        assert_eq!(some.serves("edge", &exact("x.example")), []);
        assert_eq!(
            some.serves("edge", &Host::Suffix(".example".into())),
            [exact("a.example"), exact("c.example")]
        );
        assert_eq!(
            some.serves("pay", &exact("c.example")),
            [exact("c.example")]
        );
    }
}
