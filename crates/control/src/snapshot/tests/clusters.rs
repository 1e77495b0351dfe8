//! Clusters and endpoints, as each kind of client gets them.

use tasuki_xds::model::cluster::*;
use tasuki_xds::model::tls::CertificateSource;

use super::*;

const HOST: &str = "cart.shop.svc.cluster.local";

#[test]
fn defaults_and_automatic_mtls() {
    let mesh = good_mesh(&[SHOP]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let cluster = client.cluster(&format!("outbound|8080||{HOST}"));
    assert_eq!(cluster.discovery, Discovery::Eds { service_name: None });
    assert_eq!(cluster.balance, Balance::LeastRequest { choices: 2 });
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
    assert_eq!(cluster.limits, Limits::default());
    assert_eq!(
        (cluster.outliers.clone(), cluster.retry_budget),
        (None, None)
    );
    assert_eq!(cluster.http, HttpProtocol::Http1);
    assert_eq!(cluster.service.as_ref().unwrap().host, HOST);
    let [mesh_tls, plain] = cluster.tls.as_slice() else {
        panic!("{:?}", cluster.tls)
    };
    assert_eq!(mesh_tls.tls_mode.as_deref(), Some("istio"));
    let tls = mesh_tls.tls.as_ref().unwrap();
    assert_eq!(tls.alpn, ["tasuki-h2"]);
    assert_eq!(
        tls.certificate,
        Some(CertificateSource::ProviderInstance("workload".into()))
    );
    assert_eq!((plain.tls_mode.clone(), plain.tls.clone()), (None, None));
    assert!(!client.has(ResourceType::Cluster, &format!("outbound|1||{HOST}")));
    assert!(!client.has(
        ResourceType::Cluster,
        &format!("outbound|8080|nothing|{HOST}")
    ));
}

#[test]
fn endpoints_carry_who_they_are() {
    let mesh = good_mesh(&[SHOP]);
    let client = As::sidecar(&mesh, "elsewhere", "other");
    let assignment = client.endpoints(&format!("outbound|8080||{HOST}"));
    let endpoints = &assignment.localities[0].endpoints;
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints[0].address, "10.1.0.1:80".parse().unwrap());
    assert_eq!(endpoints[0].tls_mode.as_deref(), Some("istio"));
    assert_eq!(endpoints[1].address, "10.1.0.2:81".parse().unwrap());
    assert_eq!(
        endpoints[1].tls_mode, None,
        "a label without the annotation is Istio's own sidecar or none"
    );
    assert_eq!(endpoints[0].workload.canonical_service, "cart");
    assert_eq!(endpoints[0].workload.version, "v1");
}

#[test]
fn the_clients_rule_then_the_services_then_the_roots() {
    let rule = |namespace: &str, host: &str, millis: u32| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r{millis}, namespace: {namespace}}}\nspec: {{host: \"{host}\", trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {millis}ms}}}}}}}}\n"
        )
    };
    let (wide, narrow) = (
        rule("shop", "*.shop.svc.cluster.local", 100),
        rule("shop", HOST, 200),
    );
    let (mine, root) = (
        rule("elsewhere", HOST, 300),
        rule("istio-system", "*.cluster.local", 400),
    );
    let name = format!("outbound|8080||{HOST}");
    let timeout = |documents: &[&str], namespace: &str, pod: &str| {
        As::sidecar(&good_mesh(documents), namespace, pod)
            .cluster(&name)
            .connect_timeout
            .as_millis()
    };
    assert_eq!(
        timeout(&[SHOP, &wide, &narrow, &mine, &root], "shop", "storefront"),
        200
    );
    assert_eq!(
        timeout(&[SHOP, &wide, &narrow, &mine, &root], "elsewhere", "other"),
        300
    );
    assert_eq!(timeout(&[SHOP, &wide, &root], "elsewhere", "other"), 100);
    assert_eq!(timeout(&[SHOP, &mine, &root], "shop", "storefront"), 400);
}

#[test]
fn a_traffic_policy_in_full() {
    let rule = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 7}
      http: {http1MaxPendingRequests: 5, http2MaxRequests: 9, maxRetries: 2, maxRequestsPerConnection: 11}
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50, minHealthPercent: 20}
    retryBudget: {percent: 100, minRetryConcurrency: 4}
    portLevelSettings:
    - port: {number: 7000}
      loadBalancer: {simple: RANDOM}
  subsets:
  - name: v2
    labels: {version: v2}
    trafficPolicy: {tls: {mode: DISABLE}}
"#;
    let mesh = good_mesh(&[SHOP, rule]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let cluster = client.cluster(&format!("outbound|8080||{HOST}"));
    assert_eq!(cluster.balance, Balance::RoundRobin);
    let limits = cluster.limits;
    assert_eq!(
        (
            limits.max_connections,
            limits.max_pending_requests,
            limits.max_requests
        ),
        (7, 5, 9)
    );
    assert_eq!(
        (limits.max_retries, limits.max_requests_per_connection),
        (2, 11)
    );
    let outliers = cluster.outliers.unwrap();
    assert_eq!(
        (outliers.consecutive_5xx, outliers.max_ejection_percent),
        (3, 50)
    );
    assert_eq!(
        (outliers.interval, outliers.base_ejection),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
    assert_eq!(cluster.panic_percent, 20);
    assert_eq!(
        cluster.retry_budget,
        Some(RetryBudget {
            percent: 100.0,
            min_concurrent: 4
        })
    );
    let port = client.cluster(&format!("outbound|7000||{HOST}"));
    assert_eq!(
        (port.balance, port.limits),
        (Balance::Random, Limits::default()),
        "port settings replace"
    );
    let v2 = client.cluster(&format!("outbound|8080|v2|{HOST}"));
    assert_eq!((v2.balance, v2.tls.len()), (Balance::RoundRobin, 0));
    let endpoints = client.endpoints(&format!("outbound|8080|v2|{HOST}"));
    assert_eq!(endpoints.localities[0].endpoints.len(), 1);
    assert_eq!(
        endpoints.localities[0].endpoints[0].address,
        "10.1.0.2:81".parse().unwrap()
    );
}

#[test]
fn names_are_left_to_the_proxy() {
    let entry = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.example.com]
  ports: [{number: 443, name: https, protocol: HTTPS, targetPort: 8443}]
  resolution: DNS
"#;
    let mesh = good_mesh(&[SHOP, entry]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let cluster = client.cluster("outbound|443||pay.example.com");
    let Discovery::Dns { hosts, .. } = &cluster.discovery else {
        panic!("{:?}", cluster.discovery)
    };
    assert_eq!(hosts, &[("pay.example.com".to_owned(), 8443)]);
}

#[test]
fn slices_count_where_they_are_given() {
    let slices = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
- {addresses: [10.1.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: cart-v1, namespace: shop}}
- {addresses: [10.9.9.9], conditions: {ready: true}}
- {addresses: [10.9.9.8], conditions: {ready: false}}
"#;
    let mesh = good_mesh(&[SHOP, slices]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let assignment = client.endpoints(&format!("outbound|8080||{HOST}"));
    let endpoints = &assignment.localities[0].endpoints;
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints[0].identities.len(), 1);
    assert!(endpoints[1].identities.is_empty());
}

#[test]
fn an_envoy_without_a_credential_gets_plaintext() {
    let mesh = good_mesh(&[SHOP]);
    let name = format!("outbound|8080||{HOST}");
    let plain = foreign(
        ClientKind::EnvoyGateway,
        Dialect::Envoy { secrets: false },
        "shop",
    );
    assert!(As::client(&mesh, plain).cluster(&name).tls.is_empty());
    let secure = foreign(
        ClientKind::EnvoyGateway,
        Dialect::Envoy { secrets: true },
        "shop",
    );
    let tls = As::client(&mesh, secure)
        .cluster(&name)
        .tls
        .remove(0)
        .tls
        .unwrap();
    assert_eq!(
        tls.certificate,
        Some(CertificateSource::Sds("default".into()))
    );
    assert_eq!(tls.trust, Some(CertificateSource::Sds("ROOTCA".into())));
    assert_eq!(
        tls.server_identities,
        ["spiffe://cluster.local/ns/shop/sa/cart"]
    );
}

#[test]
fn a_port_without_mtls_is_called_in_plaintext() {
    let off = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: "off", namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  mtls: {mode: STRICT}
  portLevelMtls: {80: {mode: DISABLE}}
"#;
    let mesh = good_mesh(&[SHOP, off]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let tls_mode = |cluster: &str| {
        let endpoints = client.endpoints(cluster);
        endpoints.localities[0].endpoints[0].tls_mode.clone()
    };
    assert_eq!(tls_mode("outbound|8080||cart.shop.svc.cluster.local"), None);
    assert_eq!(tls_mode("pod|10.1.0.1|80"), None);
    let strict = tls_mode("outbound|9000||cart.shop.svc.cluster.local");
    assert_eq!(strict.as_deref(), Some("istio"));
}

#[test]
fn mutual_tls_that_a_rule_asks_for_checks_who_answers() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec: {host: cart, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n";
    let mesh = good_mesh(&[SHOP, rule]);
    let envoy = foreign(
        ClientKind::EnvoyGateway,
        Dialect::Envoy { secrets: true },
        "shop",
    );
    let client = As::client(&mesh, envoy);
    let tls = client.cluster(&format!("outbound|8080||{HOST}")).tls;
    assert_eq!(
        tls[0].tls.as_ref().unwrap().server_identities,
        ["spiffe://cluster.local/ns/shop/sa/cart"]
    );
}

#[test]
fn the_names_that_a_rule_demands_are_demanded_of_every_endpoint() {
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec: {{host: cart, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: [\"{other}\"]}}}}}}\n"
    );
    let mesh = good_mesh(&[SHOP, &rule]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let endpoints = client.endpoints(&format!("outbound|8080||{HOST}"));
    for endpoint in &endpoints.localities[0].endpoints {
        assert_eq!(endpoint.identities, [other]);
    }
    let whole = client.endpoints("pod|10.1.0.1|80");
    assert_ne!(whole.localities[0].endpoints[0].identities, [other]);
}

#[test]
fn tls_that_a_rule_asks_for_is_never_left_out() {
    let rule = |mode: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec: {{host: cart, trafficPolicy: {{tls: {{mode: {mode}}}}}}}\n"
        )
    };
    let name = format!("outbound|8080||{HOST}");
    let grpc = |provider: Option<&str>| {
        let provider = provider.map(str::to_owned);
        foreign(ClientKind::Grpc, Dialect::Grpc { provider }, "shop")
    };
    let envoy = |secrets| {
        let dialect = Dialect::Envoy { secrets };
        foreign(ClientKind::EnvoyGateway, dialect, "shop")
    };
    let cases = [
        ("SIMPLE", grpc(None), false),
        ("SIMPLE", grpc(Some("certs")), true),
        ("SIMPLE", envoy(false), true),
        ("ISTIO_MUTUAL", grpc(None), false),
        ("ISTIO_MUTUAL", grpc(Some("certs")), true),
        ("ISTIO_MUTUAL", envoy(false), false),
        ("ISTIO_MUTUAL", envoy(true), true),
    ];
    for (mode, client, capable) in cases {
        let mesh = good_mesh(&[SHOP, &rule(mode)]);
        let client = As::client(&mesh, client);
        let reasons = client
            .snapshot
            .withheld(&client.client, std::slice::from_ref(&name));
        if !capable {
            assert!(!client.has(ResourceType::Cluster, &name), "{mode}");
            assert_eq!(reasons[0].0, name);
            assert!(
                reasons[0].1.contains("shop/cart asks for TLS"),
                "{reasons:?}"
            );
            continue;
        }
        assert!(reasons.is_empty(), "{reasons:?}");
        let cluster = client.cluster(&name);
        assert!(cluster.tls[0].tls.is_some());
        // On the wire too.
        let encoded = encode(&Resource::Cluster(cluster), &client.client.dialect);
        let wire = String::from_utf8_lossy(&encoded.any.value);
        let dialect = &client.client.dialect;
        assert!(wire.contains("UpstreamTlsContext"), "{mode} {dialect:?}");
    }
    let plain = good_mesh(&[SHOP, &rule("DISABLE")]);
    assert!(As::client(&plain, grpc(None)).cluster(&name).tls.is_empty());
}
