//! HTTP/2 to an upstream, on the `h2` crate: a pool of multiplexed connections per endpoint and worker.

use std::cell::{Cell, Ref, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{PingPong, Reason};
use http::{Method, Request, Response, StatusCode, Version};

use super::connect::{self, Use};
use super::gate::Gate;
use super::pool::{Lease, Queue, connection_permit};
use super::{Io, Target};
use crate::body::pump::{Ended, Pump};
use crate::body::{Body, Side};
use crate::breaker::{Kind, Permit};
use crate::cluster::{Cluster, Endpoint};
use crate::error::Error;
use crate::http::Interim;
use crate::http::h2 as settings;
use crate::worker::Worker;

/// Streams that are put on one connection before the peer's SETTINGS have come; RFC 9113 recommends at least 100.
const INITIAL_STREAMS: usize = 100;
/// A connection that has been idle for this long is asked whether it lives, and closed if it does not answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Connections that go away under a request before it was put on them; more means that something is wrong.
const STALE_CONNECTIONS: usize = 8;
/// How long the peer's SETTINGS are waited for when a request needs extended CONNECT.
const SETTINGS: Duration = Duration::from_secs(5);

/// HTTP/2 connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    connections: RefCell<Vec<Rc<Shared>>>,
    queue: Queue<Slot>,
}

/// One connection.
struct Shared {
    /// `None` once retired: the connection ends with the last handle to it.
    send: RefCell<Option<SendRequest<Bytes>>>,
    pool: Weak<Pool>,
    active: Cell<u32>,
    /// Streams opened so far.
    opened: Cell<u32>,
    max_streams: u32,
    /// 0: no limit.
    max_requests: u32,
}

/// A stream's place on a connection.
pub struct Slot {
    connection: Rc<Shared>,
    /// A handle of its own: one that waits for its turn remembers a single waker.
    send: SendRequest<Bytes>,
}

impl Slot {
    /// `None` when the connection has no room.
    fn take(connection: &Rc<Shared>) -> Option<Self> {
        let send = connection.room()?.clone();
        connection.active.set(connection.active.get() + 1);
        let opened = connection.opened.get() + 1;
        connection.opened.set(opened);
        if connection.max_requests != 0 && opened >= connection.max_requests {
            connection.retire();
        }
        Some(Self {
            connection: connection.clone(),
            send,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.active.set(connection.active.get() - 1);
        if let Some(pool) = connection.pool.upgrade() {
            pool.serve(connection);
        }
    }
}

impl Shared {
    /// The handle, if there is room for one more stream.
    fn room(&self) -> Option<Ref<'_, SendRequest<Bytes>>> {
        let send = Ref::filter_map(self.send.borrow(), Option::as_ref).ok()?;
        let theirs = send.current_max_send_streams();
        ((self.active.get() as usize) < theirs.min(self.max_streams as usize)).then_some(send)
    }

    /// Takes no new streams from now on; the connection ends with its last stream.
    fn retire(self: &Rc<Self>) {
        drop(self.send.take());
        if let Some(pool) = self.pool.upgrade() {
            pool.connections
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, self));
        }
    }
}

impl Pool {
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Nothing open, nothing being opened, nobody waiting.
    pub fn is_idle(&self) -> bool {
        self.connections() == 0 && self.queue.opening() == 0 && self.queue.is_empty()
    }

    fn room(&self) -> Option<Slot> {
        let with_room = |connection: &&Rc<Shared>| connection.room().is_some();
        // The list is not borrowed any more when the slot is taken: the last one takes its connection off it.
        let connection = self.connections.borrow().iter().find(with_room).cloned();
        Slot::take(&connection?)
    }

    /// A place on a connection, opened if need be.
    async fn slot(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        target: &Target<'_>,
    ) -> Result<Slot, Error> {
        if let Some(slot) = self.room() {
            return Ok(slot);
        }
        let _pending = Permit::acquire(target.cluster, Kind::Pending)?;
        let waiting = self.queue.enter();
        self.open(worker, target.cluster, target.endpoint);
        waiting.await
    }

    /// Opens a connection if those being opened are not enough for the queue and the limits allow.
    fn open(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
    ) {
        let per_connection =
            (cluster.config.limits.max_concurrent_streams as usize).clamp(1, INITIAL_STREAMS);
        if self.queue.opening() * per_connection >= self.queue.waiting() {
            return;
        }
        let Some(permit) = connection_permit(cluster, self.connections() + self.queue.opening())
        else {
            return;
        };
        self.queue.set_opening(self.queue.opening() + 1);
        tokio::task::spawn_local(open(
            self.clone(),
            worker.clone(),
            cluster.clone(),
            endpoint.clone(),
            permit,
        ));
    }

    /// Gives a connection's room to the queue, first come first served.
    fn serve(&self, connection: &Rc<Shared>) {
        while let Some(waiter) = self.queue.next() {
            let Some(slot) = Slot::take(connection) else {
                self.queue.put_back(waiter);
                return;
            };
            // A waiter that left in this instant gives the slot back, which serves the next.
            drop(waiter.send(Ok(slot)));
        }
    }
}

/// Opens a connection and serves it to its end. A task of its own: a requester that gives up must not take it from others.
async fn open(
    pool: Rc<Pool>,
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    permit: Permit,
) {
    let opened = establish(&pool, &worker, &cluster, &endpoint, permit).await;
    pool.queue.set_opening(pool.queue.opening() - 1);
    match opened {
        Err(error) => pool.queue.fail(&error),
        Ok((shared, connection, permit)) => {
            pool.connections.borrow_mut().push(shared.clone());
            pool.serve(&shared);
            pool.open(&worker, &cluster, &endpoint);
            drop(pool);
            drive(connection, &shared, cluster.idle_timeout()).await;
            shared.retire();
            drop(permit);
            // Whoever waited for a place on this connection under the limit needs another one now.
            if let Some(pool) = shared.pool.upgrade() {
                pool.open(&worker, &cluster, &endpoint);
            }
        }
    }
}

async fn establish(
    pool: &Rc<Pool>,
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    permit: Permit,
) -> Result<(Rc<Shared>, Connection<Io, Bytes>, Permit), Error> {
    let connected = connect::connect(worker, cluster, endpoint, Use::Http2, permit).await?;
    let handshake = builder().handshake::<_, Bytes>(connected.io).await;
    let (send, connection) =
        handshake.map_err(|_| Error::ConnectFailed("HTTP/2 preface".into()))?;
    let limits = &cluster.config.limits;
    let shared = Rc::new(Shared {
        send: RefCell::new(Some(send)),
        pool: Rc::downgrade(pool),
        active: Cell::new(0),
        opened: Cell::new(0),
        max_streams: limits.max_concurrent_streams.max(1),
        max_requests: limits.max_requests_per_connection,
    });
    Ok((shared, connection, connected.permit))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(settings::STREAM_WINDOW)
        .initial_connection_window_size(settings::CONNECTION_WINDOW)
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_header_list_size(settings::HEADER_LIST)
        .max_send_buffer_size(settings::SEND_BUFFER)
        .max_concurrent_reset_streams(settings::RESET_STREAMS)
        .max_local_error_reset_streams(Some(settings::LOCAL_ERRORS))
        .data_frame_budget(settings::DATA_FRAME_BUDGET);
    builder
}

/// Moves the connection's frames until it ends. Idle connections are asked now and then whether they live, and closed
/// when they have been idle for too long.
async fn drive(mut connection: Connection<Io, Bytes>, shared: &Rc<Shared>, idle: Duration) {
    let mut ping = connection.ping_pong();
    let mut alive = pin!(keep_alive(&mut ping, shared, idle));
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "upstream connection ended");
            }
            return Poll::Ready(());
        }
        alive.as_mut().poll(cx)
    })
    .await;
}

/// Resolves when the connection should be closed.
async fn keep_alive(ping: &mut Option<PingPong>, shared: &Rc<Shared>, idle: Duration) {
    let Some(ping) = ping else {
        return std::future::pending().await;
    };
    let mut opened = shared.opened.get();
    let mut unused = Duration::ZERO;
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        let busy = shared.active.get() > 0 || shared.opened.get() != opened;
        opened = shared.opened.get();
        unused = if busy {
            Duration::ZERO
        } else {
            unused + KEEPALIVE
        };
        if unused >= idle {
            return;
        }
        match tokio::time::timeout(KEEPALIVE_ANSWER, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Sends a request on a pooled connection.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let pool = worker.pools.h2(target.key());
    let extended = request.extensions().get::<Protocol>().is_some();
    for _ in 0..STALE_CONNECTIONS {
        let mut slot = pool.slot(worker, target).await?;
        // A connection that was told to go away says so here, before anything is sent.
        if poll_fn(|cx| slot.send.poll_ready(cx)).await.is_err() {
            slot.connection.retire();
            continue;
        }
        if extended {
            extended_connect(&slot.send).await?;
        }
        return exchange(slot, request, interim).await;
    }
    Err(Error::Refused("connections go away"))
}

/// Waits until the peer's SETTINGS say that extended CONNECT may be used (RFC 8441).
async fn extended_connect(send: &SendRequest<Bytes>) -> Result<(), Error> {
    let allowed = async {
        while !send.is_extended_connect_protocol_enabled() {
            // SETTINGS come with the first bytes of a connection; the h2 crate does not tell when.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let refused = |_| Error::NotImplemented("the upstream does not take upgrades over HTTP/2");
    tokio::time::timeout(SETTINGS, allowed)
        .await
        .map_err(refused)
}

/// One stream: the head is sent, then the body goes up while the response is awaited.
async fn exchange(
    mut slot: Slot,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    let (mut parts, mut body) = request.into_parts();
    parts.version = Version::HTTP_2;
    let tunnelled = parts.extensions.get::<Protocol>().is_some();
    if tunnelled {
        parts.method = Method::CONNECT;
    }
    let opener = Gate::for_request(&parts.headers).map(|gate| {
        let opener = gate.opener();
        body.hold(gate);
        opener
    });
    let end = body.is_end() && !tunnelled;
    let sent = slot.send.send_request(Request::from_parts(parts, ()), end);
    let (mut response, sink) = sent.map_err(|error| before_headers(&error))?;
    let mut upload = (!end).then(|| Pump::new(body, sink));
    let response = poll_fn(|cx| {
        if let Some(pump) = &mut upload {
            match pump.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ended::Complete) => upload = None,
                // Why is for the response to say: a server may answer without reading everything.
                Poll::Ready(Ended::SinkClosed(_)) => upload = None,
                Poll::Ready(Ended::SourceFailed(error)) => return Poll::Ready(Err(error)),
            }
        }
        let head = ready!(poll_head(&mut response, cx, interim, opener.as_deref()));
        Poll::Ready(head.map_err(|error| before_headers(&error)))
    })
    .await?;
    let (mut parts, stream) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::UpstreamProtocol("101 over HTTP/2"));
    }
    parts.version = Version::HTTP_2;
    let mut body = Body::h2(stream, Side::Upstream);
    let tail = body.tail();
    tail.upload = upload;
    tail.lease = Some(Lease::H2(slot));
    Ok(Response::from_parts(parts, body))
}

/// The response's head; 1xx before it are passed on.
fn poll_head(
    response: &mut ResponseFuture,
    cx: &mut Context<'_>,
    interim: &Interim,
    opener: Option<&super::gate::Opener>,
) -> Poll<Result<Response<h2::RecvStream>, h2::Error>> {
    while let Some(head) = ready!(response.poll_informational(cx)) {
        let head = head?;
        if let Some(opener) = opener
            && head.status() == StatusCode::CONTINUE
        {
            opener.open();
        }
        interim.push(head);
    }
    Pin::new(response).poll(cx)
}

/// What an error before the response's head says about how far the request got.
fn before_headers(error: &h2::Error) -> Error {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => {
            Error::Refused("REFUSED_STREAM")
        }
        // Only streams above the GOAWAY's last-stream-id fail with it; the others fail with the connection.
        Some(_) if error.is_go_away() && error.is_remote() => Error::Refused("GOAWAY"),
        Some(reason) if error.is_reset() && error.is_remote() => {
            Error::ResetBeforeHeaders(reason.into())
        }
        Some(_) if error.is_library() => Error::UpstreamProtocol("HTTP/2"),
        Some(_) | None => Error::ClosedBeforeHeaders,
    }
}
