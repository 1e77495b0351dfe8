//! Listeners of sidecars and of gRPC clients: what becomes of a connection to `IP:PORT` or `HOST:PORT`.
//!
//! An address is looked up as a service's, then a pod's, then an external endpoint's. A name is looked
//! up as the asking client would resolve it. Nothing found is `None`: the client is told at once.

use std::net::IpAddr;

use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tasuki_xds::codec::Dialect;
use tasuki_xds::model::Listener;
use tasuki_xds::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, ForwardClientCert, HttpConnection,
    RouteSource, TcpProxy,
};
use tasuki_xds::model::route::{
    Forward, HeaderMutations, PathMatch, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster,
};

use super::viewer::Viewer;
use super::{BLACK_HOLE, PASSTHROUGH, cluster_name, pod_cluster_name};
use crate::mesh::names::split_host_port;
use crate::mesh::protocol::{may_be_http, may_be_tcp};
use crate::mesh::services::{Origin, Service};

/// The listener of this name as `viewer` sees it.
pub fn listener(viewer: &Viewer<'_>, name: &str) -> Option<Listener> {
    if name == "passthrough" {
        return Some(passthrough(viewer));
    }
    let (host, port) = split_host_port(name)?;
    match host.parse::<IpAddr>() {
        Ok(address) => by_address(viewer, name, address, port),
        Err(_) => by_host(viewer, name, &host, port),
    }
}

fn by_address(viewer: &Viewer<'_>, name: &str, address: IpAddr, port: u16) -> Option<Listener> {
    let service = viewer.mesh.services.at(address, port, viewer.namespace());
    if let Some(service) = service.filter(|s| s.origin == Origin::Kubernetes) {
        return service_listener(viewer, name, service, &service.host, port);
    }
    // Before the ServiceEntries: one with a block of addresses must not take over the pods in it.
    if let Some(workload) = viewer.mesh.workloads.at(address) {
        let protocol = viewer.mesh.workload_port(workload, port);
        return Some(direct(name, &pod_cluster_name(address, port), protocol));
    }
    let (service, port) = match service {
        Some(service) => (service, port),
        None => viewer
            .mesh
            .services
            .at_endpoint(address, port, viewer.namespace())?,
    };
    service_listener(viewer, name, service, &service.host, port)
}

fn by_host(viewer: &Viewer<'_>, name: &str, host: &str, port: u16) -> Option<Listener> {
    match viewer.mesh.services.find(host, viewer.namespace()) {
        // Each host below a wildcard may have rules of its own.
        Some(service) if service.pattern.is_wildcard() => {
            service_listener(viewer, name, service, host, port)
        }
        Some(service) => service_listener(viewer, name, service, &service.host, port),
        None => {
            let host = viewer.virtual_host_name(host, port)?;
            Some(api_only(name, format!("{host}:{port}")))
        }
    }
}

/// HTTP by the routes of `host`, other bytes to the service's own cluster.
fn service_listener(
    viewer: &Viewer<'_>,
    name: &str,
    service: &Service,
    host: &str,
    port: u16,
) -> Option<Listener> {
    let declared = service.port(port)?;
    let api = may_be_http(declared.protocol)
        .then(|| http(name, RouteSource::Rds(format!("{host}:{port}"))));
    let grpc = matches!(viewer.client.dialect, Dialect::Grpc { .. });
    let tcp = (may_be_tcp(declared.protocol) && !grpc).then(|| {
        chain(Filter::Tcp(tcp(
            name,
            &cluster_name(port, "", &service.host),
        )))
    });
    Some(Listener {
        name: name.to_owned(),
        address: None,
        protocol: declared.protocol,
        workload: None,
        api: if grpc {
            Some(http(name, RouteSource::Rds(format!("{host}:{port}"))))
        } else {
            api
        },
        chains: Vec::new(),
        default_chain: tcp,
    })
}

/// A host that only VirtualServices know.
fn api_only(name: &str, routes: String) -> Listener {
    Listener {
        name: name.to_owned(),
        address: None,
        protocol: DeclaredProtocol::Http,
        workload: None,
        api: Some(http(name, RouteSource::Rds(routes))),
        chains: Vec::new(),
        default_chain: None,
    }
}

/// One cluster, without routing, whatever is spoken.
fn direct(name: &str, cluster: &str, protocol: DeclaredProtocol) -> Listener {
    Listener {
        name: name.to_owned(),
        address: None,
        protocol,
        workload: None,
        api: may_be_http(protocol)
            .then(|| http(name, RouteSource::Inline(catch_all(cluster, cluster)))),
        chains: Vec::new(),
        default_chain: may_be_tcp(protocol).then(|| chain(Filter::Tcp(tcp(name, cluster)))),
    }
}

/// What becomes of destinations that nobody declared.
fn passthrough(viewer: &Viewer<'_>) -> Listener {
    let cluster = match viewer.mesh.settings.outbound_traffic_policy() {
        OutboundTrafficPolicy::AllowAny => PASSTHROUGH,
        OutboundTrafficPolicy::RegistryOnly => BLACK_HOLE,
    };
    direct("passthrough", cluster, DeclaredProtocol::Auto)
}

fn http(stat_prefix: &str, routes: RouteSource) -> HttpConnection {
    HttpConnection {
        stat_prefix: stat_prefix.to_owned(),
        routes,
        rbac: Vec::new(),
        forward_client_cert: ForwardClientCert::Sanitize,
    }
}

fn tcp(stat_prefix: &str, cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        clusters: vec![only(cluster)],
        rbac: Vec::new(),
        idle_timeout: None,
    }
}

fn chain(filter: Filter) -> FilterChain {
    FilterChain {
        name: "tcp".to_owned(),
        matches: ChainMatch::default(),
        tls: None,
        filter,
    }
}

/// The whole weight.
pub fn only(cluster: &str) -> WeightedCluster {
    WeightedCluster {
        name: cluster.to_owned(),
        weight: 1,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    }
}

/// Every request of every host to one cluster, without timeout or retries beyond the client's own.
pub fn catch_all(name: &str, cluster: &str) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![to_cluster("default", cluster)],
        }],
    }
}

/// A route that matches everything.
pub fn to_cluster(name: &str, cluster: &str) -> Route {
    Route {
        name: name.to_owned(),
        matches: match_all(),
        action: RouteAction::Forward(Forward {
            clusters: vec![only(cluster)],
            timeout: None,
            grpc_timeout_max: Some(std::time::Duration::ZERO),
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
        }),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    }
}

/// The empty set of conditions.
pub fn match_all() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        ignore_path_case: false,
        headers: Vec::new(),
        query: Vec::new(),
        fraction_per_million: None,
        grpc: false,
    }
}
