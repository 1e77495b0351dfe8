//! Clusters at run time: the endpoints of the moment behind one `ArcSwap`, and atomics for what all workers share.
//!
//! An endpoint that stays the same over an update keeps its load, its ejection and its pooled connections; a cluster whose
//! definition changes keeps its endpoints ([`Cluster::updated`]).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tasuki_xds::model;
use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::endpoint::{Health, WorkloadRef};
use tokio::time::Instant;

use crate::balance::{self, EndpointSet};
use crate::breaker::Breaker;
use crate::eject::{self, Ejection};
use crate::error::Error;
use crate::observe::{Destination, Party};

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
    arrived: tokio::sync::watch::Sender<bool>,
    originals: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
}

/// One address of a cluster. Two clusters with the same address have two endpoints.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in the process: the key of pools.
    pub id: u64,
    pub address: SocketAddr,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
    /// Hash of everything that must stay the same for pooled connections to be used on.
    config: u64,
    /// `istio` for a mesh peer.
    pub tls_mode: Option<String>,
    /// SPIFFE ids of which the server must show one.
    pub identities: Vec<String>,
    pub workload: WorkloadRef,
    /// Requests and TCP connections under way, over all workers.
    active: AtomicU32,
    pub ejection: Ejection,
    destination: OnceLock<Arc<Destination>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// An endpoint that nothing is known of but its address.
    pub fn plain(address: SocketAddr) -> Self {
        Self::new(&model::Endpoint {
            address,
            weight: 1,
            health: Health::Healthy,
            tls_mode: None,
            identities: Vec::new(),
            workload: WorkloadRef::default(),
        })
    }

    /// The run-time form of `model`, with a new id.
    pub fn new(model: &model::Endpoint) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address: model.address,
            weight: model.weight.max(1),
            health: model.health,
            config: identity_of(model),
            tls_mode: model.tls_mode.clone(),
            identities: model.identities.clone(),
            workload: model.workload.clone(),
            active: AtomicU32::new(0),
            ejection: Ejection::default(),
            destination: OnceLock::new(),
        }
    }

    /// Requests and connections under way.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// What metrics and logs say of it; made once.
    pub fn destination(&self, cluster: &Cluster) -> Arc<Destination> {
        let make = || {
            // Only when the endpoint can be but one is it known who answered.
            let principal = match self.identities.as_slice() {
                [only] => Some(only.as_str().into()),
                _ => None,
            };
            let party = Party {
                workload: self.workload.clone(),
                principal,
            };
            Arc::new(Destination {
                party,
                service: cluster.config.service.clone(),
            })
        };
        self.destination.get_or_init(make).clone()
    }

    /// Whether the workload behind it speaks mesh TLS.
    pub fn is_meshed(&self) -> bool {
        self.tls_mode.as_deref() == Some("istio")
    }
}

/// What of an endpoint decides whether an old one can be kept: everything but its weight and health.
fn identity_of(model: &model::Endpoint) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    (
        model.address,
        &model.tls_mode,
        &model.identities,
        &model.workload,
    )
        .hash(&mut hasher);
    hasher.finish()
}

fn security_of(config: &model::Cluster) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    // The model's own text: it changes with every field, those added later included.
    format!("{:?} {:?}", config.tls, config.http).hash(&mut hasher);
    hasher.finish()
}

/// A chosen endpoint and a place in its load, given back on drop.
#[derive(Debug)]
pub struct Picked {
    pub endpoint: Arc<Endpoint>,
}

impl Picked {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
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
        let ejected = set
            .all()
            .filter(|endpoint| endpoint.ejection.is_marked())
            .count();
        self.shared.ejected.store(
            u32::try_from(ejected).unwrap_or(u32::MAX),
            Ordering::Relaxed,
        );
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
        let now = if self.shared.ejected.load(Ordering::Relaxed) == 0 {
            None
        } else {
            Some(self.now())
        };
        if let Some(now) = now {
            self.readmit(&set, now);
        }
        let endpoint = balance::pick(&set, &self.config, &self.shared.turn, avoid, now)?;
        Ok(Picked::new(endpoint))
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

impl Endpoint {
    /// The same endpoint with another weight or health; pooled connections and ejection go on.
    fn changed(&self, model: &model::Endpoint) -> Self {
        Self {
            id: self.id,
            // Requests under way keep counting on the old value: the new one starts from its load and may be a little
            // high until they end elsewhere, which self-corrects because they are few.
            active: AtomicU32::new(0),
            ejection: self.ejection.clone_state(),
            ..Self::new(model)
        }
    }
}
