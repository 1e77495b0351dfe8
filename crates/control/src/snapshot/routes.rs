//! Route tables `HOST:PORT` of sidecars and gRPC clients: the host's VirtualServices, or everything to
//! the service itself.

use std::net::IpAddr;

use tasuki_resources::VirtualService;
use tasuki_xds::model::RouteConfiguration;
use tasuki_xds::model::route::{Route, VirtualHost};

use super::cluster_name;
use super::outbound::to_cluster;
use super::rules::{Caller, rules, speaks};
use super::viewer::Viewer;
use crate::mesh::names::{short_names, split_host_port};
use crate::mesh::services::{Origin, Service};

/// The table of this name as `viewer` sees it.
pub fn table(viewer: &Viewer<'_>, name: &str) -> Option<RouteConfiguration> {
    let (host, port) = split_host_port(name)?;
    let service = viewer.mesh.services.destination(&host, viewer.namespace());
    let virtual_host = match service {
        Some(service) => {
            service.port(port)?;
            VirtualHost {
                name: format!("{host}:{port}"),
                domains: domains(service, &host, port, viewer.namespace()),
                routes: service_routes(viewer, service, &host, port),
            }
        }
        None => VirtualHost {
            name: format!("{host}:{port}"),
            domains: vec![host.clone(), format!("{host}:{port}")],
            routes: ruled(viewer, &host, None, port)?,
        },
    };
    Some(RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![virtual_host],
    })
}

/// `host` is the service's own, or one of those that its wildcard covers.
fn service_routes(viewer: &Viewer<'_>, service: &Service, host: &str, port: u16) -> Vec<Route> {
    ruled(viewer, host, Some(&service.namespace), port).unwrap_or_else(|| {
        vec![to_cluster(
            "default",
            &cluster_name(port, "", &service.host),
        )]
    })
}

/// `None` when no VirtualService speaks of the host: then it routes to itself.
fn ruled(viewer: &Viewer<'_>, host: &str, owner: Option<&str>, port: u16) -> Option<Vec<Route>> {
    let speaks = |vs: &VirtualService| speaks(viewer, vs, Caller::Sidecar, port);
    let virtual_services =
        viewer
            .mesh
            .virtual_services
            .for_mesh(host, owner, viewer.namespace(), &speaks);
    if virtual_services.is_empty() {
        return None;
    }
    Some(rules(
        viewer,
        virtual_services
            .into_iter()
            .map(|vs| (Caller::Sidecar, &**vs)),
        port,
    ))
}

/// Every `:authority` that means the service to this client, with and without the port.
fn domains(service: &Service, host: &str, port: u16, viewer_namespace: &str) -> Vec<String> {
    let names = match service.origin {
        Origin::Kubernetes => short_names(&service.name, &service.namespace, viewer_namespace),
        Origin::ServiceEntry => vec![host.to_owned()],
    };
    let addresses = service.addresses.iter().map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    });
    names
        .into_iter()
        .chain(addresses)
        .flat_map(|name| [format!("{name}:{port}"), name])
        .collect()
}
