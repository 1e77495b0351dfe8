//! A client, a hop and an origin on loopback sockets, all in one thread.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tasuki_identity::ClientAuth;
use tasuki_identity::ca::CertificateAuthority;
use tasuki_identity::{Roots, SpiffeId, TrustDomain};
use tasuki_xds::model;
use tasuki_xds::model::cluster::{Balance, Discovery, HttpProtocol, Limits, TlsMatch};
use tasuki_xds::model::endpoint::{ClusterLoadAssignment, Endpoint, Health, Locality, WorkloadRef};
use tasuki_xds::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, HttpConnection, Listener, RouteSource,
    Transport,
};
use tasuki_xds::model::rbac::Rbac;
use tasuki_xds::model::route::{
    Forward, HeaderMutations, PathMatch, RetryOn, RetryPolicy, Route, RouteAction,
    RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use tasuki_xds::model::tls::{CertificateSource, ClientTls, ServerTls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use crate::cluster::Cluster;
use crate::drain::Drain;
use crate::identity::Identity;
use crate::inbound::Inbound;
use crate::loop_guard::LoopGuard;
use crate::observe::{AccessLog, Metrics, Recorder, SharedMode};
use crate::settings::{AccessLogMode, ObjectName, PodSettings, Role, Settings, UnknownPolicy};
use crate::state::{ListenerName, Outbound, Snapshot, State};
use crate::worker::Worker;
use crate::{connection, upstream};

/// A test that hangs is a failure, not a mystery.
const PATIENCE: Duration = Duration::from_secs(30);

/// Identities of one trust domain.
pub struct Domain {
    ca: CertificateAuthority,
    _folder: tempfile::TempDir,
}

impl Domain {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let ca = CertificateAuthority::open(folder.path(), &domain, SystemTime::now()).unwrap();
        Self {
            ca,
            _folder: folder,
        }
    }

    pub fn identity(&mut self, id: &str) -> Arc<Identity> {
        let id = SpiffeId::parse(id).unwrap();
        let lifetime = Duration::from_secs(600);
        let certificate = self
            .ca
            .workload_certificate(&id, lifetime, SystemTime::now())
            .unwrap();
        let roots = Roots::from_pem(self.ca.roots().to_pem().as_bytes()).unwrap();
        Identity::new(certificate, roots)
    }
}

/// Runs a test on a worker-like runtime.
pub fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        tokio::time::timeout(PATIENCE, test)
            .await
            .expect("the test hangs")
    };
    LocalSet::new().block_on(&runtime, test);
}

pub fn get(path: &str) -> Request<Bytes> {
    Request::builder()
        .uri(format!("http://a{path}"))
        .body(Bytes::new())
        .unwrap()
}

pub fn post(path: &str, body: &'static str) -> Request<Bytes> {
    let body = Bytes::from_static(body.as_bytes());
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://a{path}"))
        .body(body)
        .unwrap()
}

/// A gRPC call whose client waits for `timeout`.
pub fn call(timeout: &str) -> Request<Bytes> {
    let mut request = post("/pkg.Service/Method", "x");
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("grpc-timeout", timeout.parse().unwrap());
    request
}

pub fn retry_policy(on: &[RetryOn]) -> RetryPolicy {
    RetryPolicy {
        on: on.to_vec(),
        retries: 2,
        per_try_timeout: None,
        status_codes: Vec::new(),
        backoff_base: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        avoid_previous_hosts: true,
    }
}

/// Reads until `end` has come.
pub async fn read_until(io: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        let length = io.read(&mut buffer).await.unwrap();
        text.extend_from_slice(&buffer[..length]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if so_far.contains(end) {
            return so_far;
        }
        if length == 0 {
            return format!("closed after {so_far:?}");
        }
    }
}

/// A cluster with nothing configured.
pub fn cluster(name: &str) -> model::Cluster {
    model::Cluster {
        name: name.into(),
        discovery: Discovery::Eds { service_name: None },
        connect_timeout: Duration::from_secs(5),
        balance: Balance::RoundRobin,
        limits: Limits::default(),
        retry_budget: None,
        outliers: None,
        tls: Vec::new(),
        http: HttpProtocol::Downstream,
        panic_percent: 0,
        service: None,
        keepalive: None,
        idle_timeout: None,
    }
}

/// The proxy as an explicit outbound listener.
pub struct Hop {
    endpoints: Vec<SocketAddr>,
    cluster: model::Cluster,
    forward: Forward,
    identity: Option<Arc<Identity>>,
    peers: Option<Vec<String>>,
    narrow: bool,
}

pub struct Running {
    address: SocketAddr,
    pub drain: Drain,
}

impl Hop {
    pub fn to(origin: &Origin) -> Self {
        Self::to_address(origin.address)
    }

    pub fn to_address(address: SocketAddr) -> Self {
        let cluster = cluster("c");
        let weighted = WeightedCluster {
            name: "c".into(),
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        };
        let forward = Forward {
            clusters: vec![weighted],
            timeout: None,
            grpc_timeout_max: None,
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
        };
        Self {
            endpoints: vec![address],
            cluster,
            forward,
            identity: None,
            peers: None,
            narrow: false,
        }
    }

    /// The kernel takes little of what is sent to the client.
    pub fn narrow(mut self) -> Self {
        self.narrow = true;
        self
    }

    pub fn and(self, origin: &Origin) -> Self {
        self.and_address(origin.address)
    }

    pub fn and_address(mut self, address: SocketAddr) -> Self {
        self.endpoints.push(address);
        self
    }

    pub fn protocol(mut self, protocol: HttpProtocol) -> Self {
        self.cluster.http = protocol;
        self
    }

    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.forward.retry = Some(policy);
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.forward.timeout = Some(timeout);
        self
    }

    pub fn believe_grpc_timeout(mut self) -> Self {
        self.forward.grpc_timeout_max = Some(Duration::ZERO);
        self
    }

    pub fn cluster(mut self, change: impl FnOnce(&mut model::Cluster)) -> Self {
        change(&mut self.cluster);
        self
    }

    /// The endpoints are peers of the mesh that must be one of `peers`; this proxy is `identity`.
    pub fn mesh(mut self, identity: &Arc<Identity>, peers: &[&str]) -> Self {
        let workload = || Some(CertificateSource::ProviderInstance("workload".into()));
        let tls = ClientTls {
            certificate: workload(),
            trust: workload(),
            server_identities: Vec::new(),
            server_names: Vec::new(),
            sni: None,
            alpn: vec!["tasuki-h2".into()],
        };
        self.cluster.tls = vec![
            TlsMatch {
                name: "mesh".into(),
                tls_mode: Some("istio".into()),
                tls: Some(tls),
            },
            TlsMatch {
                name: "plain".into(),
                tls_mode: None,
                tls: None,
            },
        ];
        self.identity = Some(identity.clone());
        self.peers = Some(peers.iter().map(|peer| (*peer).to_owned()).collect());
        self
    }

    fn assignment(&self) -> ClusterLoadAssignment {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            weight: 1,
            health: Health::Healthy,
            tls_mode: self.peers.as_ref().map(|_| "istio".to_owned()),
            identities: self.peers.clone().unwrap_or_default(),
            workload: WorkloadRef::default(),
        };
        let endpoints = self.endpoints.iter().map(endpoint).collect();
        let locality = Locality {
            endpoints,
            ..Locality::default()
        };
        ClusterLoadAssignment {
            cluster: "c".into(),
            localities: vec![locality],
        }
    }

    pub async fn start(self) -> Running {
        let drain = Drain::new();
        let worker = worker(self.snapshot(), &drain);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                if self.narrow {
                    let socket = socket2::SockRef::from(&stream);
                    socket.set_send_buffer_size(4_096).unwrap();
                }
                let name = ListenerName::exact("hop.test:80");
                spawn_local(connection::outbound_to(worker.clone(), stream, peer, name));
            }
        });
        Running { address, drain }
    }

    fn snapshot(&self) -> Snapshot {
        let cluster = Arc::new(Cluster::new(&self.cluster));
        cluster.update(&self.assignment());
        let route = Route {
            name: "all".into(),
            matches: RouteMatch {
                path: PathMatch::Prefix("/".into()),
                ignore_path_case: false,
                headers: Vec::new(),
                query: Vec::new(),
                fraction_per_million: None,
                grpc: false,
            },
            action: RouteAction::Forward(self.forward.clone()),
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        };
        let host = VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: vec![route],
        };
        let routes = RouteConfiguration {
            name: "hop.test:80".into(),
            virtual_hosts: vec![host],
        };
        let listener = Listener {
            name: "hop.test:80".into(),
            address: None,
            protocol: DeclaredProtocol::Http,
            workload: None,
            api: Some(HttpConnection {
                stat_prefix: String::new(),
                routes: RouteSource::Rds("hop.test:80".into()),
                rbac: Vec::new(),
                forward_client_cert: Default::default(),
            }),
            chains: Vec::new(),
            default_chain: None,
        };
        let outbound = Outbound::compile(&Arc::new(listener), Some(Arc::new(routes)), &|_| {
            Some(cluster.clone())
        });
        let mut snapshot = Snapshot::empty();
        snapshot.generation = 1;
        snapshot.identity = self.identity.clone();
        let name = "caller".to_owned();
        snapshot.workload = Arc::new(WorkloadRef {
            name,
            ..WorkloadRef::default()
        });
        snapshot
            .outbound
            .insert(ListenerName::exact("hop.test:80"), Arc::new(outbound));
        // Anything else that is asked for has no answer: the demand channel's other end is gone.
        snapshot
    }
}

/// The proxy as an explicit inbound listener in front of an application.
pub async fn beside(application: &Origin, rbac: Vec<Rbac>) -> Running {
    inbound(application.address, rbac, None).await
}

/// The same for peers of the mesh only.
pub async fn meshed(identity: &Arc<Identity>, application: &Origin) -> Running {
    meshed_at(identity, application.address).await
}

/// The same, whatever is or is not at `application`.
pub async fn meshed_at(identity: &Arc<Identity>, application: SocketAddr) -> Running {
    inbound(application, Vec::new(), Some(identity.clone())).await
}

async fn inbound(
    application: SocketAddr,
    rbac: Vec<Rbac>,
    identity: Option<Arc<Identity>>,
) -> Running {
    let port = application.port();
    let workload = || CertificateSource::ProviderInstance("workload".into());
    let tls = identity.as_ref().map(|_| ServerTls {
        certificate: workload(),
        trust: Some(workload()),
        require_client_certificate: true,
        alpn: vec!["tasuki-h2".into()],
    });
    let chain = FilterChain {
        name: format!("inbound|{port}||"),
        matches: ChainMatch {
            destination_port: Some(port),
            transport: if tls.is_some() {
                Transport::Tls
            } else {
                Transport::Plaintext
            },
            ..ChainMatch::default()
        },
        tls,
        filter: Filter::Http(HttpConnection {
            stat_prefix: String::new(),
            routes: RouteSource::Inline(RouteConfiguration {
                name: String::new(),
                virtual_hosts: Vec::new(),
            }),
            rbac,
            forward_client_cert: Default::default(),
        }),
    };
    let listener = Listener {
        name: "inbound".into(),
        address: None,
        protocol: DeclaredProtocol::Auto,
        workload: None,
        api: None,
        chains: vec![chain],
        default_chain: None,
    };
    let inbound = Inbound::compile(&listener, &|_| None, None).unwrap();
    let mut snapshot = Snapshot::empty();
    snapshot.generation = 1;
    snapshot.inbound = Some(Arc::new(inbound));
    snapshot.identity = identity;
    let drain = Drain::new();
    let worker = worker(snapshot, &drain);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            spawn_local(connection::inbound_to(worker.clone(), stream, peer, port));
        }
    });
    Running { address, drain }
}

impl Running {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A client's socket whose kernel reads little ahead.
    pub async fn narrow_tcp(&self) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    pub async fn h2(&self) -> Client {
        // The client does not charge for tiny frames that it leaves unread: what the proxy does is the question.
        let mut builder = h2::client::Builder::new();
        builder
            .data_frame_budget(usize::MAX / 2)
            .initial_connection_window_size(1 << 20);
        let (send, connection) = builder.handshake(self.tcp().await).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        Client { send }
    }
}

fn worker(snapshot: Snapshot, drain: &Drain) -> Rc<Worker> {
    let metrics = Arc::new(Metrics::new().unwrap());
    let (access_log, _) = AccessLog::stdout(
        SharedMode::new(AccessLogMode::Off),
        metrics.access_log_dropped.clone(),
    )
    .unwrap();
    let (state, _) = State::new(UnknownPolicy::Refuse);
    state.publish(snapshot);
    let settings = Arc::new(settings());
    Rc::new(Worker {
        index: 0,
        guard: LoopGuard::of(&settings),
        settings,
        state,
        pools: upstream::Pools::new(),
        drain: drain.watch(),
        metrics: metrics.clone(),
        access_log: access_log.clone(),
        recorder: Recorder::new(metrics, access_log),
    })
}

fn settings() -> Settings {
    let unused = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        role: Role::Sidecar {
            pod: ObjectName {
                namespace: "default".into(),
                name: "hop".into(),
            },
        },
        control: String::new(),
        control_ca: None,
        token_file: None,
        state_dir: PathBuf::new(),
        outbound: None,
        inbound: None,
        admin: unused,
        metrics: unused,
        health: unused,
        workers: 1,
        drain_time: Duration::from_secs(1),
        access_log: Some(AccessLogMode::Off),
        reason_header: true,
        unknown_when_disconnected: UnknownPolicy::Refuse,
        listen: Vec::new(),
        inbound_listen: Vec::new(),
        in_pod: PodSettings::default(),
        log: String::new(),
    }
}

/// An HTTP/2 client.
#[derive(Clone)]
pub struct Client {
    send: h2::client::SendRequest<Bytes>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub interim: Vec<StatusCode>,
}

impl Client {
    pub async fn start(
        &mut self,
        request: Request<impl Sized>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        poll_fn(|cx| self.send.poll_ready(cx)).await.unwrap();
        self.send.send_request(request.map(drop), end).unwrap()
    }

    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Answered, h2::Error> {
        let body = request.body().clone();
        let (response, mut stream) = self.start(request, body.is_empty()).await;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        answered(response).await
    }

    pub async fn send_with_trailers(
        &mut self,
        request: Request<Bytes>,
        name: &'static str,
        value: &str,
    ) -> Result<Answered, h2::Error> {
        let body = request.body().clone();
        let (response, mut stream) = self.start(request, false).await;
        stream.send_data(body, false)?;
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        stream.send_trailers(trailers)?;
        answered(response).await
    }
}

async fn answered(mut response: h2::client::ResponseFuture) -> Result<Answered, h2::Error> {
    let mut interim = Vec::new();
    while let Some(head) = poll_fn(|cx| response.poll_informational(cx)).await {
        interim.push(head?.status());
    }
    let (parts, mut stream) = response.await?.into_parts();
    let (body, trailers) = read(&mut stream).await?;
    Ok(Answered {
        status: parts.status,
        headers: parts.headers,
        body,
        trailers,
        interim,
    })
}

async fn read(stream: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, stream.trailers().await?))
}

/// A request as an origin sees it.
pub struct Asked {
    /// From 0.
    pub number: usize,
    pub path: String,
    pub authority: Option<String>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// What an origin does about it.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
    early_hints: bool,
    how: How,
}

enum How {
    Whole,
    Reset(Reason),
    Never,
    /// Chunks of this size for ever.
    Endless(usize),
}

impl Answer {
    fn new(status: u16, body: &[u8], how: How) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body),
            trailers: HeaderMap::new(),
            early_hints: false,
            how,
        }
    }

    pub fn ok(body: &[u8]) -> Self {
        Self::new(200, body, How::Whole)
    }

    pub fn status(status: u16) -> Self {
        Self::new(status, b"", How::Whole)
    }

    pub fn reset(reason: Reason) -> Self {
        Self::new(200, b"", How::Reset(reason))
    }

    pub fn never() -> Self {
        Self::new(200, b"", How::Never)
    }

    pub fn endless(chunk: usize) -> Self {
        Self::new(200, b"", How::Endless(chunk))
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub fn trailer(mut self, name: &'static str, value: &str) -> Self {
        self.trailers.insert(name, value.parse().unwrap());
        self
    }

    pub fn early_hints(mut self) -> Self {
        self.early_hints = true;
        self
    }
}

/// Something that answers.
pub struct Origin {
    address: SocketAddr,
    seen: Rc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    requests: Cell<usize>,
    sent: Cell<usize>,
    stalled: Cell<bool>,
    cancelled: Cell<usize>,
    goaway_after: Cell<usize>,
    changed: Notify,
}

type Handler = Rc<RefCell<dyn FnMut(Asked) -> Answer>>;

impl Origin {
    pub fn connections(&self) -> usize {
        self.seen.connections.get()
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.get()
    }

    pub fn sent(&self) -> usize {
        self.seen.sent.get()
    }

    pub fn goaway_after(&self, requests: usize) {
        self.seen.goaway_after.set(requests);
    }

    async fn until(&self, holds: impl Fn(&Seen) -> bool) {
        while !holds(&self.seen) {
            self.seen.changed.notified().await;
        }
    }

    pub async fn reached(&self, requests: usize) {
        self.until(|seen| seen.requests.get() >= requests).await;
    }

    pub async fn cancelled(&self) {
        self.until(|seen| seen.cancelled.get() > 0).await;
    }

    pub async fn stalled(&self) {
        self.until(|seen| seen.stalled.get()).await;
    }

    async fn listen<F: Future<Output = ()> + 'static>(
        mut serve: impl FnMut(TcpStream, Rc<Seen>) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Rc::default(),
        };
        let seen = origin.seen.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.connections.set(seen.connections.get() + 1);
                spawn_local(serve(stream, seen.clone()));
            }
        });
        origin
    }

    pub async fn raw<F: Future<Output = ()> + 'static>(
        mut serve: impl FnMut(TcpStream) -> F + 'static,
    ) -> Self {
        Self::listen(move |stream, _| serve(stream)).await
    }

    pub async fn h1(handler: impl FnMut(Asked) -> Answer + 'static) -> Self {
        let handler: Handler = Rc::new(RefCell::new(handler));
        Self::listen(move |stream, seen| h1_origin(stream, seen, handler.clone())).await
    }

    pub async fn h2(handler: impl FnMut(Asked) -> Answer + 'static) -> Self {
        let handler: Handler = Rc::new(RefCell::new(handler));
        Self::listen(move |stream, seen| h2_origin(stream, seen, Some(handler.clone()))).await
    }

    /// A peer of the mesh: HTTP/2 in TLS with ALPN `tasuki-h2`, client certificates required.
    pub async fn mesh(
        identity: &Arc<Identity>,
        handler: impl FnMut(Asked) -> Answer + 'static,
    ) -> Self {
        let alpn = ["tasuki-h2".to_owned(), "tasuki-tcp".to_owned()];
        let config = identity.server(&alpn, ClientAuth::Required).unwrap();
        let acceptor = TlsAcceptor::from(config);
        let handler: Handler = Rc::new(RefCell::new(handler));
        Self::listen(move |stream, seen| {
            let (acceptor, handler) = (acceptor.clone(), handler.clone());
            async move {
                let Ok(session) = acceptor.accept(stream).await else {
                    return;
                };
                assert_eq!(session.get_ref().1.alpn_protocol(), Some(&b"tasuki-h2"[..]));
                h2_origin(session, seen, Some(handler)).await;
            }
        })
        .await
    }

    /// Sends back what comes, as it comes.
    pub async fn h2_echo() -> Self {
        Self::listen(|stream, seen| h2_origin(stream, seen, None)).await
    }
}

impl Seen {
    fn count(&self, counter: &Cell<usize>) -> usize {
        counter.set(counter.get() + 1);
        self.changed.notify_waiters();
        self.changed.notify_one();
        counter.get() - 1
    }
}

async fn h1_origin(stream: TcpStream, seen: Rc<Seen>, handler: Handler) {
    use http_body_util::{BodyExt, Full};
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (seen, handler) = (seen.clone(), handler.clone());
        async move {
            let number = seen.count(&seen.requests);
            let (parts, body) = request.into_parts();
            let asked = Asked {
                number,
                path: parts.uri.path().to_owned(),
                authority: None,
                headers: parts.headers,
                body: body.collect().await?.to_bytes().to_vec(),
                trailers: None,
            };
            let answer = handler.borrow_mut()(asked);
            if matches!(answer.how, How::Never) {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok::<_, hyper::Error>(response)
        }
    });
    let io = hyper_util::rt::TokioIo::new(stream);
    drop(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await,
    );
}

async fn h2_origin<IO>(stream: IO, seen: Rc<Seen>, handler: Option<Handler>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut server = h2::server::Builder::new()
        .enable_connect_protocol()
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    let mut served = 0;
    while let Some(Ok((request, respond))) = server.accept().await {
        served += 1;
        if seen.goaway_after.get() != 0 && served == seen.goaway_after.get() {
            server.graceful_shutdown();
        }
        spawn_local(h2_stream(request, respond, seen.clone(), handler.clone()));
    }
}

async fn h2_stream(
    request: Request<RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
    seen: Rc<Seen>,
    handler: Option<Handler>,
) {
    let (parts, mut stream) = request.into_parts();
    let number = seen.count(&seen.requests);
    let mut asked = Asked {
        number,
        path: parts.uri.path().to_owned(),
        authority: parts.uri.authority().map(ToString::to_string),
        headers: parts.headers,
        body: Vec::new(),
        trailers: None,
    };
    let Some(handler) = handler else {
        return echo(stream, respond).await;
    };
    if let Ok((body, trailers)) = read(&mut stream).await {
        (asked.body, asked.trailers) = (body, trailers);
    }
    let answer = handler.borrow_mut()(asked);
    answer_h2(answer, respond, &seen).await;
}

/// What comes goes back, as it comes.
async fn echo(mut stream: RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let Ok(mut sink) = respond.send_response(Response::new(()), false) else {
        return;
    };
    while let Some(Ok(data)) = stream.data().await {
        drop(stream.flow_control().release_capacity(data.len()));
        drop(sink.send_data(data, false));
    }
    drop(sink.send_data(Bytes::new(), true));
}

fn head(answer: &Answer) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    response
}

async fn answer_h2(answer: Answer, mut respond: h2::server::SendResponse<Bytes>, seen: &Seen) {
    if answer.early_hints {
        let hints = Response::builder().status(103).body(()).unwrap();
        respond.send_informational(hints).unwrap();
    }
    match answer.how {
        How::Reset(reason) => respond.send_reset(reason),
        How::Never => {
            drop(poll_fn(|cx| respond.poll_reset(cx)).await);
            seen.count(&seen.cancelled);
        }
        How::Whole => {
            let end = answer.body.is_empty() && answer.trailers.is_empty();
            let Ok(mut sink) = respond.send_response(head(&answer), end) else {
                return;
            };
            if end {
                return;
            }
            if !answer.body.is_empty() {
                drop(sink.send_data(answer.body, answer.trailers.is_empty()));
            }
            if !answer.trailers.is_empty() {
                drop(sink.send_trailers(answer.trailers));
            }
        }
        How::Endless(chunk) => {
            let Ok(sink) = respond.send_response(head(&answer), false) else {
                return;
            };
            endless(sink, chunk, seen).await;
        }
    }
}

async fn endless(mut sink: SendStream<Bytes>, chunk: usize, seen: &Seen) {
    let data = Bytes::from(vec![b'x'; chunk]);
    loop {
        sink.reserve_capacity(chunk);
        while sink.capacity() < chunk {
            let more = poll_fn(|cx| sink.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(500), more).await {
                Ok(Some(Ok(_))) => {}
                Ok(_) => return,
                Err(_) => {
                    seen.stalled.set(true);
                    seen.changed.notify_one();
                    if poll_fn(|cx| sink.poll_capacity(cx))
                        .await
                        .is_none_or(|capacity| capacity.is_err())
                    {
                        return;
                    }
                }
            }
        }
        if sink.send_data(data.clone(), false).is_err() {
            return;
        }
        seen.sent.set(seen.sent.get() + chunk);
        tokio::task::yield_now().await;
    }
}
