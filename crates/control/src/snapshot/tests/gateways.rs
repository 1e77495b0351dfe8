use tasuki_xds::model::listener::{Filter, RouteSource};

use super::*;

const EDGE: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["shop.example.com", "*.test"]
  - port: {number: 15001, name: bad, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: [shop.example.com, a.test, elsewhere.org]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /cart}}]
    route: [{destination: {host: cart, port: {number: 8080}}}]
  - redirect: {uri: /}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: more, namespace: elsewhere}
spec:
  hosts: [shop.example.com]
  gateways: [shop/edge, mesh]
  http:
  - match:
    - {uri: {prefix: /mesh}, gateways: [mesh]}
    - {uri: {prefix: /more}}
    route: [{destination: {host: cart.shop.svc.cluster.local, port: {number: 8080}}}]
"#;

fn envoy(labels: &[(&str, &str)]) -> Client {
    let mut client = foreign(
        ClientKind::EnvoyGateway,
        Dialect::Envoy { secrets: false },
        "shop",
    );
    client.labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    client
}

fn ours() -> Client {
    let gateway = NsName {
        namespace: "shop".into(),
        name: "edge".into(),
    };
    foreign(
        ClientKind::TasukiGateway { gateway },
        Dialect::Tasuki,
        "shop",
    )
}

#[test]
fn listeners_have_addresses_and_never_the_proxys_own_ports() {
    let mesh = mesh(&[SHOP, EDGE]);
    for client in [ours(), envoy(&[("istio", "ingressgateway")])] {
        let client = As::client(&mesh, client);
        assert_eq!(
            client
                .snapshot
                .list(&client.client, ResourceType::Listener)
                .len(),
            1
        );
        let listener = client.listener("0.0.0.0_8080").unwrap();
        assert_eq!(listener.address, Some("0.0.0.0:8080".parse().unwrap()));
        assert!(listener.api.is_none());
        let Filter::Http(http) = &listener.chains[0].filter else {
            panic!()
        };
        assert_eq!(http.routes, RouteSource::Rds("http.8080".into()));
        assert!(client.listener("0.0.0.0_15001").is_none());
    }
    assert!(mesh.problems.iter().any(|p| p.reason.contains("own ports")));
    let stranger = As::client(&mesh, envoy(&[("istio", "other")]));
    assert!(
        stranger
            .snapshot
            .list(&stranger.client, ResourceType::Listener)
            .is_empty()
    );
}

#[test]
fn virtual_services_of_several_namespaces_merge_by_host() {
    let mesh = mesh(&[SHOP, EDGE]);
    let client = As::client(&mesh, ours());
    let table = client.table("http.8080");
    let hosts: Vec<_> = table
        .virtual_hosts
        .iter()
        .map(|host| host.domains[0].as_str())
        .collect();
    assert_eq!(hosts, ["a.test", "shop.example.com"]);
    assert_eq!(
        table.virtual_hosts[1].domains,
        ["shop.example.com", "shop.example.com:8080"]
    );
    let paths: Vec<String> = table.virtual_hosts[1]
        .routes
        .iter()
        .map(|route| format!("{:?}", route.matches.path))
        .collect();
    assert_eq!(
        paths,
        [r#"Prefix("/more")"#, r#"Prefix("/cart")"#, r#"Prefix("/")"#]
    );
    let clusters = client.snapshot.list(&client.client, ResourceType::Cluster);
    assert_eq!(clusters.len(), 1);
    assert!(!client.has(ResourceType::Route, "http.9"));
}

#[test]
fn one_proxy_may_serve_several_gateways_on_a_port() {
    let second = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: other, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: both, namespace: shop}
spec:
  hosts: [both.test]
  gateways: [edge, other]
  http:
  - match: [{uri: {prefix: /edge}, gateways: [edge]}, {uri: {prefix: /other}, gateways: [other]}]
    route: [{destination: {host: cart, port: {number: 8080}}}]
"#;
    let mesh = mesh(&[SHOP, EDGE, second]);
    let client = As::client(&mesh, envoy(&[("istio", "ingressgateway")]));
    let table = client.table("http.8080");
    let mut hosts = table.virtual_hosts.iter();
    let both = hosts.find(|host| host.domains[0] == "both.test").unwrap();
    assert_eq!(both.routes.len(), 2);
    let ours = As::client(&mesh, ours()).table("http.8080");
    let mut hosts = ours.virtual_hosts.iter();
    let both = hosts.find(|host| host.domains[0] == "both.test").unwrap();
    assert_eq!(both.routes.len(), 1);
}
