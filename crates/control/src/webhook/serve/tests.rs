//! The webhooks over real TLS on loopback, asked as an API server asks.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use kube::client::Body;
use serde_json::{Value, json};
use tasuki_identity::{ServerIdentity, TrustDomain, client_config};
use tasuki_kubernetes::inject::InjectionSettings;
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::ca::Authority;
use crate::ca::server_tls::ServerTls;
use crate::catalog::Published;
use crate::mesh::{Mesh, MeshSettings};
use crate::source::Objects;

const NAME: &str = "tasuki-control.tasuki-system.svc";

struct Served {
    _dir: TempDir,
    authority: Authority,
    address: SocketAddr,
    /// Questions that have come as far as the API server, which answers as many as there are permits.
    asked: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// An API server that knows the labelled namespace `shop` and takes its time.
fn api_server(asked: &Arc<Semaphore>, answers: &Arc<Semaphore>) -> kube::Client {
    let (asked, answers) = (asked.clone(), answers.clone());
    let answer = move |request: http::Request<Body>| {
        let (asked, answers) = (asked.clone(), answers.clone());
        async move {
            assert!(request.uri().path().ends_with("/namespaces/shop"));
            asked.add_permits(1);
            answers.acquire().await.unwrap().forget();
            let namespace = json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": {"name": "shop", "labels": {"tasuki.dev/inject": "enabled"}},
            });
            let body = Full::new(Bytes::from(namespace.to_string()));
            Ok::<_, Infallible>(http::Response::new(body))
        }
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

async fn serve_it() -> Served {
    let dir = TempDir::new().unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let ttl = Duration::from_secs(600);
    let authority = Authority::open(dir.path(), &domain, ttl).unwrap();
    let tls = ServerTls::new(authority.clone(), &[NAME.to_owned()]).unwrap();
    let policy = OutboundTrafficPolicy::AllowAny;
    let settings = MeshSettings::new(domain, "tasuki-system", policy, ttl);
    let mesh = Mesh::build(&Objects::default(), settings);
    let published = Arc::new(Published::new(mesh, authority.clone()));
    let (asked, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let webhook = Webhook::new(
        api_server(&asked, &answers),
        InjectionSettings::new("tasuki-proxy:test"),
        published,
        &prometheus::Registry::new(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let end = async { drop(stopped.await) };
    let serving = tokio::spawn(serve(listener, tls.config(), webhook.unwrap(), end));
    Served {
        _dir: dir,
        authority,
        address,
        asked,
        answers,
        stop,
        serving,
    }
}

impl Served {
    /// By the Service's name and the bundle alone, as the API server trusts it.
    async fn dial(&self, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        self.secure(TcpStream::connect(self.address).await?, alpn)
            .await
    }

    async fn secure(
        &self,
        stream: TcpStream,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let roots = self.authority.roots();
        let config = client_config(None, &roots, ServerIdentity::Dns, &[alpn]).unwrap();
        let name = NAME.try_into().unwrap();
        TlsConnector::from(config).connect(name, stream).await
    }

    async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.dial(b"h2").await.unwrap());
        let handshake = http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.dial(b"http/1.1").await.unwrap());
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A connection of `127.0.0.LAST`.
    async fn from(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::from(([127, 0, 0, last], 0)))
            .unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn until_asked(&self) {
        self.asked.acquire().await.unwrap().forget();
    }
}

fn question() -> http::Request<Full<Bytes>> {
    let container = json!({"name": "app", "image": "app"});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "cart-", "namespace": "shop"},
        "spec": {"containers": [container]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": pod,
        },
    });
    http::Request::post(format!("https://{NAME}/inject"))
        .header("host", NAME)
        .body(Full::new(Bytes::from(review.to_string())))
        .unwrap()
}

async fn patched(answer: http::Response<Incoming>) -> bool {
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(review["response"]["uid"], "u-1");
    review["response"]["allowed"] == true && review["response"]["patch"].is_string()
}

#[tokio::test]
async fn an_api_server_is_answered_over_either_protocol() {
    let served = serve_it().await;
    served.answers.add_permits(2);
    let answer = served.http2().await.send_request(question()).await;
    assert!(patched(answer.unwrap()).await);
    let answer = served.http1().await.send_request(question()).await;
    assert!(patched(answer.unwrap()).await);
}

#[tokio::test]
async fn whoever_trusts_other_roots_refuses_it() {
    let (served, other) = (serve_it().await, serve_it().await);
    let roots = other.authority.roots();
    let config = client_config(None, &roots, ServerIdentity::Dns, &[b"h2"]).unwrap();
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = NAME.try_into().unwrap();
    let refused = TlsConnector::from(config).connect(name, stream).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_body_that_does_not_come_keeps_nobody_waiting() {
    let served = serve_it().await;
    served.answers.add_permits(1);
    let mut slow = served.dial(b"http/1.1").await.unwrap();
    let head = format!("POST /inject HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 10\r\n\r\n{{");
    slow.write_all(head.as_bytes()).await.unwrap();
    let answer = served.http2().await.send_request(question()).await;
    assert!(patched(answer.unwrap()).await);
    let mut status = [0; 12];
    slow.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
}

#[tokio::test]
async fn strangers_take_each_others_places() {
    let served = serve_it().await;
    served.answers.add_permits(2);
    let head = format!("POST /inject HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 10\r\n\r\n{{");
    let mut strangers = Vec::new();
    for address in 2..6 {
        for _ in 0..16 {
            let stream = served.from(address).await;
            let mut slow = served.secure(stream, b"http/1.1").await.unwrap();
            slow.write_all(head.as_bytes()).await.unwrap();
            strangers.push(slow);
        }
    }
    let answer = served.http2().await.send_request(question()).await;
    assert!(patched(answer.unwrap()).await, "all bodies being read");
    let mut silent = Vec::new();
    for address in 2..6 {
        for _ in 0..64 {
            silent.push(served.from(address).await);
        }
    }
    let answer = served.http2().await.send_request(question()).await;
    assert!(patched(answer.unwrap()).await, "all connections taken");
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_answered() {
    let served = serve_it().await;
    let (mut two, mut one) = (served.http2().await, served.http1().await);
    let mut idle = served.http2().await;
    idle.ready().await.unwrap();
    let under_way = tokio::spawn(two.send_request(question()));
    served.until_asked().await;
    let also = tokio::spawn(one.send_request(question()));
    served.until_asked().await;

    served.stop.send(()).unwrap();
    // A connection without a question has ended, and there are no new ones.
    while idle.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(TcpStream::connect(served.address).await.is_err());
    assert!(!served.serving.is_finished());

    served.answers.add_permits(2);
    assert!(patched(under_way.await.unwrap().unwrap()).await);
    let last = also.await.unwrap().unwrap();
    assert_eq!(last.headers()["connection"], "close");
    assert!(patched(last).await);
    served.serving.await.unwrap();
}
