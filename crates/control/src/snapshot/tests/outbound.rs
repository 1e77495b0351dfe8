//! Listeners that sidecars ask for.

use tasuki_xds::model::ResourceType;
use tasuki_xds::model::listener::{DeclaredProtocol, Filter, Listener, RouteSource};

use super::*;

fn routes(listener: &Listener) -> String {
    match &listener.api.as_ref().unwrap().routes {
        RouteSource::Rds(name) => name.clone(),
        RouteSource::Inline(table) => format!("inline {}", table.name),
    }
}

fn tcp(listener: &Listener) -> Option<String> {
    match &listener.default_chain.as_ref()?.filter {
        Filter::Tcp(tcp) => Some(tcp.clusters[0].name.clone()),
        Filter::Http(_) => panic!("HTTP"),
    }
}

#[test]
fn a_cluster_address_is_the_service() {
    let mesh = good_mesh(&[SHOP]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let listener = client.listener("10.96.0.10:8080").unwrap();
    assert_eq!(listener.name, "10.96.0.10:8080");
    assert_eq!(listener.protocol, DeclaredProtocol::Http);
    assert_eq!(routes(&listener), "cart.shop.svc.cluster.local:8080");
    assert_eq!(tcp(&listener), None);
    let admin = client.listener("10.96.0.10:9000").unwrap();
    assert!(admin.api.is_none());
    assert_eq!(
        tcp(&admin).unwrap(),
        "outbound|9000||cart.shop.svc.cluster.local"
    );
    let any = client.listener("10.96.0.10:7000").unwrap();
    assert_eq!(routes(&any), "cart.shop.svc.cluster.local:7000");
    assert_eq!(
        tcp(&any).unwrap(),
        "outbound|7000||cart.shop.svc.cluster.local"
    );
    assert!(client.listener("10.96.0.10:1234").is_none());
    assert!(client.listener("10.96.0.99:8080").is_none());
}

#[test]
fn a_pod_address_is_that_pod() {
    let mesh = good_mesh(&[SHOP]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let listener = client.listener("10.1.0.1:80").unwrap();
    assert_eq!(listener.protocol, DeclaredProtocol::Http);
    assert_eq!(routes(&listener), "inline pod|10.1.0.1|80");
    let undeclared = client.listener("10.1.0.1:4444").unwrap();
    assert_eq!(undeclared.protocol, DeclaredProtocol::Auto);
    assert_eq!(tcp(&undeclared).unwrap(), "pod|10.1.0.1|4444");
    let endpoints = client.endpoints("pod|10.1.0.1|80");
    let endpoint = &endpoints.localities[0].endpoints[0];
    assert_eq!(endpoint.address, "10.1.0.1:80".parse().unwrap());
    assert_eq!(
        endpoint.identities,
        ["spiffe://cluster.local/ns/shop/sa/cart"]
    );
    assert_eq!(endpoint.tls_mode.as_deref(), Some("istio"));
    let plain = client.endpoints("pod|10.1.0.2|81");
    assert_eq!(plain.localities[0].endpoints[0].tls_mode, None);
    assert!(client.has(ResourceType::Cluster, "pod|10.1.0.1|80"));
    assert!(!client.has(ResourceType::Cluster, "pod|10.1.0.99|80"));
}

#[test]
fn names_are_short_where_a_resolver_would_take_them() {
    let mesh = good_mesh(&[SHOP]);
    let near = As::sidecar(&mesh, "shop", "storefront");
    for name in [
        "cart",
        "cart.shop",
        "cart.shop.svc",
        "cart.shop.svc.cluster.local",
    ] {
        let asked = format!("{name}:8080");
        let listener = near.listener(&asked).unwrap();
        assert_eq!(listener.name, asked);
        assert_eq!(routes(&listener), "cart.shop.svc.cluster.local:8080");
    }
    let far = As::sidecar(&mesh, "elsewhere", "other");
    assert!(far.listener("cart:8080").is_none());
    assert!(far.listener("cart.shop:8080").is_some());
    assert!(far.listener("cart.shop:8081").is_none());
    assert!(far.listener("example.com:80").is_none());
    assert!(far.listener("nonsense").is_none());
}

#[test]
fn undeclared_destinations_follow_the_policy() {
    for (policy, cluster) in [
        (OutboundTrafficPolicy::AllowAny, "PassthroughCluster"),
        (OutboundTrafficPolicy::RegistryOnly, "BlackHoleCluster"),
    ] {
        let mesh = mesh_with(policy, &[SHOP]);
        let client = As::sidecar(&mesh, "shop", "storefront");
        let listener = client.listener("passthrough").unwrap();
        assert_eq!(tcp(&listener).unwrap(), cluster);
        assert!(client.has(ResourceType::Cluster, cluster));
    }
}

#[test]
fn an_external_service_by_name_by_address_and_by_endpoint() {
    let entries = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.example.com]
  ports:
  - {number: 443, name: tls, protocol: TLS}
  - {number: 80, name: http, protocol: HTTP}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vip, namespace: shop}
spec:
  hosts: [vip.example.com]
  addresses: [192.0.2.1, "2001:db8::1"]
  ports: [{number: 6000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bare, namespace: shop}
spec:
  hosts: [bare.example.com]
  exportTo: ["."]
  ports: [{number: 5000, name: http, protocol: HTTP, targetPort: 5001}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.2}, {address: 127.0.0.1, ports: {http: 15000}}]
"#;
    let mesh = mesh(&[SHOP, entries]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let tls = client.listener("pay.example.com:443").unwrap();
    assert_eq!(
        (tls.protocol, tls.api.is_none()),
        (DeclaredProtocol::Tls, true)
    );
    assert_eq!(
        routes(&client.listener("PAY.example.com.:80").unwrap()),
        "pay.example.com:80"
    );
    assert_eq!(
        tcp(&client.listener("192.0.2.1:6000").unwrap()).unwrap(),
        "outbound|6000||vip.example.com"
    );
    assert!(client.listener("[2001:db8::1]:6000").is_some());
    assert_eq!(
        routes(&client.listener("198.51.100.2:5001").unwrap()),
        "bare.example.com:5000"
    );
    let endpoints = client.endpoints("outbound|5000||bare.example.com");
    assert_eq!(
        endpoints.localities[0].endpoints.len(),
        1,
        "the proxy's own port is nobody's endpoint"
    );
    let report: Vec<_> = mesh.problems.iter().map(ToString::to_string).collect();
    assert!(
        report.iter().any(|line| line.contains("own ports")),
        "{report:?}"
    );
    let far = As::sidecar(&mesh, "elsewhere", "other");
    assert!(far.listener("bare.example.com:5000").is_none());
    assert!(far.listener("198.51.100.2:5001").is_none());
    assert!(far.listener("pay.example.com:443").is_some());
}

#[test]
fn grpc_clients_get_an_api_listener_and_no_chains() {
    let mesh = good_mesh(&[SHOP]);
    let grpc = foreign(
        ClientKind::Grpc,
        Dialect::Grpc { provider: None },
        "default",
    );
    let client = As::client(&mesh, grpc);
    let listener = client.listener("cart.shop.svc.cluster.local:8080").unwrap();
    assert!(listener.default_chain.is_none() && listener.chains.is_empty());
    assert_eq!(routes(&listener), "cart.shop.svc.cluster.local:8080");
    assert!(
        client
            .cluster("outbound|8080||cart.shop.svc.cluster.local")
            .tls
            .is_empty()
    );
    assert!(client.listener("inbound").is_none());
    assert!(!client.has(ResourceType::Cluster, "inbound|80||"));
}

#[test]
fn a_block_of_addresses_does_not_take_over_the_pods_in_it() {
    let entry = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide, namespace: elsewhere}
spec:
  hosts: [wide.example.com]
  addresses: [10.0.0.0/8]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 8080, name: more, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.66}]
"#;
    let mesh = good_mesh(&[SHOP, entry]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let routes_at = |name: &str| routes(&client.listener(name).unwrap());
    assert_eq!(routes_at("10.1.0.1:80"), "inline pod|10.1.0.1|80");
    assert_eq!(
        routes_at("10.96.0.10:8080"),
        "cart.shop.svc.cluster.local:8080"
    );
    assert_eq!(routes_at("10.200.0.1:80"), "wide.example.com:80");
}
