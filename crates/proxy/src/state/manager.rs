//! Everything that changes: takes what the control plane says and what workers ask for, and publishes snapshots.
//!
//! Lives on the control thread. Knows no sockets: `state/client.rs` moves the messages, so tests drive it by hand. The
//! destinations that are known are the affair of `manager/names.rs`, the state dir that of `manager/keep.rs`, what the
//! request path reads that of `manager/compile.rs`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tasuki_identity::{Roots, WorkloadCertificate};
use tasuki_xds::client::{AdsClient, Event, Update};
use tasuki_xds::model::endpoint::WorkloadRef;
use tasuki_xds::model::{Resource, ResourceType, TrustBundle};
use tasuki_xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::time::Instant;

mod compile;
mod departed;
mod keep;
mod names;
mod waiters;

use self::departed::Departed;
use self::waiters::Waiters;
use super::demand::RateLimit;
use super::dependencies::{Dependencies, INBOUND, Key, PASSTHROUGH};
use super::persist::{Kept, Shelf, type_name};
use super::resolve::Resolvers;
use super::snapshot::Snapshot;
use super::{ListenerName, Lookup, State};
use crate::identity::Identity;
use crate::observe::Metrics;
use crate::settings::Role;

/// How often idle destinations are looked for.
const SWEEP: Duration = Duration::from_secs(30);

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
    waiters: Waiters,
    departed: Departed,
    rate: RateLimit,
    certificate: Option<WorkloadCertificate>,
    resolvers: Resolvers,
    shelf: Shelf,
    /// What the shelf does not have yet; `None` is a removal.
    unsaved: HashMap<Key, Option<Kept>>,
    /// The last write failed.
    writes_fail: bool,
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
        let mut manager = Manager {
            ads: ads.with_check(Box::new(compile::check)),
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
            waiters: Waiters::default(),
            departed: Departed::default(),
            rate: RateLimit::new(names::NEW_NAMES_PER_SECOND, now.into_std()),
            certificate: None,
            resolvers: Resolvers::default(),
            shelf: Shelf::open(state_dir),
            unsaved: HashMap::new(),
            writes_fail: false,
            next_sweep: now + SWEEP,
            next_flush: now + keep::FLUSH,
        };
        manager.start(now);
        manager
    }

    fn start(&mut self, now: Instant) {
        self.ads.subscribe_all(ResourceType::TrustBundle);
        self.ads.subscribe_all(ResourceType::ProxySettings);
        for ty in [ResourceType::TrustBundle, ResourceType::ProxySettings] {
            for kept in self.shelf.all(ty) {
                self.restore(&kept);
            }
        }
        if self.gateway_role {
            self.ads.subscribe_all(ResourceType::Listener);
            for listener in self.shelf.all(ResourceType::Listener) {
                self.restore(&listener);
            }
        } else {
            let own = format!(
                "{}/{}",
                self.next.workload.namespace, self.next.workload.name
            );
            self.ads.subscribe(ResourceType::Departure, &own);
            self.deps.add_root(INBOUND);
            self.deps.add_root(PASSTHROUGH);
        }
        self.settle(now);
    }

    /// A stream is being opened: everything wanted is asked for on it.
    pub fn on_opening(&mut self) {
        self.ads.connected();
    }

    /// The control plane accepted the stream.
    pub fn on_connected(&mut self, now: Instant) {
        self.connected = true;
        self.deps.connected(now);
        self.ask_again_for_departed(now);
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
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse, now: Instant) {
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
                Event::Removed { ty, name } => self.removed(ty, &name, now),
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
        // News of this moment, which an old form would belie.
        if key.0 != ResourceType::Departure {
            self.remember(key, Some(kept));
        }
        self.apply(resource);
    }

    fn apply(&mut self, resource: Resource) {
        match resource {
            Resource::TrustBundle(bundle) => self.trusts(bundle),
            Resource::Departure(departure) => self.state.set_departure(Some(departure)),
            Resource::ProxySettings(settings) => self.state.set_settings(settings),
            Resource::Cluster(cluster) => self.deps.put_cluster(&cluster),
            Resource::Endpoint(assignment) => drop(self.deps.put_endpoints(assignment)),
            Resource::Route(routes) => self.deps.put_routes(routes),
            Resource::Listener(listener) => {
                if self.gateway_role {
                    self.deps.add_root(&listener.name);
                }
                self.listener_arrived(&listener.name);
                self.deps.put_listener(listener);
            }
        }
    }

    fn removed(&mut self, ty: ResourceType, name: &str, now: Instant) {
        // The workload's own Listeners outlive its Pod object: a Pod is deleted before its process has drained.
        if ty == ResourceType::Listener && (name == INBOUND || name == PASSTHROUGH) {
            tracing::info!(
                name,
                "the control plane no longer has this; the last form stays"
            );
            return;
        }
        self.remember((ty, name.to_owned()), None);
        match ty {
            ResourceType::Listener => self.listener_removed(name, now),
            ResourceType::TrustBundle | ResourceType::ProxySettings | ResourceType::Secret => {}
            ResourceType::Departure => self.state.set_departure(None),
            ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Route => {
                self.deps.declare_absent(ty, name)
            }
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
                let name = ListenerName::exact(name);
                self.waiters.answer(&name, &Lookup::Disconnected);
                if self.departed.remove(&name) {
                    // It is back, but not as it could be used: whoever asks from now on is told the same.
                    self.deps.remove_root(name.as_str());
                    self.state.negative().remove(&name);
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
                self.listener_overdue(&name, now);
            }
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep(now);
        }
        self.flush(now);
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
                    restored |= self.restore_named(key.0, &key.1);
                }
                self.ads.subscribe(key.0, &key.1);
            }
            if !restored {
                break;
            }
        }
        self.metrics
            .subscriptions
            .set(self.deps.subscriptions() as i64);
        self.metrics.state_unsaved.set(self.unsaved.len() as i64);
        self.publish();
        self.answer();
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

fn type_of(resource: &Resource) -> ResourceType {
    match resource {
        Resource::TrustBundle(_) => ResourceType::TrustBundle,
        Resource::ProxySettings(_) => ResourceType::ProxySettings,
        Resource::Cluster(_) => ResourceType::Cluster,
        Resource::Endpoint(_) => ResourceType::Endpoint,
        Resource::Listener(_) => ResourceType::Listener,
        Resource::Route(_) => ResourceType::Route,
        Resource::Departure(_) => ResourceType::Departure,
    }
}

#[cfg(test)]
mod tests;
