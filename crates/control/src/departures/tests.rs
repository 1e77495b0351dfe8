//! Who leaves, and when that is known; clients are sessions of ADS streams.

use tasuki_xds::client::{AdsClient, NodeInfo};
use tasuki_xds::server::{DeltaSession, Options};

use super::*;
use crate::ads::{Client, ClientKind, Dialect, View};
use crate::snapshot::Snapshot;
use crate::snapshot::tests::{SHOP, mesh};

const CLUSTER: &str = "outbound|8080||cart.shop.svc.cluster.local";

/// The shop while `cart-v1` is being deleted.
pub(super) fn without_cart_v1() -> String {
    let deleting = "name: cart-v1\n  deletionTimestamp: 2026-01-01T00:00:00Z";
    SHOP.replacen("name: cart-v1", deleting, 1)
}

pub(super) fn pod(name: &str) -> NsName {
    format!("shop/{name}").parse().unwrap()
}

/// What a client sees of a mesh.
struct Seen(Snapshot, Client, u64);

impl View for Seen {
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<tasuki_xds::codec::Encoded>> {
        self.0.get(&self.1, ty, name)
    }

    fn list(&self, _: ResourceType) -> Vec<Arc<tasuki_xds::codec::Encoded>> {
        Vec::new()
    }

    fn generation(&self) -> u64 {
        self.2
    }
}

fn seen(mesh: &Arc<Mesh>, generation: u64) -> Seen {
    let client = Client {
        kind: ClientKind::Sidecar {
            pod: pod("storefront"),
        },
        dialect: Dialect::Tasuki,
        namespace: "shop".into(),
        labels: BTreeMap::new(),
        follows: None,
        proven: None,
        identity: None,
        node_id: "sidecar~shop/storefront".into(),
        features: Vec::new(),
    };
    Seen(Snapshot::new(mesh.clone()), client, generation)
}

#[test]
fn a_pod_leaves_with_the_hosts_that_it_served() {
    let (before, after) = (mesh(&[SHOP]), mesh(&[&without_cart_v1()]));
    let departures = Departures::default();
    departures.follow(None, &before, 1);
    assert!(!departures.of(&pod("cart-v1")).deleting);
    departures.follow(Some(&before), &after, 2);
    let told = departures.of(&pod("cart-v1"));
    assert!(told.deleting && !told.acknowledged);
    let leaving = departures.lock()[&pod("cart-v1")].clone();
    assert_eq!(leaving.since, Some(2));
    assert!(leaving.concerns(CLUSTER));
    assert!(leaving.concerns("outbound|9000|v1|cart.shop.svc.cluster.local"));
    assert!(!leaving.concerns("outbound|8080||other.shop.svc.cluster.local"));
    assert!(!leaving.concerns("pod|10.1.0.1|80"));
    // A later state does not begin it anew, and one of the same name that stays ends it.
    departures.follow(Some(&after), &after, 3);
    assert_eq!(departures.lock()[&pod("cart-v1")].since, Some(2));
    departures.follow(Some(&after), &before, 4);
    assert!(!departures.of(&pod("cart-v1")).deleting);
}

#[test]
fn nobody_to_tell_is_everybody_told() {
    let after = mesh(&[&without_cart_v1()]);
    let departures = Departures::default();
    departures.follow(None, &after, 1);
    departures.look(&Clients::new());
    assert!(departures.of(&pod("cart-v1")).acknowledged);
}

/// One that is ending is used where there is no other: it still gets what is new.
#[test]
fn the_last_of_a_service_has_not_left() {
    let last = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-a, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
- addresses: [ADDRESS]
  conditions: {ready: false, serving: true, terminating: true}
  targetRef: {kind: Pod, namespace: shop, name: cart-v1}
";
    let before = mesh(&[SHOP]);
    let id = NamespacedName::new("shop", "cart-v1");
    let address = before.workloads.get(&id).unwrap().addresses[0];
    let last = last.replace("ADDRESS", &address.to_string());
    let departures = Departures::default();
    let alone = mesh(&[&without_cart_v1(), &last]);
    departures.follow(Some(&before), &alone, 2);
    departures.look(&Clients::new());
    let told = departures.of(&pod("cart-v1"));
    assert!(told.deleting && !told.acknowledged);
    departures.follow(Some(&alone), &mesh(&[&without_cart_v1()]), 3);
    departures.look(&Clients::new());
    assert!(departures.of(&pod("cart-v1")).acknowledged);
}

/// The control plane itself, by its Service and its endpoints.
const TWO_REPLICAS: &str = "
apiVersion: v1
kind: Service
metadata: {name: tasuki-control, namespace: tasuki-system}
spec: {clusterIP: 10.96.9.9, ports: [{name: grpc-xds, port: 15012}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, namespace: tasuki-system, labels: {kubernetes.io/service-name: tasuki-control}}
addressType: IPv4
ports: [{name: grpc-xds, port: 15012}]
endpoints:
- {addresses: [10.1.9.1], conditions: {ready: true}}
- {addresses: [10.1.9.2], conditions: {ready: true}}
";

#[tokio::test(start_paused = true)]
async fn clients_of_other_replicas_are_given_time() {
    let departures = Arc::new(Departures::default());
    let clients = Arc::new(Clients::new());
    tokio::spawn(departures.clone().run(clients));
    tokio::time::sleep(RETURNING * 2).await;
    let after = mesh(&[&without_cart_v1(), TWO_REPLICAS]);
    departures.follow(Some(&mesh(&[SHOP, TWO_REPLICAS])), &after, 2);
    tokio::time::sleep(OTHER_REPLICAS - SWARM).await;
    assert!(!departures.of(&pod("cart-v1")).acknowledged);
    tokio::time::sleep(SWARM * 2).await;
    assert!(departures.of(&pod("cart-v1")).acknowledged);
}

#[test]
fn a_client_knows_when_it_has_acknowledged() {
    let (before, after) = (mesh(&[SHOP]), mesh(&[&without_cart_v1()]));
    let concerns = |name: &str| name == CLUSTER;
    let mut client = AdsClient::new(&NodeInfo::sidecar("shop", "storefront", "test"));
    let mut server = DeltaSession::new(Options::default());
    client.subscribe(ResourceType::Endpoint, CLUSTER);
    client.connected();
    let mut exchange = |server: &mut DeltaSession, view: &Seen, answers: bool| {
        while let Some(request) = client.next_request() {
            server.on_request(request);
        }
        for response in server.poll(view) {
            client.on_response(response);
        }
        if answers {
            while let Some(request) = client.next_request() {
                server.on_request(request);
            }
        }
    };
    let ty = ResourceType::Endpoint;
    assert!(server.has_settled(ty, 2, concerns), "it has nothing");
    exchange(&mut server, &seen(&before, 1), true);
    assert!(server.has_settled(ty, 1, concerns));
    assert!(!server.has_settled(ty, 2, concerns));
    assert!(server.has_settled(ty, 2, |_: &str| false));
    exchange(&mut server, &seen(&after, 2), false);
    assert!(!server.has_settled(ty, 2, concerns), "sent, not answered");
    exchange(&mut server, &seen(&after, 2), true);
    assert!(server.has_settled(ty, 2, concerns));
    // What changes later is another matter.
    exchange(&mut server, &seen(&before, 3), false);
    assert!(server.has_settled(ty, 2, concerns));
}
