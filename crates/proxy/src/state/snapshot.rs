//! The configuration of one moment, as the request path reads it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tasuki_xds::model::Listener;
use tasuki_xds::model::endpoint::WorkloadRef;

use super::{ListenerName, Outbound};
use crate::cluster::Cluster;
use crate::fast_map::FastMap;
use crate::identity::Identity;
use crate::inbound::Inbound;

/// Never changes; a newer one replaces it.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows with each snapshot. A connection that cached an [`Outbound`] looks again when this moved.
    pub generation: u64,
    pub outbound: FastMap<ListenerName, Arc<Outbound>>,
    /// The workload's own ports; `None` until the control plane has said.
    pub inbound: Option<Arc<Inbound>>,
    /// What `inbound` was compiled from, for the dump.
    pub inbound_source: Option<Arc<Listener>>,
    /// What to do with destinations that nobody knows.
    pub passthrough: Arc<Outbound>,
    /// What a gateway binds, by listener name.
    pub gateway: HashMap<ListenerName, Arc<GatewayListener>>,
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Certificate and roots; `None` until the first certificate.
    pub identity: Option<Arc<Identity>>,
    /// Who this proxy is, for metrics and peers.
    pub workload: Arc<WorkloadRef>,
}

/// A gateway's bound listener: what to do with its connections.
pub struct GatewayListener {
    pub name: ListenerName,
    pub address: SocketAddr,
    pub outbound: Arc<Outbound>,
    /// RBAC of AuthorizationPolicies that select the gateway.
    pub authorizer: crate::authorize::Authorizer,
}

impl Snapshot {
    /// Before anything has arrived: refuses.
    pub fn empty() -> Snapshot {
        Snapshot {
            generation: 0,
            outbound: FastMap::default(),
            inbound: None,
            inbound_source: None,
            passthrough: Outbound::refuse(),
            gateway: HashMap::new(),
            clusters: HashMap::new(),
            identity: None,
            workload: Arc::new(WorkloadRef::default()),
        }
    }
}
