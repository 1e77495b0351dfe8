//! Pods that leave, and whether everybody knows: what their own sidecars are told as `Departure`.
//!
//! A Pod's application may end when nobody sends to it any more. In the mesh that is so when every client that had the Pod
//! as an endpoint has acknowledged endpoints of a state in which it gets nothing new: drained, or gone. So for each Pod that
//! leaves, the generation of the catalog in which it first does is kept, with the hosts that it served; a client whose
//! endpoints of those hosts are all of that generation or later knows.
//!
//! A replica sees its own clients only, so replicas tell each other what theirs know ([`replicas`]); the Pod is told that all
//! know it when all replicas have said so. Clients of a replica that cannot be asked are given [`OTHER_REPLICAS`]: it hears of
//! the deletion from the same API server at the same moment.

mod others;
pub mod replicas;
mod proto {
    //! Written by tonic-prost-build.
    #![allow(missing_docs, unused_qualifications)]
    tonic::include_proto!("tasuki.control.v1");
}

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tasuki_kubernetes::names;
use tasuki_resources::NamespacedName;
use tasuki_resources::host::service_host;
use tasuki_xds::model::endpoint::Health;
use tasuki_xds::model::{Departure, ResourceType};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::ads::{Clients, NsName};
use crate::mesh::workloads::Workload;
use crate::mesh::{Join, Mesh};
use crate::snapshot::Name;
use crate::timer::reach;
use others::{Others, Told};
use proto::SettledResponse;

/// After the start nothing is acknowledged for so long: clients of the process before this one, which hold endpoints too,
/// are still on their way back. So are those of a replica that has gone. Their longest wait between two tries is 5 s.
const RETURNING: Duration = Duration::from_secs(10);

/// For the clients of a replica that cannot be asked: several times what a push takes when all is well, and a part of what a preStop may wait.
const OTHER_REPLICAS: Duration = Duration::from_secs(3);

/// Acknowledgements come in swarms; each swarm is looked at once.
const SWARM: Duration = Duration::from_millis(10);

/// Types that carry endpoints.
const CARRIERS: [ResourceType; 2] = [ResourceType::Endpoint, ResourceType::Cluster];

/// All Pods that leave.
#[derive(Debug)]
pub struct Departures {
    leaving: Mutex<BTreeMap<NsName, Leaving>>,
    others: Mutex<Others>,
    /// Where replicas are declared.
    replicas: watch::Sender<BTreeSet<SocketAddr>>,
    started: Instant,
    /// Something has happened that may complete an acknowledgement.
    work: Notify,
    /// Counts what this replica's clients have come to know, or has been forgotten.
    settled: watch::Sender<u64>,
    /// Counts completed acknowledgements.
    told: watch::Sender<u64>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaving {
    uid: Option<String>,
    addresses: Vec<IpAddr>,
    /// The first generation in which it gets nothing new. Where it is the last that serves, it still does.
    since: Option<u64>,
    /// Hosts of which it was an endpoint.
    hosts: BTreeSet<String>,
    /// Clients of replicas that cannot be asked know by then.
    others_know: Instant,
    /// All clients of this replica know.
    settled: bool,
    /// And all others.
    acknowledged: bool,
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            leaving: Mutex::default(),
            others: Mutex::default(),
            replicas: watch::Sender::default(),
            started: Instant::now(),
            work: Notify::new(),
            settled: watch::Sender::new(0),
            told: watch::Sender::new(0),
        }
    }
}

impl Departures {
    /// `after` follows `before` and is published as `generation`.
    pub fn follow(&self, before: Option<&Mesh>, after: &Mesh, generation: u64) {
        self.declare(replicas_of(after));
        let mut known = self.lock();
        let (mut new, mut ended) = (Vec::new(), false);
        for id in candidates(before, after, &known) {
            let name = name_of(&id);
            let pod = after.leaving(&id);
            let is_it = |leaving: &Leaving| pod.is_some_and(|pod| pod.uid == leaving.uid);
            if known.get(&name).is_some_and(is_it) {
                continue;
            }
            ended |= known.remove(&name).is_some();
            new.extend(pod.map(|pod| (name, pod.clone())));
        }
        if ended {
            self.settled.send_modify(|count| *count += 1);
        }
        if new.is_empty() && known.values().all(|leaving| leaving.since.is_some()) {
            return;
        }
        let others_know = Instant::now() + OTHER_REPLICAS;
        for (id, workload) in new {
            let leaving = Leaving {
                uid: workload.uid.clone(),
                addresses: workload.addresses.clone(),
                since: None,
                hosts: served_by(&workload, before.into_iter().chain([after])),
                others_know,
                settled: false,
                acknowledged: false,
            };
            known.insert(id, leaving);
        }
        let open = known.values().filter(|leaving| leaving.since.is_none());
        let used = in_use(after, open.flat_map(|leaving| leaving.addresses.clone()));
        let left = |leaving: &&mut Leaving| {
            let is_used = leaving.addresses.iter().any(|ip| used.contains(ip));
            leaving.since.is_none() && !is_used
        };
        for leaving in known.values_mut().filter(left) {
            leaving.since = Some(generation);
            leaving.others_know = others_know;
        }
        drop(known);
        self.wake();
    }

    /// What `pod` is told.
    pub fn of(&self, pod: &NsName) -> Departure {
        let known = self.lock();
        let leaving = known.get(pod);
        Departure {
            name: pod.to_string(),
            deleting: leaving.is_some(),
            acknowledged: leaving.is_some_and(|leaving| leaving.acknowledged),
        }
    }

    /// A client has acknowledged something, or has gone.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Tells of completed acknowledgements.
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Looks, for ever, which departures all `clients` know of.
    pub async fn run(self: Arc<Self>, clients: Arc<Clients>) {
        tokio::time::sleep_until(self.started + RETURNING).await;
        loop {
            self.look(&clients);
            tokio::select! {
                () = self.work.notified() => tokio::time::sleep(SWARM).await,
                () = reach(self.next()) => {}
            }
        }
    }

    /// When a departure may become complete though nobody says anything.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let returned = self.others().returned();
        let known = self.lock();
        let open = known.values().filter(|leaving| !leaving.acknowledged);
        open.flat_map(|leaving| [Some(leaving.others_know), returned])
            .flatten()
            .filter(|time| *time > now)
            .min()
    }

    /// Marks what is complete.
    fn look(&self, clients: &Clients) {
        let open: Vec<(NsName, Leaving)> = {
            let known = self.lock();
            let open = known.iter().filter(|(_, leaving)| !leaving.acknowledged);
            open.map(|(id, leaving)| (id.clone(), leaving.clone()))
                .collect()
        };
        let settled = open
            .into_iter()
            .filter(|(_, leaving)| leaving.settled || leaving.is_known_to(clients));
        let settled: Vec<_> = settled.collect();
        let now = Instant::now();
        let others = self.others();
        let mut known = self.lock();
        let (mut news, mut complete) = (false, false);
        for (id, then) in settled {
            let Some(leaving) = known.get_mut(&id).filter(|now| **now == then) else {
                continue;
            };
            news |= !leaving.settled;
            leaving.settled = true;
            leaving.acknowledged = others.know(&leaving.key(&id), leaving.others_know, now);
            complete |= leaving.acknowledged;
        }
        drop((known, others));
        if news {
            self.settled.send_modify(|count| *count += 1);
        }
        if complete {
            self.told.send_modify(|count| *count += 1);
        }
    }

    /// Departures that all clients of this replica know of, as replicas call them.
    fn settled(&self) -> BTreeSet<String> {
        let known = self.lock();
        let settled = known.iter().filter(|(_, leaving)| leaving.settled);
        settled.map(|(id, leaving)| leaving.key(id)).collect()
    }

    fn settled_changes(&self) -> watch::Receiver<u64> {
        self.settled.subscribe()
    }

    fn replicas(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.replicas.subscribe()
    }

    fn has_replica(&self, address: SocketAddr) -> bool {
        self.replicas.borrow().contains(&address)
    }

    fn declare(&self, replicas: BTreeSet<SocketAddr>) {
        if self.others().declare(replicas.clone()) {
            self.replicas.send_replace(replicas);
        }
    }

    fn told_by(
        &self,
        replica: SocketAddr,
        me: &str,
        coming: &mut Option<HashSet<String>>,
        message: SettledResponse,
    ) -> Told {
        let told = self.others().told(replica, me, coming, message);
        self.wake();
        told
    }

    fn lost(&self, replica: SocketAddr) {
        self.others().lost(replica, Instant::now());
        self.wake();
    }

    /// Taken before `leaving` where both are.
    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NsName, Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leaving {
    /// Names are used again, UIDs are not.
    fn key(&self, id: &NsName) -> String {
        format!("{id}/{}", self.uid.as_deref().unwrap_or_default())
    }

    fn is_known_to(&self, clients: &Clients) -> bool {
        self.since.is_some_and(|since| {
            CARRIERS
                .into_iter()
                .all(|ty| clients.have_settled(ty, since, |name| self.concerns(name)))
        })
    }

    /// Whether the cluster of this name had the Pod as an endpoint. Who calls a Pod by its address means that Pod.
    fn concerns(&self, cluster: &str) -> bool {
        match Name::parse(cluster) {
            Some(Name::Outbound { host, .. } | Name::Plain { host, .. }) => {
                self.hosts.contains(host)
            }
            Some(Name::Pod { .. } | Name::Inbound { .. } | Name::Passthrough | Name::BlackHole)
            | None => false,
        }
    }
}

/// Addresses that get what is new, of all that services have which are at any of these.
fn in_use(mesh: &Mesh, addresses: impl Iterator<Item = IpAddr>) -> HashSet<IpAddr> {
    let mut looked_at: HashSet<*const Join> = HashSet::new();
    let mut used = HashSet::new();
    for address in addresses {
        for (_, join) in mesh.serving(address) {
            if looked_at.insert(join) {
                let backends = join.all_backends();
                let healthy = backends.filter(|backend| backend.endpoint.health == Health::Healthy);
                used.extend(healthy.map(|backend| backend.endpoint.address.ip()));
            }
        }
    }
    used
}

/// Where replicas of the control plane serve clients, as its Service says: this one's address too.
fn replicas_of(mesh: &Mesh) -> BTreeSet<SocketAddr> {
    let host = service_host(names::CONTROL, names::SYSTEM_NAMESPACE);
    let control = mesh.services.exact(&host, names::SYSTEM_NAMESPACE);
    let backends = control.map_or(&[][..], |service| mesh.backends(service, names::XDS_PORT));
    let addresses = backends.iter().map(|backend| backend.endpoint.address);
    addresses.collect()
}

/// Pods of which it may be news whether they leave.
fn candidates(
    before: Option<&Mesh>,
    after: &Mesh,
    known: &BTreeMap<NsName, Leaving>,
) -> Vec<NamespacedName> {
    let touched = before.and_then(|before| after.touched_since(before));
    if let Some(touched) = touched.filter(|touched| !touched.everything) {
        return touched.pods.iter().cloned().collect();
    }
    let all = after.departed.iter().chain(after.workloads.iter());
    let leaving = all.filter(|workload| after.leaving(&workload.id).is_some());
    let known = known.keys();
    leaving
        .map(|workload| workload.id.clone())
        .chain(known.map(|name| NamespacedName::new(name.namespace.clone(), name.name.clone())))
        .collect()
}

fn name_of(id: &NamespacedName) -> NsName {
    NsName {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
    }
}

/// Hosts of which a Pod is an endpoint, in any of these.
fn served_by<'m>(workload: &Workload, meshes: impl Iterator<Item = &'m Mesh>) -> BTreeSet<String> {
    let services = meshes.flat_map(|mesh| {
        let addresses = workload.addresses.iter();
        addresses.flat_map(|address| mesh.serving(*address))
    });
    services.map(|(service, _)| service.host.clone()).collect()
}

#[cfg(test)]
mod tests;
