//! The bytes of an upgraded connection (WebSocket and others) as a body, and a body's bytes into such a connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::{Body, Side};
use crate::error::Error;

/// Bytes that are read at a time.
const READ: usize = 16 * 1024;

type Io = TokioIo<Upgraded>;

/// What is read from an upgraded connection.
pub struct Tunnel {
    state: State,
}

enum State {
    /// The upgrade is not done yet; the write half goes to whoever waits at the other end.
    Waiting(OnUpgrade, Option<oneshot::Sender<WriteHalf<Io>>>),
    Reading(ReadHalf<Io>),
    Ended,
}

impl Tunnel {
    /// The bytes that follow the upgrade. The writer resolves when it is done.
    pub fn after(upgrade: OnUpgrade) -> (Self, oneshot::Receiver<WriteHalf<Io>>) {
        let (sender, receiver) = oneshot::channel();
        (
            Self {
                state: State::Waiting(upgrade, Some(sender)),
            },
            receiver,
        )
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        side: Side,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match &mut self.state {
                State::Waiting(upgrade, writer) => match ready!(Pin::new(upgrade).poll(cx)) {
                    Ok(upgraded) => {
                        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
                        if let Some(writer) = writer.take() {
                            // Nobody waits for it when the other direction has ended already.
                            drop(writer.send(write));
                        }
                        self.state = State::Reading(read);
                    }
                    Err(_) => {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(side.io_error())));
                    }
                },
                State::Reading(read) => {
                    let mut buffer = BytesMut::with_capacity(READ);
                    return match ready!(poll_read(read, cx, &mut buffer)) {
                        Ok(0) => {
                            self.state = State::Ended;
                            Poll::Ready(None)
                        }
                        Ok(_) => Poll::Ready(Some(Ok(Frame::data(buffer.freeze())))),
                        Err(_) => {
                            self.state = State::Ended;
                            Poll::Ready(Some(Err(side.io_error())))
                        }
                    };
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

fn poll_read(
    read: &mut ReadHalf<Io>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut space = [0; READ];
    let mut target = ReadBuf::new(&mut space);
    ready!(Pin::new(read).poll_read(cx, &mut target))?;
    buffer.extend_from_slice(target.filled());
    Poll::Ready(Ok(buffer.len()))
}

/// Writes `body` into the upgraded connection, then half-closes it.
pub async fn write(mut body: Body, writer: oneshot::Receiver<WriteHalf<Io>>) {
    let (first, writer) = start(&mut body, writer).await;
    let Some(mut io) = writer else { return };
    let mut next = first;
    loop {
        let frame = match next.take() {
            Some(frame) => frame,
            None => poll_fn(|cx| body.poll_chunk(cx)).await,
        };
        let Some(Ok(frame)) = frame else { break };
        let Ok(data) = frame.into_data() else { break };
        let length = data.len();
        if io.write_all(&data).await.is_err() || io.flush().await.is_err() {
            return;
        }
        body.release(length);
    }
    // The peer may have gone: there is nobody to tell.
    drop(io.shutdown().await);
}

type Chunk = Option<Result<Frame<Bytes>, Error>>;

/// Waits for the connection and reads the body meanwhile: in a chain of upgrades each half comes only when the other is read.
async fn start(
    body: &mut Body,
    mut writer: oneshot::Receiver<WriteHalf<Io>>,
) -> (Option<Chunk>, Option<WriteHalf<Io>>) {
    let mut first = None;
    let writer = poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(chunk) = body.poll_chunk(cx)
        {
            first = Some(chunk);
        }
        Pin::new(&mut writer).poll(cx)
    })
    .await;
    (first, writer.ok())
}
