//! The same objects are the same mesh, whichever source they come from.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tasuki_identity::TrustDomain;
use tasuki_kubernetes::watched::WATCHED;
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tasuki_resources::{NamespacedName, Object};
use tasuki_xds::model::ResourceType;

use crate::ads::Client;
use crate::mesh::{Mesh, MeshSettings};
use crate::snapshot::Snapshot;
use crate::snapshot::tests::sidecar;
use crate::source::folder::Folder;
use crate::source::kubernetes::store::{Change, Store};
use crate::source::kubernetes::wire::Wire;
use crate::source::{Objects, Sourced};

/// What the API server adds to what a user has written.
fn as_stored(mut object: Value) -> Value {
    let metadata = &mut object["metadata"];
    metadata["resourceVersion"] = "7".into();
    metadata["generation"] = 1.into();
    metadata["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
    metadata["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}".into();
    object
}

/// The objects of a document: one, or those of a list.
fn items(document: &str) -> Vec<Value> {
    let mut object: Value = serde_saphyr::from_str(document).unwrap();
    match object.get_mut("items").and_then(Value::as_array_mut) {
        Some(items) => std::mem::take(items),
        None => vec![object],
    }
}

fn from_cluster(documents: &[String]) -> Objects {
    let mut store = Store::default();
    for (place, watched) in WATCHED.iter().enumerate() {
        store.change(place, Change::Begin);
        for object in documents.iter().flat_map(|document| items(document)) {
            if object["kind"] == watched.kind.as_str() {
                let wire: Wire = serde_json::from_value(as_stored(object)).unwrap();
                let name = wire.name();
                let document = wire.read(watched, watched.versions[0]).unwrap();
                store.change(place, Change::Listed(name, Box::new(document)));
            }
        }
        store.change(place, Change::Complete);
    }
    store.objects()
}

fn mesh(objects: &Objects) -> Arc<Mesh> {
    let settings = MeshSettings::new(
        TrustDomain::new("cluster.local").unwrap(),
        "istio-system",
        OutboundTrafficPolicy::AllowAny,
        Duration::from_secs(3_600),
    );
    Arc::new(Mesh::build(objects, settings))
}

/// Everything that one client may ask for: type, name and version.
fn all(mesh: &Arc<Mesh>, client: &Client) -> Vec<String> {
    let snapshot = Snapshot::new(mesh.clone());
    let mut found = Vec::new();
    let mut ask = |ty: ResourceType, name: &str| {
        let version = snapshot
            .get(client, ty, name)
            .map(|r| r.version.to_string());
        found.push(format!("{ty:?} {name} {version:?}"));
    };
    ask(ResourceType::Listener, "inbound");
    ask(ResourceType::Listener, "passthrough");
    for service in mesh.services.iter() {
        for port in &service.ports {
            let (host, port) = (&service.host, port.number);
            ask(ResourceType::Listener, &format!("{host}:{port}"));
            ask(ResourceType::Route, &format!("{host}:{port}"));
            for subset in ["", "v1", "v2"] {
                let cluster = format!("outbound|{port}|{subset}|{host}");
                ask(ResourceType::Cluster, &cluster);
                ask(ResourceType::Endpoint, &cluster);
            }
        }
    }
    found
}

fn sorted(objects: Objects) -> Vec<Arc<Object>> {
    let mut all: Vec<Sourced> = objects.objects;
    all.sort_by_key(|sourced| sourced.object.key());
    all.into_iter().map(|sourced| sourced.object).collect()
}

#[test]
fn examples_are_the_same_from_a_folder_and_from_a_cluster() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    for name in ["shop", "authz", "canary", "egress", "ingress"] {
        let mut folder = Folder::default();
        let mut documents = Vec::new();
        for file in fs::read_dir(examples.join(name)).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let split = text.split("\n---").map(str::to_owned);
            documents.extend(split.filter(|document| document.contains("kind:")));
            folder.put(&path.to_string_lossy(), Ok(text));
        }
        let (ours, theirs) = (folder.objects(), from_cluster(&documents));
        let (here, there) = (mesh(&ours), mesh(&theirs));
        assert_eq!(here.problems, there.problems, "{name}");
        assert_eq!(sorted(ours), sorted(theirs), "{name}");
        let mut compared = 0;
        for workload in here.workloads.iter() {
            let NamespacedName {
                namespace,
                name: pod,
            } = &workload.id;
            let client = sidecar(&here, namespace, pod);
            let told = all(&here, &client);
            assert_eq!(told, all(&there, &client), "{name} {}", workload.id);
            compared += told.iter().filter(|line| line.contains("Some")).count();
        }
        assert!(compared > 10, "{name}: {compared}");
    }
}
