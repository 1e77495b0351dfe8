//! The published snapshot: what the ADS service reads. A new mesh or a new trust bundle replaces the
//! whole in one swap, and every stream is told.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tasuki_identity::{Roots, SpiffeId};
use tasuki_resources::NamespacedName;
use tasuki_xds::DEPARTURE_FEATURE;
use tasuki_xds::codec::{encode, secret};
use tasuki_xds::model::{Resource, ResourceType, TrustBundle};
use tokio::sync::watch;
use tonic::Status;
use tracing::error;

use crate::ads::{Catalog, Client, ClientKind, Dialect, Encoded, NsName, PodFacts, View};
use crate::ca::Authority;
use crate::departures::Departures;
use crate::mesh::workloads::Workload;
use crate::mesh::{Mesh, Touched};
use crate::snapshot::depends::Interest;
use crate::snapshot::{Snapshot, Viewpoint};

/// The names under which Envoy asks for secrets.
const SDS_CERTIFICATE: &str = "default";
const SDS_ROOTS: &str = "ROOTCA";

/// The first state of the catalog.
const FIRST: u64 = 1;

/// Changes that are remembered for streams which are behind: of several seconds, since changes are gathered. Whoever is
/// further behind looks at everything.
const REMEMBERED: usize = 64;

/// What is served now.
pub struct Published {
    current: ArcSwap<Current>,
    generation: watch::Sender<u64>,
    /// Held while `current` is replaced: new resources and new roots come from different tasks, and neither may
    /// bring back what the other has just replaced.
    publishing: Mutex<()>,
    departures: Arc<Departures>,
    authority: Authority,
    /// Keys that were made for Envoys, by identity; renewed at half their life.
    secrets: Arc<Mutex<HashMap<SpiffeId, Issued>>>,
}

/// One consistent state.
struct Current {
    generation: u64,
    snapshot: Snapshot,
    /// What the last changes have touched, the newest last.
    touched: VecDeque<Arc<Touched>>,
    trust: Arc<Encoded>,
    roots_pem: String,
}

/// A certificate made for an Envoy.
struct Issued {
    encoded: Arc<Encoded>,
    renew_at: SystemTime,
    /// A certificate of a root that is going away is replaced with the bundle.
    roots_pem: String,
}

impl Published {
    pub fn new(mesh: Mesh, authority: Authority) -> Self {
        authority.set_ttl(mesh.settings.certificate_ttl());
        let departures = Arc::new(Departures::default());
        departures.follow(None, &mesh, FIRST);
        let current = Current::new(
            FIRST,
            Snapshot::new(Arc::new(mesh)),
            VecDeque::new(),
            &authority,
        );
        Self {
            current: ArcSwap::from_pointee(current),
            generation: watch::Sender::new(FIRST),
            publishing: Mutex::default(),
            departures,
            authority,
            secrets: Arc::default(),
        }
    }

    /// Serves another mesh from now on.
    pub fn publish(&self, mesh: Arc<Mesh>) {
        self.authority.set_ttl(mesh.settings.certificate_ttl());
        self.replace(|_| mesh);
    }

    /// The same mesh with the authority's present trust bundle.
    pub fn refresh_trust(&self) {
        self.replace(|present| present);
    }

    fn replace(&self, mesh: impl FnOnce(Arc<Mesh>) -> Arc<Mesh>) {
        let _one_at_a_time = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let present = self.current.load_full();
        let before = &present.snapshot.mesh;
        let generation = present.generation + 1;
        let next = mesh(before.clone());
        let touched = match next.touched_since(before) {
            Some(touched) => touched.clone(),
            // The same mesh, under other roots.
            None => Arc::new(Touched::everything()),
        };
        let mut all = present.touched.clone();
        if all.len() >= REMEMBERED {
            all.pop_front();
        }
        all.push_back(touched);
        let snapshot = present.snapshot.next(next);
        let next = Current::new(generation, snapshot, all, &self.authority);
        self.departures
            .follow(Some(before), &next.snapshot.mesh, generation);
        self.current.store(Arc::new(next));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Tells every stream to look again: something of its own is due (a certificate). Once: what is due is forgotten,
    /// and made anew if its Envoy is still there to ask.
    pub fn renew_secrets(&self, now: SystemTime) {
        let due = {
            let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            let before = secrets.len();
            secrets.retain(|_, issued| issued.renew_at > now);
            secrets.len() < before
        };
        if due {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    pub fn mesh(&self) -> Arc<Mesh> {
        self.current.load().snapshot.mesh.clone()
    }

    /// See [`Snapshot::withheld`].
    pub fn withheld(&self, client: &Client, names: &[String]) -> Vec<(String, String)> {
        self.current.load().snapshot.withheld(client, names)
    }

    fn view_of(&self, current: Arc<Current>, client: Client) -> ClientView {
        ClientView {
            viewpoint: Viewpoint::of(&client, &current.snapshot.mesh),
            current,
            client,
            authority: self.authority.clone(),
            secrets: self.secrets.clone(),
            departures: self.departures.clone(),
        }
    }

    /// How often something has been published.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }
}

impl Current {
    fn new(
        generation: u64,
        snapshot: Snapshot,
        touched: VecDeque<Arc<Touched>>,
        authority: &Authority,
    ) -> Self {
        let bundle: TrustBundle = authority.bundle();
        let roots_pem = Roots::from_der(bundle.roots.clone())
            .map(|roots| roots.to_pem())
            .unwrap_or_default();
        let trust = encode(&Resource::TrustBundle(bundle), &Dialect::Tasuki);
        Self {
            generation,
            snapshot,
            touched,
            trust,
            roots_pem,
        }
    }

    fn pod(&self, pod: &NsName) -> Option<PodFacts> {
        let name = NamespacedName::new(pod.namespace.clone(), pod.name.clone());
        self.snapshot.mesh.workload(&name).map(|pod| facts(pod))
    }

    /// The changes since then; `None` if not all of them are remembered.
    fn touched_since(&self, since: u64) -> Option<impl Iterator<Item = &Arc<Touched>>> {
        let count = usize::try_from(self.generation.checked_sub(since)?).ok()?;
        let known = self.touched.len().checked_sub(count)?;
        Some(self.touched.iter().skip(known))
    }
}

impl Catalog for Published {
    fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    fn departures(&self) -> Option<Arc<Departures>> {
        Some(self.departures.clone())
    }

    fn interest(&self, who: &Client, names: &[(ResourceType, &str)]) -> Interest {
        Interest::of(&self.current.load().snapshot.mesh, who, names)
    }

    fn unchanged(&self, since: u64, interest: &Interest) -> Option<u64> {
        let current = self.current.load();
        let concerns = current
            .touched_since(since)?
            .any(|touched| interest.meets(touched));
        // A gateway's certificate may be due although no state has changed.
        (!concerns && !interest.is_of_everything()).then_some(current.generation)
    }

    fn look(&self, known: &Client) -> Result<(Client, Box<dyn View + Send>), Status> {
        // Loaded once: a stream that has seen this state is not woken for what had changed by then, of its own Pod neither.
        let current = self.current.load_full();
        let client = known.refresh(|pod| current.pod(pod))?;
        let view = self.view_of(current, client.clone());
        Ok((client, Box::new(view)))
    }

    fn pod(&self, pod: &NsName) -> Option<PodFacts> {
        self.current.load().pod(pod)
    }

    fn pod_by_address(&self, address: IpAddr) -> Option<(NsName, PodFacts)> {
        let current = self.current.load();
        let workload = current.snapshot.mesh.workloads.at(address)?;
        let name = NsName {
            namespace: workload.id.namespace.clone(),
            name: workload.id.name.clone(),
        };
        Some((name, facts(workload)))
    }
}

fn facts(workload: &Workload) -> PodFacts {
    PodFacts {
        uid: workload.uid.clone(),
        service_account: workload.service_account.clone(),
        labels: workload.labels.clone(),
    }
}

/// What one client sees of one state.
struct ClientView {
    current: Arc<Current>,
    client: Client,
    viewpoint: Viewpoint,
    authority: Authority,
    secrets: Arc<Mutex<HashMap<SpiffeId, Issued>>>,
    departures: Arc<Departures>,
}

impl View for ClientView {
    fn generation(&self) -> u64 {
        self.current.generation
    }

    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        match ty {
            ResourceType::TrustBundle => self.trust().filter(|trust| trust.name == name),
            ResourceType::Secret => self.secret(name),
            ResourceType::Departure => self.departure(name),
            ResourceType::ProxySettings
            | ResourceType::Cluster
            | ResourceType::Endpoint
            | ResourceType::Listener
            | ResourceType::Route => {
                let snapshot = &self.current.snapshot;
                snapshot.get_from(&self.viewpoint, &self.client, ty, name)
            }
        }
    }

    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>> {
        match ty {
            ResourceType::TrustBundle => self.trust().into_iter().collect(),
            ResourceType::Secret | ResourceType::Departure => Vec::new(),
            ResourceType::ProxySettings
            | ResourceType::Cluster
            | ResourceType::Endpoint
            | ResourceType::Listener
            | ResourceType::Route => self.current.snapshot.list(&self.client, ty),
        }
    }
}

impl ClientView {
    fn trust(&self) -> Option<Arc<Encoded>> {
        (self.client.dialect == Dialect::Tasuki).then(|| self.current.trust.clone())
    }

    /// Only for Envoys that have proven who they are: the key is made here.
    fn secret(&self, name: &str) -> Option<Arc<Encoded>> {
        let id = self.client.identity.as_ref()?;
        if self.client.dialect != (Dialect::Envoy { secrets: true }) {
            return None;
        }
        match name {
            SDS_ROOTS => Some(secret::roots(&self.current.roots_pem)),
            SDS_CERTIFICATE => self.certificate(id),
            _ => None,
        }
    }

    /// For the pod's own sidecar.
    fn departure(&self, name: &str) -> Option<Arc<Encoded>> {
        let ClientKind::Sidecar { pod } = &self.client.kind else {
            return None;
        };
        if !self.client.supports(DEPARTURE_FEATURE) || pod.to_string() != name {
            return None;
        }
        let departure = self.departures.of(pod);
        // Whether it stays is not known then, and its sidecar had better not be told so.
        if !departure.deleting && self.current.snapshot.mesh.pods_unseen {
            return None;
        }
        Some(encode(&Resource::Departure(departure), &Dialect::Tasuki))
    }

    fn certificate(&self, id: &SpiffeId) -> Option<Arc<Encoded>> {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is due is left to `renew_secrets`, which tells every stream that has it.
        let known = secrets.get(id);
        if let Some(issued) = known.filter(|issued| issued.roots_pem == self.current.roots_pem) {
            return Some(issued.encoded.clone());
        }
        match self.authority.workload_certificate(id) {
            Ok(certificate) => {
                let encoded = secret::certificate(certificate.chain_pem(), certificate.key_pem());
                let issued = Issued {
                    encoded: encoded.clone(),
                    renew_at: certificate.renew_at(0.0),
                    roots_pem: self.current.roots_pem.clone(),
                };
                secrets.insert(id.clone(), issued);
                Some(encoded)
            }
            Err(error) => {
                error!(%id, %error, "no certificate for an Envoy");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
