//! The list of connected clients: who has which version, who refused what (`/debug/clients`), and
//! whether a trust bundle has reached everyone (CA rotation).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tasuki_identity::Roots;
use tasuki_xds::codec::{self, Dialect, secret};
use tasuki_xds::model::{Resource, ResourceType, TrustBundle};
use tasuki_xds::server::{DeltaSession, ResourceStatus, SotwSession};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Client;

/// All connected clients.
#[derive(Debug, Default)]
pub struct Clients {
    records: Mutex<BTreeMap<u64, Arc<Record>>>,
    next: std::sync::atomic::AtomicU64,
}

/// One stream. The task that serves it and whoever lists it share the session.
#[derive(Debug)]
pub(super) struct Record {
    client: Mutex<Client>,
    pub(super) session: Mutex<Session>,
    remote: Option<String>,
    since: OffsetDateTime,
}

#[derive(Debug)]
pub(super) enum Session {
    Delta(DeltaSession),
    Sotw(SotwSession),
}

impl Session {
    fn status(&self) -> Vec<ResourceStatus> {
        match self {
            Session::Delta(session) => session.status(),
            Session::Sotw(session) => session.status(),
        }
    }

    pub(super) fn names(&self) -> Vec<(ResourceType, &str)> {
        match self {
            Session::Delta(session) => session.names(),
            Session::Sotw(session) => session.names(),
        }
    }

    pub(super) fn carry(&mut self, polled: u64, generation: u64) {
        match self {
            Session::Delta(session) => session.carry(polled, generation),
            Session::Sotw(session) => session.carry(polled, generation),
        }
    }

    pub(super) fn holds(&self) -> bool {
        match self {
            Session::Delta(session) => session.holds(),
            Session::Sotw(session) => session.holds(),
        }
    }

    pub(super) fn release(&mut self) {
        match self {
            Session::Delta(session) => session.release(),
            Session::Sotw(session) => session.release(),
        }
    }
}

/// Takes the client off the list when its stream ends, however it ends.
pub(super) struct Listed {
    clients: Arc<Clients>,
    key: u64,
    pub(super) record: Arc<Record>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.clients.records).remove(&self.key);
    }
}

/// One client as `/debug/clients` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ClientStatus {
    /// `node.id`.
    pub node: String,
    /// `sidecar`, `gateway`, `envoy`, `grpc`.
    pub kind: &'static str,
    /// SPIFFE id, if proven.
    pub identity: Option<String>,
    /// Namespace whose rules apply.
    pub namespace: String,
    /// Labels that rules see.
    pub labels: BTreeMap<String, String>,
    /// `delta` or `sotw`.
    pub protocol: &'static str,
    /// `node.client_features`.
    pub features: Vec<String>,
    /// Peer address.
    pub remote: Option<String>,
    /// RFC 3339.
    pub connected_since: String,
    /// Every resource it asked for or was sent.
    pub resources: Vec<ResourceLine>,
}

/// One resource at one client.
#[derive(Clone, Debug, Serialize)]
pub struct ResourceLine {
    /// `LDS`, `RDS`, `CDS`, `EDS`, `SDS`, `trust`.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its name.
    pub name: String,
    /// Version last sent; null: told that there is none.
    pub sent: Option<String>,
    /// Version last accepted.
    pub acked: Option<String>,
    /// Why the version last sent was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Why it exists but is not sent to this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// A panic while a lock was held leaves plain data behind, good enough to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    /// No clients yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn connect(
        self: &Arc<Self>,
        client: Client,
        session: Session,
        remote: Option<String>,
    ) -> Listed {
        let key = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let record = Arc::new(Record {
            client: Mutex::new(client),
            session: Mutex::new(session),
            remote,
            since: OffsetDateTime::now_utc(),
        });
        lock(&self.records).insert(key, record.clone());
        Listed {
            clients: self.clone(),
            key,
            record,
        }
    }

    fn records(&self) -> Vec<Arc<Record>> {
        lock(&self.records).values().cloned().collect()
    }

    /// Number of open streams.
    pub fn len(&self) -> usize {
        lock(&self.records).len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every client, by node id. `withheld` says which clusters, of those that it was not sent and others, exist but are not for
    /// it, and why.
    pub fn list(
        &self,
        withheld: impl Fn(&Client, &[String]) -> Vec<(String, String)>,
    ) -> Vec<ClientStatus> {
        let mut all: Vec<ClientStatus> = self
            .records()
            .iter()
            .map(|record| record.describe(&withheld))
            .collect();
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    }

    /// Whether nobody is behind `generation` with resources of this type that `concerns` names.
    pub fn have_settled(
        &self,
        ty: ResourceType,
        generation: u64,
        concerns: impl Fn(&str) -> bool,
    ) -> bool {
        let settled = |record: &Arc<Record>| match &*record.session() {
            Session::Delta(session) => session.has_settled(ty, generation, &concerns),
            Session::Sotw(session) => session.has_settled(ty, generation, &concerns),
        };
        self.records().iter().all(settled)
    }

    /// Clients that trust the mesh's roots and have not acknowledged exactly these. Empty: all trust them.
    pub fn lacking(&self, bundle: &TrustBundle) -> Vec<String> {
        let version = codec::version(&Resource::TrustBundle(bundle.clone()), &Dialect::Tasuki);
        let pem = Roots::from_der(bundle.roots.clone())
            .map(|roots| roots.to_pem())
            .unwrap_or_default();
        let secret = secret::roots(&pem).version.clone();
        let lacks = |record: &Arc<Record>| {
            let client = lock(&record.client).clone();
            let expected = match client.dialect {
                Dialect::Tasuki => (ResourceType::TrustBundle, &version),
                Dialect::Envoy { secrets: true } => (ResourceType::Secret, &secret),
                Dialect::Envoy { secrets: false } | Dialect::Grpc { .. } => return None,
            };
            let acked = record.acked(expected.0, expected.1);
            // An Envoy that asks for no secret has no mesh TLS at all.
            let idle = expected.0 == ResourceType::Secret && !record.asks_for(ResourceType::Secret);
            (!acked && !idle).then_some(client.node_id)
        };
        self.records().iter().filter_map(lacks).collect()
    }
}

impl Record {
    pub(super) fn client(&self) -> Client {
        lock(&self.client).clone()
    }

    pub(super) fn set_client(&self, client: Client) {
        *lock(&self.client) = client;
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        lock(&self.session)
    }

    fn acked(&self, ty: ResourceType, version: &str) -> bool {
        let status = self.session().status();
        status
            .iter()
            .any(|s| s.ty == ty && s.refusal.is_none() && s.acked.as_deref() == Some(version))
    }

    fn asks_for(&self, ty: ResourceType) -> bool {
        match &*self.session() {
            Session::Delta(session) => session.subscribes_to(ty),
            Session::Sotw(session) => session.subscribes_to(ty),
        }
    }

    fn describe(
        &self,
        withheld: impl Fn(&Client, &[String]) -> Vec<(String, String)>,
    ) -> ClientStatus {
        let client = self.client();
        let (protocol, resources) = {
            let session = self.session();
            let protocol = match &*session {
                Session::Delta(_) => "delta",
                Session::Sotw(_) => "sotw",
            };
            (protocol, session.status())
        };
        let mut resources: Vec<ResourceLine> =
            resources.into_iter().map(ResourceLine::of).collect();
        let cluster = ResourceType::Cluster.to_string();
        let missing = |line: &&ResourceLine| line.ty == cluster && line.sent.is_none();
        let names: Vec<String> = resources
            .iter()
            .filter(missing)
            .map(|line| line.name.clone())
            .collect();
        for (name, reason) in withheld(&client, &names) {
            resources.retain(|line| !(missing(&line) && line.name == name));
            resources.push(ResourceLine::withheld(cluster.clone(), name, reason));
        }
        ClientStatus {
            node: client.node_id,
            kind: client.kind.word(),
            identity: client.identity.map(|id| id.to_string()),
            namespace: client.namespace,
            labels: client.labels,
            protocol,
            features: client.features,
            remote: self.remote.clone(),
            connected_since: self.since.format(&Rfc3339).unwrap_or_default(),
            resources,
        }
    }
}

impl ResourceLine {
    fn withheld(ty: String, name: String, reason: String) -> Self {
        Self {
            ty,
            name,
            sent: None,
            acked: None,
            refused: None,
            withheld: Some(reason),
        }
    }

    fn of(status: ResourceStatus) -> Self {
        let ResourceStatus {
            ty,
            name,
            sent,
            acked,
            refusal,
        } = status;
        Self {
            ty: ty.to_string(),
            name,
            sent,
            acked,
            refused: refusal,
            withheld: None,
        }
    }
}
