//! HTTP/2 server side, on the `h2` crate. One task per connection moves frames, one per stream runs the request and pumps
//! both bodies.
//!
//! Floods are bounded here: CONTINUATION and empty DATA frames by the `h2` crate, resets by [`Tally`] and by the crate's own budgets,
//! tiny DATA frames by its budget and by draining stalled streams (`body/pump.rs`), a client that never sends its preface by a
//! timeout. Other control frames end no connection. PING and SETTINGS are answered one at a time, so who does not read the answers
//! is not read from; what needs no answer costs its reading, less than a request of its size would, and tokio's budget of reads
//! gives the other connections their turn.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{Builder, Connection as Server, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Interim;
use crate::body::pump::{Ended, Pump};
use crate::body::{Body, Side};
use crate::connection::{Connection, Direction};
use crate::request::{self, HandBack};
use crate::worker::Worker;

/// What a stream's sender may have under way to us, and so what a stream that nobody reads costs. What Envoy recommends at an edge;
/// a single stream gets 64 MB/s out of it over a round trip of a millisecond.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// Largest header block (contract section 8); larger is answered with 431.
pub const HEADER_LIST: u32 = 60 * 1024;
/// What one stream may have buffered towards the peer.
pub const SEND_BUFFER: usize = 64 * 1024;
/// Streams that we reset and whose frames are still expected.
pub const RESET_STREAMS: usize = 128;
/// Streams that the peer reset before they were accepted; more is an attack (CVE-2023-44487).
const PENDING_RESETS: usize = 64;
/// Stream errors of the peer's making over a connection's life (CVE-2025-8671).
pub const LOCAL_ERRORS: usize = 1_024;
/// How much framing overhead unread DATA frames may have over a connection (256 bytes less payload, each). Stalled streams are
/// drained, so only what comes between two polls counts: at most one window in frames of a few bytes.
pub const DATA_FRAME_BUDGET: usize = 16 * 1024 * 1024;
/// Idle connections are closed after this long, if their cluster does not say otherwise.
pub const IDLE: Duration = Duration::from_secs(3_600);

const STREAMS_FROM_OUTSIDE: u32 = 100;
/// Also the most that are put on one connection to an upstream, whatever it takes.
pub const STREAMS_FROM_MESH: u32 = 1_024;
/// The client's preface and SETTINGS are there by then, or the connection is closed.
const PREFACE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// A connection's window: room for every stream's, because what streams that nobody reads have used up would be missing to
/// all others.
pub const fn connection_window(streams: u32) -> u32 {
    streams * STREAM_WINDOW
}

/// Resets before any answer, over a connection's life (Envoy's `premature_reset_total_stream_count` of 500, half of them).
#[derive(Default)]
struct Tally {
    streams: Cell<u32>,
    active: Cell<u32>,
    premature: Cell<u32>,
}

impl Tally {
    fn is_flood(&self) -> bool {
        let streams = self.streams.get();
        streams >= 500 && self.premature.get() > streams / 2
    }
}

/// Serves a connection until it ends.
pub async fn serve<IO>(worker: Rc<Worker>, conn: Rc<Connection>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handshake = builder(&conn).handshake::<_, Bytes>(io);
    match tokio::time::timeout(PREFACE, handshake).await {
        Ok(Ok(server)) => accept(worker, conn, server).await,
        Ok(Err(error)) => tracing::debug!(%error, peer = %conn.peer, "HTTP/2 handshake"),
        Err(_) => tracing::debug!(peer = %conn.peer, "no HTTP/2 preface in time"),
    }
}

fn builder(conn: &Connection) -> Builder {
    // The application beside us opens as many as it likes, as a peer of the mesh may.
    let trusted = conn.is_mesh_peer() || conn.direction == Direction::Outbound;
    let streams = if trusted {
        STREAMS_FROM_MESH
    } else {
        STREAMS_FROM_OUTSIDE
    };
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(streams))
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_streams(streams)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_ERRORS))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .enable_connect_protocol();
    builder
}

/// Takes streams until the connection ends, is drained or is found dead.
async fn accept<IO>(worker: Rc<Worker>, conn: Rc<Connection>, mut server: Server<IO, Bytes>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let tally = Rc::new(Tally::default());
    let mut ping = server.ping_pong();
    let mut alive = pin!(keep_alive(&mut ping, &tally));
    let watch = worker.drain.clone();
    let mut draining = pin!(async {
        if conn.drains() {
            watch.draining().await;
        } else {
            std::future::pending::<()>().await;
        }
    });
    let mut told = false;
    loop {
        let next = poll_fn(|cx| {
            if !told && draining.as_mut().poll(cx).is_ready() {
                told = true;
                // Two GOAWAYs with a PING between them (RFC 9113 section 6.8), so that no request is lost.
                server.graceful_shutdown();
            }
            if tally.is_flood() {
                server.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            if alive.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            server.poll_accept(cx)
        });
        match next.await {
            Some(Ok((request, respond))) => {
                tally.streams.set(tally.streams.get().saturating_add(1));
                // Boxed: it is kilobytes, and spawning and ending a task move what it is given several times.
                let stream: Pin<Box<dyn Future<Output = ()>>> = Box::pin(stream(
                    worker.clone(),
                    conn.clone(),
                    request,
                    respond,
                    tally.clone(),
                ));
                tokio::task::spawn_local(stream);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, peer = %conn.peer, "HTTP/2 connection");
                return;
            }
            None => return,
        }
    }
}

/// Resolves when the client is gone or has been idle for too long.
async fn keep_alive(ping: &mut Option<PingPong>, tally: &Tally) {
    let Some(ping) = ping else {
        return std::future::pending().await;
    };
    let mut streams = 0;
    let mut unused = Duration::ZERO;
    loop {
        tokio::time::sleep(KEEPALIVE).await;
        let busy = tally.active.get() > 0 || tally.streams.get() != streams;
        streams = tally.streams.get();
        unused = if busy {
            Duration::ZERO
        } else {
            unused + KEEPALIVE
        };
        if unused >= IDLE {
            return;
        }
        match tokio::time::timeout(KEEPALIVE_ANSWER, ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// One request and its response.
async fn stream(
    worker: Rc<Worker>,
    conn: Rc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    tally: Rc<Tally>,
) {
    tally.active.set(tally.active.get() + 1);
    let head_only = request.method() == Method::HEAD;
    let interim = Interim::new(true);
    let response = {
        let mut running = pin!(request::run(&worker, &conn, adopt(request), &interim));
        poll_fn(|cx| {
            let running = running.as_mut().poll(cx);
            for head in interim.take() {
                // Fails when the client has reset the stream, which is noticed below.
                drop(respond.send_informational(head));
            }
            match running {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                // Dropping what runs cancels the upstream's stream and records the request.
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    };
    tally.active.set(tally.active.get() - 1);
    match response {
        Some(response) => send(response, respond, head_only).await,
        None => tally.premature.set(tally.premature.get().saturating_add(1)),
    }
}

/// From the wire's form to the proxy's: an extended CONNECT is the GET that it stands for, so that routes and policies see what
/// the application wrote.
fn adopt(request: Request<RecvStream>) -> Request<Body> {
    let mut request = request.map(|stream| Body::h2(stream, Side::Downstream));
    if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some() {
        *request.method_mut() = Method::GET;
    }
    request
}

async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>, head_only: bool) {
    let (parts, body) = response.into_parts();
    if let Some(HandBack(reason)) = parts.extensions.get() {
        respond.send_reset(*reason);
        return body.conclude();
    }
    let no_body = head_only
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let end = no_body || body.is_end();
    let sent = respond.send_response(Response::from_parts(parts, ()), end);
    let Ok(sink) = sent else { return };
    if end {
        body.conclude();
        return;
    }
    let mut pump = Pump::new(body, sink);
    if let Ended::SourceFailed(error) = poll_fn(|cx| pump.poll(cx)).await {
        pump.reset(&error);
    }
}
