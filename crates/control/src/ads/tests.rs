//! The ADS service over real connections, with a raw client and with our own client machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tasuki_xds::client::{AdsClient, Event, NodeInfo};
use tasuki_xds::codec::{Dialect, Encoded, encode};
use tasuki_xds::model::{Resource, ResourceType, RouteConfiguration, TrustBundle};
use tasuki_xds::proto::{
    AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DiscoveryRequest, Node,
};
use tasuki_xds::server::View;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status, Streaming};

use crate::auth::incoming::{self, Gate};
use crate::limits::{Bound, CONNECTION_STREAMS, Refused, StreamLimits};

use super::{
    AdsService, Authenticator, Caller, Catalog, Client, Clients, NsName, PodFacts, Presented,
    Purpose,
};

/// A catalog of route tables, and one pod.
struct Fixture {
    routes: Mutex<BTreeMap<String, Resource>>,
    pods: Mutex<BTreeMap<NsName, PodFacts>>,
    generation: watch::Sender<u64>,
}

struct Tables(BTreeMap<String, Resource>, Dialect);

impl View for Tables {
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        self.0
            .get(name)
            .filter(|r| r.ty() == ty)
            .map(|r| encode(r, &self.1))
    }

    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>> {
        self.0
            .values()
            .filter(|r| r.ty() == ty)
            .map(|r| encode(r, &self.1))
            .collect()
    }
}

impl Catalog for Fixture {
    fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    fn look(&self, known: &Client) -> Result<(Client, Box<dyn View + Send>), Status> {
        let client = known.refresh(|pod| self.pod(pod))?;
        let tables = self.routes.lock().unwrap().clone();
        let view = Tables(tables, client.dialect.clone());
        Ok((client, Box::new(view)))
    }

    fn pod(&self, pod: &NsName) -> Option<PodFacts> {
        self.pods.lock().unwrap().get(pod).cloned()
    }

    fn pod_by_address(&self, _: IpAddr) -> Option<(NsName, PodFacts)> {
        None
    }
}

impl Fixture {
    fn put(&self, resource: Resource) {
        self.routes
            .lock()
            .unwrap()
            .insert(resource.name().to_owned(), resource);
        self.generation.send_modify(|g| *g += 1);
    }
}

/// The token is the SPIFFE id.
struct Trusting;

#[tonic::async_trait]
impl Authenticator for Trusting {
    async fn authenticate(
        &self,
        presented: &Presented,
        _purpose: Purpose,
    ) -> Result<Option<Caller>, Status> {
        let parse = |token: &String| {
            let id = token.parse().map(|id| Caller {
                id,
                pod: None,
                may_renew: true,
            });
            id.map_err(|_| Status::unauthenticated("not an id"))
        };
        presented.bearer.as_ref().map(parse).transpose()
    }
}

struct Running {
    fixture: Arc<Fixture>,
    clients: Arc<Clients>,
    address: SocketAddr,
    refused: Refused,
}

async fn start() -> Running {
    let fixture = Arc::new(Fixture {
        routes: Mutex::default(),
        pods: Mutex::default(),
        generation: watch::Sender::new(0),
    });
    let pod = NsName {
        namespace: "shop".to_owned(),
        name: "cart-1".to_owned(),
    };
    let facts = PodFacts {
        uid: None,
        service_account: "cart".to_owned(),
        labels: BTreeMap::new(),
    };
    fixture.pods.lock().unwrap().insert(pod, facts);
    let clients = Arc::new(Clients::new());
    let refused = Refused::new(&prometheus::Registry::new()).unwrap();
    let service = Arc::new(AdsService::new(
        fixture.clone(),
        Arc::new(Trusting),
        clients.clone(),
        StreamLimits::new(refused.clone()),
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bound = Bound {
        all: 100,
        each_peer: 100,
    };
    let gate = Gate::new(bound, refused.clone());
    tokio::spawn(
        Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming(incoming::plaintext(listener, gate)),
    );
    Running {
        fixture,
        clients,
        address,
        refused,
    }
}

async fn connect(address: SocketAddr) -> AggregatedDiscoveryServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    AggregatedDiscoveryServiceClient::new(channel)
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn routes(name: &str) -> Resource {
    Resource::Route(RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: Vec::new(),
    })
}

/// Our client machine on a stream of its own.
struct Proxy {
    ads: AdsClient,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<tasuki_xds::proto::DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn open(address: SocketAddr, mut ads: AdsClient, token: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        ads.connected();
        while let Some(request) = ads.next_request() {
            requests.send(request).await.unwrap();
        }
        let stream = with_token(ReceiverStream::new(receiver), token);
        let responses = connect(address)
            .await
            .delta_aggregated_resources(stream)
            .await?
            .into_inner();
        Ok(Self {
            ads,
            requests,
            responses,
        })
    }

    async fn next(&mut self) -> Result<Vec<Event>, Status> {
        let response = self
            .responses
            .message()
            .await?
            .expect("the stream has ended");
        let events = self.ads.on_response(response);
        while let Some(request) = self.ads.next_request() {
            self.requests.send(request).await.unwrap();
        }
        Ok(events)
    }
}

fn sidecar() -> AdsClient {
    AdsClient::new(&NodeInfo::sidecar("shop", "cart-1", "test"))
}

/// Waits until the server has seen what was sent.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_sidecar_gets_what_it_asks_for_and_each_change() {
    let running = start().await;
    running.fixture.put(routes("a"));
    let mut ads = sidecar();
    ads.subscribe(ResourceType::Route, "a");
    ads.subscribe(ResourceType::Route, "later");
    let mut proxy = Proxy::open(running.address, ads, CART).await.unwrap();
    let events = proxy.next().await.unwrap();
    assert!(
        matches!(&events[0], Event::Updated(update) if update.resource == routes("a")),
        "{events:?}"
    );
    assert!(matches!(&events[1], Event::Removed { name, .. } if name == "later"));
    running.fixture.put(routes("later"));
    let events = proxy.next().await.unwrap();
    assert!(matches!(&events[0], Event::Updated(update) if update.resource == routes("later")));

    let acked = || {
        running.clients.list(|_, _| Vec::new())[0]
            .resources
            .iter()
            .all(|r| r.acked.is_some())
    };
    until(acked).await;
    let listed = running.clients.list(|_, _| Vec::new()).remove(0);
    assert_eq!(
        (listed.node.as_str(), listed.kind, listed.protocol),
        ("sidecar~shop/cart-1", "sidecar", "delta")
    );
    assert_eq!(listed.identity.as_deref(), Some(CART));
    drop(proxy);
    until(|| running.clients.is_empty()).await;
}

#[tokio::test]
async fn a_pod_that_does_not_exist_or_is_somebody_elses_is_refused() {
    let running = start().await;
    let cases = [
        (
            NodeInfo::sidecar("shop", "cart-1", "t"),
            "spiffe://cluster.local/ns/shop/sa/other",
            Code::PermissionDenied,
        ),
        (
            NodeInfo::sidecar("shop", "cart-1", "t"),
            "spiffe://cluster.local/ns/else/sa/cart",
            Code::PermissionDenied,
        ),
        (
            NodeInfo::sidecar("shop", "none", "t"),
            CART,
            Code::PermissionDenied,
        ),
        (
            NodeInfo::sidecar("shop", "cart-1", "t"),
            "rubbish",
            Code::Unauthenticated,
        ),
        (
            NodeInfo {
                id: "what~am/i".to_owned(),
                ..NodeInfo::default()
            },
            CART,
            Code::InvalidArgument,
        ),
    ];
    for (node, token, expected) in cases {
        let mut ads = AdsClient::new(&node);
        ads.subscribe(ResourceType::Route, "a");
        let refused = match Proxy::open(running.address, ads, token).await {
            Ok(mut proxy) => proxy.next().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(refused.code(), expected, "{node:?} {token}: {refused}");
    }
    assert!(running.clients.is_empty());
}

#[tokio::test]
async fn a_sidecar_whose_pod_is_forgotten_loses_its_stream_and_holds_up_nobody() {
    let running = start().await;
    let bundle = TrustBundle {
        name: "cluster.local".to_owned(),
        roots: vec![vec![0x30, 1]],
    };
    let mut ads = sidecar();
    ads.subscribe(ResourceType::TrustBundle, "cluster.local");
    let mut proxy = Proxy::open(running.address, ads, CART).await.unwrap();
    proxy.next().await.unwrap();
    assert_eq!(running.clients.lacking(&bundle), ["sidecar~shop/cart-1"]);
    running.fixture.pods.lock().unwrap().clear();
    running.fixture.generation.send_modify(|g| *g += 1);
    let refused = proxy.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    until(|| running.clients.lacking(&bundle).is_empty()).await;
    assert!(running.clients.is_empty());
}

#[tokio::test]
async fn a_gateway_is_served_by_accounts_of_its_own_namespace() {
    let running = start().await;
    running.fixture.put(routes("a"));
    let open = |namespace: &str| {
        let mut ads = AdsClient::new(&NodeInfo::gateway(namespace, "public", "test"));
        ads.subscribe(ResourceType::Route, "a");
        Proxy::open(running.address, ads, CART)
    };
    open("shop").await.unwrap().next().await.unwrap();
    let refused = match open("edge").await {
        Ok(mut proxy) => proxy.next().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("edge/public"), "{refused}");
}

#[test]
fn a_foreign_client_follows_the_labels_of_its_pod() {
    let fixture = Fixture {
        routes: Mutex::default(),
        pods: Mutex::default(),
        generation: watch::Sender::new(0),
    };
    let pod = NsName {
        namespace: "edge".to_owned(),
        name: "gw-0".to_owned(),
    };
    let put = |revision: &str| {
        let facts = PodFacts {
            uid: None,
            service_account: "gateway".to_owned(),
            labels: BTreeMap::from([("revision".to_owned(), revision.to_owned())]),
        };
        fixture.pods.lock().unwrap().insert(pod.clone(), facts);
    };
    let node = Node {
        id: "router~10.0.0.9~gw-0.edge~edge.svc.cluster.local".to_owned(),
        user_agent_name: "envoy".to_owned(),
        ..Node::default()
    };
    let identify = |identity: &str| {
        let caller = Caller {
            id: identity.parse().unwrap(),
            pod: None,
            may_renew: true,
        };
        Client::identify(&node, Some(caller), &Presented::default(), &fixture)
    };
    let early = identify("spiffe://cluster.local/ns/edge/sa/gateway").unwrap();
    assert!(early.labels.is_empty(), "the pod is not known yet");
    for revision in ["1", "2"] {
        put(revision);
        let now = early.refresh(|pod| fixture.pod(pod)).unwrap();
        assert_eq!(now.labels["revision"], revision);
    }
    let present = early.refresh(|pod| fixture.pod(pod)).unwrap();
    fixture.pods.lock().unwrap().clear();
    assert_eq!(present.refresh(|pod| fixture.pod(pod)).unwrap(), present);
    let other = identify("spiffe://cluster.local/ns/edge/sa/other").unwrap();
    put("3");
    let refused = other.refresh(|pod| fixture.pod(pod)).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_rotation_sees_who_lacks_the_bundle() {
    let running = start().await;
    let bundle = |byte| TrustBundle {
        name: "cluster.local".to_owned(),
        roots: vec![vec![0x30, byte]],
    };
    running.fixture.put(Resource::TrustBundle(bundle(1)));
    let mut ads = sidecar();
    ads.subscribe(ResourceType::TrustBundle, "cluster.local");
    let mut proxy = Proxy::open(running.address, ads, CART).await.unwrap();
    until(|| !running.clients.is_empty()).await;
    assert_eq!(running.clients.lacking(&bundle(1)), ["sidecar~shop/cart-1"]);
    proxy.next().await.unwrap();
    until(|| running.clients.lacking(&bundle(1)).is_empty()).await;
    assert_eq!(running.clients.lacking(&bundle(2)), ["sidecar~shop/cart-1"]);
    running.fixture.put(Resource::TrustBundle(bundle(2)));
    proxy.next().await.unwrap();
    until(|| running.clients.lacking(&bundle(2)).is_empty()).await;
}

#[tokio::test]
async fn a_foreign_gateway_speaks_state_of_the_world_without_a_token() {
    let running = start().await;
    running.fixture.put(routes("a"));
    let (requests, receiver) = mpsc::channel(4);
    let node = Node {
        id: "router~10.0.0.9~gw-0.edge~edge.svc.cluster.local".to_owned(),
        user_agent_name: "envoy".to_owned(),
        ..Node::default()
    };
    let request = DiscoveryRequest {
        node: Some(node),
        type_url: ResourceType::Route.type_url().to_owned(),
        resource_names: vec!["a".to_owned()],
        ..DiscoveryRequest::default()
    };
    requests.send(request.clone()).await.unwrap();
    let mut client = connect(running.address).await;
    let mut responses = client
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.resources.len(), 1);
    let ack = DiscoveryRequest {
        response_nonce: response.nonce,
        version_info: response.version_info,
        ..request
    };
    requests.send(ack).await.unwrap();
    until(|| {
        running.clients.list(|_, _| Vec::new())[0].resources[0]
            .acked
            .is_some()
    })
    .await;
    let listed = running.clients.list(|_, _| Vec::new()).remove(0);
    assert_eq!(
        (listed.kind, listed.namespace.as_str(), listed.protocol),
        ("envoy", "edge", "sotw")
    );
    assert_eq!(listed.identity, None);
}

#[tokio::test]
async fn streams_over_the_bound_are_told_so() {
    let running = start().await;
    running.fixture.put(routes("a"));
    let mut client = connect(running.address).await;
    let mut open = Vec::new();
    let refused = loop {
        let (requests, receiver) = mpsc::channel(4);
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: "router~10.0.0.9~gw-0.edge~edge.svc.cluster.local".to_owned(),
                user_agent_name: "envoy".to_owned(),
                ..Node::default()
            }),
            type_url: ResourceType::Route.type_url().to_owned(),
            resource_names_subscribe: vec!["a".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
        let stream = ReceiverStream::new(receiver);
        match client.delta_aggregated_resources(stream).await {
            Ok(responses) => open.push((requests, responses.into_inner())),
            Err(status) => break status,
        }
    };
    assert_eq!(open.len(), CONNECTION_STREAMS);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(running.refused.get("connection_streams"), 1);
    for (_, responses) in &mut open {
        assert!(responses.message().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_stream_without_a_node_is_refused() {
    let running = start().await;
    let (requests, receiver) = mpsc::channel(4);
    requests
        .send(DeltaDiscoveryRequest::default())
        .await
        .unwrap();
    let mut client = connect(running.address).await;
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        responses.message().await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_node_may_not_say_endlessly_much_of_itself() {
    let running = start().await;
    let node = |features: usize| Node {
        id: "grpc".to_owned(),
        user_agent_name: "gRPC Go".to_owned(),
        client_features: vec!["x".repeat(1024); features],
        ..Node::default()
    };
    let identify = |features| {
        let presented = Presented::default();
        Client::identify(&node(features), None, &presented, &*running.fixture)
    };
    assert!(identify(16).is_ok());
    assert_eq!(identify(17).unwrap_err().code(), Code::InvalidArgument);
}

/// What a platform proves of a Pod counts for more than its service account.
#[tokio::test]
async fn a_proven_pod_is_that_pod_and_no_other() {
    let fixture = Fixture {
        routes: Mutex::default(),
        pods: Mutex::default(),
        generation: watch::channel(0).0,
    };
    let name = |name: &str| NsName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let put = |pod: &str, uid: &str| {
        let facts = PodFacts {
            uid: Some(uid.to_owned()),
            service_account: "cart".to_owned(),
            labels: BTreeMap::new(),
        };
        fixture.pods.lock().unwrap().insert(name(pod), facts);
    };
    put("cart-1", "u-1");
    put("cart-2", "u-2");
    let caller = |may_renew| Caller {
        id: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        pod: Some(super::ProvenPod {
            name: name("cart-1"),
            uid: "u-1".to_owned(),
        }),
        may_renew,
    };
    let identify = |claimed: &str| {
        let node = Node {
            id: format!("sidecar~shop/{claimed}"),
            client_features: vec![tasuki_xds::TASUKI_FEATURE.to_owned()],
            ..Node::default()
        };
        Client::identify(&node, Some(caller(true)), &Presented::default(), &fixture)
    };
    let own = identify("cart-1").unwrap();
    assert!(own.refresh(|pod| fixture.pod(pod)).is_ok());
    let other = identify("cart-2").unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
    // Whoever names no Pod is that one all the same, and gets no key for a certificate alone.
    let envoy = |may_renew| {
        let node = Node {
            id: "router~10.0.0.1~~x".to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        };
        let caller = Some(caller(may_renew));
        Client::identify(&node, caller, &Presented::default(), &fixture).unwrap()
    };
    assert_eq!(envoy(true).dialect, Dialect::Envoy { secrets: true });
    assert_eq!(envoy(false).dialect, Dialect::Envoy { secrets: false });
    let nameless = envoy(true);
    assert!(nameless.refresh(|pod| fixture.pod(pod)).is_ok());
    put("cart-1", "u-3");
    for client in [&own, &nameless] {
        let again = client.refresh(|pod| fixture.pod(pod)).unwrap_err();
        assert_eq!(again.code(), Code::PermissionDenied);
    }
    fixture.pods.lock().unwrap().remove(&name("cart-1"));
    assert!(nameless.refresh(|pod| fixture.pod(pod)).is_err());
}
