//! What gateways get: listeners with real addresses, one route table a port with the VirtualServices
//! bound to the Gateway, and the clusters those name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tasuki_resources::gateway::Server;
use tasuki_resources::{Gateway, Host, NamespacedName, VirtualService};
use tasuki_xds::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, ForwardClientCert, HttpConnection,
    RouteSource,
};
use tasuki_xds::model::route::{RouteAction, VirtualHost};
use tasuki_xds::model::{Listener, RouteConfiguration};

use super::rules::{Caller, rules};
use super::viewer::Viewer;
use super::{divided, rbac};
use crate::ads::ClientKind;
use crate::mesh::service_entries::PROXY_PORTS;

/// One listener for each port (and address) of the viewer's Gateways.
pub fn listeners(viewer: &Viewer<'_>) -> Vec<Listener> {
    let mut addresses = BTreeSet::new();
    for (_, server) in servers(viewer) {
        let address = server.bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        addresses.insert(SocketAddr::new(address, server.port));
    }
    addresses
        .into_iter()
        .map(|address| listener(viewer, address))
        .collect()
}

/// The listener of this name, if the viewer is a gateway that has it.
pub fn listener_named(viewer: &Viewer<'_>, name: &str) -> Option<Listener> {
    listeners(viewer)
        .into_iter()
        .find(|listener| listener.name == name)
}

fn listener(viewer: &Viewer<'_>, address: SocketAddr) -> Listener {
    let name = format!("{}_{}", address.ip(), address.port());
    let policies = viewer
        .mesh
        .authorization
        .of_workload(viewer.namespace(), &labels(viewer));
    let http = HttpConnection {
        stat_prefix: name.clone(),
        routes: RouteSource::Rds(format!("http.{}", address.port())),
        rbac: rbac::http(&policies, viewer.mesh),
        forward_client_cert: ForwardClientCert::Sanitize,
    };
    Listener {
        name,
        address: Some(address),
        protocol: DeclaredProtocol::Http,
        workload: None,
        api: None,
        chains: vec![FilterChain {
            name: "http".to_owned(),
            matches: ChainMatch::default(),
            tls: None,
            filter: Filter::Http(http),
        }],
        default_chain: None,
    }
}

/// A VirtualService and the Gateways through which it is reached.
type Bound<'a> = (Vec<&'a NamespacedName>, &'a Arc<VirtualService>);

/// The route table `http.PORT`; empty where nothing is bound, which answers 404.
pub fn table(viewer: &Viewer<'_>, name: &str) -> Option<RouteConfiguration> {
    let port: u16 = name.strip_prefix("http.")?.parse().ok()?;
    let mut by_host: BTreeMap<Host, Vec<Bound<'_>>> = BTreeMap::new();
    let mut known = false;
    for (gateway, server) in servers(viewer)
        .into_iter()
        .filter(|(_, server)| server.port == port)
    {
        known = true;
        for vs in viewer.mesh.virtual_services.for_gateway(&gateway.meta.name) {
            for host in vs
                .hosts
                .iter()
                .flat_map(|host| server.serves(&vs.meta.name.namespace, host))
            {
                let bound = by_host.entry(host).or_default();
                let known = bound.iter_mut().find(|(_, other)| Arc::ptr_eq(other, vs));
                match known {
                    Some((gateways, _)) => gateways.push(&gateway.meta.name),
                    None => bound.push((vec![&gateway.meta.name], vs)),
                }
            }
        }
    }
    known.then(|| RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: by_host
            .into_iter()
            .map(|(host, bound)| virtual_host(viewer, &host, bound, port))
            .collect(),
    })
}

fn virtual_host(
    viewer: &Viewer<'_>,
    host: &Host,
    mut bound: Vec<Bound<'_>>,
    port: u16,
) -> VirtualHost {
    bound.sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
    let name = host.to_string();
    let domains = if name == "*" {
        vec![name.clone()]
    } else {
        vec![name.clone(), format!("{name}:{port}")]
    };
    let bound = bound
        .iter()
        .map(|(gateways, vs)| (Caller::Gateways(gateways), &***vs));
    VirtualHost {
        name: format!("{name}:{port}"),
        domains,
        routes: divided::routes(viewer, rules(viewer, bound, port)),
    }
}

/// Names of all clusters that the viewer's route tables mention.
pub fn clusters(viewer: &Viewer<'_>) -> BTreeSet<String> {
    let ports: BTreeSet<u16> = servers(viewer)
        .into_iter()
        .map(|(_, server)| server.port)
        .collect();
    let tables = ports
        .into_iter()
        .filter_map(|port| table(viewer, &format!("http.{port}")));
    let routes = tables
        .flat_map(|table| table.virtual_hosts)
        .flat_map(|host| host.routes);
    let mut names = BTreeSet::new();
    for route in routes {
        if let RouteAction::Forward(forward) = route.action {
            names.extend(forward.clusters.into_iter().map(|cluster| cluster.name));
        }
    }
    names
}

/// Names of all route tables of the viewer.
pub fn tables(viewer: &Viewer<'_>) -> BTreeSet<String> {
    servers(viewer)
        .into_iter()
        .map(|(_, server)| format!("http.{}", server.port))
        .collect()
}

/// The servers that the viewer is to run; the proxy's own ports are nobody's (the mesh reports them).
fn servers<'a>(viewer: &Viewer<'a>) -> Vec<(&'a Gateway, &'a Server)> {
    let gateways: Vec<&'a Arc<Gateway>> = match &viewer.client.kind {
        ClientKind::TasukiGateway { gateway } => {
            let name = NamespacedName::new(gateway.namespace.clone(), gateway.name.clone());
            viewer.mesh.gateways.get(&name).into_iter().collect()
        }
        ClientKind::EnvoyGateway => viewer.mesh.gateways.matching(viewer.labels()),
        ClientKind::Sidecar { .. } | ClientKind::Grpc => Vec::new(),
    };
    gateways
        .into_iter()
        .flat_map(|gateway| {
            gateway
                .servers
                .iter()
                .map(move |server| (&**gateway, server))
        })
        .filter(|(_, server)| !PROXY_PORTS.contains(&server.port))
        .collect()
}

/// What policies select a gateway by: its pod's labels, or those that its Gateway asks for.
fn labels(viewer: &Viewer<'_>) -> BTreeMap<String, String> {
    match &viewer.client.kind {
        ClientKind::TasukiGateway { gateway } => {
            let name = NamespacedName::new(gateway.namespace.clone(), gateway.name.clone());
            viewer
                .mesh
                .gateways
                .get(&name)
                .map(|gateway| gateway.selector.clone())
                .unwrap_or_default()
        }
        ClientKind::EnvoyGateway | ClientKind::Sidecar { .. } | ClientKind::Grpc => {
            viewer.labels().clone()
        }
    }
}
