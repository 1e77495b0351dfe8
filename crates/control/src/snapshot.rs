//! What each client is told: a pure function of the mesh, who asks and the name asked for.
//!
//! A snapshot belongs to one mesh; what it has made once it remembers, so that a thousand sidecars of a
//! namespace cost one encoding of each resource.

pub mod assignments;
pub mod clusters;
pub mod divided;
pub mod gateway;
pub mod inbound;
mod name;
pub mod outbound;
mod proxy_settings;
pub mod rbac;
pub mod retries;
pub mod routes;
pub mod rules;
pub mod tls;
pub mod viewer;

pub use name::{
    BLACK_HOLE, Name, PASSTHROUGH, cluster_name, inbound_cluster_name, pod_cluster_name,
};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tasuki_xds::codec::{Dialect, Encoded, encode};
use tasuki_xds::model::proxy_settings::PROXY_SETTINGS;
use tasuki_xds::model::{Resource, ResourceType};

use crate::ads::{Client, ClientKind};
use crate::mesh::Mesh;
use viewer::Viewer;

/// Encoded resources that are kept, most of them below a kilobyte: all four kinds of 500 services for 50 namespaces.
const REMEMBERED: usize = 100_000;

/// One mesh as clients see it.
pub struct Snapshot {
    pub mesh: Arc<Mesh>,
    memo: Mutex<HashMap<Scope, Arc<Encoded>>>,
}

/// All that a shared resource depends on besides the mesh.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Scope {
    ty: ResourceType,
    name: String,
    dialect: Dialect,
    namespace: String,
    /// Only routes depend on them (`sourceLabels`).
    labels: Option<BTreeMap<String, String>>,
}

impl Snapshot {
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            memo: Mutex::default(),
        }
    }

    /// The resource of this name for `client`, encoded in its dialect.
    pub fn get(&self, client: &Client, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        let Some(scope) = Scope::of(client, ty, name) else {
            return self
                .build(client, ty, name)
                .map(|resource| encode(&resource, &client.dialect));
        };
        if let Some(known) = self
            .memo
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&scope)
        {
            return Some(known.clone());
        }
        // Names that mean nothing are not remembered: anybody can make up any number of them.
        let encoded = encode(&self.build(client, ty, name)?, &client.dialect);
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        // Foreign clients choose their namespace and labels, and so any number of views.
        if memo.len() >= REMEMBERED {
            memo.clear();
        }
        memo.insert(scope, encoded.clone());
        Some(encoded)
    }

    /// Everything that a wildcard subscription of `client` gets.
    pub fn list(&self, client: &Client, ty: ResourceType) -> Vec<Arc<Encoded>> {
        let viewer = Viewer {
            mesh: &self.mesh,
            client,
        };
        let get = |name: String| self.get(client, ty, &name);
        match ty {
            ResourceType::Listener => {
                let all = gateway::listeners(&viewer).into_iter();
                all.map(|listener| encode(&Resource::Listener(listener), &client.dialect))
                    .collect()
            }
            ResourceType::Cluster => gateway::clusters(&viewer)
                .into_iter()
                .filter_map(get)
                .collect(),
            ResourceType::Route => gateway::tables(&viewer)
                .into_iter()
                .filter_map(get)
                .collect(),
            ResourceType::Endpoint => gateway::clusters(&viewer)
                .into_iter()
                .filter_map(get)
                .collect(),
            ResourceType::ProxySettings => get(PROXY_SETTINGS.to_owned()).into_iter().collect(),
            ResourceType::TrustBundle | ResourceType::Secret | ResourceType::Departure => {
                Vec::new()
            }
        }
    }

    /// Clusters that exist and are not for this client, each with the reason: of `names`, and of all that a gateway routes to.
    pub fn withheld(&self, client: &Client, names: &[String]) -> Vec<(String, String)> {
        let viewer = Viewer {
            mesh: &self.mesh,
            client,
        };
        let mut names: BTreeSet<String> = names.iter().cloned().collect();
        names.extend(gateway::clusters(&viewer));
        let reason = |name: String| clusters::withheld(&viewer, &name).map(|reason| (name, reason));
        names.into_iter().filter_map(reason).collect()
    }

    /// The resource as a value.
    pub fn build(&self, client: &Client, ty: ResourceType, name: &str) -> Option<Resource> {
        let viewer = Viewer {
            mesh: &self.mesh,
            client,
        };
        match ty {
            ResourceType::Listener => self.listener(&viewer, name).map(Resource::Listener),
            ResourceType::Route if is_gateway(client) => {
                gateway::table(&viewer, name).map(Resource::Route)
            }
            ResourceType::Route => routes::table(&viewer, name).map(Resource::Route),
            ResourceType::Cluster => clusters::cluster(&viewer, name).map(Resource::Cluster),
            ResourceType::Endpoint => {
                assignments::assignment(&viewer, name).map(Resource::Endpoint)
            }
            ResourceType::ProxySettings => {
                proxy_settings::named(&viewer, name).map(Resource::ProxySettings)
            }
            ResourceType::TrustBundle | ResourceType::Secret | ResourceType::Departure => None,
        }
    }

    fn listener(&self, viewer: &Viewer<'_>, name: &str) -> Option<tasuki_xds::model::Listener> {
        match (name, is_gateway(viewer.client)) {
            (_, true) => gateway::listener_named(viewer, name),
            ("inbound", false) => viewer
                .workload()
                .map(|workload| inbound::listener(&self.mesh, workload)),
            (_, false) => outbound::listener(viewer, name),
        }
    }
}

impl Scope {
    /// `None`: the resource is one client's own.
    fn of(client: &Client, ty: ResourceType, name: &str) -> Option<Self> {
        let own = is_gateway(client) && matches!(ty, ResourceType::Listener | ResourceType::Route);
        if own || name == "inbound" || name.starts_with("inbound|") {
            return None;
        }
        Some(Self {
            ty,
            name: name.to_owned(),
            dialect: client.dialect.clone(),
            namespace: client.namespace.clone(),
            labels: (ty == ResourceType::Route).then(|| client.labels.clone()),
        })
    }
}

fn is_gateway(client: &Client) -> bool {
    match client.kind {
        ClientKind::TasukiGateway { .. } | ClientKind::EnvoyGateway => true,
        ClientKind::Sidecar { .. } | ClientKind::Grpc => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
