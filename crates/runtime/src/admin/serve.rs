//! The server: accept, bound, dispatch.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Request, Response, Routes};

/// What one server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Further connections wait in the kernel's backlog.
    pub connections: usize,
    /// For the header block, which also bounds an idle keep-alive connection.
    pub header_timeout: Duration,
    /// For reading a request's body and for the handler, each.
    pub request_timeout: Duration,
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            body_bytes: 64 * 1024,
        }
    }
}

/// Serves with the default [`Limits`] until the future is dropped or `shutdown` completes.
pub async fn serve(listener: TcpListener, routes: Routes, shutdown: impl Future<Output = ()>) {
    serve_with(listener, routes, Limits::default(), shutdown).await;
}

/// See [`serve`]. Connections that are open at shutdown end with the request they are in, or with their timeouts.
pub async fn serve_with(
    listener: TcpListener,
    routes: Routes,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let routes = Arc::new(routes);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let accept = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, Arc::clone(&routes), limits, permit));
                }
                Err(error) => {
                    // Mostly EMFILE: trying again at once would only burn CPU.
                    tracing::warn!(%error, "admin: accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
}

async fn connection(
    stream: TcpStream,
    routes: Arc<Routes>,
    limits: Limits,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(answer(&routes, limits, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin: connection");
    }
}

async fn answer(
    routes: &Routes,
    limits: Limits,
    request: http::Request<Incoming>,
) -> http::Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let handler = match routes.find(&parts.method, parts.uri.path(), &parts.headers) {
        Ok(handler) => handler,
        Err(refusal) => return refusal.into_http(),
    };
    let collected = timeout(
        limits.request_timeout,
        Limited::new(body, limits.body_bytes).collect(),
    )
    .await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "body too large or broken\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "body took too long\n"),
    };
    let request = Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        body,
    };
    match timeout(limits.request_timeout, handler(request)).await {
        Ok(response) => response.into_http(),
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "handler took too long\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> http::Response<Full<Bytes>> {
    Response::text(status, text).into_http()
}
