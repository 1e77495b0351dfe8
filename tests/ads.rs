//! A hand-written control plane: it serves what a test puts into it, well formed or not, and keeps what
//! its clients refuse.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result};
use prost::Message;
use tasuki_testkit::namespace::Namespace;
use tasuki_xds::codec::{Dialect, Encoded, encode};
use tasuki_xds::model::cluster::{Balance, Cluster, HttpProtocol};
use tasuki_xds::model::endpoint::{ClusterLoadAssignment, Endpoint};
use tasuki_xds::model::listener::{
    DeclaredProtocol, ForwardClientCert, HttpConnection, Listener, RouteSource,
};
use tasuki_xds::model::route::{
    Forward, Route, RouteAction, RouteConfiguration, RouteMatch, WeightedCluster,
};
use tasuki_xds::model::{Resource, ResourceType};
use tasuki_xds::proto::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest,
    DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, REJECTED_URL, Rejected,
};
use tasuki_xds::server::{DeltaSession, Options, View};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Resources = BTreeMap<(ResourceType, String), Arc<Encoded>>;
type Thread = std::thread::JoinHandle<Result<Result<()>>>;

/// The server; it stops when dropped.
pub struct Ads {
    world: World,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<Thread>,
}

/// Everything there is, the same for every client.
#[derive(Clone)]
struct World {
    resources: Arc<Mutex<Resources>>,
    refusals: Arc<Mutex<Vec<Refused>>>,
    changed: watch::Sender<u64>,
}

/// What a client said of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub ty: ResourceType,
    pub name: String,
    pub reason: String,
}

impl Ads {
    /// Serves plaintext in the namespace, with no resources yet.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let world = World {
            resources: Arc::default(),
            refusals: Arc::default(),
            changed: watch::Sender::new(0),
        };
        let (stop, stopped) = oneshot::channel();
        let (bound, listening) = std::sync::mpsc::channel();
        let served = world.clone();
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await?;
                bound.send(())?;
                let server = tonic::transport::Server::builder()
                    .add_service(AggregatedDiscoveryServiceServer::new(served))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    served = server => served?,
                    _ = stopped => {}
                }
                anyhow::Ok(())
            })
        });
        listening
            .recv()
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self {
            world,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Puts resources there or replaces them, all in one step.
    pub fn put(&self, resources: impl IntoIterator<Item = Encoded>) {
        let mut all = lock(&self.world.resources);
        for resource in resources {
            all.insert((resource.ty, resource.name.clone()), Arc::new(resource));
        }
        drop(all);
        self.world.changed.send_modify(|count| *count += 1);
    }

    /// Every refusal so far.
    pub fn refusals(&self) -> Vec<Refused> {
        lock(&self.world.refusals).clone()
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Whatever it failed with, the clients have shown it.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A resource as a Tasuki proxy gets it.
pub fn good(resource: &Resource) -> Encoded {
    (*encode(resource, &Dialect::Tasuki)).clone()
}

/// The same with one piece of its bytes replaced by another of the same length.
pub fn spoilt(resource: &Resource, from: &str, to: &str) -> Encoded {
    assert_eq!(from.len(), to.len(), "the lengths around it would be wrong");
    let mut encoded = good(resource);
    let value = &mut encoded.any.value;
    let at = value
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap_or_else(|| panic!("no `{from}` in {}", encoded.name));
    value[at..at + to.len()].copy_from_slice(to.as_bytes());
    encoded.version.push_str("-spoilt");
    encoded
}

/// The same, larger than any client takes.
pub fn enormous(resource: &Resource) -> Encoded {
    let mut encoded = good(resource);
    encoded.any.value.resize(65 << 20, 0);
    encoded.version.push_str("-enormous");
    encoded
}

/// Listener, routes, cluster and endpoints, each called `name`, that lead to one address.
pub fn destination(name: &str, address: SocketAddr) -> [Resource; 4] {
    [
        listener(name),
        routes(name),
        cluster(name),
        endpoints(name, address),
    ]
}

/// HTTP with the routes of the same name.
pub fn listener(name: &str) -> Resource {
    let http = HttpConnection {
        stat_prefix: name.to_owned(),
        routes: RouteSource::Rds(name.to_owned()),
        rbac: Vec::new(),
        forward_client_cert: ForwardClientCert::Sanitize,
    };
    Resource::Listener(Listener {
        api: Some(http),
        ..Listener::new(name, DeclaredProtocol::Http)
    })
}

fn routes(name: &str) -> Resource {
    let forward = Forward::to(vec![WeightedCluster::new(name, 1)]);
    let route = Route::new("all", RouteMatch::all(), RouteAction::Forward(forward));
    Resource::Route(RouteConfiguration::of_any_host(name, vec![route]))
}

fn cluster(name: &str) -> Resource {
    Resource::Cluster(Cluster {
        connect_timeout: std::time::Duration::from_secs(1),
        balance: Balance::RoundRobin,
        http: HttpProtocol::Http1,
        ..Cluster::eds(name)
    })
}

/// One healthy endpoint outside the mesh.
pub fn endpoints(name: &str, address: SocketAddr) -> Resource {
    let endpoint = Endpoint::new(address);
    Resource::Endpoint(ClusterLoadAssignment::new(name, vec![endpoint]))
}

impl View for World {
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        lock(&self.resources).get(&(ty, name.to_owned())).cloned()
    }

    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>> {
        let all = lock(&self.resources);
        all.values().filter(|e| e.ty == ty).cloned().collect()
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for World {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental protocol"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.clone().converse(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl World {
    async fn converse(
        self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let mut session = DeltaSession::new(Options::default());
        let mut changed = self.changed.subscribe();
        loop {
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    self.note(&request);
                    session.on_request(request);
                }
                // The sender lives as long as this world.
                _ = changed.changed() => {}
            }
            for response in session.poll(&self) {
                if responses.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn note(&self, request: &DeltaDiscoveryRequest) {
        let (Some(error), Some(ty)) = (
            &request.error_detail,
            ResourceType::from_type_url(&request.type_url),
        ) else {
            return;
        };
        let details = error.details.iter().filter(|d| d.type_url == REJECTED_URL);
        for Rejected { name, reason } in
            details.filter_map(|d| Rejected::decode(d.value.as_slice()).ok())
        {
            lock(&self.refusals).push(Refused { ty, name, reason });
        }
    }
}
