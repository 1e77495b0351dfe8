//! Multiplexed connections to one endpoint, and the places on them.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, Connection, SendRequest};

use super::drive::drive;
use super::is_farewell;
use super::reset::{Abandoned, Resets};
use crate::breaker::{Kind, Permit};
use crate::cluster::{Cluster, Endpoint};
use crate::error::Error;
use crate::http::h2 as settings;
use crate::upstream::connect::{self, Place, Use};
use crate::upstream::pool::Queue;
use crate::upstream::tls::Security;
use crate::upstream::{Io, Target};
use crate::worker::Worker;

/// Streams that are put on one connection before the peer's SETTINGS have come; RFC 9113 recommends at least 100.
const INITIAL_STREAMS: usize = 100;
/// Streams on one connection, however many the peer takes: what the connection's window has room for.
const MAX_STREAMS: u32 = settings::STREAMS_FROM_MESH;
/// A connection takes no new streams when those given up hold one place in so many.
const CROWDED: usize = 4;

/// HTTP/2 connections to one endpoint.
#[derive(Default)]
pub struct Pool {
    connections: RefCell<Vec<Rc<Shared>>>,
    queue: Queue<Slot>,
}

/// One connection.
pub(super) struct Shared {
    /// `None` once retired: the connection ends with the last handle to it.
    send: RefCell<Option<SendRequest<Bytes>>>,
    pool: Weak<Pool>,
    /// Streams that somebody waits for.
    active: Cell<u32>,
    /// Streams opened so far.
    opened: Cell<u32>,
    /// Streams that nobody waits for any more.
    pub(super) resets: Resets,
    max_streams: u32,
    /// 0: no limit.
    max_requests: u32,
}

/// A stream's place on a connection.
pub struct Slot {
    connection: Rc<Shared>,
    /// A handle of its own: one that waits for its turn remembers a single waker.
    pub(super) send: SendRequest<Bytes>,
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

    /// The connection takes no more streams.
    pub(super) fn retire_connection(&self) {
        self.connection.retire();
    }

    /// Nobody waits for the stream's answer any more.
    pub(super) fn give_up(self, stream: Abandoned) {
        let connection = &self.connection;
        let many = connection.resets.give_up(stream);
        let limit = connection.limit(&self.send).max(1);
        if many || connection.resets.waiting() * CROWDED >= limit {
            connection.retire();
        }
    }

    /// Nobody reads the stream's answer any more.
    pub fn abandon(self, stream: RecvStream) {
        self.give_up(Abandoned::Answered(stream));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.active.set(connection.active.get() - 1);
        connection.serve();
        if connection.is_over() {
            connection.resets.wake();
        }
    }
}

impl Shared {
    /// The handle, if there is room for one more stream.
    fn room(&self) -> Option<Ref<'_, SendRequest<Bytes>>> {
        let send = Ref::filter_map(self.send.borrow(), Option::as_ref).ok()?;
        let taken = self.active.get() as usize + self.resets.waiting();
        (taken < self.limit(&send)).then_some(send)
    }

    /// Streams that may be open at a time, as far as the peer has said.
    fn limit(&self, send: &SendRequest<Bytes>) -> usize {
        let theirs = send.current_max_send_streams();
        theirs.min(self.max_streams as usize)
    }

    /// Gives room to those who wait for it.
    fn serve(self: &Rc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.serve(self);
        }
    }

    /// Why the connection takes no more streams, if so.
    fn refusal(&self) -> Option<h2::Error> {
        let cx = &mut Context::from_waker(Waker::noop());
        match self.send.borrow_mut().as_mut()?.poll_ready(cx) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    fn is_retired(&self) -> bool {
        self.send.borrow().is_none()
    }

    /// Retired, and nobody waits for anything on it; what is left are streams that were given up.
    pub(super) fn is_over(&self) -> bool {
        self.active.get() == 0 && self.is_retired()
    }

    /// Streams that somebody waits for, and streams opened so far.
    pub(super) fn streams(&self) -> (u32, u32) {
        (self.active.get(), self.opened.get())
    }

    /// Takes no new streams from now on; the connection ends with its last stream.
    fn retire(self: &Rc<Self>) {
        drop(self.send.take());
        if let Some(pool) = self.pool.upgrade() {
            pool.connections
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, self));
        }
        // Those who wait for a place on it need another connection.
        self.resets.wake();
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
    pub(super) async fn slot(
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
        let limits = &cluster.config.limits;
        let requests = match limits.max_requests_per_connection {
            0 => u32::MAX,
            limit => limit,
        };
        let streams = limits.max_concurrent_streams.min(requests);
        let each = (streams as usize).clamp(1, INITIAL_STREAMS);
        let Some(permit) = self.queue.begin_opening(cluster, self.connections(), each) else {
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
    pool.queue.end_opening();
    match opened {
        Err(error) => pool.queue.fail(&error),
        Ok((shared, connection, place)) => {
            pool.connections.borrow_mut().push(shared.clone());
            pool.serve(&shared);
            pool.open(&worker, &cluster, &endpoint);
            drop(pool);
            let is_mesh = Security::of(&cluster, &endpoint).is_mesh();
            let part = || {
                if is_mesh && shared.refusal().as_ref().is_some_and(is_farewell) {
                    cluster.leaves(&endpoint);
                }
                shared.retire();
            };
            let attend = || {
                let Some(pool) = shared.pool.upgrade().filter(|pool| !pool.queue.is_empty()) else {
                    return;
                };
                if shared.refusal().is_some() {
                    part();
                }
                if shared.is_retired() {
                    pool.open(&worker, &cluster, &endpoint);
                } else {
                    pool.serve(&shared);
                }
            };
            drive(connection, &shared, is_mesh, cluster.idle_timeout(), attend).await;
            drop(place);
            part();
            attend();
        }
    }
}

async fn establish(
    pool: &Rc<Pool>,
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    permit: Permit,
) -> Result<(Rc<Shared>, Connection<Io, Bytes>, Place), Error> {
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
        resets: Resets::new(),
        max_streams: limits.max_concurrent_streams.clamp(1, MAX_STREAMS),
        max_requests: limits.max_requests_per_connection,
    });
    Ok((shared, connection, connected.place))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(settings::STREAM_WINDOW)
        .initial_connection_window_size(settings::connection_window(MAX_STREAMS))
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_header_list_size(settings::HEADER_LIST)
        .max_send_buffer_size(settings::SEND_BUFFER)
        .max_concurrent_reset_streams(settings::RESET_STREAMS)
        .max_local_error_reset_streams(Some(settings::LOCAL_ERRORS))
        .data_frame_budget(settings::DATA_FRAME_BUDGET);
    builder
}
