//! The HTTP origin. What it does is in the path, so that one process serves every test:
//!
//! | path | answer |
//! |---|---|
//! | `/status/CODE` | that status |
//! | `/delay/MS` | 200 after so long |
//! | `/bytes/N` | N bytes |
//! | `/sink` | reads the body, answers its length |
//! | `/echo` | the body, as it comes |
//! | `/abort` | the connection or stream breaks |
//! | `/controls/fail/PERCENT` | from now on that share of requests is answered 503 |
//! | anything else | JSON: who answered, what arrived |
//!
//! gRPC: every message comes back; `/status.Service/CODE` ends with that grpc-status, and a health check says that it
//! serves. An upgrade of any token is echoed. Each answer names the origin in `x-backend`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Controls;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Serves one connection.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    name: Arc<str>,
    controls: Arc<Controls>,
) {
    let mut ending = controls.ending.subscribe();
    let service = hyper::service::service_fn(move |request| {
        let (name, controls) = (Arc::clone(&name), Arc::clone(&controls));
        async move { handle(request, &name, &controls, peer.ip()).await }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(10_000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A broken connection is what some of the tests are about.
        _ = &mut connection => return,
        _ = ending.wait_for(|ending| *ending) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn handle(
    request: Request<Incoming>,
    name: &str,
    controls: &Controls,
    peer: IpAddr,
) -> Result<Response<Body>> {
    if let Some(percent) = request.uri().path().strip_prefix("/controls/fail/") {
        controls.fail(percent.parse()?, 503);
        return Ok(text(200, String::new()));
    }
    if request.uri().path() == "/metrics" {
        let seen = controls.requests.load(Ordering::Relaxed);
        let metrics =
            format!("# TYPE origin_requests_total counter\norigin_requests_total {seen}\n");
        return Ok(text(200, metrics));
    }
    controls.requests.fetch_add(1, Ordering::Relaxed);
    let delay = controls.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let failing = rand::random_range(0..100) < controls.fail_percent.load(Ordering::Relaxed);
    controls.executed(request.headers());
    let mut response = if failing {
        fail(request.headers(), controls)
    } else {
        answer(request, name, peer).await?
    };
    if let Ok(value) = HeaderValue::from_str(name) {
        response.headers_mut().insert("x-backend", value);
    }
    Ok(response)
}

fn fail(headers: &HeaderMap, controls: &Controls) -> Response<Body> {
    if is_grpc(headers) {
        return grpc_end(14);
    }
    let status = match controls.fail_status.load(Ordering::Relaxed) {
        0 => 503,
        status => status as u16,
    };
    text(status, "failing on demand\n".to_owned())
}

async fn answer(request: Request<Incoming>, name: &str, peer: IpAddr) -> Result<Response<Body>> {
    if request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT {
        return Ok(upgrade(request));
    }
    if is_grpc(request.headers()) {
        return Ok(grpc(request).await);
    }
    let path = request.uri().path().to_owned();
    let (verb, argument) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_start_matches('/'), ""));
    let number: u64 = argument.parse().unwrap_or(0);
    match verb {
        "status" => Ok(text(u16::try_from(number)?, format!("{number}\n"))),
        "delay" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Ok(text(200, "late\n".to_owned()))
        }
        "bytes" => Ok(stream_of(number)),
        "echo" => Ok(Response::new(request.into_body().boxed_unsync())),
        "sink" => sink(request.into_body()).await,
        "abort" => bail!("aborted on demand"),
        _ => describe(request, name, peer).await,
    }
}

/// Who answered and what arrived, as JSON.
async fn describe(request: Request<Incoming>, name: &str, peer: IpAddr) -> Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(pairs);
    let seen = serde_json::json!({
        "backend": name,
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map_or("", |path| path.as_str()),
        "authority": parts.uri.authority().map(|a| a.as_str()).or_else(|| parts.headers.get(header::HOST)?.to_str().ok()),
        "version": format!("{:?}", parts.version),
        "peer": peer.to_string(),
        "headers": pairs(&parts.headers),
        "body": String::from_utf8_lossy(&body.to_bytes()),
        "trailers": trailers,
    });
    Ok(text(200, format!("{seen}\n")))
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

fn text(status: u16, body: String) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    with_status(status, Full::from(body).map_err(never).boxed_unsync())
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn never(error: Infallible) -> hyper::Error {
    match error {}
}

fn stream_of(mut left: u64) -> Response<Body> {
    static BLOCK: [u8; 65536] = [b'x'; 65536];
    let blocks = std::iter::from_fn(move || {
        let size = left.min(BLOCK.len() as u64);
        left -= size;
        (size > 0).then(|| Ok(Frame::data(Bytes::from_static(&BLOCK[..size as usize]))))
    });
    Response::new(StreamBody::new(stream::iter(blocks)).boxed_unsync())
}

async fn sink(mut body: Incoming) -> Result<Response<Body>> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(text(200, format!("{length}\n")))
}

/// A message of five bytes' head and the field `status` of `grpc.health.v1.HealthCheckResponse`, 1.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A response that ends at once with this status.
fn grpc_end(code: u16) -> Response<Body> {
    let mut response = text(200, String::new());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
        .headers_mut()
        .insert("grpc-status", HeaderValue::from(code));
    response
}

async fn grpc(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Some(code) = parts
        .uri
        .path()
        .strip_prefix("/status.Service/")
        .and_then(|code| code.parse().ok())
    {
        return grpc_end(code);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let trailers = async move { Some(Ok(trailers)) };
    let body = if parts.uri.path() == "/grpc.health.v1.Health/Check" {
        Full::from(SERVING)
            .map_err(never)
            .with_trailers(trailers)
            .boxed_unsync()
    } else {
        body.with_trailers(trailers).boxed_unsync()
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

/// Accepts any upgrade or extended CONNECT and returns its bytes.
fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let token = request.headers().get(header::UPGRADE).cloned();
    let key = request.headers().get("sec-websocket-key").cloned();
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    });
    let mut response = text(200, String::new());
    if let Some(token) = token {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, token);
    }
    if let Some(key) = key {
        // Shown back, not hashed: the clients of the tests speak raw bytes after the switch.
        response.headers_mut().insert("x-websocket-key", key);
    }
    response
}
