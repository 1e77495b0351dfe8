//! What one root is compiled from, and what a Listener and its routes name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::listener::{Filter, HttpConnection, RouteSource};
use tasuki_xds::model::route::RouteAction;
use tasuki_xds::model::{Listener, RouteConfiguration};

use crate::cluster::Cluster;

/// All parts of one root, as they were when it was ready.
#[derive(Clone)]
pub struct Parts {
    pub listener: Arc<Listener>,
    /// Every route table that it fetches by name; `None` for absent ones.
    pub routes: HashMap<String, Option<Arc<RouteConfiguration>>>,
    /// Every cluster it names; `None` for absent ones.
    pub clusters: HashMap<String, Option<Arc<Cluster>>>,
}

impl Parts {
    /// Whether the other parts are the very same values.
    pub(super) fn same(&self, other: &Parts) -> bool {
        let same_cluster = |a: &Option<Arc<Cluster>>, b: &Option<Arc<Cluster>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let same_routes =
            |a: &Option<Arc<RouteConfiguration>>, b: &Option<Arc<RouteConfiguration>>| match (a, b)
            {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
        Arc::ptr_eq(&self.listener, &other.listener)
            && self.routes.len() == other.routes.len()
            && self
                .routes
                .iter()
                .all(|(name, a)| other.routes.get(name).is_some_and(|b| same_routes(a, b)))
            && self.clusters.len() == other.clusters.len()
            && self
                .clusters
                .iter()
                .all(|(name, a)| other.clusters.get(name).is_some_and(|b| same_cluster(a, b)))
    }

    /// The cluster of that name, if it exists.
    pub fn cluster(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.get(name).cloned().flatten()
    }

    /// The route table that the Listener's first HTTP side fetches by name.
    pub fn routes(&self) -> Option<Arc<RouteConfiguration>> {
        match &https_of(&self.listener).next()?.routes {
            RouteSource::Inline(_) => None,
            RouteSource::Rds(name) => self.routes.get(name)?.clone(),
        }
    }
}

/// The route table that the Listener's first HTTP side brings along.
pub fn inline_routes(listener: &Listener) -> Option<&RouteConfiguration> {
    match &https_of(listener).next()?.routes {
        RouteSource::Inline(routes) => Some(routes),
        RouteSource::Rds(_) => None,
    }
}

/// Every place where a Listener handles HTTP.
pub fn https_of(listener: &Listener) -> impl Iterator<Item = &HttpConnection> {
    let chains = listener.chains.iter().chain(&listener.default_chain);
    listener
        .api
        .iter()
        .chain(chains.filter_map(|chain| match &chain.filter {
            Filter::Http(http) => Some(http),
            Filter::Tcp(_) => None,
        }))
}

pub(super) fn rds_names(listener: &Listener) -> impl Iterator<Item = &str> {
    https_of(listener).filter_map(|http| match &http.routes {
        RouteSource::Rds(name) => Some(name.as_str()),
        RouteSource::Inline(_) => None,
    })
}

/// The name of the assignment that a cluster waits for.
pub(super) fn endpoints_of(cluster: &tasuki_xds::model::Cluster) -> Option<&str> {
    match &cluster.discovery {
        Discovery::Eds { service_name } => Some(service_name.as_deref().unwrap_or(&cluster.name)),
        Discovery::Dns { .. } | Discovery::Static(_) | Discovery::OriginalDestination { .. } => {
            None
        }
    }
}

/// Clusters that a Listener and its routes name.
pub(super) fn cluster_names<'a>(
    listener: &'a Listener,
    routes: impl Iterator<Item = &'a Arc<RouteConfiguration>>,
) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for chain in listener.chains.iter().chain(&listener.default_chain) {
        if let Filter::Tcp(tcp) = &chain.filter {
            names.extend(tcp.clusters.iter().map(|cluster| cluster.name.as_str()));
        }
    }
    let inline = https_of(listener).filter_map(|http| match &http.routes {
        RouteSource::Inline(routes) => Some(routes),
        RouteSource::Rds(_) => None,
    });
    for host in inline
        .chain(routes.map(Arc::as_ref))
        .flat_map(|table| &table.virtual_hosts)
    {
        for route in &host.routes {
            if let RouteAction::Forward(forward) = &route.action {
                names.extend(forward.clusters.iter().map(|cluster| cluster.name.as_str()));
            }
        }
    }
    names
}
