//! HTTP/1 server side, on hyper. A request leaves here in the proxy's own form, which is HTTP/2's: no hop-by-hop headers, and an
//! upgrade as a request whose body is the upgraded connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::ext::Protocol;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Interim;
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
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(3_600);
/// How often heads and idleness are looked at.
const LOOK: Duration = Duration::from_secs(5);

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
    });
    let mut builder = Builder::new();
    builder
        .max_header_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .half_close(true)
        .pipeline_flush(true);
    let mut server = pin!(builder.serve_connection(io, service).with_upgrades());
    let mut late = pin!(progress.late());
    let served = poll_fn(|cx| match server.as_mut().poll(cx) {
        Poll::Ready(served) => Poll::Ready(Some(served)),
        Poll::Pending => late.as_mut().poll(cx).map(|()| None),
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
        && parts.status.is_success()
    {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        parts.headers.insert(header::UPGRADE, token);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.remove(header::CONTENT_LENGTH);
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
            state: AtomicU64::new(IN_HEAD),
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

/// Tells [`Progress`] when bytes come.
struct Watched<IO> {
    io: IO,
    progress: Arc<Progress>,
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

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
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
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_heads_and_idleness_are_timed() {
        let late_after = async |progress: &Arc<Progress>| {
            let start = Instant::now();
            let late = tokio::time::timeout(3 * IDLE, progress.late()).await;
            late.ok().map(|()| start.elapsed())
        };
        let progress = Arc::new(Progress::new());
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
}
