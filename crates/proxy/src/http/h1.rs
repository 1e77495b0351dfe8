//! HTTP/1 server side, on hyper. A request leaves here in the proxy's own form, which is HTTP/2's: no hop-by-hop headers, and an
//! upgrade as a request whose body is the upgraded connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::ext::Protocol;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Interim, Switched};
use crate::body::tunnel::{self, Tunnel};
use crate::body::{Body, Side};
use crate::connection::Connection;
use crate::headers;
use crate::request;
use crate::worker::Worker;

/// Largest request head (contract section 8).
const MAX_HEAD: usize = 60 * 1024;
const MAX_HEADERS: usize = 256;
/// A head that has begun must be complete by then (slow loris).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(3_600);
/// How often heads and idleness are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// After the last answer, what the client still sends is read for so long and so far, because closing with bytes unread resets
/// the connection and takes the answer with it (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 1024 * 1024;

/// Serves a connection until it ends.
pub async fn serve<IO>(worker: Rc<Worker>, conn: Rc<Connection>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let progress = Arc::new(Progress::new());
    let service = service_fn(|request| {
        progress.set(IN_REQUEST);
        let (worker, conn, progress) = (worker.clone(), conn.clone(), progress.clone());
        async move { Ok::<_, Infallible>(exchange(&worker, &conn, request, progress).await) }
    });
    let io = TokioIo::new(Watched {
        io,
        progress: progress.clone(),
        lingering: None,
    });
    // Without `pipeline_flush`, which keeps an answer back while anything of the client's is unread: an early one for ever.
    // Without `half_close` too: a client that ends its half has gone (as in Envoy and nginx), and what it asked for is called off.
    let mut builder = Builder::new();
    builder.max_header_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut server = pin!(builder.serve_connection(io, service).with_upgrades());
    let mut late = pin!(progress.late());
    // Boxed, so that a connection's own future stays small.
    let mut closing = Box::pin(async {
        if conn.drains() {
            worker.drain.closing().await;
        } else {
            std::future::pending::<()>().await;
        }
    });
    let mut told = false;
    let served = poll_fn(|cx| {
        if !told && closing.as_mut().poll(cx).is_ready() {
            told = true;
            // At once if it is idle, else after the answer that is under way.
            server.as_mut().graceful_shutdown();
        }
        match server.as_mut().poll(cx) {
            Poll::Ready(served) => Poll::Ready(Some(served)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        }
    });
    if let Some(Err(error)) = served.await {
        tracing::debug!(%error, peer = %conn.peer, "HTTP/1 connection");
    }
}

/// One request and the head of its response.
async fn exchange(
    worker: &Rc<Worker>,
    conn: &Rc<Connection>,
    request: Request<Incoming>,
    progress: Arc<Progress>,
) -> Response<Body> {
    let (request, upgrade) = adopt(request);
    let draining = conn.drains() && worker.drain.is_draining();
    let response = request::run(worker, conn, request, &Interim::new(false)).await;
    let (mut parts, mut body) = response.into_parts();
    if let Some((token, writer)) = upgrade
        && parts.extensions.get::<Switched>().is_some()
    {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.insert(header::UPGRADE, token);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.remove(header::CONTENT_LENGTH);
        progress.upgraded.store(true, Ordering::Relaxed);
        tokio::task::spawn_local(tunnel::write(body, writer));
        return Response::from_parts(parts, Body::empty());
    }
    if draining || worker.drain.is_draining() && conn.drains() {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // hyper stops reading a body at its declared length, so its end may never be seen.
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    body.expect(length);
    body.tail().answering = Some(Answering(progress));
    Response::from_parts(parts, body)
}

type Writer =
    tokio::sync::oneshot::Receiver<tokio::io::WriteHalf<TokioIo<hyper::upgrade::Upgraded>>>;

/// From the wire's form to the proxy's.
fn adopt(mut request: Request<Incoming>) -> (Request<Body>, Option<(HeaderValue, Writer)>) {
    let on_upgrade = request
        .extensions_mut()
        .remove::<hyper::upgrade::OnUpgrade>();
    let (mut parts, incoming) = request.into_parts();
    let body = Body::h1(incoming, Side::Downstream);
    let token = if body.is_empty() {
        headers::upgrade(&parts)
    } else {
        None
    };
    let (Some(token), Some(on_upgrade)) = (token, on_upgrade) else {
        return (Request::from_parts(parts, body), None);
    };
    let Ok(value) = HeaderValue::from_str(&token) else {
        return (Request::from_parts(parts, body), None);
    };
    let (tunnel, writer) = Tunnel::after(on_upgrade);
    parts.extensions.insert(Protocol::from(token.as_str()));
    (
        Request::from_parts(parts, Body::tunnel(tunnel, Side::Downstream)),
        Some((value, writer)),
    )
}

/// Since when a connection waits for the rest of a head, or for anything. hyper's own timer would close idle connections together
/// with slow ones.
#[derive(Debug)]
struct Progress {
    epoch: Instant,
    /// Milliseconds since `epoch`, shifted by 2; the low bits are the state.
    state: AtomicU64,
    /// The connection is another protocol's now, whose half-close is its own business.
    upgraded: AtomicBool,
}

/// A response that is still being sent, and perhaps its request still read: the connection waits for no head meanwhile.
#[derive(Debug)]
pub struct Answering(Arc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set(IDLING);
    }
}

const IDLING: u64 = 0;
const IN_HEAD: u64 = 1;
const IN_REQUEST: u64 = 2;

impl Progress {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            // The first head begins with its first byte, as later ones do.
            state: AtomicU64::new(IDLING),
            upgraded: AtomicBool::new(false),
        }
    }

    fn set(&self, state: u64) {
        let millis = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.state.store(millis << 2 | state, Ordering::Relaxed);
    }

    fn bytes_came(&self) {
        if self.state.load(Ordering::Relaxed) & 3 == IDLING {
            self.set(IN_HEAD);
        }
    }

    /// Resolves when a head has taken too long or nothing has come for too long.
    async fn late(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let state = self.state.load(Ordering::Relaxed);
            let since = Duration::from_millis(state >> 2);
            let waited = self.epoch.elapsed().saturating_sub(since);
            match state & 3 {
                IN_HEAD if waited > HEAD_TIMEOUT => return,
                IDLING if waited > IDLE => return,
                _ => {}
            }
        }
    }
}

/// Tells [`Progress`] when bytes come, and lingers at the end.
struct Watched<IO> {
    io: IO,
    progress: Arc<Progress>,
    lingering: Option<Lingering>,
}

/// Our side is closed; the client's is read until it closes too, or has had its chance.
struct Lingering {
    until: Pin<Box<Sleep>>,
    /// Bytes that are still read.
    left: usize,
}

impl Lingering {
    fn new() -> Self {
        Self {
            until: Box::pin(tokio::time::sleep(LINGER)),
            left: LINGER_BYTES,
        }
    }

    /// Ready when nothing more is worth waiting for.
    fn poll<IO: AsyncRead + Unpin>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 4_096];
        while self.left > 0 && self.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            self.left = self.left.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() && buf.filled().len() > before {
            self.progress.bytes_came();
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let watched = &mut *self;
        if watched.progress.upgraded.load(Ordering::Relaxed) {
            return Pin::new(&mut watched.io).poll_shutdown(cx);
        }
        if watched.lingering.is_none() {
            ready!(Pin::new(&mut watched.io).poll_shutdown(cx))?;
            watched.progress.set(IN_REQUEST);
            watched.lingering = Some(Lingering::new());
        }
        if let Some(lingering) = &mut watched.lingering {
            ready!(lingering.poll(&mut watched.io, cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_heads_and_idleness_are_timed() {
        let late_after = async |progress: &Arc<Progress>| {
            let start = Instant::now();
            let late = tokio::time::timeout(3 * IDLE, progress.late()).await;
            late.ok().map(|()| start.elapsed())
        };
        let progress = Arc::new(Progress::new());
        assert!(late_after(&progress).await.unwrap() >= IDLE);
        progress.bytes_came();
        let slow_head = late_after(&progress).await.unwrap();
        assert!(slow_head <= HEAD_TIMEOUT + 2 * LOOK, "{slow_head:?}");

        progress.set(IN_REQUEST);
        let answering = Answering(progress.clone());
        // The request's body is still coming while the answer is on its way.
        progress.bytes_came();
        assert_eq!(late_after(&progress).await, None);

        drop(answering);
        assert!(late_after(&progress).await.unwrap() >= IDLE);
        drop(Answering(progress.clone()));
        progress.bytes_came();
        let slow_head = late_after(&progress).await.unwrap();
        assert!(slow_head <= HEAD_TIMEOUT + 2 * LOOK, "{slow_head:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn lingering_ends_with_the_client_the_time_or_the_bytes() {
        let linger = async |mut io: tokio::io::DuplexStream| {
            let start = Instant::now();
            let mut lingering = Lingering::new();
            poll_fn(|cx| lingering.poll(&mut io, cx)).await;
            (start.elapsed(), lingering.left)
        };
        let (mut client, server) = tokio::io::duplex(2 * LINGER_BYTES);
        client.write_all(&[b'x'; 10_000]).await.unwrap();
        drop(client);
        let gone = linger(server).await;
        assert_eq!(gone, (Duration::ZERO, LINGER_BYTES - 10_000));

        let (client, server) = tokio::io::duplex(64);
        let (waited, _) = linger(server).await;
        assert!((LINGER..2 * LINGER).contains(&waited), "{waited:?}");
        drop(client);

        let (mut client, server) = tokio::io::duplex(2 * LINGER_BYTES);
        client
            .write_all(&vec![b'x'; LINGER_BYTES + 1])
            .await
            .unwrap();
        assert_eq!(linger(server).await, (Duration::ZERO, 0));
    }
}
