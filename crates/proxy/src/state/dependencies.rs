//! Which resources a destination needs, and whether all of them are there: nothing is applied torn (gRFC A74, A57).
//!
//! A *root* is a Listener that somebody uses. It needs its routes, they need their clusters, and those need their
//! endpoints. A root whose needs are all met, declared absent, or 15 s overdue is *ready* and may be compiled; until then
//! what was compiled before keeps serving. Pure: events and the time go in, names to subscribe to come out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::listener::{Filter, HttpConnection, RouteSource};
use tasuki_xds::model::route::RouteAction;
use tasuki_xds::model::{ClusterLoadAssignment, Listener, ResourceType, RouteConfiguration};
use tokio::time::Instant;

use crate::cluster::Cluster;

/// A resource that has not come after this long does not exist (gRFC A57).
const DOES_NOT_EXIST: Duration = Duration::from_secs(15);

/// The workload's own ports.
pub const INBOUND: &str = "inbound";
/// What to do with unknown destinations.
pub const PASSTHROUGH: &str = "passthrough";

/// Type and name of a resource.
pub type Key = (ResourceType, String);

/// Everything that has arrived, and what it is for.
#[derive(Default)]
pub struct Dependencies {
    roots: HashMap<String, Root>,
    listeners: HashMap<String, Arc<Listener>>,
    routes: HashMap<String, Arc<RouteConfiguration>>,
    clusters: HashMap<String, Arc<Cluster>>,
    endpoints: HashMap<String, Arc<ClusterLoadAssignment>>,
    /// Declared absent, overdue, or refused without an older form.
    absent: HashSet<Key>,
    /// Asked for and not yet answered; since when the stream has been open for it.
    waiting: HashMap<Key, Instant>,
    /// Listeners come by the wildcard (gateways): they are never asked for by name.
    all_listeners: bool,
}

/// A Listener in use.
#[derive(Default)]
struct Root {
    /// What it is compiled from at this moment; `None` before the first time.
    applied: Option<Parts>,
}

/// All parts of one root, as they were when it was ready.
#[derive(Clone)]
pub struct Parts {
    pub listener: Arc<Listener>,
    /// Every route table that it fetches by name; `None` for absent ones.
    pub routes: HashMap<String, Option<Arc<RouteConfiguration>>>,
    /// Every cluster it names; `None` for absent ones.
    pub clusters: HashMap<String, Option<Arc<Cluster>>>,
}

/// What [`Dependencies::settle`] found out.
#[derive(Default)]
pub struct Settled {
    /// Roots to compile anew, with their parts.
    pub ready: Vec<(String, Parts)>,
    /// Names that are needed and not subscribed to.
    pub subscribe: Vec<Key>,
    /// Names that are no longer needed.
    pub unsubscribe: Vec<Key>,
}

impl Dependencies {
    /// For a gateway: Listeners come by the wildcard.
    pub fn of_all_listeners() -> Dependencies {
        Dependencies {
            all_listeners: true,
            ..Dependencies::default()
        }
    }

    /// Somebody uses the Listener. False if it was in use already.
    pub fn add_root(&mut self, name: &str) -> bool {
        if self.roots.contains_key(name) {
            return false;
        }
        self.roots.insert(name.to_owned(), Root::default());
        true
    }

    /// Nobody uses the Listener any more.
    pub fn remove_root(&mut self, name: &str) {
        self.roots.remove(name);
        self.listeners.remove(name);
        self.absent
            .remove(&(ResourceType::Listener, name.to_owned()));
    }

    pub fn has_root(&self, name: &str) -> bool {
        self.roots.contains_key(name)
    }

    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    pub fn root_count(&self) -> usize {
        self.roots.len()
    }

    /// Whether the root was compiled once.
    pub fn is_applied(&self, name: &str) -> bool {
        self.roots
            .get(name)
            .is_some_and(|root| root.applied.is_some())
    }

    pub fn is_absent(&self, ty: ResourceType, name: &str) -> bool {
        self.absent.contains(&(ty, name.to_owned()))
    }

    pub fn clusters(&self) -> &HashMap<String, Arc<Cluster>> {
        &self.clusters
    }

    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }

    /// A Listener has arrived.
    pub fn put_listener(&mut self, listener: Listener) {
        self.arrived(ResourceType::Listener, &listener.name);
        self.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }

    /// A RouteConfiguration has arrived.
    pub fn put_routes(&mut self, routes: RouteConfiguration) {
        self.arrived(ResourceType::Route, &routes.name);
        self.routes.insert(routes.name.clone(), Arc::new(routes));
    }

    /// A Cluster has arrived. Its endpoints, load and ejections go on if it was there before.
    pub fn put_cluster(&mut self, model: &tasuki_xds::model::Cluster) {
        self.arrived(ResourceType::Cluster, &model.name);
        let cluster = match self.clusters.get(&model.name) {
            Some(old) if old.config == *model => return,
            Some(old) => old.updated(model),
            None => Cluster::new(model),
        };
        if let Some(assignment) = endpoints_of(model).and_then(|name| self.endpoints.get(name)) {
            cluster.update(assignment);
        }
        self.clusters.insert(model.name.clone(), Arc::new(cluster));
    }

    /// Endpoints have arrived. This is the fast path: clusters take them over at once and no root is compiled. True if
    /// somebody may have waited for them.
    pub fn put_endpoints(&mut self, assignment: ClusterLoadAssignment) -> bool {
        let waited = self.arrived(ResourceType::Endpoint, &assignment.cluster);
        for cluster in self.clusters.values() {
            if endpoints_of(&cluster.config) == Some(&assignment.cluster) {
                cluster.update(&assignment);
            }
        }
        self.endpoints
            .insert(assignment.cluster.clone(), Arc::new(assignment));
        waited
    }

    /// The control plane says that there is no such resource, or refused what it sent without an older form here.
    pub fn declare_absent(&mut self, ty: ResourceType, name: &str) {
        match ty {
            ResourceType::Listener => drop(self.listeners.remove(name)),
            ResourceType::Route => drop(self.routes.remove(name)),
            ResourceType::Cluster => drop(self.clusters.remove(name)),
            ResourceType::Endpoint => self.no_endpoints(name, true),
            ResourceType::TrustBundle | ResourceType::Secret => return,
        }
        self.waiting.remove(&(ty, name.to_owned()));
        self.absent.insert((ty, name.to_owned()));
    }

    /// Whether a form of the resource is held.
    pub fn holds(&self, ty: ResourceType, name: &str) -> bool {
        match ty {
            ResourceType::Listener => self.listeners.contains_key(name),
            ResourceType::Route => self.routes.contains_key(name),
            ResourceType::Cluster => self.clusters.contains_key(name),
            ResourceType::Endpoint => self.endpoints.contains_key(name),
            ResourceType::TrustBundle | ResourceType::Secret => false,
        }
    }

    /// The stream is open: the time of everything unanswered begins now.
    pub fn connected(&mut self, now: Instant) {
        self.waiting.values_mut().for_each(|since| *since = now);
    }

    /// When the next resource is overdue.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting
            .values()
            .min()
            .map(|since| *since + DOES_NOT_EXIST)
    }

    /// Declares absent what is overdue; only called while connected. Returns the names of overdue Listeners.
    pub fn expire(&mut self, now: Instant) -> Vec<String> {
        let overdue: Vec<Key> = self
            .waiting
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) >= DOES_NOT_EXIST)
            .map(|(key, _)| key.clone())
            .collect();
        let mut listeners = Vec::new();
        for (ty, name) in overdue {
            tracing::warn!(
                name,
                kind = super::persist::type_name(ty),
                "did not arrive within 15 s"
            );
            self.waiting.remove(&(ty, name.clone()));
            match ty {
                // An overdue answer is not a removal: what is held stays.
                ResourceType::Endpoint => self.no_endpoints(&name, false),
                ResourceType::Listener => listeners.push(name.clone()),
                _ => {}
            }
            self.absent.insert((ty, name));
        }
        listeners
    }

    /// Finds the roots that are ready and differ from what was compiled, takes their parts as applied, and compares what is
    /// needed with what is subscribed to. `subscribed` must not contain wildcards.
    pub fn settle(&mut self, now: Instant, subscribed: &BTreeSet<Key>) -> Settled {
        let mut settled = Settled::default();
        let names: Vec<String> = self.roots.keys().cloned().collect();
        for name in names {
            let Some(parts) = self.ready_parts(&name) else {
                continue;
            };
            let Some(root) = self.roots.get_mut(&name) else {
                continue;
            };
            if root
                .applied
                .as_ref()
                .is_none_or(|applied| !applied.same(&parts))
            {
                root.applied = Some(parts.clone());
                settled.ready.push((name, parts));
            }
        }
        let needed = self.needed();
        for key in needed.difference(subscribed) {
            if !self.holds(key.0, &key.1) {
                self.absent.remove(key);
                self.waiting.insert(key.clone(), now);
            }
            settled.subscribe.push(key.clone());
        }
        for key in subscribed.difference(&needed) {
            self.forget(key);
            settled.unsubscribe.push(key.clone());
        }
        settled
    }

    /// The parts of a root if all of them have arrived, are absent or overdue.
    fn ready_parts(&self, root: &str) -> Option<Parts> {
        let listener = self.listeners.get(root)?;
        let mut routes = HashMap::new();
        for name in rds_names(listener) {
            let table = self.routes.get(name).cloned();
            if table.is_none() && !self.is_absent(ResourceType::Route, name) {
                return None;
            }
            routes.insert(name.to_owned(), table);
        }
        let mut clusters = HashMap::new();
        for name in cluster_names(listener, routes.values().flatten()) {
            let cluster = self.clusters.get(name).cloned();
            match &cluster {
                None if !self.is_absent(ResourceType::Cluster, name) => return None,
                None => {}
                Some(cluster) => {
                    if let Some(assignment) = endpoints_of(&cluster.config)
                        && !self.endpoints.contains_key(assignment)
                        && !self.is_absent(ResourceType::Endpoint, assignment)
                    {
                        return None;
                    }
                }
            }
            clusters.insert(name.to_owned(), cluster);
        }
        Some(Parts {
            listener: Arc::clone(listener),
            routes,
            clusters,
        })
    }

    /// What the roots need, both as they are compiled and as they will be.
    fn needed(&self) -> BTreeSet<Key> {
        let mut needed = BTreeSet::new();
        for (name, root) in &self.roots {
            if !self.all_listeners {
                needed.insert((ResourceType::Listener, name.clone()));
            }
            if let Some(applied) = &root.applied {
                self.needs_of(
                    &applied.listener,
                    applied.routes.values().flatten(),
                    &mut needed,
                );
            }
            if let Some(listener) = self.listeners.get(name) {
                let routes = rds_names(listener).filter_map(|rds| self.routes.get(rds));
                self.needs_of(listener, routes, &mut needed);
            }
        }
        needed
    }

    fn needs_of<'a>(
        &self,
        listener: &'a Listener,
        routes: impl Iterator<Item = &'a Arc<RouteConfiguration>>,
        needed: &mut BTreeSet<Key>,
    ) {
        needed.extend(rds_names(listener).map(|name| (ResourceType::Route, name.to_owned())));
        for name in cluster_names(listener, routes) {
            let cluster = self.clusters.get(name);
            if let Some(assignment) = cluster.and_then(|cluster| endpoints_of(&cluster.config)) {
                needed.insert((ResourceType::Endpoint, assignment.to_owned()));
            }
            needed.insert((ResourceType::Cluster, name.to_owned()));
        }
    }

    fn forget(&mut self, key: &Key) {
        match key.0 {
            ResourceType::Listener => drop(self.listeners.remove(&key.1)),
            ResourceType::Route => drop(self.routes.remove(&key.1)),
            ResourceType::Cluster => drop(self.clusters.remove(&key.1)),
            ResourceType::Endpoint => drop(self.endpoints.remove(&key.1)),
            ResourceType::TrustBundle | ResourceType::Secret => {}
        }
        self.absent.remove(key);
        self.waiting.remove(key);
    }

    /// Marks the resource as answered; true if it was waited for or declared absent.
    fn arrived(&mut self, ty: ResourceType, name: &str) -> bool {
        let key = (ty, name.to_owned());
        let waited = self.waiting.remove(&key).is_some();
        self.absent.remove(&key) || waited
    }

    fn no_endpoints(&mut self, name: &str, removed: bool) {
        for cluster in self
            .clusters
            .values()
            .filter(|c| endpoints_of(&c.config) == Some(name))
        {
            if removed {
                let empty = ClusterLoadAssignment {
                    cluster: name.to_owned(),
                    localities: Vec::new(),
                };
                cluster.update(&empty);
            }
            cluster.resolution_failed();
        }
        if removed {
            self.endpoints.remove(name);
        }
    }
}

impl Parts {
    /// Whether the other parts are the very same values.
    fn same(&self, other: &Parts) -> bool {
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

fn rds_names(listener: &Listener) -> impl Iterator<Item = &str> {
    https_of(listener).filter_map(|http| match &http.routes {
        RouteSource::Rds(name) => Some(name.as_str()),
        RouteSource::Inline(_) => None,
    })
}

/// The name of the assignment that a cluster waits for.
fn endpoints_of(cluster: &tasuki_xds::model::Cluster) -> Option<&str> {
    match &cluster.discovery {
        Discovery::Eds { service_name } => Some(service_name.as_deref().unwrap_or(&cluster.name)),
        Discovery::Dns { .. } | Discovery::Static(_) | Discovery::OriginalDestination { .. } => {
            None
        }
    }
}

/// Clusters that a Listener and its routes name.
fn cluster_names<'a>(
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

#[cfg(test)]
mod tests;
