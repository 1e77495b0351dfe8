//! Whom single changes concern, where one leads to another's clients.

use tasuki_xds::model::ResourceType;

use super::*;
use crate::ads::Client;
use crate::snapshot::Snapshot;
use crate::snapshot::depends::Interest;
use crate::snapshot::tests::sidecar;
use crate::source::folder::Folder;

const CART: &str = "apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop}
spec: {containers: [{name: cart}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: \"fd00::1\"}]}
";

const OTHER: &str = "apiVersion: v1
kind: Pod
metadata: {name: another, namespace: shop}
spec: {containers: [{name: another}]}
status: {phase: Running, podIP: \"fd00::1\"}
";

const CALLER: &str = "apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: shop}
spec: {containers: [{name: caller}]}
status: {phase: Running, podIP: 10.1.0.3}
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http-a, port: 80}, {name: b, port: 81}]}
";

fn slice(name: &str, port: &str, endpoints: &str) -> String {
    let family = match endpoints.contains("::") {
        true => "IPv6",
        false => "IPv4",
    };
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}
addressType: {family}
ports: [{{{port}}}]
endpoints: [{endpoints}]
"
    )
}

/// A mesh, and what becomes of it.
struct World {
    folder: Folder,
    snapshot: Snapshot,
}

impl World {
    fn of(documents: &[(&str, &str)]) -> Self {
        let mut folder = Folder::default();
        for (path, text) in documents {
            folder.put(path, Ok((*text).to_owned()));
        }
        let settings = mesh(&[]).settings.clone();
        let snapshot = Snapshot::new(Arc::new(Mesh::build(&folder.objects(), settings)));
        assert!(snapshot.mesh.problems.is_empty());
        Self { folder, snapshot }
    }

    fn version(&self, client: &Client, ty: ResourceType, name: &str) -> Option<String> {
        let found = self.snapshot.get(client, ty, name)?;
        Some(found.version.clone())
    }

    /// The change must be one of the resource, and found to be.
    fn changes(&mut self, path: &str, text: &str, client: &Client, ty: ResourceType, name: &str) {
        let interest = Interest::of(&self.snapshot.mesh, client, &[(ty, name)]);
        let before = self.version(client, ty, name);
        self.folder.put(path, Ok(text.to_owned()));
        let source = Arc::new(self.folder.objects());
        let next = self.snapshot.mesh.successor(&source, Instant::now());
        let touched = next.touched_since(&self.snapshot.mesh).unwrap().clone();
        self.snapshot = self.snapshot.next(Arc::new(next));
        assert_ne!(
            self.version(client, ty, name),
            before,
            "the test changes nothing"
        );
        assert!(interest.meets(&touched), "{touched:?}");
    }
}

#[test]
fn a_port_that_a_service_leads_to_no_longer_though_to_another() {
    let cart = "addresses: [10.1.0.1], targetRef: {kind: Pod, name: cart, namespace: shop}";
    let ready = format!("{{{cart}, conditions: {{ready: true}}}}");
    let unready = format!("{{{cart}, conditions: {{ready: false, serving: false}}}}");
    let elsewhere = "{addresses: [10.1.0.9], conditions: {ready: true}}";
    let a = |cart: &str| {
        slice(
            "a",
            "name: http-a, port: 8080",
            &format!("{cart}, {elsewhere}"),
        )
    };
    let mut world = World::of(&[
        ("cart", CART),
        ("service", SERVICE),
        ("a", &a(&ready)),
        ("b", &slice("b", "name: b, port: 9090", &ready)),
    ]);
    let own = sidecar(&world.snapshot.mesh, "shop", "cart");
    world.changes(
        "a",
        &a(&unready),
        &own,
        ResourceType::Cluster,
        "inbound|8080||",
    );
}

#[test]
fn who_takes_one_address_of_a_pod_changes_what_is_said_of_its_other() {
    let anonymous = "{addresses: [\"fd00::1\"], conditions: {ready: true}}";
    let mut world = World::of(&[
        ("caller", CALLER),
        ("cart", CART),
        ("service", SERVICE),
        ("a", &slice("a", "name: http-a, port: 8080", anonymous)),
    ]);
    let caller = sidecar(&world.snapshot.mesh, "shop", "caller");
    let name = "10.1.0.1:8080";
    world.changes("other", OTHER, &caller, ResourceType::Listener, name);
    // And when it goes again.
    let ended = OTHER.replace("Running", "Succeeded");
    world.changes("other", &ended, &caller, ResourceType::Listener, name);
}

#[test]
fn what_the_mesh_does_not_read_of_a_pod_touches_nothing() {
    let mut world = World::of(&[("cart", CART), ("service", SERVICE)]);
    let annotated = CART.replace("namespace: shop", "namespace: shop, annotations: {a: b}");
    world.folder.put("cart", Ok(annotated));
    let source = Arc::new(world.folder.objects());
    let next = world.snapshot.mesh.successor(&source, Instant::now());
    let touched = next.touched_since(&world.snapshot.mesh).unwrap();
    assert_eq!(**touched, Touched::default());
}
