//! A hand-written control plane for tests: `bad_ads ADDR:PORT NAME=IP:PORT.. [!NAME..]`.
//!
//! Each `NAME=IP:PORT` is a listener with a route to that endpoint; each `!NAME` is a listener that must be refused:
//! its filter is one that nobody honours. Every refusal that a client reports is printed as one line
//! `TYPE NAME REASON`, and the address as `listening ADDR` first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use tasuki_xds::Any;
use tasuki_xds::codec::{Dialect, Encoded, encode};
use tasuki_xds::model::cluster::{Balance, Cluster, Discovery, HttpProtocol, Limits};
use tasuki_xds::model::endpoint::{ClusterLoadAssignment, Endpoint, Health, Locality, WorkloadRef};
use tasuki_xds::model::listener::{
    DeclaredProtocol, ForwardClientCert, HttpConnection, Listener, RouteSource,
};
use tasuki_xds::model::route::{
    Forward, HeaderMutations, PathMatch, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster,
};
use tasuki_xds::model::{Resource, ResourceType};
use tasuki_xds::proto::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest,
    DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, REJECTED_URL, Rejected,
};
use tasuki_xds::server::{DeltaSession, Options, View};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Everything there is, for every client.
#[derive(Clone, Default)]
struct World(Arc<BTreeMap<(ResourceType, String), Arc<Encoded>>>);

impl View for World {
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        self.0.get(&(ty, name.to_owned())).cloned()
    }

    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>> {
        self.0.values().filter(|e| e.ty == ty).cloned().collect()
    }
}

fn listener(name: &str) -> Resource {
    Resource::Listener(Listener {
        name: name.to_owned(),
        address: None,
        protocol: DeclaredProtocol::Http,
        workload: None,
        api: Some(HttpConnection {
            stat_prefix: name.to_owned(),
            routes: RouteSource::Rds(name.to_owned()),
            rbac: Vec::new(),
            forward_client_cert: ForwardClientCert::Sanitize,
        }),
        chains: Vec::new(),
        default_chain: None,
    })
}

fn routes(name: &str) -> Resource {
    let cluster = WeightedCluster {
        name: name.to_owned(),
        weight: 1,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    };
    let route = Route {
        name: "all".to_owned(),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".to_owned()),
            ignore_path_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            fraction_per_million: None,
            grpc: false,
        },
        action: RouteAction::Forward(Forward {
            clusters: vec![cluster],
            timeout: None,
            grpc_timeout_max: None,
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
        }),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    };
    let host = VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
    };
    Resource::Route(RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
    })
}

fn cluster(name: &str) -> Resource {
    Resource::Cluster(Cluster {
        name: name.to_owned(),
        discovery: Discovery::Eds { service_name: None },
        connect_timeout: std::time::Duration::from_secs(1),
        balance: Balance::RoundRobin,
        limits: Limits::default(),
        retry_budget: None,
        outliers: None,
        tls: Vec::new(),
        http: HttpProtocol::Http1,
        panic_percent: 0,
        service: None,
        keepalive: None,
        idle_timeout: None,
    })
}

fn endpoints(name: &str, address: SocketAddr) -> Resource {
    let endpoint = Endpoint {
        address,
        weight: 1,
        health: Health::Healthy,
        tls_mode: None,
        identities: Vec::new(),
        workload: WorkloadRef::default(),
    };
    let localities = vec![Locality {
        endpoints: vec![endpoint],
        ..Locality::default()
    }];
    Resource::Endpoint(ClusterLoadAssignment {
        cluster: name.to_owned(),
        localities,
    })
}

/// A listener whose HTTP filter nobody knows: a good one with the router's type name spoilt.
fn spoilt(name: &str) -> Encoded {
    let good = encode(&listener(name), &Dialect::Tasuki);
    let (from, to) = (
        b"http.router.v3.Router".as_slice(),
        b"http.ruoter.v3.Router".as_slice(),
    );
    let mut value = good.any.value.clone();
    let at = value
        .windows(from.len())
        .position(|w| w == from)
        .expect("a router");
    value[at..at + to.len()].copy_from_slice(to);
    Encoded {
        any: Any {
            value,
            ..good.any.clone()
        },
        version: "bad".to_owned(),
        ..(*good).clone()
    }
}

fn world(arguments: &[String]) -> World {
    let mut all = BTreeMap::new();
    let mut put = |encoded: Arc<Encoded>| all.insert((encoded.ty, encoded.name.clone()), encoded);
    for argument in arguments {
        if let Some(name) = argument.strip_prefix('!') {
            put(Arc::new(spoilt(name)));
        } else if let Some((name, address)) = argument.split_once('=') {
            let address = address.parse().expect("NAME=IP:PORT");
            for resource in [
                listener(name),
                routes(name),
                cluster(name),
                endpoints(name, address),
            ] {
                put(encode(&resource, &Dialect::Tasuki));
            }
        }
    }
    World(Arc::new(all))
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
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let (world, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut session = DeltaSession::new(Options::default());
            while let Ok(Some(request)) = requests.message().await {
                report(&request);
                session.on_request(request);
                for response in session.poll(&world) {
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn report(request: &DeltaDiscoveryRequest) {
    let Some(error) = &request.error_detail else {
        return;
    };
    let ty = ResourceType::from_type_url(&request.type_url)
        .map(|ty| ty.to_string())
        .unwrap_or_default();
    for detail in error.details.iter().filter(|d| d.type_url == REJECTED_URL) {
        if let Ok(Rejected { name, reason }) = Rejected::decode(detail.value.as_slice()) {
            println!("{ty} {name} {reason}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, rest @ ..] = arguments.as_slice() else {
        eprintln!("bad_ads ADDR:PORT NAME=IP:PORT.. [!NAME..]");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(address).await.expect("cannot listen");
    println!("listening {}", listener.local_addr().expect("an address"));
    let served = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(world(rest)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    served.await.expect("cannot serve");
}
