//! Everything that changes: takes what the control plane says and what workers ask for, and publishes snapshots.
//!
//! Lives on the control thread. Knows no sockets: `state/client.rs` moves the messages, so tests drive it by hand.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tasuki_identity::{Roots, WorkloadCertificate};
use tasuki_xds::client::{AdsClient, Event, Update};
use tasuki_xds::model::endpoint::WorkloadRef;
use tasuki_xds::model::{Listener, Resource, ResourceType, TrustBundle};
use tasuki_xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::demand::RateLimit;
use super::dependencies::{Dependencies, INBOUND, Key, PASSTHROUGH, Parts, https_of};
use super::outbound::Outbound;
use super::persist::{Kept, Shelf, type_name};
use super::resolve::Resolvers;
use super::snapshot::{GatewayListener, Snapshot};
use super::{Demand, ListenerName, Lookup, State};
use crate::authorize::Authorizer;
use crate::identity::Identity;
use crate::inbound::Inbound;
use crate::observe::Metrics;
use crate::settings::Role;

/// New names that are asked for in a second (contract section 3).
const NEW_NAMES_PER_SECOND: u32 = 100;

/// Names held at one time.
const MOST_NAMES: usize = 4_096;

/// Look-ups that wait for an answer at one time, over all names.
const MOST_WAITERS: usize = 8_192;

/// A destination that nobody has used for this long is no longer subscribed to.
const IDLE: Duration = Duration::from_secs(300);

/// How often idle destinations are looked for, and the shelf is written.
const SWEEP: Duration = Duration::from_secs(30);
const FLUSH: Duration = Duration::from_secs(1);

/// The owner of all configuration.
pub struct Manager {
    ads: AdsClient,
    deps: Dependencies,
    gateway_role: bool,
    connected: bool,
    next: Snapshot,
    /// `next` differs from what is published.
    changed: bool,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    waiters: HashMap<ListenerName, Vec<oneshot::Sender<Lookup>>>,
    rate: RateLimit,
    certificate: Option<WorkloadCertificate>,
    resolvers: Resolvers,
    shelf: Option<Shelf>,
    /// What the shelf does not have yet; `None` is a removal.
    unsaved: HashMap<Key, Option<Kept>>,
    next_sweep: Instant,
    next_flush: Instant,
}

impl Manager {
    /// A manager that has read what the state dir kept.
    pub fn new(
        ads: AdsClient,
        role: &Role,
        state_dir: &Path,
        state: Arc<State>,
        metrics: Arc<Metrics>,
        now: Instant,
    ) -> Manager {
        let gateway_role = matches!(role, Role::Gateway { .. });
        let shelf = Shelf::open(state_dir)
            .inspect_err(|error| tracing::warn!(%error, "configuration will not be kept"))
            .ok();
        let mut manager = Manager {
            ads: ads.with_check(Box::new(check)),
            deps: if gateway_role {
                Dependencies::of_all_listeners()
            } else {
                Dependencies::default()
            },
            gateway_role,
            connected: false,
            next: Snapshot {
                workload: Arc::new(named(role)),
                ..Snapshot::empty()
            },
            changed: false,
            state,
            metrics,
            waiters: HashMap::new(),
            rate: RateLimit::new(NEW_NAMES_PER_SECOND, now.into_std()),
            certificate: None,
            resolvers: Resolvers::default(),
            shelf,
            unsaved: HashMap::new(),
            next_sweep: now + SWEEP,
            next_flush: now + FLUSH,
        };
        manager.start(now);
        manager
    }

    fn start(&mut self, now: Instant) {
        self.ads.subscribe_all(ResourceType::TrustBundle);
        let kept = |shelf: &Option<Shelf>, ty| {
            shelf
                .as_ref()
                .map(|shelf| shelf.all(ty))
                .unwrap_or_default()
        };
        for bundle in kept(&self.shelf, ResourceType::TrustBundle) {
            self.restore(&bundle);
        }
        if self.gateway_role {
            self.ads.subscribe_all(ResourceType::Listener);
            for listener in kept(&self.shelf, ResourceType::Listener) {
                self.restore(&listener);
            }
        } else {
            self.deps.add_root(INBOUND);
            self.deps.add_root(PASSTHROUGH);
        }
        self.settle(now);
    }

    /// A worker asks for a name.
    pub fn on_demand(&mut self, demand: Demand, now: Instant) {
        let Demand { name, reply } = demand;
        if let Some(found) = self.next.outbound.get(&name) {
            let _ = reply.send(Lookup::Found(Arc::clone(found)));
            return;
        }
        let outcome = self.admit(&name, now);
        self.metrics.demands.with_label_values(&[outcome]).inc();
        if outcome == "limited" {
            self.state.counters.overflowed();
            let _ = reply.send(self.state.too_many());
            return;
        }
        self.waiters.entry(name).or_default().push(reply);
        if outcome == "asked" {
            self.settle(now);
        }
    }

    /// Takes the name up if the bounds allow.
    fn admit(&mut self, name: &ListenerName, now: Instant) -> &'static str {
        if self.waiters.values().map(Vec::len).sum::<usize>() >= MOST_WAITERS {
            return "limited";
        }
        if self.deps.has_root(name.as_str()) {
            return "joined";
        }
        if !self.connected && self.is_kept(name) {
            // Costs the control plane nothing, and an application that starts up uses all its destinations at once.
            self.deps.add_root(name.as_str());
            return "asked";
        }
        if self.deps.root_count() >= MOST_NAMES && !self.evict_one() {
            return "limited";
        }
        if !self.rate.admit(now.into_std()) {
            return "limited";
        }
        self.deps.add_root(name.as_str());
        "asked"
    }

    fn is_kept(&self, name: &ListenerName) -> bool {
        let shelf = self.shelf.as_ref();
        shelf.is_some_and(|shelf| shelf.holds(ResourceType::Listener, name.as_str()))
    }

    /// A stream is being opened: everything wanted is asked for on it.
    pub fn on_opening(&mut self) {
        self.ads.connected();
    }

    /// The control plane accepted the stream.
    pub fn on_connected(&mut self, now: Instant) {
        self.connected = true;
        self.deps.connected(now);
        self.state.set_connected(true);
        self.metrics.control_connected.set(1);
        self.metrics.control_connects.inc();
    }

    /// The stream is gone. Nothing is forgotten.
    pub fn on_disconnected(&mut self) {
        self.connected = false;
        self.ads.disconnected();
        self.state.set_connected(false);
        self.metrics.control_connected.set(0);
    }

    /// Takes a response over. Publishes at the end of the batch: call [`Manager::settle`].
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) {
        for event in self.ads.on_response(response) {
            let (ty, outcome) = match &event {
                Event::Updated(update) => (type_of(&update.resource), "accepted"),
                Event::Removed { ty, .. } => (*ty, "removed"),
                Event::Rejected { ty, .. } => (*ty, "rejected"),
            };
            self.metrics
                .resources
                .with_label_values(&[type_name(ty), outcome])
                .inc();
            match event {
                Event::Updated(update) => self.updated(*update),
                Event::Removed { ty, name } => self.removed(ty, &name),
                Event::Rejected { ty, refusal } => {
                    self.rejected(ty, &refusal.name, &refusal.reason)
                }
            }
        }
    }

    fn updated(&mut self, update: Update) {
        let Update {
            resource,
            version,
            any,
        } = update;
        let key = (type_of(&resource), resource.name().to_owned());
        let kept = Kept {
            ty: key.0,
            name: key.1.clone(),
            version,
            any,
        };
        self.unsaved.insert(key, Some(kept));
        self.apply(resource);
    }

    fn apply(&mut self, resource: Resource) {
        match resource {
            Resource::TrustBundle(bundle) => self.trusts(bundle),
            Resource::Cluster(cluster) => self.deps.put_cluster(&cluster),
            Resource::Endpoint(assignment) => drop(self.deps.put_endpoints(assignment)),
            Resource::Route(routes) => self.deps.put_routes(routes),
            Resource::Listener(listener) => {
                if self.gateway_role {
                    self.deps.add_root(&listener.name);
                }
                self.deps.put_listener(listener);
            }
        }
    }

    fn removed(&mut self, ty: ResourceType, name: &str) {
        // The workload's own Listeners outlive its Pod object: a Pod is deleted before its process has drained.
        if ty == ResourceType::Listener && (name == INBOUND || name == PASSTHROUGH) {
            tracing::info!(
                name,
                "the control plane no longer has this; the last form stays"
            );
            return;
        }
        self.unsaved.insert((ty, name.to_owned()), None);
        match ty {
            ResourceType::Listener => self.no_listener(name, Lookup::Unknown),
            ResourceType::TrustBundle | ResourceType::Secret => {}
            ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Route => {
                self.deps.declare_absent(ty, name)
            }
        }
    }

    /// Nobody has the Listener: those who wait are told, and it is not asked for again for a while.
    fn no_listener(&mut self, name: &str, answer: Lookup) {
        let key = ListenerName::exact(name);
        self.deps.remove_root(name);
        self.changed |=
            self.next.outbound.remove(&key).is_some() | self.next.gateway.remove(&key).is_some();
        if !self.gateway_role {
            self.state
                .negative()
                .insert(key.clone(), std::time::Instant::now());
        }
        self.metrics.demands.with_label_values(&["unknown"]).inc();
        for reply in self.waiters.remove(&key).unwrap_or_default() {
            let _ = reply.send(answer.clone());
        }
    }

    fn rejected(&mut self, ty: ResourceType, name: &str, reason: &str) {
        tracing::warn!(
            name,
            kind = type_name(ty),
            reason,
            "refused a resource; the last good form stays"
        );
        if self.deps.holds(ty, name) {
            return;
        }
        match ty {
            // Who waits for it must not be passed through: the destination exists.
            ResourceType::Listener => {
                for reply in self
                    .waiters
                    .remove(&ListenerName::exact(name))
                    .unwrap_or_default()
                {
                    let _ = reply.send(Lookup::Disconnected);
                }
            }
            _ => self.deps.declare_absent(ty, name),
        }
    }

    fn trusts(&mut self, bundle: TrustBundle) {
        tracing::info!(
            trust_domain = bundle.name,
            roots = bundle.roots.len(),
            "trust bundle"
        );
        self.state.set_trust(Arc::new(bundle));
        self.renew_identity();
    }

    /// A new certificate is used from now on.
    pub fn on_certificate(&mut self, certificate: WorkloadCertificate, now: Instant) {
        self.certificate = Some(certificate);
        self.renew_identity();
        self.settle(now);
    }

    fn renew_identity(&mut self) {
        let bundle = self.state.trust();
        let (Some(bundle), Some(certificate)) = (bundle, &self.certificate) else {
            return;
        };
        match Roots::from_der(bundle.roots.clone()) {
            Ok(roots) => {
                let identity = Identity::new(certificate.clone(), roots);
                let expires = certificate
                    .not_after()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                self.metrics
                    .certificate_expiry
                    .set(expires.as_secs() as i64);
                self.next.identity = Some(identity);
                self.changed = true;
            }
            Err(error) => tracing::warn!(%error, "trust bundle is not usable; the last one stays"),
        }
    }

    /// What is due: overdue resources, idle destinations, the shelf.
    pub fn tick(&mut self, now: Instant) {
        if self.connected {
            for name in self.deps.expire(now) {
                let workload_own = name == INBOUND || name == PASSTHROUGH;
                if !workload_own && !self.deps.is_applied(&name) {
                    self.no_listener(&name, Lookup::Unknown);
                }
            }
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep();
        }
        if now >= self.next_flush {
            self.next_flush = now + FLUSH;
            self.flush();
        }
        self.settle(now);
    }

    /// When [`Manager::tick`] has something to do.
    pub fn next_deadline(&self) -> Instant {
        let overdue = self.deps.next_deadline().filter(|_| self.connected);
        let flush = (!self.unsaved.is_empty()).then_some(self.next_flush);
        [overdue, flush]
            .into_iter()
            .flatten()
            .fold(self.next_sweep, Instant::min)
    }

    /// The next message for the control plane.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.ads.next_request()
    }

    /// Drops waiters that gave up and, while connected, destinations that nobody uses.
    fn sweep(&mut self) {
        self.waiters.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        if !self.connected || self.gateway_role {
            return;
        }
        let idle: Vec<String> = self
            .next
            .outbound
            .values()
            .filter(|outbound| outbound.idle() >= IDLE && unused(outbound))
            .map(|outbound| outbound.name.to_string())
            .collect();
        for name in idle {
            self.evict(&name);
        }
    }

    /// Makes room for one more name.
    fn evict_one(&mut self) -> bool {
        if !self.connected {
            return false;
        }
        let free = self
            .next
            .outbound
            .values()
            .filter(|outbound| unused(outbound) && !outbound.idle().is_zero());
        let Some(name) = free
            .max_by_key(|outbound| outbound.idle())
            .map(|o| o.name.to_string())
        else {
            return false;
        };
        self.evict(&name);
        true
    }

    /// No longer subscribed to, but still on the shelf.
    fn evict(&mut self, name: &str) {
        tracing::debug!(name, "idle destination dropped");
        self.deps.remove_root(name);
        self.changed |= self
            .next
            .outbound
            .remove(&ListenerName::exact(name))
            .is_some();
    }

    fn flush(&mut self) {
        let Some(shelf) = &mut self.shelf else {
            self.unsaved.clear();
            return;
        };
        for ((ty, name), kept) in self.unsaved.drain() {
            match kept {
                None => shelf.remove(ty, &name),
                Some(kept) => {
                    if let Err(error) = shelf.put(&kept) {
                        tracing::warn!(name, %error, "a resource could not be kept");
                    }
                }
            }
        }
    }

    /// Everything goes to the shelf; for the end of the process.
    pub fn save(&mut self) {
        self.flush();
    }

    /// Subscribes to what is needed, compiles what is ready, publishes, and answers those who wait.
    pub fn settle(&mut self, now: Instant) {
        loop {
            let settled = self.deps.settle(now);
            for (name, parts) in settled.ready {
                self.compile(&name, &parts);
            }
            for key in settled.unsubscribe {
                self.ads.unsubscribe(key.0, &key.1);
            }
            let mut restored = false;
            for key in settled.subscribe {
                // While the control plane is away the shelf answers in its place.
                if !self.connected && !self.deps.holds(key.0, &key.1) {
                    let kept = self
                        .shelf
                        .as_mut()
                        .and_then(|shelf| shelf.get(key.0, &key.1));
                    restored |= kept.is_some_and(|kept| self.restore(&kept));
                }
                self.ads.subscribe(key.0, &key.1);
            }
            if !restored {
                break;
            }
        }
        self.publish();
        self.answer();
    }

    fn restore(&mut self, kept: &Kept) -> bool {
        match self.ads.restore(kept.ty, &kept.version, &kept.any) {
            Ok(resource) => {
                self.apply(resource);
                true
            }
            Err(refusal) => {
                tracing::warn!(name = kept.name, %refusal, "kept resource is not usable any more");
                false
            }
        }
    }

    fn compile(&mut self, name: &str, parts: &Parts) {
        self.changed = true;
        let find = |cluster: &str| parts.cluster(cluster);
        if name == INBOUND {
            match Inbound::compile(&parts.listener, &find, self.next.inbound.as_deref()) {
                Ok(inbound) => {
                    self.next.inbound = Some(Arc::new(inbound));
                    self.next.inbound_source = Some(Arc::clone(&parts.listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "inbound could not be compiled; the last form stays")
                }
            }
            self.works_for(&parts.listener);
            return;
        }
        let outbound = Arc::new(Outbound::compile(&parts.listener, parts.routes(), &find));
        if name == PASSTHROUGH {
            self.next.passthrough = outbound;
        } else if self.gateway_role {
            self.compile_gateway(&parts.listener, outbound);
        } else {
            self.next.outbound.insert(outbound.name.clone(), outbound);
        }
    }

    fn compile_gateway(&mut self, listener: &Listener, outbound: Arc<Outbound>) {
        let rbac: Vec<_> = https_of(listener)
            .next()
            .map(|http| http.rbac.clone())
            .unwrap_or_default();
        let (Some(address), Ok(authorizer)) = (listener.address, Authorizer::compile(&rbac)) else {
            tracing::warn!(
                name = listener.name,
                "a gateway's listener needs an address and valid policies"
            );
            return;
        };
        self.works_for(listener);
        let name = outbound.name.clone();
        let compiled = GatewayListener {
            name: name.clone(),
            address,
            outbound,
            authorizer,
        };
        self.next.gateway.insert(name, Arc::new(compiled));
    }

    fn works_for(&mut self, listener: &Listener) {
        if let Some(workload) = listener
            .workload
            .as_ref()
            .filter(|w| **w != *self.next.workload)
        {
            self.next.workload = Arc::new(WorkloadRef::clone(workload));
        }
    }

    fn publish(&mut self) {
        self.metrics
            .subscriptions
            .set(self.deps.subscriptions() as i64);
        if !self.changed {
            return;
        }
        self.changed = false;
        self.resolvers.follow(self.deps.clusters());
        self.next.generation += 1;
        self.next.clusters = self
            .deps
            .clusters()
            .iter()
            .map(|(name, c)| (Arc::from(name.as_str()), Arc::clone(c)))
            .collect();
        let principal = self
            .next
            .identity
            .as_ref()
            .map(|identity| identity.id().to_string());
        self.metrics
            .set_own(&self.next.workload, principal.as_deref());
        self.metrics
            .snapshot_generation
            .set(self.next.generation as i64);
        self.state.publish(self.next.clone());
    }

    fn answer(&mut self) {
        let found = &self.next.outbound;
        let metrics = &self.metrics;
        self.waiters.retain(|name, replies| {
            let Some(outbound) = found.get(name) else {
                return true;
            };
            metrics.demands.with_label_values(&["found"]).inc();
            for reply in replies.drain(..) {
                let _ = reply.send(Lookup::Found(Arc::clone(outbound)));
            }
            false
        });
    }
}

/// Who this proxy is as far as its flags say; the control plane knows more of a sidecar's workload.
fn named(role: &Role) -> WorkloadRef {
    let (Role::Sidecar { pod: own } | Role::Gateway { gateway: own }) = role;
    WorkloadRef {
        name: own.name.clone(),
        namespace: own.namespace.clone(),
        ..WorkloadRef::default()
    }
}

/// Held by nobody but this manager and the published snapshot.
fn unused(outbound: &Arc<Outbound>) -> bool {
    Arc::strong_count(outbound) <= 2
}

fn type_of(resource: &Resource) -> ResourceType {
    match resource {
        Resource::TrustBundle(_) => ResourceType::TrustBundle,
        Resource::Cluster(_) => ResourceType::Cluster,
        Resource::Endpoint(_) => ResourceType::Endpoint,
        Resource::Listener(_) => ResourceType::Listener,
        Resource::Route(_) => ResourceType::Route,
    }
}

/// Refuses what the codec can read but this proxy cannot compile.
fn check(resource: &Resource) -> Result<(), String> {
    match resource {
        Resource::Listener(listener) if listener.name == INBOUND => {
            Inbound::compile(listener, &|_| None, None)
                .map(drop)
                .map_err(|error| error.to_string())
        }
        Resource::Listener(listener) => https_of(listener).try_for_each(|http| {
            Authorizer::compile(&http.rbac)
                .map(drop)
                .map_err(|error| error.to_string())
        }),
        Resource::TrustBundle(bundle) => Roots::from_der(bundle.roots.clone())
            .map(drop)
            .map_err(|error| error.to_string()),
        Resource::Cluster(_) | Resource::Endpoint(_) | Resource::Route(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
