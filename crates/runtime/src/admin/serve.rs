//! The server: accept, bound, dispatch.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::message::Client;
use super::{Request, Response, Routes};
use crate::places::{Place, Places};

/// What one server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One more ends one of the address that has the most.
    pub connections: usize,
    /// Of these, from one address; one more ends its oldest.
    pub per_address: usize,
    /// For the header block, which also bounds an idle keep-alive connection.
    pub header_timeout: Duration,
    /// For reading a request's body.
    pub body_timeout: Duration,
    /// For the handler.
    pub request_timeout: Duration,
    /// For the client to take the answer.
    pub write_timeout: Duration,
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            per_address: 16,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
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
    let places = Places::new(limits.connections, limits.per_address);
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(place) = places.enter(peer.ip()) {
                        let peer = peer.ip().to_canonical();
                        tokio::spawn(connection(stream, peer, place, Arc::clone(&routes), limits));
                    }
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
    peer: IpAddr,
    mut place: Place,
    routes: Arc<Routes>,
    limits: Limits,
) {
    let client = Client {
        ip: peer,
        hold: place.hold(),
    };
    let (answered, due) = watch::channel(None);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (routes, client, answered) = (Arc::clone(&routes), client.clone(), answered.clone());
        async move {
            answered.send_replace(None);
            let response = answer(&routes, limits, client, request).await;
            // Idle time after it is bounded by the wait for the next head.
            let due = Instant::now() + limits.write_timeout + limits.header_timeout;
            answered.send_replace(Some(due));
            response.send()
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(32 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::debug!(%error, "admin: connection");
        },
        () = place.lost() => tracing::debug!(%peer, "admin: connection ended for another"),
        () = overdue(due) => tracing::debug!(%peer, "admin: answer not taken in time"),
    }
}

/// Resolves when the last answer should have been taken.
async fn overdue(mut due: watch::Receiver<Option<Instant>>) {
    loop {
        let until = *due.borrow_and_update();
        let passed = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = passed => return,
            changed = due.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

async fn answer(
    routes: &Routes,
    limits: Limits,
    client: Client,
    request: http::Request<Incoming>,
) -> Response {
    let (parts, body) = request.into_parts();
    let handler = match routes.find(&parts.method, parts.uri.path(), &parts.headers, client.ip) {
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
        client,
    };
    match timeout(limits.request_timeout, handler(request)).await {
        Ok(response) => response,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "handler took too long\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    Response::text(status, text)
}
