//! The joins of a mesh: what documents become together.

use std::sync::Arc;

use tasuki_resources::NamespacedName;

use super::*;
use crate::snapshot::tests::{SHOP, good_mesh, mesh};

mod incremental;
mod touched;

fn report(mesh: &Mesh) -> String {
    mesh.problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

#[test]
fn a_port_takes_its_protocol_from_the_service_in_front_of_it() {
    let mesh = good_mesh(&[SHOP]);
    let workload = mesh
        .workloads
        .get(&NamespacedName::new("shop", "cart-v1"))
        .unwrap();
    let ports = mesh.workload_ports(workload);
    assert_eq!(ports[&80], DeclaredProtocol::Http, "by its name, web");
    assert_eq!(ports[&9000], DeclaredProtocol::Tcp);
    assert_eq!(ports[&7000], DeclaredProtocol::Auto);
    assert_eq!(mesh.workload_port(workload, 1234), DeclaredProtocol::Auto);
    // Of two services, who says nothing leaves it to the other.
    let silent = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {selector: {app: cart}, ports: [{port: 1, targetPort: web}]}\n";
    let mesh = good_mesh(&[SHOP, silent]);
    assert_eq!(mesh.workload_ports(workload)[&80], DeclaredProtocol::Http);
    assert_eq!(mesh.workload_port(workload, 80), DeclaredProtocol::Http);
}

#[test]
fn pods_that_are_not_ready_have_ports_but_no_traffic() {
    let starting = SHOP.replace(
        "podIP: 10.1.0.1, conditions: [{type: Ready, status: \"True\"}]",
        "podIP: 10.1.0.1, conditions: [{type: Ready, status: \"False\"}]",
    );
    let mesh = good_mesh(&[&starting]);
    let service = mesh
        .services
        .exact("cart.shop.svc.cluster.local", "shop")
        .unwrap();
    assert_eq!(mesh.backends(service, 8080).len(), 1);
    let workload = mesh
        .workloads
        .get(&NamespacedName::new("shop", "cart-v1"))
        .unwrap();
    assert_eq!(mesh.workload_port(workload, 80), DeclaredProtocol::Http);
}

#[test]
fn a_label_that_no_webhook_selects_is_told() {
    let documents = "apiVersion: tasuki.dev/v1alpha1\nkind: MeshSettings\nmetadata: {name: default, namespace: istio-system}\nspec: {injection: {istioInjectionLabel: true}}\n";
    let mesh = good_mesh(&[documents]);
    assert_eq!(report(&mesh), "", "no webhooks at all");
    for (honoured, told) in [(true, false), (false, true)] {
        let settings = mesh.settings.clone().with_istio_label(honoured);
        let mut folder = crate::source::folder::Folder::default();
        folder.put("mesh.yaml", Ok(documents.to_owned()));
        let report = report(&Mesh::build(&folder.objects(), settings));
        assert_eq!(
            report.contains("injection.istioLabel=true"),
            told,
            "{report}"
        );
    }
}

#[test]
fn one_address_one_service() {
    let second = "apiVersion: v1\nkind: Service\nmetadata: {name: thief, namespace: shop}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 8080}]}\n";
    let mesh = mesh(&[SHOP, second]);
    let address = "10.96.0.10".parse().unwrap();
    assert_eq!(
        mesh.services.at(address, 8080, "shop").unwrap().name,
        "cart"
    );
    assert!(
        report(&mesh).contains("1.yaml: error: Service shop/thief: spec: 10.96.0.10 port 8080"),
        "{}",
        report(&mesh)
    );
}

#[test]
fn a_service_entry_cannot_take_over_a_service() {
    let entry = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: thief, namespace: elsewhere}
spec:
  hosts: [cart.shop.svc.cluster.local]
  ports: [{number: 8080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.66}]
"#;
    let mesh = mesh(&[entry, SHOP]);
    let service = mesh
        .services
        .exact("cart.shop.svc.cluster.local", "shop")
        .unwrap();
    assert_eq!(service.namespace, "shop");
    assert!(
        report(&mesh).contains("already declared by shop/cart"),
        "{}",
        report(&mesh)
    );
}

#[test]
fn references_to_nothing_are_reported_with_their_file() {
    let rules = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  gateways: [mesh, shop/nowhere]
  http:
  - route: [{destination: {host: cart, subset: v9, port: {number: 8080}}}]
"#;
    let text = report(&mesh(&[SHOP, rules]));
    assert!(
        text.contains(
            "1.yaml: error: VirtualService shop/cart: spec.http[0].route[0].destination.subset"
        ),
        "{text}"
    );
    assert!(text.contains("there is no Gateway shop/nowhere"), "{text}");
}

#[test]
fn two_thousand_services_are_one_mesh() {
    let mut text = String::new();
    for i in 0..2000 {
        text.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, namespace: big}}\nspec: {{clusterIP: 10.{}.{}.1, selector: {{app: a{i}}}, ports: [{{name: http, port: 80}}]}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, namespace: big, labels: {{app: a{i}}}}}\nspec: {{containers: [{{name: c}}]}}\nstatus: {{phase: Running, podIP: 172.16.{}.{}}}\n---\n",
            i / 250, i % 250, i / 250, i % 250
        ));
    }
    let mesh = good_mesh(&[&text]);
    assert_eq!(mesh.services.iter().count(), 2000);
    let last: Arc<_> = mesh
        .services
        .exact("s1999.big.svc.cluster.local", "big")
        .unwrap()
        .clone();
    assert_eq!(mesh.backends(&last, 80).len(), 1);
}

#[test]
fn a_private_host_is_of_its_namespace_whoever_else_declares_it() {
    let entry = |name: &str, namespace: &str, export: &str, address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: [api.example.com], exportTo: [\"{export}\"], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, endpoints: [{{address: {address}}}]}}\n"
        )
    };
    let first = entry("a", "elsewhere", ".", "192.0.2.1");
    let second = entry("b", "shop", ".", "192.0.2.2");
    let public = entry("c", "else", "*", "192.0.2.3");
    let all = good_mesh(&[SHOP, &first, &second, &public]);
    for (viewer, name) in [("elsewhere", "a"), ("shop", "b"), ("third", "c")] {
        let services = &all.services;
        let found = services.find("api.example.com", viewer).unwrap();
        assert_eq!(found.name, name, "{viewer}");
        assert_eq!(services.exact("api.example.com", viewer), Some(found));
    }
    let late = entry("d", "shop", "*", "192.0.2.4");
    let mesh = mesh(&[SHOP, &public, &late]);
    assert!(
        report(&mesh).contains("already declared by else/c"),
        "{}",
        report(&mesh)
    );
}

#[test]
fn slices_say_nothing_of_other_namespaces_pods() {
    let foreign = r#"
apiVersion: v1
kind: Service
metadata: {name: a, namespace: elsewhere}
spec: {clusterIP: 10.96.0.66, ports: [{name: tcp, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, namespace: elsewhere, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: tcp, port: 80}]
endpoints: [{addresses: [10.1.0.1]}]
"#;
    let mesh = good_mesh(&[SHOP, foreign]);
    let id = NamespacedName::new("shop", "cart-v1");
    let workload = mesh.workloads.get(&id).unwrap();
    assert_eq!(mesh.workload_port(workload, 80), DeclaredProtocol::Http);
}

#[test]
fn pods_on_the_hosts_network_are_not_known_by_address() {
    let host = SHOP.replace(
        "  serviceAccountName: cart\n",
        "  serviceAccountName: cart\n  hostNetwork: true\n",
    );
    let mesh = good_mesh(&[&host]);
    assert!(mesh.workloads.at("10.1.0.1".parse().unwrap()).is_none());
    let service = mesh
        .services
        .exact("cart.shop.svc.cluster.local", "shop")
        .unwrap();
    assert_eq!(mesh.backends(service, 8080).len(), 2, "but they serve");
}

#[test]
fn a_pod_behind_an_entry_of_the_mesh_is_spoken_to_as_a_pod() {
    let entry = |location: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\nspec: {{hosts: [e.example.com], location: {location}, ports: [{{number: 80, name: http}}], resolution: STATIC, endpoints: [{{address: 10.1.0.1, weight: 7}}]}}\n"
        )
    };
    let endpoint = |location: &str| {
        let mesh = good_mesh(&[SHOP, &entry(location)]);
        let service = mesh.services.exact("e.example.com", "shop").unwrap();
        mesh.backends(service, 80)[0].endpoint.clone()
    };
    let inside = endpoint("MESH_INTERNAL");
    assert_eq!(
        (inside.tls_mode.as_deref(), inside.weight),
        (Some("istio"), 7)
    );
    assert_eq!(
        inside.identities,
        ["spiffe://cluster.local/ns/shop/sa/cart"]
    );
    let outside = endpoint("MESH_EXTERNAL");
    assert_eq!((outside.tls_mode, outside.weight), (None, 7));
}

fn without(pod: &str) -> Objects {
    let documents = SHOP.split("---").filter(|text| !text.contains(pod));
    let mut folder = crate::source::folder::Folder::default();
    folder.put("shop.yaml", Ok(documents.collect::<Vec<_>>().join("---")));
    folder.objects()
}

#[test]
fn a_departed_pod_answers_for_its_own_sidecar_for_a_while() {
    let id = NamespacedName::new("shop", "cart-v1");
    let before = good_mesh(&[SHOP]);
    let gone = Instant::now();
    let after = before.successor(&Arc::new(without("cart-v1")), gone);
    assert!(after.workloads.get(&id).is_none());
    assert!(after.workloads.at("10.1.0.1".parse().unwrap()).is_none());
    let workload = after.workload(&id).unwrap().clone();
    assert_eq!(Some(&workload), before.workloads.get(&id));
    assert_eq!(
        after.workload_ports(&workload),
        before.workload_ports(&workload)
    );
    let end = after.departed.next_end().unwrap();
    let last = after.successor(&Arc::new(without("cart-v1")), end - departed::GRACE / 2);
    assert_eq!(last.departed.next_end(), Some(end), "the clock runs on");
    let over = last.successor(&Arc::new(without("cart-v1")), end);
    assert!(over.workload(&id).is_none());
    assert_eq!(over.departed.next_end(), None);
}

#[test]
fn what_has_not_changed_is_not_made_again() {
    let mut folder = crate::source::folder::Folder::default();
    folder.put("shop.yaml", Ok(SHOP.to_owned()));
    let settings = good_mesh(&[SHOP]).settings.clone();
    let before = Mesh::build(&folder.objects(), settings);
    let more = SHOP
        .replace("cart-v1", "cart-v3")
        .replace("10.1.0.1", "10.1.0.9");
    folder.put("other.yaml", Ok(more));
    let after = before.successor(&Arc::new(folder.objects()), Instant::now());
    let id = NamespacedName::new("shop", "cart-v1");
    let (one, other) = (before.workloads.get(&id), after.workloads.get(&id));
    assert!(Arc::ptr_eq(one.unwrap(), other.unwrap()));
    folder.put("shop.yaml", Ok(SHOP.replace("version: v1", "version: v7")));
    let edited = after.successor(&Arc::new(folder.objects()), Instant::now());
    assert_eq!(edited.workloads.get(&id).unwrap().labels["version"], "v7");
}

#[test]
fn a_pod_that_returns_is_itself_again() {
    let id = NamespacedName::new("shop", "cart-v1");
    let now = Instant::now();
    let gone = good_mesh(&[SHOP]).successor(&Arc::new(without("cart-v1")), now);
    let back = gone.successor(&Arc::new(without("no pod")), now);
    assert_eq!(back.workload(&id), back.workloads.get(&id));
    assert_eq!(back.departed.next_end(), None);
}

/// `cart` with an EndpointSlice whose only endpoint is this one.
fn sliced(endpoint: &str) -> Arc<Mesh> {
    let slice = format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cart-1, namespace: shop, labels: {{kubernetes.io/service-name: cart}}}}
addressType: IPv4
ports: [{{name: http, port: 80}}]
endpoints: [{{{endpoint}}}]
"
    );
    good_mesh(&[SHOP, ENDED, &slice])
}

const ENDED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: job, namespace: shop, labels: {app: job}}
spec: {containers: [{name: app}]}
status: {phase: Succeeded, podIP: 10.1.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop, labels: {app: agent}}
spec: {hostNetwork: true, containers: [{name: app}]}
status: {phase: Running, podIP: 10.0.0.1}
"#;

fn endpoints_of(mesh: &Mesh) -> Vec<tasuki_xds::model::endpoint::Endpoint> {
    let cart = mesh.services.exact("cart.shop.svc.cluster.local", "shop");
    let backends = mesh.backends(cart.unwrap(), 8080).iter();
    backends.map(|backend| backend.endpoint.clone()).collect()
}

#[test]
fn an_endpoint_whose_pod_is_not_known_is_withheld() {
    let of = |name: &str, address: &str| {
        let reference = format!("targetRef: {{kind: Pod, name: {name}, namespace: shop}}");
        let endpoint = format!("addresses: [{address}], conditions: {{ready: true}}, {reference}");
        endpoints_of(&sliced(&endpoint)).len()
    };
    assert_eq!(of("cart-v1", "10.1.0.1"), 1);
    assert_eq!(of("cart-v9", "10.1.0.9"), 0, "not known yet");
    assert_eq!(
        of("cart-v1", "10.1.0.7"),
        0,
        "it has another address by now"
    );
    assert_eq!(of("job", "10.1.0.9"), 0, "it has ended");
    assert_eq!(of("agent", "10.0.0.1"), 1, "known by its name");
}

#[test]
fn finished_and_host_network_pods_are_not_matched_by_address() {
    let mesh = sliced("addresses: [10.1.0.9], conditions: {ready: true}");
    for address in ["10.1.0.9", "10.0.0.1"] {
        assert!(mesh.workloads.at(address.parse().unwrap()).is_none());
    }
    let [endpoint] = &endpoints_of(&mesh)[..] else {
        panic!("an address of no pod is served as plain")
    };
    assert_eq!(
        (endpoint.tls_mode.as_deref(), endpoint.identities.len()),
        (None, 0)
    );
}

#[test]
fn where_all_are_ending_those_that_serve_are_used() {
    use tasuki_xds::model::endpoint::Health;
    let ending = |serving: bool| {
        format!(
            "addresses: [10.9.9.8], conditions: {{ready: false, serving: {serving}, terminating: true}}"
        )
    };
    let healths = |endpoint: &str| -> Vec<Health> {
        let endpoints = endpoints_of(&sliced(endpoint));
        endpoints.iter().map(|endpoint| endpoint.health).collect()
    };
    assert_eq!(healths(&ending(true)), [Health::Healthy]);
    assert_eq!(healths(&ending(false)), []);
    let beside = "addresses: [10.9.9.7], conditions: {ready: true}}, {";
    let both = healths(&format!("{beside}{}", ending(true)));
    assert_eq!(both, [Health::Healthy, Health::Draining]);
}
