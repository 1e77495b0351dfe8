//! Snapshots of small meshes, written as users write them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tasuki_identity::{SpiffeId, TrustDomain};
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tasuki_xds::codec::{Dialect, decode, encode};
use tasuki_xds::model::{
    Cluster, ClusterLoadAssignment, Listener, Resource, ResourceType, RouteConfiguration,
};

use super::Snapshot;
use crate::ads::{Client, ClientKind, NsName};
use crate::mesh::{Mesh, MeshSettings};
use crate::source::folder::Folder;

mod clusters;
mod gateways;
mod inbound;
mod outbound;
mod routes;
mod settings;

/// Two versions of `cart` in `shop`, one of them in the mesh, and a client.
pub(crate) const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: cart}
  ports:
  - {name: http, port: 8080, targetPort: web}
  - {name: tcp-admin, port: 9000}
  - {name: any, port: 7000}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-v1
  namespace: shop
  labels: {app: cart, version: v1, security.istio.io/tlsMode: istio}
  annotations: {tasuki.dev/proxy: "0.1.0"}
spec:
  serviceAccountName: cart
  containers: [{name: cart, ports: [{name: web, containerPort: 80}]}]
status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: cart-v2
  namespace: shop
  labels: {app: cart, version: v2}
spec:
  serviceAccountName: cart
  containers: [{name: cart, ports: [{name: web, containerPort: 81}]}]
status: {phase: Running, podIP: 10.1.0.2, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: storefront, namespace: shop, labels: {app: storefront}}
spec:
  containers: [{name: app}]
status: {phase: Running, podIP: 10.1.0.3, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: elsewhere, labels: {app: other}}
spec:
  containers: [{name: app}]
status: {phase: Running, podIP: 10.1.0.4, conditions: [{type: Ready, status: "True"}]}
"#;

pub(crate) fn mesh_with(policy: OutboundTrafficPolicy, documents: &[&str]) -> Arc<Mesh> {
    let mut folder = Folder::default();
    for (index, text) in documents.iter().enumerate() {
        folder.put(&format!("{index}.yaml"), Ok((*text).to_owned()));
    }
    let settings = MeshSettings::new(
        TrustDomain::new("cluster.local").unwrap(),
        "istio-system",
        policy,
        Duration::from_secs(3600),
    );
    Arc::new(Mesh::build(&folder.objects(), settings))
}

pub(crate) fn mesh(documents: &[&str]) -> Arc<Mesh> {
    mesh_with(OutboundTrafficPolicy::AllowAny, documents)
}

/// The same, and nothing in it may be refused.
pub(crate) fn good_mesh(documents: &[&str]) -> Arc<Mesh> {
    let mesh = mesh(documents);
    let errors: Vec<String> = mesh
        .problems
        .iter()
        .filter(|p| p.is_error())
        .map(ToString::to_string)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    mesh
}

pub(crate) fn sidecar(mesh: &Mesh, namespace: &str, name: &str) -> Client {
    let id = tasuki_resources::NamespacedName::new(namespace, name);
    let workload = mesh.workloads.get(&id).unwrap();
    Client {
        kind: ClientKind::Sidecar {
            pod: NsName {
                namespace: namespace.into(),
                name: name.into(),
            },
        },
        dialect: Dialect::Tasuki,
        namespace: namespace.into(),
        labels: workload.labels.clone(),
        follows: None,
        identity: Some(SpiffeId::parse(&workload.identity).unwrap()),
        proven: None,
        node_id: format!("sidecar~{namespace}/{name}"),
        features: vec!["tasuki.v1".into()],
    }
}

fn foreign(kind: ClientKind, dialect: Dialect, namespace: &str) -> Client {
    Client {
        kind,
        dialect,
        namespace: namespace.into(),
        labels: BTreeMap::new(),
        follows: None,
        identity: None,
        proven: None,
        node_id: "foreign".into(),
        features: Vec::new(),
    }
}

/// One client's view.
struct As {
    snapshot: Snapshot,
    client: Client,
}

impl As {
    fn sidecar(mesh: &Arc<Mesh>, namespace: &str, name: &str) -> Self {
        Self::client(mesh, sidecar(mesh, namespace, name))
    }

    fn client(mesh: &Arc<Mesh>, client: Client) -> Self {
        Self {
            snapshot: Snapshot::new(mesh.clone()),
            client,
        }
    }

    /// The resource, which must also come through the wire as it is.
    fn build(&self, ty: ResourceType, name: &str) -> Option<Resource> {
        let resource = self.snapshot.build(&self.client, ty, name)?;
        assert_eq!(resource.name(), name);
        if self.client.dialect == Dialect::Tasuki {
            let encoded = encode(&resource, &self.client.dialect);
            assert_eq!(decode(ty, &encoded.any), Ok(resource.clone()), "{name}");
        }
        Some(resource)
    }

    fn listener(&self, name: &str) -> Option<Listener> {
        match self.build(ResourceType::Listener, name)? {
            Resource::Listener(listener) => Some(listener),
            other => panic!("{other:?}"),
        }
    }

    fn table(&self, name: &str) -> RouteConfiguration {
        match self.build(ResourceType::Route, name) {
            Some(Resource::Route(table)) => table,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn cluster(&self, name: &str) -> Cluster {
        match self.build(ResourceType::Cluster, name) {
            Some(Resource::Cluster(cluster)) => cluster,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn endpoints(&self, name: &str) -> ClusterLoadAssignment {
        match self.build(ResourceType::Endpoint, name) {
            Some(Resource::Endpoint(assignment)) => assignment,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn has(&self, ty: ResourceType, name: &str) -> bool {
        self.build(ty, name).is_some()
    }
}
