//! The server: accept, bound, dispatch.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Request, Response, Routes};

/// What one server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Further connections wait in the kernel's backlog.
    pub connections: usize,
    /// Of these, from one address; more are closed at once.
    pub per_address: usize,
    /// For the header block, which also bounds an idle keep-alive connection.
    pub header_timeout: Duration,
    /// For reading a request's body.
    pub body_timeout: Duration,
    /// For the handler.
    pub request_timeout: Duration,
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            per_address: 64,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
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
    let peers = Peers::default();
    let accept = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(counted) = peers.count(peer.ip(), limits.per_address) else {
                        continue;
                    };
                    let routes = Arc::clone(&routes);
                    tokio::spawn(async move {
                        connection(stream, routes, limits).await;
                        drop((permit, counted));
                    });
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

/// Open connections by the address they come from.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
struct Counted {
    peers: Peers,
    address: IpAddr,
}

impl Peers {
    /// `None`: as many as there may be are open.
    fn count(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted {
            peers: self.clone(),
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Arc<Routes>, limits: Limits) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let routes = Arc::clone(&routes);
        async move { answer(&routes, limits, request).await.send() }
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

async fn answer(routes: &Routes, limits: Limits, request: http::Request<Incoming>) -> Response {
    let (parts, body) = request.into_parts();
    let handler = match routes.find(&parts.method, parts.uri.path(), &parts.headers) {
        Ok(handler) => handler,
        Err(refusal) => return *refusal,
    };
    let collected = timeout(
        limits.body_timeout,
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
        Ok(response) => response,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "handler took too long\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    Response::text(status, text)
}
