//! The HTTPS server of the webhooks: the API server keeps a few connections and sends one review after the other.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tasuki_runtime::places::{Place, Places};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Question, Webhook};
use crate::limits::{self, Bound};

/// Of all and of one address. An API server has one or two connections to each replica, and there are a few API servers; it cannot
/// be told from others, but it never has the most.
const CONNECTIONS: (usize, usize) = (256, 64);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Without a question until then a connection is closed.
const FIRST_QUESTION: Duration = Duration::from_secs(20);
/// Then it is ended gently, so that idle ones do not take the places for ever; the API server connects again.
const LIFE: Duration = Duration::from_secs(600);
/// For what is under way then, and when the process ends: longer than a question may take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// For reading a question, and for answering it: the API server waits 10 s by default.
const QUESTION: Duration = Duration::from_secs(9);
/// The API server's own bound of a request.
const BODY_BYTES: usize = 3 << 20;
/// For the body alone: the API server has it whole.
const BODY: Duration = Duration::from_secs(2);
/// Bodies that are being read, of all and of one address. Those of the API server take a moment, so that strangers who send slowly
/// take each other's places only.
const BODIES: (usize, usize) = (64, 16);
/// Questions that are being answered.
const QUESTIONS: Bound = Bound {
    all: 64,
    each_peer: 32,
};
const STREAMS: u32 = 16;

/// What connections share.
struct Shared {
    webhook: Webhook,
    bodies: Places,
    questions: Arc<limits::Places>,
}

/// Serves until `shutdown` completes; then connections are ended gently, and what is under way is answered.
pub async fn serve(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    webhook: Webhook,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared {
        webhook,
        bodies: Places::new(BODIES.0, BODIES.1),
        questions: limits::Places::new(QUESTIONS),
    });
    let places = Places::new(CONNECTIONS.0, CONNECTIONS.1);
    // Each connection listens for the end, and is gone when it no longer does.
    let (end, ending) = watch::channel(false);
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let Some(place) = places.enter(remote.ip()) else {
                        tracing::debug!(%remote, "webhook: too many connections");
                        continue;
                    };
                    let config = both_protocols(&config.load());
                    tokio::spawn(connection(
                        stream,
                        remote.ip(),
                        config,
                        Arc::clone(&shared),
                        ending.clone(),
                        place,
                    ));
                }
                Err(error) => {
                    // Mostly EMFILE: trying again at once would only burn CPU.
                    tracing::warn!(%error, "webhook: accept");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop((listener, ending));
    end.send_replace(true);
    // Longer than an answer takes only strangers, whose handshakes do not end.
    let _ = timeout(LAST_ANSWERS, end.closed()).await;
}

/// The configuration of 15012, where only HTTP/2 is spoken, for both.
fn both_protocols(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn secure(stream: TcpStream, config: Arc<ServerConfig>) -> Option<TlsStream<TcpStream>> {
    match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "webhook: TLS handshake"),
        Err(_) => tracing::debug!("webhook: TLS handshake took too long"),
    }
    None
}

async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    config: Arc<ServerConfig>,
    shared: Arc<Shared>,
    mut ending: watch::Receiver<bool>,
    mut place: Place,
) {
    let stream = tokio::select! {
        stream = secure(stream, config) => stream,
        () = place.lost() => return,
    };
    let Some(stream) = stream else { return };
    let asked = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            let (shared, asked) = (Arc::clone(&shared), Arc::clone(&asked));
            async move {
                let response = respond(&shared, peer, request).await;
                if response.status().is_success() {
                    asked.store(true, Ordering::Relaxed);
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(LIFE)
        .max_buf_size(32 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(FIRST_QUESTION)
        .max_header_list_size(32 * 1024);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let silent = async {
        sleep(FIRST_QUESTION).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return,
        () = place.lost() => return tracing::debug!(%peer, "webhook: too many connections"),
        () = enough(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            match timeout(LAST_ANSWERS, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "webhook: connection");
    }
}

/// The end of a connection's life, or of the process.
async fn enough(ending: &mut watch::Receiver<bool>) {
    // An error is the end too.
    let _ = timeout(LIFE, ending.wait_for(|end| *end)).await;
}

async fn respond(
    shared: &Shared,
    peer: IpAddr,
    request: http::Request<Incoming>,
) -> http::Response<Full<Bytes>> {
    let Some(question) = Question::parse(request.uri().path()) else {
        return plain(
            StatusCode::NOT_FOUND,
            "not found; there are /inject and /validate\n",
        );
    };
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let answer = async {
        let body = match read(shared, peer, request.into_body()).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let Ok(_place) = shared.questions.take(Some(peer)) else {
            return plain(StatusCode::TOO_MANY_REQUESTS, "too many questions\n");
        };
        match shared.webhook.answer(question, &body).await {
            Ok(json) => with_type(StatusCode::OK, "application/json", json),
            Err(reason) => plain(StatusCode::BAD_REQUEST, reason + "\n"),
        }
    };
    match timeout(QUESTION, answer).await {
        Ok(response) => response,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "took too long\n"),
    }
}

async fn read(
    shared: &Shared,
    peer: IpAddr,
    body: Incoming,
) -> Result<Bytes, http::Response<Full<Bytes>>> {
    let busy = || plain(StatusCode::TOO_MANY_REQUESTS, "too many questions\n");
    let mut place = shared.bodies.enter(peer).ok_or_else(busy)?;
    let body = timeout(BODY, Limited::new(body, BODY_BYTES).collect());
    let read = tokio::select! {
        read = body => read,
        () = place.lost() => return Err(busy()),
    };
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body too large or broken\n",
        )),
        Err(_) => Err(plain(StatusCode::REQUEST_TIMEOUT, "body too slow\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> http::Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text)
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests;
