//! HTTP/1 to an upstream, on hyper: a pool of keep-alive connections per endpoint and worker, the most recently used first.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use h2::ext::Protocol;
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Target;
use super::connect::{self, Use};
use super::gate::{Gate, Opener};
use super::pool::{Lease, Queue};
use crate::body::tunnel::{self, Tunnel};
use crate::body::{Body, Side};
use crate::breaker::{Kind, Permit};
use crate::cluster::{Cluster, Endpoint};
use crate::error::{Error, Refusal};
use crate::headers::{self, OrigProto};
use crate::http::{Interim, Switched};
use crate::worker::Worker;

/// Largest response head.
const MAX_HEAD: usize = 64 * 1024;
/// Connections that turn out to be closed before a request was written on them.
const STALE_CONNECTIONS: usize = 16;

/// HTTP/1 connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Vec<(Connection, Instant)>>,
    open: Rc<Cell<usize>>,
    queue: Queue<Offer>,
}

/// One open connection that nobody uses now.
pub struct Connection {
    send: SendRequest<Body>,
    used: u32,
    idle_timeout: Duration,
    /// 0: no limit.
    max_requests: u32,
}

/// A connection in use.
pub struct Checkout {
    connection: Connection,
    pool: Rc<Pool>,
}

/// A connection on its way to who waits for it; back into the pool if that one has left.
struct Offer {
    connection: Option<Connection>,
    pool: Rc<Pool>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection);
        }
    }
}

impl Checkout {
    /// Back into the pool, or to the next in the queue.
    pub fn give_back(self) {
        let Self {
            mut connection,
            pool,
        } = self;
        if connection.send.is_closed() || connection.is_used_up() {
            return;
        }
        if connection.send.is_ready() {
            return pool.put(connection);
        }
        // The answer came before the request's end. Nobody shall have to wait for that; the connection is good afterwards.
        tokio::task::spawn_local(async move {
            if connection.send.ready().await.is_ok() {
                pool.put(connection);
            }
        });
    }
}

impl Connection {
    fn is_used_up(&self) -> bool {
        self.max_requests != 0 && self.used >= self.max_requests
    }

    /// Open, and not idle for too long.
    fn is_usable(&self, idle_since: Instant) -> bool {
        !self.send.is_closed() && idle_since.elapsed() < self.idle_timeout
    }
}

impl Pool {
    pub fn connections(&self) -> usize {
        self.open.get()
    }

    pub fn is_idle(&self) -> bool {
        self.open.get() == 0 && self.queue.opening() == 0 && self.queue.is_empty()
    }

    fn put(self: &Rc<Self>, connection: Connection) {
        let Some(waiter) = self.queue.next() else {
            self.idle.borrow_mut().push((connection, Instant::now()));
            return;
        };
        let offer = Offer {
            connection: Some(connection),
            pool: self.clone(),
        };
        // One who leaves in this instant drops the offer, which goes to the next.
        drop(waiter.send(Ok(offer)));
    }

    /// Throws away connections that ended or have been idle for too long.
    fn forget_idle(&self) {
        self.idle
            .borrow_mut()
            .retain(|(connection, since)| connection.is_usable(*since));
    }

    /// The idle connection used last.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some((connection, since)) = idle.pop() {
            if connection.is_usable(since) && connection.send.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn checkout(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        target: &Target<'_>,
    ) -> Result<Checkout, Error> {
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => self.wait(worker, target).await?,
        };
        connection.used += 1;
        Ok(Checkout {
            connection,
            pool: self.clone(),
        })
    }

    /// The next connection that is given back or opened.
    async fn wait(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        target: &Target<'_>,
    ) -> Result<Connection, Error> {
        let _pending = Permit::acquire(target.cluster, Kind::Pending)?;
        let waiting = self.queue.enter();
        self.open(worker, target.cluster, target.endpoint);
        let mut offer = waiting.await?;
        // Never without: it is taken only here.
        offer
            .connection
            .take()
            .ok_or(Error::Refused(Refusal::Connection("no connection")))
    }

    /// Opens a connection for the queue if the limits allow; otherwise the next one given back serves it.
    fn open(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
    ) {
        let Some(permit) = self.queue.begin_opening(cluster, self.open.get(), 1) else {
            return;
        };
        tokio::task::spawn_local(open(
            self.clone(),
            worker.clone(),
            cluster.clone(),
            endpoint.clone(),
            permit,
        ));
    }
}

/// Opens a connection and serves it to its end.
async fn open(
    pool: Rc<Pool>,
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    permit: Permit,
) {
    let opened = async {
        let connected = connect::connect(&worker, &cluster, &endpoint, Use::Http1, permit).await?;
        let handshake = Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(256)
            .handshake(TokioIo::new(connected.io))
            .await;
        let (send, driver) = handshake.map_err(|error| Error::ConnectFailed(error.to_string()))?;
        Ok((send, driver, connected.place))
    };
    let opened = opened.await;
    pool.queue.end_opening();
    let (send, driver, place) = match opened {
        Ok(opened) => opened,
        Err(error) => return pool.queue.fail(&error),
    };
    let open = pool.open.clone();
    open.set(open.get() + 1);
    pool.put(Connection {
        send,
        used: 0,
        idle_timeout: cluster.idle_timeout(),
        max_requests: cluster.config.limits.max_requests_per_connection,
    });
    let pool = {
        let weak = Rc::downgrade(&pool);
        drop(pool);
        weak
    };
    let idle_timeout = cluster.idle_timeout();
    let mut driver = pin!(driver.with_upgrades());
    // Nobody may ask this endpoint for anything any more, so the pool is looked through from here.
    let ended = loop {
        match tokio::time::timeout(idle_timeout, &mut driver).await {
            Ok(ended) => break ended,
            Err(_) => drop(pool.upgrade().map(|pool| pool.forget_idle())),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "upstream connection ended");
    }
    open.set(open.get() - 1);
    drop(place);
    // Whoever waited for this connection under the limit needs another one now.
    if let Some(pool) = pool.upgrade() {
        pool.open(&worker, &cluster, &endpoint);
    }
}

/// Sends a request on a pooled connection.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let pool = worker.pools.h1(target.key());
    let (mut request, upgrade) = prepare(request)?;
    let gate = Gate::for_request(request.headers());
    let informed = Informed::listen(&mut request, gate.as_ref().map(Gate::opener), interim);
    if let Some(gate) = gate {
        request.body_mut().hold(gate);
    }
    for _ in 0..STALE_CONNECTIONS {
        let mut checkout = pool.checkout(worker, target).await?;
        let mut sending = pin!(checkout.connection.send.try_send_request(request));
        let sent = poll_fn(|cx| {
            let sent = sending.as_mut().poll(cx);
            informed.pass_on(interim);
            sent
        });
        match sent.await {
            Ok(response) => return respond(response, checkout, upgrade),
            Err(mut failed) => match failed.take_message() {
                // Never written: the connection was closed while it was idle.
                Some(unsent) => request = unsent,
                None => return Err(before_headers(failed.error())),
            },
        }
    }
    Err(Error::Refused(Refusal::Connection("connections go away")))
}

/// An upgrade that was asked for, and what goes up once it is granted.
type Upgrade = Option<Body>;

/// From the proxy's form (HTTP/2's) to HTTP/1's.
fn prepare(request: Request<Body>) -> Result<(Request<Body>, Upgrade), Error> {
    let (mut parts, body) = request.into_parts();
    let orig = parts
        .headers
        .remove(headers::ORIG_PROTO)
        .and_then(|value| OrigProto::parse(&value));
    let authority = parts.uri.authority().cloned();
    if !(orig.is_some_and(|orig| orig.absolute) && authority.is_some()) {
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    if let Some(authority) = authority {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Error::BadRequest("authority"))?;
        parts.headers.insert(header::HOST, host);
    } else if !parts.headers.contains_key(header::HOST) {
        parts
            .headers
            .insert(header::HOST, HeaderValue::from_static(""));
    }
    parts.headers.remove(header::TE);
    join_cookies(&mut parts.headers);
    let version = orig.map_or(Version::HTTP_11, |orig| orig.version);
    parts.version = if version == Version::HTTP_10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let Some(protocol) = parts.extensions.remove::<Protocol>() else {
        return Ok((Request::from_parts(parts, body), None));
    };
    parts.version = Version::HTTP_11;
    let token =
        HeaderValue::from_str(protocol.as_str()).map_err(|_| Error::BadRequest("protocol"))?;
    parts.headers.insert(header::UPGRADE, token);
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    Ok((Request::from_parts(parts, Body::empty()), Some(body)))
}

/// HTTP/2 may split `cookie` for its header compression; HTTP/1 must see one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut http::HeaderMap) {
    let mut values = headers.get_all(header::COOKIE).iter();
    if let (Some(first), Some(second)) = (values.next(), values.next()) {
        let mut joined = first.as_bytes().to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(value.as_bytes());
        }
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// 1xx answers, which hyper tells in a callback that must be `Send`.
struct Informed(Option<Arc<Mutex<Vec<Response<()>>>>>);

impl Informed {
    fn listen(request: &mut Request<Body>, opener: Option<Arc<Opener>>, interim: &Interim) -> Self {
        if opener.is_none() && !interim.is_wanted() {
            return Self(None);
        }
        let heads: Arc<Mutex<Vec<Response<()>>>> = Arc::default();
        let told = heads.clone();
        hyper::ext::on_informational(request, move |head| {
            let mut response = Response::new(());
            *response.status_mut() = head.status();
            *response.headers_mut() = head.headers().clone();
            if head.status() == StatusCode::CONTINUE
                && let Some(opener) = &opener
            {
                opener.open();
            }
            let mut heads = told.lock().unwrap_or_else(PoisonError::into_inner);
            if heads.len() < Interim::MOST {
                heads.push(response);
            }
        });
        Self(Some(heads))
    }

    fn pass_on(&self, interim: &Interim) {
        if let Some(heads) = &self.0 {
            for head in heads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
            {
                interim.push(head);
            }
        }
    }
}

/// From HTTP/1's form to the proxy's. A granted upgrade becomes the 200 of an extended CONNECT.
fn respond(
    mut response: Response<Incoming>,
    checkout: Checkout,
    upgrade: Upgrade,
) -> Result<Response<Body>, Error> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upload) = upgrade else {
            return Err(Error::UpstreamProtocol("101 that was not asked for"));
        };
        let (tunnel, writer) = Tunnel::after(hyper::upgrade::on(&mut response));
        tokio::task::spawn_local(tunnel::write(upload, writer));
        let (mut parts, _) = response.into_parts();
        parts.status = StatusCode::OK;
        parts.extensions.insert(Switched);
        headers::strip_hop_by_hop(&mut parts.headers);
        // The connection is the tunnel's now: the checkout is not given back.
        drop(checkout);
        let body = Body::tunnel(tunnel, Side::Upstream);
        return Ok(Response::from_parts(parts, body));
    }
    let (parts, incoming) = response.into_parts();
    let mut body = Body::h1(incoming, Side::Upstream);
    body.tail().lease = Some(Lease::H1(checkout));
    Ok(Response::from_parts(parts, body))
}

/// What an error before the response's head says about how far the request got.
fn before_headers(error: &hyper::Error) -> Error {
    if error.is_parse() {
        return Error::UpstreamProtocol("HTTP/1 response");
    }
    // hyper wraps an error of the body that it was sending.
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<Error>() {
            return own.clone();
        }
        source = cause.source();
    }
    Error::ClosedBeforeHeaders
}
