//! Workloads: what Pods say about who runs where.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tasuki_identity::{SpiffeId, TrustDomain};
pub use tasuki_kubernetes::names::{PROXY_ANNOTATION, TLS_MODE, TLS_MODE_LABEL};
use tasuki_resources::core::pod::Phase;
use tasuki_resources::core::service::Transport;
use tasuki_resources::{NamespacedName, Pod};
use tasuki_xds::model::endpoint::WorkloadRef;

use super::shared_map::SharedMap;

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub id: NamespacedName,
    /// Files have none.
    pub uid: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    pub addresses: Vec<IpAddr>,
    /// The addresses are the node's, and so not only its own.
    pub host_network: bool,
    /// Its containers have ended, and its addresses may be another's.
    pub ended: bool,
    pub state: State,
    /// Its sidecar speaks mesh TLS.
    pub meshed: bool,
    /// Named container ports.
    pub ports: BTreeMap<String, u16>,
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub identity: String,
    /// For metrics.
    pub reference: WorkloadRef,
}

/// Whether a pod gets traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    NotReady,
    /// Being deleted: nothing new.
    Draining,
}

/// All pods, by name and by address.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    by_name: SharedMap<NamespacedName, Arc<Workload>>,
    /// All that claim an address, in order of their names.
    by_address: SharedMap<IpAddr, Vec<Arc<Workload>>>,
}

impl Workloads {
    /// The pod of this name is this one now, or gone. Returns what it was.
    pub(super) fn put(
        &mut self,
        name: &NamespacedName,
        now: Option<&Arc<Workload>>,
    ) -> Option<Arc<Workload>> {
        let before = match now {
            Some(workload) => self.by_name.insert(name.clone(), workload.clone()),
            None => self.by_name.remove(name),
        };
        for address in before.iter().flat_map(|workload| workload.claims()) {
            self.by_address
                .edit(address, |claims| claims.retain(|other| other.id != *name));
        }
        if let Some(workload) = now {
            for address in workload.claims() {
                self.by_address.edit(address, |claims| {
                    if let Err(place) = claims.binary_search_by(|other| other.id.cmp(name)) {
                        claims.insert(place, workload.clone());
                    }
                });
            }
        }
        before
    }

    pub fn get(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        self.by_name.get(id)
    }

    /// All pods that claim an address, of which [`Self::at`] has it.
    pub(super) fn claiming(&self, address: IpAddr) -> &[Arc<Workload>] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The first pod that claims an address has it, except that a live pod takes it from those that are ending.
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let claims = self.claiming(address);
        let live = claims.iter().find(|w| w.state != State::Draining);
        live.or(claims.last())
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_name.iter().map(|(_, workload)| workload)
    }
}

impl Workload {
    /// Addresses by which it can be found.
    fn claims(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter().filter(|_| !self.host_network)
    }

    /// Whether the pod has this address, as far as is known: a file may leave a Pod's status to Kubernetes. A Pod of a cluster that
    /// has none yet is not at the address of the one before it.
    pub fn is_at(&self, address: IpAddr) -> bool {
        let unsaid = self.addresses.is_empty() && self.uid.is_none();
        !self.ended && (unsaid || self.addresses.contains(&address))
    }

    /// What a Pod says. Pods on the host's network share its address with others and cannot be told apart by it.
    pub fn from_pod(pod: &Pod, trust_domain: &TrustDomain) -> Self {
        let id = pod.meta.name.clone();
        let labels = pod.meta.labels.clone();
        let ended = matches!(pod.phase, Phase::Succeeded | Phase::Failed);
        let state = match (pod.meta.deleting, pod.ready && !ended) {
            (true, _) => State::Draining,
            (false, true) => State::Ready,
            (false, false) => State::NotReady,
        };
        let meshed = labels
            .get(TLS_MODE_LABEL)
            .is_some_and(|mode| mode == TLS_MODE)
            && pod.meta.annotations.contains_key(PROXY_ANNOTATION);
        let controller = pod
            .controller
            .as_ref()
            .map(|(kind, name)| (kind.as_str(), name.as_str()));
        let owner = owner_name(&id.name, controller, &labels);
        let named = pod
            .containers
            .iter()
            .flat_map(|c| &c.ports)
            .filter(|p| p.transport == Transport::Tcp);
        Self {
            reference: reference(&id, &labels, &pod.service_account, &owner),
            // A namespace and an account that Kubernetes accepts always make an id.
            identity: SpiffeId::new(trust_domain, &id.namespace, &pod.service_account)
                .map(|id| id.to_string())
                .unwrap_or_default(),
            uid: pod.meta.uid.clone(),
            service_account: pod.service_account.clone(),
            host_network: pod.host_network,
            ended,
            addresses: if ended { Vec::new() } else { pod.ips.clone() },
            state,
            meshed,
            ports: named
                .filter(|p| !p.name.is_empty())
                .map(|p| (p.name.clone(), p.port))
                .collect(),
            labels,
            id,
        }
    }
}

/// Istio's standard labels of a workload, from a pod's own.
pub fn reference(
    id: &NamespacedName,
    labels: &BTreeMap<String, String>,
    service_account: &str,
    owner: &str,
) -> WorkloadRef {
    let label = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name))
            .cloned()
            .unwrap_or_default()
    };
    let app = label(&["app", "app.kubernetes.io/name"]);
    let canonical = label(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    let revision = label(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ]);
    WorkloadRef {
        name: owner.to_owned(),
        namespace: id.namespace.clone(),
        service_account: service_account.to_owned(),
        app,
        version: label(&["version", "app.kubernetes.io/version"]),
        canonical_service: if canonical.is_empty() {
            owner.to_owned()
        } else {
            canonical
        },
        canonical_revision: if revision.is_empty() {
            "latest".to_owned()
        } else {
            revision
        },
        cluster: "Kubernetes".to_owned(),
    }
}

/// The name of what made a pod: `cart-7d9f8b6c5-x2x9z` of a ReplicaSet belongs to `cart`. Without an
/// owner the pod stands for itself.
pub fn owner_name(
    pod: &str,
    owner: Option<(&str, &str)>,
    labels: &BTreeMap<String, String>,
) -> String {
    match owner {
        Some(("ReplicaSet", name)) => match labels.get("pod-template-hash") {
            Some(hash) => name
                .strip_suffix(hash.as_str())
                .and_then(|n| n.strip_suffix('-'))
                .unwrap_or(name)
                .to_owned(),
            None => name.to_owned(),
        },
        Some((_, name)) => name.to_owned(),
        None => pod.to_owned(),
    }
}
