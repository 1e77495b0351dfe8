//! What each client is told: a pure function of the mesh, who asks and the name asked for.
//!
//! A snapshot belongs to one mesh. What it has made is remembered (`memo`) for as long as what it depends on (`depends`) is
//! the same, also by the snapshots of later meshes.

pub mod assignments;
pub mod clusters;
pub mod depends;
pub mod divided;
pub mod gateway;
pub mod inbound;
mod memo;
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

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tasuki_xds::codec::{Encoded, encode};
use tasuki_xds::model::proxy_settings::PROXY_SETTINGS;
use tasuki_xds::model::{Resource, ResourceType};

use crate::ads::{Client, ClientKind};
use crate::mesh::Mesh;
use depends::Depends;
use memo::Memo;
pub use memo::Viewpoint;
use viewer::Viewer;

/// One mesh as clients see it.
pub struct Snapshot {
    pub mesh: Arc<Mesh>,
    memo: Arc<Mutex<Memo>>,
}

impl Snapshot {
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            memo: Arc::default(),
        }
    }

    /// Of another mesh.
    pub fn next(&self, mesh: Arc<Mesh>) -> Self {
        // Everything depends on the configuration, and joins are numbered by it.
        let memo = match mesh.has_config_of(&self.mesh) {
            true => self.memo.clone(),
            false => Arc::default(),
        };
        Self { mesh, memo }
    }

    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resource of this name for `client`, encoded in its dialect.
    pub fn get(&self, client: &Client, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        self.get_from(&Viewpoint::of(client, &self.mesh), client, ty, name)
    }

    /// The same, where the client's viewpoint is known.
    pub fn get_from(
        &self,
        viewpoint: &Viewpoint,
        client: &Client,
        ty: ResourceType,
        name: &str,
    ) -> Option<Arc<Encoded>> {
        let make = || Some(encode(&self.build(client, ty, name)?, &client.dialect));
        let own = is_gateway(client) && matches!(ty, ResourceType::Listener | ResourceType::Route);
        if own {
            return make();
        }
        let depends = Depends::of(&self.mesh, &client.namespace, ty, name);
        let Some(stamp) = depends.stamp(&self.mesh) else {
            return make();
        };
        if let Some(known) = self.memo().get(viewpoint, ty, name, &stamp) {
            return Some(known);
        }
        // Names that mean nothing are not remembered: anybody can make up any number of them.
        let encoded = make()?;
        self.memo().put(viewpoint, stamp, encoded.clone());
        Some(encoded)
    }

    /// Everything that a wildcard subscription of `client` gets.
    pub fn list(&self, client: &Client, ty: ResourceType) -> Vec<Arc<Encoded>> {
        let viewer = Viewer {
            mesh: &self.mesh,
            client,
        };
        let viewpoint = Viewpoint::of(client, &self.mesh);
        let get = |name: String| self.get_from(&viewpoint, client, ty, &name);
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

fn is_gateway(client: &Client) -> bool {
    match client.kind {
        ClientKind::TasukiGateway { .. } | ClientKind::EnvoyGateway => true,
        ClientKind::Sidecar { .. } | ClientKind::Grpc => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
