//! One address of a cluster and what this process knows of it.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tasuki_xds::model;
use tasuki_xds::model::endpoint::{Health, WorkloadRef};

use super::Cluster;
use crate::eject::Ejection;
use crate::observe::{Destination, Party};
use crate::reach::Reach;

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
    pub(super) config: u64,
    /// `istio` for a mesh peer.
    pub tls_mode: Option<String>,
    /// SPIFFE ids of which the server must show one.
    pub identities: Vec<String>,
    pub workload: WorkloadRef,
    /// Requests and TCP connections under way, over all workers.
    active: AtomicU32,
    pub ejection: Ejection,
    /// Shared with the same endpoint under another weight: connections that are being made know only one of them.
    pub reach: Arc<Reach>,
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
            reach: Arc::default(),
            destination: OnceLock::new(),
        }
    }

    /// The same endpoint with another weight or health; pooled connections and ejection go on.
    pub(super) fn changed(&self, model: &model::Endpoint) -> Self {
        Self {
            id: self.id,
            // Requests under way keep counting on the old value: the new one starts from its load and may be a little
            // high until they end elsewhere, which self-corrects because they are few.
            active: AtomicU32::new(0),
            ejection: self.ejection.clone_state(),
            reach: self.reach.clone(),
            ..Self::new(model)
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
pub(super) fn identity_of(model: &model::Endpoint) -> u64 {
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

/// A chosen endpoint and a place in its load, given back on drop.
#[derive(Debug)]
pub struct Picked {
    pub endpoint: Arc<Endpoint>,
}

impl Picked {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}
