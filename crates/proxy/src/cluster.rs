//! Clusters at run time: the endpoints of the moment behind one `ArcSwap`, and atomics for what all workers share.
//!
//! An endpoint that stays the same over an update keeps its load, its ejection and its pooled connections; a cluster whose
//! definition changes keeps its endpoints ([`Cluster::updated`]).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tasuki_xds::model;
use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::endpoint::{Health, WorkloadRef};
use tokio::time::Instant;

use crate::balance::{self, EndpointSet, LeftOut};
use crate::breaker::Breaker;
use crate::eject;
use crate::error::Error;
use crate::reach::Reach;

mod endpoint;

use self::endpoint::identity_of;
pub use self::endpoint::{Endpoint, Picked};

/// Original destinations that one cluster remembers at a time; beyond, the oldest are forgotten.
const ORIGINAL_DESTINATIONS: usize = 4_096;

/// Envoy's and Istio's default for idle connections.
const IDLE: Duration = Duration::from_secs(3_600);

/// A set of endpoints and how to use it.
#[derive(Debug)]
pub struct Cluster {
    /// The definition as it was accepted.
    pub config: model::Cluster,
    /// Hash of how connections are secured: changed, pooled connections are not used on.
    security: u64,
    /// What all definitions of this cluster share.
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: ArcSwap<EndpointSet>,
    /// The assignment as it came, so that it can be dumped.
    assignment: ArcSwap<model::ClusterLoadAssignment>,
    breaker: Breaker,
    /// Round robin.
    turn: AtomicUsize,
    /// Time zero of the ejection clock.
    epoch: Instant,
    /// Endpoints that are out, or whose time is up but who have not been chosen since: while 0, nobody looks at a clock.
    ejected: AtomicU32,
    /// Ejections so far.
    ejections: AtomicU64,
    /// Endpoints that cannot be reached: while 0, nobody looks for them.
    unreachable: AtomicU32,
    /// When the first of them may be tried again.
    look: AtomicU64,
    arrived: tokio::sync::watch::Sender<bool>,
    originals: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
}

fn security_of(config: &model::Cluster) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    // The model's own text: it changes with every field, those added later included.
    format!("{:?} {:?}", config.tls, config.http).hash(&mut hasher);
    hasher.finish()
}

impl Cluster {
    /// A cluster without history. `Static` endpoints are there at once; `Eds` and `Dns` wait for [`Cluster::update`] or
    /// [`Cluster::set_addresses`].
    pub fn new(config: &model::Cluster) -> Self {
        let cluster = Self {
            config: config.clone(),
            security: security_of(config),
            shared: Arc::new(Shared {
                endpoints: ArcSwap::from_pointee(EndpointSet::default()),
                assignment: ArcSwap::from_pointee(model::ClusterLoadAssignment {
                    cluster: config.name.clone(),
                    localities: Vec::new(),
                }),
                breaker: Breaker::default(),
                turn: AtomicUsize::new(0),
                epoch: Instant::now(),
                ejected: AtomicU32::new(0),
                ejections: AtomicU64::new(0),
                unreachable: AtomicU32::new(0),
                look: AtomicU64::new(0),
                arrived: tokio::sync::watch::Sender::new(false),
                originals: Mutex::default(),
            }),
        };
        match &config.discovery {
            Discovery::Static(addresses) => cluster.set_addresses(addresses),
            Discovery::OriginalDestination { .. } => {
                cluster.shared.arrived.send_replace(true);
            }
            Discovery::Eds { .. } | Discovery::Dns { .. } => {}
        }
        cluster
    }

    /// The same cluster with a new definition: endpoints, load and ejections go on.
    pub fn updated(&self, config: &model::Cluster) -> Self {
        if std::mem::discriminant(&config.discovery)
            != std::mem::discriminant(&self.config.discovery)
        {
            return Self::new(config);
        }
        let cluster = Self {
            config: config.clone(),
            security: security_of(config),
            shared: self.shared.clone(),
        };
        if let Discovery::Static(addresses) = &config.discovery {
            cluster.set_addresses(addresses);
        }
        cluster
    }

    /// Hash of how connections are secured.
    pub fn security(&self) -> u64 {
        self.security
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// How long a pooled connection may be idle. Zero in the definition is no limit (Envoy `idle_timeout`).
    pub fn idle_timeout(&self) -> Duration {
        match self.config.idle_timeout {
            None => IDLE,
            Some(Duration::ZERO) => Duration::MAX,
            Some(timeout) => timeout,
        }
    }

    /// Takes new endpoints over. Those that did not change keep their load and ejection.
    pub fn update(&self, assignment: &model::ClusterLoadAssignment) {
        let old = self.shared.endpoints.load();
        let mut kept: HashMap<u64, Arc<Endpoint>> = old
            .all()
            .map(|endpoint| (endpoint.config, endpoint.clone()))
            .collect();
        let set = EndpointSet::build(assignment, |endpoint| {
            match kept.remove(&identity_of(endpoint)) {
                Some(old)
                    if old.weight == endpoint.weight.max(1) && old.health == endpoint.health =>
                {
                    old
                }
                Some(old) => Arc::new(old.changed(endpoint)),
                None => Arc::new(Endpoint::new(endpoint)),
            }
        });
        count(&self.shared.ejected, &set, |endpoint| {
            endpoint.ejection.is_marked()
        });
        self.count_unreachable(&set);
        self.shared.endpoints.store(Arc::new(set));
        self.shared.assignment.store(Arc::new(assignment.clone()));
        self.shared.arrived.send_replace(true);
    }

    /// As [`Cluster::update`], for bare addresses: `Static`, or the answer of a resolver.
    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        let endpoints = addresses
            .iter()
            .map(|address| model::Endpoint {
                address: *address,
                weight: 1,
                health: Health::Healthy,
                tls_mode: None,
                identities: Vec::new(),
                workload: WorkloadRef::default(),
            })
            .collect();
        let locality = model::endpoint::Locality {
            endpoints,
            ..Default::default()
        };
        self.update(&model::ClusterLoadAssignment {
            cluster: self.config.name.clone(),
            localities: vec![locality],
        });
    }

    /// The resolver failed and there was never an answer: requests fail instead of waiting.
    pub fn resolution_failed(&self) {
        self.shared.arrived.send_replace(true);
    }

    /// Resolves when endpoints have arrived once, an empty set included.
    pub async fn arrived(&self) {
        let mut arrived = self.shared.arrived.subscribe();
        // The sender lives as long as `self`.
        let _ = arrived.wait_for(|arrived| *arrived).await;
    }

    /// Waits for a cluster that has just been named and may not have its endpoints yet, as long as for a connection.
    pub async fn endpoints_known(&self) {
        if !self.has_arrived() {
            // Afterwards `pick` says what is the matter.
            drop(tokio::time::timeout(self.config.connect_timeout, self.arrived()).await);
        }
    }

    /// Whether endpoints have arrived once.
    pub fn has_arrived(&self) -> bool {
        *self.shared.arrived.borrow()
    }

    /// The endpoints of this moment.
    pub fn endpoints(&self) -> Guard<Arc<EndpointSet>> {
        self.shared.endpoints.load()
    }

    /// The assignment of this moment, as it came.
    pub fn assignment(&self) -> Arc<model::ClusterLoadAssignment> {
        self.shared.assignment.load_full()
    }

    /// How many ejections there were since the cluster appeared.
    pub fn ejections(&self) -> u64 {
        self.shared.ejections.load(Ordering::Relaxed)
    }

    pub fn breaker(&self) -> &Breaker {
        &self.shared.breaker
    }

    /// Milliseconds of the ejection clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Chooses an endpoint and takes a place in its load. `avoid` lists endpoint ids already tried; they are taken when
    /// several draws find nothing else. An original-destination cluster needs `original`.
    pub fn pick(&self, avoid: &[u64], original: Option<SocketAddr>) -> Result<Picked, Error> {
        if matches!(self.config.discovery, Discovery::OriginalDestination { .. }) {
            return original
                .map(|address| self.pick_original(address))
                .ok_or(Error::NoHealthyUpstream);
        }
        let set = self.shared.endpoints.load();
        let out = self.left_out();
        if let Some(now) = out.ejected {
            self.readmit(&set, now);
        }
        let pick = |out| balance::pick(&set, &self.config, &self.shared.turn, avoid, out);
        let picked = match pick(out) {
            // Nobody else is left: whoever connects may know better by now, and tells what is the matter.
            Err(_) if out.unreachable => pick(LeftOut {
                unreachable: false,
                ..out
            }),
            picked => picked,
        };
        picked.map(Picked::new)
    }

    fn left_out(&self) -> LeftOut {
        let ejected = self.shared.ejected.load(Ordering::Relaxed) != 0;
        LeftOut {
            ejected: ejected.then(|| self.now()),
            unreachable: self.shared.unreachable.load(Ordering::Relaxed) != 0,
        }
    }

    /// The endpoint for an original destination.
    pub fn pick_original(&self, address: SocketAddr) -> Picked {
        let mut originals = self
            .shared
            .originals
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if originals.len() >= ORIGINAL_DESTINATIONS && !originals.contains_key(&address) {
            originals.retain(|_, endpoint| endpoint.active() > 0);
            if originals.len() >= ORIGINAL_DESTINATIONS {
                originals.clear();
            }
        }
        let endpoint = originals
            .entry(address)
            .or_insert_with(|| Arc::new(Endpoint::plain(address)))
            .clone();
        Picked::new(endpoint)
    }

    /// Counts the result of an attempt; may eject the endpoint.
    pub fn observe(&self, endpoint: &Endpoint, result: eject::Outcome) {
        let Some(config) = &self.config.outliers else {
            return;
        };
        if !endpoint.ejection.count(config, result) {
            return;
        }
        let set = self.shared.endpoints.load();
        let now = self.now();
        let out = set.all().filter(|other| other.ejection.is_out(now)).count();
        if eject::may_eject(config, out, set.len()) && endpoint.ejection.eject(config, now) {
            self.shared.ejected.fetch_add(1, Ordering::Relaxed);
            self.shared.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::info!(cluster = %self.config.name, endpoint = %endpoint.address, "endpoint ejected");
        }
    }

    /// No connection to `endpoint` could be made: it is left out until one can, unless others are open.
    pub fn connect_failed(&self, endpoint: &Endpoint, error: &Error) {
        if self.leave_out(endpoint, |reach, now| reach.failed(now, balance::random())) {
            tracing::info!(cluster = %self.config.name, endpoint = %endpoint.address, error = %error.reason(), "endpoint cannot be connected to");
        }
    }

    /// The peer at `endpoint` cannot connect to its application.
    pub fn application_away(&self, endpoint: &Endpoint) {
        self.leave_out(endpoint, |reach, now| reach.away(now, balance::random()));
    }

    /// The peer at `endpoint` has said that it leaves.
    pub fn leaves(&self, endpoint: &Endpoint) {
        if self.leave_out(endpoint, Reach::leaves) {
            tracing::debug!(cluster = %self.config.name, endpoint = %endpoint.address, "endpoint leaves");
        }
    }

    fn leave_out(&self, endpoint: &Endpoint, mark: impl FnOnce(&Reach, u64) -> bool) -> bool {
        let set = self.shared.endpoints.load();
        // Original destinations, those that are gone by now, and one that is alone: there is nothing to leave it out of.
        if set.len() < 2 || set.all().all(|other| other.id != endpoint.id) {
            return false;
        }
        let first = mark(&endpoint.reach, self.now());
        self.count_unreachable(&set);
        self.look_by(endpoint.reach.again());
        first
    }

    /// An endpoint of [`Cluster::to_try_again`] cannot be connected to yet.
    pub fn connect_failed_again(&self, endpoint: &Endpoint) {
        endpoint.reach.failed_again(self.now(), balance::random());
        self.look_by(endpoint.reach.again());
    }

    /// A connection to `endpoint` has been made.
    pub fn connected(&self, endpoint: &Endpoint) {
        let before = self.shared.unreachable.load(Ordering::Relaxed) as usize;
        let now = self.now();
        if before == 0 || !endpoint.reach.succeeded(now) {
            return;
        }
        let set = self.shared.endpoints.load();
        self.count_unreachable(&set);
        if before >= set.len() {
            // All were out, this one is the first that is back and would get everything until the others' pauses are over.
            set.all().for_each(|other| other.reach.hurry(now));
            self.look_by(now);
        }
        tracing::info!(cluster = %self.config.name, endpoint = %endpoint.address, "endpoint can be connected to again");
    }

    /// Counted, not added up: whatever came in between, the next failure puts it right.
    fn count_unreachable(&self, set: &EndpointSet) {
        count(&self.shared.unreachable, set, |endpoint| {
            endpoint.reach.is_out()
        });
    }

    fn look_by(&self, time: u64) {
        self.shared.look.fetch_min(time, Ordering::Relaxed);
    }

    /// Whether requests have somewhere else to go than to the endpoints in `tried`.
    pub fn has_others(&self, tried: &[u64]) -> bool {
        let set = self.shared.endpoints.load();
        let out = self.left_out();
        set.all().any(|endpoint| {
            endpoint.health == Health::Healthy
                && !out.has(endpoint)
                && !tried.contains(&endpoint.id)
        })
    }

    /// The endpoint that has been due longest to be tried again, for one caller, who connects to it and tells how that went.
    pub fn to_try_again(&self) -> Option<Arc<Endpoint>> {
        if self.shared.unreachable.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.now();
        if now < self.shared.look.load(Ordering::Relaxed) {
            return None;
        }
        let limit = u64::try_from(self.config.connect_timeout.as_millis()).unwrap_or(u64::MAX);
        let set = self.shared.endpoints.load();
        let out = || set.all().filter(|endpoint| endpoint.reach.is_out());
        let due = out()
            .min_by_key(|endpoint| endpoint.reach.again())
            .filter(|endpoint| endpoint.reach.claim(now, limit));
        // Not every request looks through all endpoints while one is out.
        let next = out().map(|endpoint| endpoint.reach.again()).min();
        self.shared.look.store(next.unwrap_or(0), Ordering::Relaxed);
        due.cloned()
    }

    /// Takes back those whose time is up.
    fn readmit(&self, set: &EndpointSet, now: u64) {
        for endpoint in set.all() {
            if endpoint.ejection.readmit(now) {
                // Never below zero: an update may have set the count anew in between.
                let _ =
                    self.shared
                        .ejected
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                tracing::info!(cluster = %self.config.name, endpoint = %endpoint.address, "endpoint back");
            }
        }
    }
}

/// Sets `counter` to how many endpoints of `set` are `marked`.
fn count(counter: &AtomicU32, set: &EndpointSet, marked: impl Fn(&Endpoint) -> bool) {
    let marked = set.all().filter(|endpoint| marked(endpoint)).count();
    counter.store(u32::try_from(marked).unwrap_or(u32::MAX), Ordering::Relaxed);
}
