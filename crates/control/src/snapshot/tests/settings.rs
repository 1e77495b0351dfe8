//! What `MeshSettings` change in the snapshots.

use tasuki_xds::model::cluster::{HttpProtocol, Limits, RetryBudget};
use tasuki_xds::model::listener::Filter;
use tasuki_xds::model::proxy_settings::{AccessLog, PROXY_SETTINGS};
use tokio::time::Instant;

use super::*;

const SETTINGS: &str = "
apiVersion: tasuki.dev/v1alpha1
kind: MeshSettings
metadata: {name: default, namespace: istio-system}
spec:
  outboundTrafficPolicy: registry-only
  accessLog: all
  certificateTtl: 2h
  connectionPool:
    tcp: {connectTimeout: 3s, maxConnections: 7}
    http: {http2MaxRequests: 50, h2UpgradePolicy: UPGRADE}
  retryBudget: {percent: 5, minRetryConcurrency: 1}
";

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 9}, http: {useClientProtocol: true}}
    retryBudget: {percent: 30}
";

const CART: &str = "outbound|8080||cart.shop.svc.cluster.local";

fn passthrough(client: &As) -> String {
    match client
        .listener("passthrough")
        .unwrap()
        .default_chain
        .unwrap()
        .filter
    {
        Filter::Tcp(tcp) => tcp.clusters[0].name.clone(),
        Filter::Http(_) => panic!("HTTP"),
    }
}

fn access_log(client: &As) -> Option<AccessLog> {
    match client.build(ResourceType::ProxySettings, PROXY_SETTINGS) {
        Some(Resource::ProxySettings(settings)) => settings.access_log,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_for_every_service() {
    let mesh = good_mesh(&[SHOP, SETTINGS]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let cluster = client.cluster(CART);
    assert_eq!(cluster.connect_timeout, Duration::from_secs(3));
    let expected = Limits {
        max_connections: 7,
        max_requests: 50,
        ..Limits::default()
    };
    assert_eq!(cluster.limits, expected);
    assert_eq!(cluster.http, HttpProtocol::Http2);
    let budget = RetryBudget {
        percent: 5.0,
        min_concurrent: 1,
    };
    assert_eq!(cluster.retry_budget, Some(budget));
    assert_eq!(passthrough(&client), "BlackHoleCluster");
    assert_eq!(access_log(&client), Some(AccessLog::All));
}

#[test]
fn foreign_clients_are_told_of_no_settings_of_ours() {
    let mesh = good_mesh(&[SHOP, SETTINGS]);
    let dialect = Dialect::Envoy { secrets: false };
    let envoy = As::client(&mesh, foreign(ClientKind::EnvoyGateway, dialect, "shop"));
    assert!(!envoy.has(ResourceType::ProxySettings, PROXY_SETTINGS));
    let listed = envoy
        .snapshot
        .list(&envoy.client, ResourceType::ProxySettings);
    assert!(listed.is_empty());
}

#[test]
fn a_destination_rule_is_closer() {
    let mesh = good_mesh(&[SHOP, SETTINGS, RULE]);
    let cluster = As::sidecar(&mesh, "shop", "storefront").cluster(CART);
    assert_eq!(cluster.limits.max_connections, 9);
    assert_eq!(
        cluster.limits.max_requests, 50,
        "what it does not say is the mesh's"
    );
    assert_eq!(cluster.http, HttpProtocol::Downstream);
    assert_eq!(cluster.retry_budget.unwrap().percent, 30.0);
}

#[test]
fn settings_come_and_go_without_a_restart() {
    let flags = good_mesh(&[SHOP]);
    let ttl = flags.settings.certificate_ttl();
    let mut folder = Folder::default();
    folder.put("shop.yaml", Ok(SHOP.to_owned()));
    folder.put("settings.yaml", Ok(SETTINGS.to_owned()));
    let with = Arc::new(flags.successor(&Arc::new(folder.objects()), Instant::now()));
    assert_eq!(
        passthrough(&As::sidecar(&with, "shop", "storefront")),
        "BlackHoleCluster"
    );
    assert_eq!(with.settings.certificate_ttl(), Duration::from_secs(7200));
    folder.remove("settings.yaml");
    let without = Arc::new(with.successor(&Arc::new(folder.objects()), Instant::now()));
    assert_eq!(
        passthrough(&As::sidecar(&without, "shop", "storefront")),
        "PassthroughCluster"
    );
    assert_eq!(without.settings.certificate_ttl(), ttl);
    let client = As::sidecar(&without, "shop", "storefront");
    assert_eq!(access_log(&client), None);
    let listed = client
        .snapshot
        .list(&client.client, ResourceType::ProxySettings);
    assert_eq!(listed.len(), 1, "it is never removed");
}

#[test]
fn only_the_root_namespaces_default_counts() {
    let elsewhere = SETTINGS.replace("namespace: istio-system", "namespace: shop");
    let renamed = SETTINGS.replace("name: default", "name: mine");
    let mesh = good_mesh(&[SHOP, &elsewhere, &renamed]);
    assert_eq!(
        passthrough(&As::sidecar(&mesh, "shop", "storefront")),
        "PassthroughCluster"
    );
    let reported: Vec<String> = mesh.problems.iter().map(ToString::to_string).collect();
    for expected in [
        "MeshSettings shop/default: metadata.namespace: not used",
        "MeshSettings istio-system/mine: metadata: not used",
    ] {
        let found = reported.iter().any(|line| line.contains(expected));
        assert!(found, "{expected} in {reported:#?}");
    }
}
