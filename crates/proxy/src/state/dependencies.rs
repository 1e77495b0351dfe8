//! Which resources a destination needs, and whether all of them are there: nothing is applied torn (gRFC A74, A57).
//!
//! A *root* is a Listener that somebody uses. It needs its routes, they need their clusters, and those need their
//! endpoints. A root whose needs are all met, declared absent, or 15 s overdue is *ready* and may be compiled; until then
//! what was compiled before keeps serving. Pure: events and the time go in, names to subscribe to come out. An event
//! touches the roots that need its resource, and only those are looked at again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::model::{ClusterLoadAssignment, Listener, ResourceType, RouteConfiguration};
use tokio::time::Instant;

mod needs;
mod parts;

use self::needs::Needs;
pub use self::parts::{Parts, https_of, inline_routes};
use self::parts::{cluster_names, endpoints_of, rds_names};
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
    /// The clusters that take their endpoints from an assignment, by its name.
    fed: HashMap<String, BTreeSet<String>>,
    endpoints: HashMap<String, Arc<ClusterLoadAssignment>>,
    /// Declared absent, overdue, or refused without an older form.
    absent: HashSet<Key>,
    /// Asked for and not yet answered; since when the stream has been open for it.
    waiting: HashMap<Key, Instant>,
    needs: Needs,
    /// Roots that something has happened to since they were settled.
    touched: BTreeSet<String>,
    /// Listeners come by the wildcard (gateways): they are never asked for by name.
    all_listeners: bool,
}

/// A Listener in use.
#[derive(Default)]
struct Root {
    /// What it is compiled from at this moment; `None` before the first time.
    applied: Option<Parts>,
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
        self.touched.insert(name.to_owned());
        true
    }

    /// Nobody uses the Listener any more.
    pub fn remove_root(&mut self, name: &str) {
        self.roots.remove(name);
        self.needs.set(name, BTreeSet::new());
        if self.all_listeners {
            // Nobody unsubscribes from it, which is when others are forgotten.
            self.forget(&(ResourceType::Listener, name.to_owned()));
        }
    }

    pub fn has_root(&self, name: &str) -> bool {
        self.roots.contains_key(name)
    }

    pub fn root_count(&self) -> usize {
        self.roots.len()
    }

    /// Names of all types that are subscribed to.
    pub fn subscriptions(&self) -> usize {
        self.needs.len()
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

    /// A Listener has arrived.
    pub fn put_listener(&mut self, listener: Listener) {
        self.arrived(ResourceType::Listener, &listener.name);
        if self.roots.contains_key(&listener.name) {
            self.touched.insert(listener.name.clone());
        }
        self.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }

    /// A RouteConfiguration has arrived.
    pub fn put_routes(&mut self, routes: RouteConfiguration) {
        self.arrived(ResourceType::Route, &routes.name);
        self.touch(ResourceType::Route, &routes.name);
        self.routes.insert(routes.name.clone(), Arc::new(routes));
    }

    /// A Cluster has arrived. Its endpoints, load and ejections go on if it was there before.
    pub fn put_cluster(&mut self, model: &tasuki_xds::model::Cluster) {
        self.arrived(ResourceType::Cluster, &model.name);
        self.touch(ResourceType::Cluster, &model.name);
        let cluster = match self.clusters.get(&model.name) {
            Some(old) if old.config == *model => return,
            Some(old) => old.updated(model),
            None => Cluster::new(model),
        };
        self.drop_cluster(&model.name);
        if let Some(assignment) = endpoints_of(model) {
            if let Some(endpoints) = self.endpoints.get(assignment) {
                cluster.update(endpoints);
            }
            let fed = self.fed.entry(assignment.to_owned()).or_default();
            fed.insert(model.name.clone());
        }
        self.clusters.insert(model.name.clone(), Arc::new(cluster));
    }

    /// Endpoints have arrived. This is the fast path: clusters take them over at once and no root is compiled. True if
    /// somebody may have waited for them.
    pub fn put_endpoints(&mut self, assignment: ClusterLoadAssignment) -> bool {
        let waited = self.arrived(ResourceType::Endpoint, &assignment.cluster)
            || !self.endpoints.contains_key(&assignment.cluster);
        if waited {
            self.touch(ResourceType::Endpoint, &assignment.cluster);
        }
        for cluster in self.fed_by(&assignment.cluster) {
            cluster.update(&assignment);
        }
        self.endpoints
            .insert(assignment.cluster.clone(), Arc::new(assignment));
        waited
    }

    /// The control plane says that there is no such resource, or refused what it sent without an older form here.
    pub fn declare_absent(&mut self, ty: ResourceType, name: &str) {
        match ty {
            ResourceType::Listener => {
                self.listeners.remove(name);
                // What it needed may go; the root itself stays until it is removed.
                if let Some(root) = self.roots.get_mut(name) {
                    root.applied = None;
                }
            }
            ResourceType::Route => drop(self.routes.remove(name)),
            ResourceType::Cluster => self.drop_cluster(name),
            ResourceType::Endpoint => self.no_endpoints(name, true),
            ResourceType::TrustBundle
            | ResourceType::ProxySettings
            | ResourceType::Secret
            | ResourceType::Departure => return,
        }
        self.touch(ty, name);
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
            ResourceType::TrustBundle
            | ResourceType::ProxySettings
            | ResourceType::Secret
            | ResourceType::Departure => false,
        }
    }

    /// The stream is open: the time of everything unanswered begins now.
    pub fn connected(&mut self, now: Instant) {
        self.waiting.values_mut().for_each(|since| *since = now);
    }

    /// A root that is absent is asked for anew on this stream, so what was said before no longer counts.
    pub fn ask_again(&mut self, name: &str, now: Instant) {
        let key = (ResourceType::Listener, name.to_owned());
        if self.absent.remove(&key) {
            self.waiting.insert(key, now);
        }
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
            self.touch(ty, &name);
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

    /// Finds the roots that are ready and differ from what was compiled, takes their parts as applied, and says what is
    /// needed since the last time and what no longer is.
    pub fn settle(&mut self, now: Instant) -> Settled {
        let mut settled = Settled::default();
        for name in std::mem::take(&mut self.touched) {
            if !self.roots.contains_key(&name) {
                continue;
            }
            let parts = self.ready_parts(&name);
            if let (Some(parts), Some(root)) = (parts, self.roots.get_mut(&name))
                && root.applied.as_ref().is_none_or(|old| !old.same(&parts))
            {
                root.applied = Some(parts.clone());
                settled.ready.push((name.clone(), parts));
            }
            let needs = self.needs_of_root(&name);
            self.needs.set(&name, needs);
        }
        let (subscribe, unsubscribe) = self.needs.turns();
        for key in &subscribe {
            if !self.holds(key.0, &key.1) {
                self.absent.remove(key);
                self.waiting.insert(key.clone(), now);
            }
        }
        for key in &unsubscribe {
            self.forget(key);
        }
        settled.subscribe = subscribe;
        settled.unsubscribe = unsubscribe;
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

    /// What a root needs, both as it is compiled and as it will be.
    fn needs_of_root(&self, name: &str) -> BTreeSet<Key> {
        let mut needs = BTreeSet::new();
        let Some(root) = self.roots.get(name) else {
            return needs;
        };
        if !self.all_listeners {
            needs.insert((ResourceType::Listener, name.to_owned()));
        }
        if let Some(applied) = &root.applied {
            let routes = applied.routes.values().flatten();
            self.needs_of(&applied.listener, routes, &mut needs);
        }
        if let Some(listener) = self.listeners.get(name) {
            let routes = rds_names(listener).filter_map(|rds| self.routes.get(rds));
            self.needs_of(listener, routes, &mut needs);
        }
        needs
    }

    fn needs_of<'a>(
        &self,
        listener: &'a Listener,
        routes: impl Iterator<Item = &'a Arc<RouteConfiguration>>,
        needs: &mut BTreeSet<Key>,
    ) {
        needs.extend(rds_names(listener).map(|name| (ResourceType::Route, name.to_owned())));
        for name in cluster_names(listener, routes) {
            let cluster = self.clusters.get(name);
            if let Some(assignment) = cluster.and_then(|cluster| endpoints_of(&cluster.config)) {
                needs.insert((ResourceType::Endpoint, assignment.to_owned()));
            }
            needs.insert((ResourceType::Cluster, name.to_owned()));
        }
    }

    fn forget(&mut self, key: &Key) {
        match key.0 {
            ResourceType::Listener => drop(self.listeners.remove(&key.1)),
            ResourceType::Route => drop(self.routes.remove(&key.1)),
            ResourceType::Cluster => self.drop_cluster(&key.1),
            ResourceType::Endpoint => drop(self.endpoints.remove(&key.1)),
            ResourceType::TrustBundle
            | ResourceType::ProxySettings
            | ResourceType::Secret
            | ResourceType::Departure => {}
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

    /// Roots that need the resource are looked at again.
    fn touch(&mut self, ty: ResourceType, name: &str) {
        let key = (ty, name.to_owned());
        self.touched.extend(self.needs.roots_of(&key).cloned());
    }

    fn fed_by(&self, assignment: &str) -> impl Iterator<Item = &Arc<Cluster>> {
        let names = self.fed.get(assignment).into_iter().flatten();
        names.filter_map(|name| self.clusters.get(name))
    }

    fn drop_cluster(&mut self, name: &str) {
        let Some(cluster) = self.clusters.remove(name) else {
            return;
        };
        let Some(assignment) = endpoints_of(&cluster.config) else {
            return;
        };
        if let Some(fed) = self.fed.get_mut(assignment) {
            fed.remove(name);
            if fed.is_empty() {
                self.fed.remove(assignment);
            }
        }
    }

    fn no_endpoints(&mut self, name: &str, removed: bool) {
        for cluster in self.fed_by(name) {
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

#[cfg(test)]
mod tests;
