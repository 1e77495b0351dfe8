//! The bytes of an upgraded connection (WebSocket and others) as a body, and a body's bytes into such a connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};

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
    Waiting(OnUpgrade, Option<tokio::sync::oneshot::Sender<WriteHalf<Io>>>),
    Reading(ReadHalf<Io>),
    Ended,
}

impl Tunnel {
    /// The bytes that follow the upgrade. The writer resolves when it is done.
    pub fn after(upgrade: OnUpgrade) -> (Self, tokio::sync::oneshot::Receiver<WriteHalf<Io>>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Self { state: State::Waiting(upgrade, Some(sender)) }, receiver)
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
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

fn poll_read(read: &mut ReadHalf<Io>, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
    let mut space = [0; READ];
    let mut target = ReadBuf::new(&mut space);
    ready!(Pin::new(read).poll_read(cx, &mut target))?;
    buffer.extend_from_slice(target.filled());
    Poll::Ready(Ok(buffer.len()))
}

/// Writes `body` into the upgraded connection, then half-closes it.
pub async fn write(mut body: Body, writer: tokio::sync::oneshot::Receiver<WriteHalf<Io>>) {
    let Ok(mut io) = writer.await else { return };
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.poll_chunk(cx)).await {
        let Ok(mut data) = frame.into_data() else { break };
        let length = data.len();
        while data.has_remaining() {
            match std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &data)).await {
                Ok(0) | Err(_) => return,
                Ok(written) => data.advance(written),
            }
        }
        if std::future::poll_fn(|cx| Pin::new(&mut io).poll_flush(cx)).await.is_err() {
            return;
        }
        body.release(length);
    }
    // The peer may have gone: there is nobody to tell.
    drop(std::future::poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await);
}
