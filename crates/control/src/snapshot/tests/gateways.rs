//! Listeners and routes of gateways.

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

#[test]
fn an_envoy_gives_each_half_of_a_service_its_share() {
    let name = "outbound|8080||cart.shop.svc.cluster.local";
    let plain = "outbound-plain|8080||cart.shop.svc.cluster.local";
    let secure = || {
        let mut client = envoy(&[("istio", "ingressgateway")]);
        client.dialect = Dialect::Envoy { secrets: true };
        client
    };
    let weights = |client: &As| -> Vec<(String, u32)> {
        let table = client.table("http.8080");
        let forward = table.virtual_hosts.iter().flat_map(|host| &host.routes);
        let forward = forward.filter_map(|route| match &route.action {
            tasuki_xds::model::route::RouteAction::Forward(forward) => Some(&forward.clusters),
            _ => None,
        });
        let clusters = forward.into_iter().next().unwrap();
        clusters
            .iter()
            .map(|cluster| (cluster.name.clone(), cluster.weight))
            .collect()
    };
    let mesh = mesh(&[SHOP, EDGE]);
    let client = As::client(&mesh, secure());
    let half = |name: &str| (name.to_owned(), 5_000);
    assert_eq!(weights(&client), [half(name), half(plain)]);
    let (meshed, rest) = (client.cluster(name), client.cluster(plain));
    assert!(!meshed.tls.is_empty() && rest.tls.is_empty());
    let addresses = |name: &str| -> Vec<String> {
        let assignment = client.endpoints(name);
        let endpoints = assignment.localities.iter().flat_map(|l| &l.endpoints);
        endpoints.map(|e| e.address.to_string()).collect()
    };
    assert_eq!(addresses(name), ["10.1.0.1:80"]);
    assert_eq!(addresses(plain), ["10.1.0.2:81"]);
    let listed = client
        .snapshot
        .list(&client.client, ResourceType::Cluster)
        .len();
    assert_eq!(listed, 2);

    // In one piece: for an Envoy without mesh TLS, for ours, and where all endpoints take HTTP/2.
    for client in [envoy(&[("istio", "ingressgateway")]), ours()] {
        let client = As::client(&mesh, client);
        assert_eq!(weights(&client).len(), 1);
        assert!(!client.has(ResourceType::Cluster, plain));
        assert!(!client.has(ResourceType::Endpoint, plain));
    }
    let http2 = SHOP.replace("name: http, port: 8080", "name: grpc, port: 8080");
    let mesh = good_mesh(&[&http2]);
    let client = As::client(&mesh, secure());
    assert!(!client.has(ResourceType::Cluster, plain));
    assert_eq!(client.endpoints(name).localities[0].endpoints.len(), 2);
}
