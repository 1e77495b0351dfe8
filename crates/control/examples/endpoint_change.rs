//! What one change of one Service's endpoints costs the control plane while many sidecars are connected: CPU time of building
//! and of all threads that serve, the time until the last client that it concerns has acknowledged, and memory.
//!
//!     cargo run --release -p tasuki-control --example endpoint_change -- 1000
//!
//! The argument is the number of streams; `SERVICES` and `PODS` say what they look at. Clients are in this process, on threads
//! of their own that are not counted.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tasuki_control::ads::{
    AdsService, Authenticator, Caller, Catalog, Clients, Presented, Purpose,
};
use tasuki_control::auth::incoming::{self, Gate};
use tasuki_control::ca::Authority;
use tasuki_control::catalog::Published;
use tasuki_control::limits::{Bound, CONNECTION_STREAMS, Refused, StreamLimits};
use tasuki_control::mesh::{Mesh, MeshSettings};
use tasuki_control::source::{Objects, Sourced};
use tasuki_identity::TrustDomain;
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tasuki_resources::{Object, parse_documents};
use tasuki_xds::client::{AdsClient, NodeInfo};
use tasuki_xds::model::ResourceType;
use tasuki_xds::proto::AggregatedDiscoveryServiceClient;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};

const SERVICES: usize = 2_000;
/// Of each service.
const PODS: usize = 5;
/// Services of a namespace.
const NEIGHBOURS: usize = 50;
/// Services that a sidecar calls.
const CALLED: usize = 20;
const ROUNDS: u32 = 40;
const TTL: Duration = Duration::from_secs(3600);

fn main() {
    let streams = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let streams: usize = streams.unwrap_or(200);
    let mut objects = declared();
    let count = objects.objects.len();
    let dir = tempfile::tempdir().expect("a folder");
    let domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let authority = Authority::open(dir.path(), &domain, TTL).expect("an authority");
    let policy = OutboundTrafficPolicy::AllowAny;
    let settings = MeshSettings::new(domain, "istio-system", policy, TTL);
    let before = cpu("main");
    let mesh = Mesh::build(&objects, settings);
    let built = cpu("main") - before;
    let published = Arc::new(Published::new(mesh, authority));
    let clients = Arc::new(Clients::new());
    println!("{SERVICES} services, {count} objects, {streams} streams");
    println!("first build {built:?} CPU, memory {} MB", memory());

    let (serving, calling) = (runtime("server"), runtime("client"));
    let address = serving.block_on(serve(published.clone(), clients.clone()));
    let (start, before) = (Instant::now(), cpu("server"));
    for first in (0..streams).step_by(CONNECTION_STREAMS) {
        let last = streams.min(first + CONNECTION_STREAMS);
        calling.spawn(connection(address, first..last));
    }
    let expected = 2 * CALLED + 1;
    wait(|| {
        let all = clients.list(|_, _| Vec::new());
        let has = |line: &&_| is_acked(line);
        all.len() == streams
            && all
                .iter()
                .all(|client| client.resources.iter().filter(has).count() > expected)
    });
    println!(
        "all connected after {:?}, {:?} CPU, memory {} MB",
        start.elapsed(),
        cpu("server") - before,
        memory()
    );
    for (what, pods) in [
        ("an EndpointSlice", false),
        ("an EndpointSlice and its Pod", true),
    ] {
        measure(what, pods, &mut objects, &published, &clients, &serving);
    }
    println!("at the end: memory {} MB", memory());
    std::process::exit(0);
}

fn is_acked(line: &tasuki_control::ads::clients::ResourceLine) -> bool {
    line.acked.is_some()
}

/// One pod of one service after the other stops being ready, or is again.
fn measure(
    what: &str,
    pods: bool,
    objects: &mut Objects,
    published: &Arc<Published>,
    clients: &Arc<Clients>,
    serving: &Runtime,
) {
    let (mut build, mut last_ack) = (Duration::ZERO, Vec::new());
    let before = cpu("server");
    for round in 0..ROUNDS {
        let service = (round as usize / 2 * 97) % SERVICES;
        touch(objects, service, round % 2 == 1, pods);
        let (source, present) = (Arc::new(objects.clone()), published.mesh());
        let start = Instant::now();
        let publish = published.clone();
        let (spent, generation) = serving.block_on(async move {
            let task = tokio::task::spawn_blocking(move || {
                let before = thread_cpu();
                let mesh = present.successor(&source, tokio::time::Instant::now());
                (mesh, thread_cpu() - before)
            });
            let (mesh, spent) = task.await.expect("a mesh");
            publish.publish(Arc::new(mesh));
            (spent, publish.generation())
        });
        build += spent;
        let host = format!("|s{service}.");
        wait(|| {
            let concerns = |name: &str| name.contains(&host);
            clients.have_settled(ResourceType::Endpoint, generation, concerns)
        });
        last_ack.push(start.elapsed());
        // What the others do is part of the cost.
        std::thread::sleep(Duration::from_millis(200));
    }
    last_ack.sort_unstable();
    println!(
        "{what}: build {:?} CPU, in all {:?} CPU, last ACK p50 {:?} max {:?}",
        build / ROUNDS,
        (cpu("server") - before) / ROUNDS,
        last_ack[last_ack.len() / 2],
        last_ack[last_ack.len() - 1],
    );
}

fn touch(objects: &mut Objects, service: usize, ready: bool, pods: bool) {
    let slice = format!("s{service}-x");
    let pod = format!("s{service}-0");
    for sourced in &mut objects.objects {
        match &*sourced.object {
            Object::EndpointSlice(found) if found.meta.name.name == slice => {
                let mut changed = found.clone();
                changed.endpoints[0].ready = ready;
                changed.endpoints[0].serving = ready;
                sourced.object = Arc::new(Object::EndpointSlice(changed));
            }
            Object::Pod(found) if pods && found.meta.name.name == pod => {
                let mut changed = found.clone();
                changed.ready = ready;
                sourced.object = Arc::new(Object::Pod(changed));
            }
            _ => {}
        }
    }
}

fn runtime(name: &'static str) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(2).thread_name(name).enable_all();
    builder.build().expect("a runtime")
}

fn wait(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The token is the SPIFFE id.
struct Trusting;

#[tonic::async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, who: &Presented, _: Purpose) -> Result<Option<Caller>, Status> {
        let id = who.bearer.as_ref().and_then(|token| token.parse().ok());
        Ok(id.map(|id| Caller {
            id,
            pod: None,
            may_renew: true,
        }))
    }
}

async fn serve(published: Arc<Published>, clients: Arc<Clients>) -> SocketAddr {
    let refused = Refused::new(&prometheus::Registry::new()).expect("a counter");
    if let Some(departures) = published.departures() {
        tokio::spawn(departures.run(clients.clone()));
    }
    let limits = StreamLimits::new(refused.clone());
    let service = Arc::new(AdsService::new(
        published,
        Arc::new(Trusting),
        clients,
        limits,
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let bound = Bound {
        all: 10_000,
        each_peer: 10_000,
    };
    let incoming = incoming::plaintext(listener, Gate::new(bound, refused));
    let server = Server::builder().add_service(service.into_server());
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

async fn connection(address: SocketAddr, clients: std::ops::Range<usize>) {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("a connection");
    for index in clients {
        tokio::spawn(client(channel.clone(), index));
    }
}

/// A sidecar that calls some of its namespace's services.
async fn client(channel: Channel, index: usize) {
    let own = index * 97 % (SERVICES * PODS);
    let (service, pod) = (own / PODS, own % PODS);
    let namespace = namespace(service);
    let mut ads = AdsClient::new(&NodeInfo::sidecar(
        &namespace,
        &format!("s{service}-{pod}"),
        "1",
    ));
    ads.subscribe(ResourceType::Listener, "inbound");
    ads.subscribe(ResourceType::Cluster, "inbound|8080||");
    for nth in 0..CALLED {
        let called = service / NEIGHBOURS * NEIGHBOURS + (service + nth) % NEIGHBOURS;
        let host = format!("s{called}.{namespace}.svc.cluster.local");
        let cluster = format!("outbound|80||{host}");
        ads.subscribe(
            ResourceType::Listener,
            &format!("{}:80", cluster_ip(called)),
        );
        ads.subscribe(ResourceType::Route, &format!("{host}:80"));
        ads.subscribe(ResourceType::Cluster, &cluster);
        ads.subscribe(ResourceType::Endpoint, &cluster);
    }
    let (requests, receiver) = mpsc::channel(64);
    ads.connected();
    while let Some(request) = ads.next_request() {
        requests.send(request).await.expect("a stream");
    }
    let mut request = Request::new(ReceiverStream::new(receiver));
    let token = format!("Bearer spiffe://cluster.local/ns/{namespace}/sa/s{service}");
    let token = token.parse().expect("a header");
    request.metadata_mut().insert("authorization", token);
    let mut stub = AggregatedDiscoveryServiceClient::new(channel);
    let opened = stub.delta_aggregated_resources(request).await;
    let mut responses = opened.expect("a stream").into_inner();
    while let Ok(Some(response)) = responses.message().await {
        ads.on_response(response);
        while let Some(request) = ads.next_request() {
            if requests.send(request).await.is_err() {
                return;
            }
        }
    }
}

/// CPU time of all threads of that name, so far.
fn cpu(name: &str) -> Duration {
    let mut all = Duration::ZERO;
    let threads = std::fs::read_dir("/proc/self/task").expect("threads");
    for thread in threads.flatten() {
        let comm = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        let is_main =
            name == "main" && thread.file_name() == std::process::id().to_string().as_str();
        if comm.trim() == name || is_main {
            all += spent(&thread.path().join("schedstat"));
        }
    }
    all
}

fn thread_cpu() -> Duration {
    spent(std::path::Path::new("/proc/thread-self/schedstat"))
}

fn spent(file: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Resident, in megabytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kilobytes.unwrap_or(0_u64) / 1024
}

fn namespace(service: usize) -> String {
    format!("ns-{}", service / NEIGHBOURS)
}

fn cluster_ip(service: usize) -> String {
    format!("10.96.{}.{}", service / 250, service % 250 + 1)
}

fn declared() -> Objects {
    let mut kinds = [String::new(), String::new(), String::new()];
    for service in 0..SERVICES {
        write_service(service, &mut kinds);
    }
    let mut objects = Objects::default();
    for text in kinds {
        for document in parse_documents("all", &text) {
            objects
                .objects
                .extend(document.object.map(|object| Sourced {
                    object: Arc::new(object),
                    file: Arc::from("all"),
                }));
        }
    }
    objects
}

fn write_service(service: usize, kinds: &mut [String; 3]) {
    let [services, slices, pods] = kinds;
    let namespace = namespace(service);
    let address = cluster_ip(service);
    let _ = write!(
        services,
        "---
apiVersion: v1
kind: Service
metadata: {{name: s{service}, namespace: {namespace}}}
spec: {{clusterIP: {address}, selector: {{app: s{service}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"
    );
    let _ = write!(
        slices,
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s{service}-x, namespace: {namespace}, labels: {{kubernetes.io/service-name: s{service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
"
    );
    for pod in 0..PODS {
        let nth = service * PODS + pod;
        let ip = format!("10.100.{}.{}", nth / 250, nth % 250 + 1);
        let _ = writeln!(
            slices,
            "- {{addresses: [{ip}], conditions: {{ready: true, serving: true, terminating: false}}, targetRef: {{kind: Pod, name: s{service}-{pod}, namespace: {namespace}}}}}"
        );
        let _ = write!(
            pods,
            "---
apiVersion: v1
kind: Pod
metadata:
  name: s{service}-{pod}
  namespace: {namespace}
  labels: {{app: s{service}, version: v1, pod-template-hash: abc, security.istio.io/tlsMode: istio}}
  annotations: {{tasuki.dev/proxy: \"1\"}}
spec: {{serviceAccountName: s{service}, containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: \"True\"}}]}}
"
        );
    }
}
