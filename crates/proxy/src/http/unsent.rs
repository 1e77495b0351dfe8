//! Answers that the client's socket does not take yet. Whoever made one is done when it has been handed to the HTTP library, which
//! still holds what the client is slow to read: a drain must wait for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::drain::{Activity, Watch};

/// A connection that counts as an activity while a write or a flush waits. What is not even tried to be written is held back by
/// flow control, where the answer's own activity is still there.
pub struct Unsent<IO> {
    io: IO,
    drain: Watch,
    blocked: Option<Activity>,
}

impl<IO> Unsent<IO> {
    pub fn new(io: IO, drain: &Watch) -> Self {
        Self {
            io,
            drain: drain.clone(),
            blocked: None,
        }
    }

    fn note<T>(&mut self, written: &Poll<std::io::Result<T>>) {
        match written {
            Poll::Pending if self.blocked.is_none() => self.blocked = Some(self.drain.activity()),
            // Nobody will read the rest.
            Poll::Ready(Err(_)) => self.blocked = None,
            // A write that went on says nothing of what is buffered behind it; only a flush does.
            Poll::Pending | Poll::Ready(Ok(_)) => {}
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Unsent<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Unsent<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.note(&flushed);
        if flushed.is_ready() {
            self.blocked = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::drain::Drain;

    #[tokio::test]
    async fn what_the_client_has_not_taken_is_under_way() {
        let drain = Drain::new();
        let (mut client, server) = tokio::io::duplex(8);
        let mut unsent = Unsent::new(server, &drain.watch());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut write = |unsent: &mut Unsent<_>| Pin::new(unsent).poll_write(&mut cx, &[0; 8]);
        assert!(write(&mut unsent).is_ready());
        assert_eq!(drain.active(), 0);
        assert!(write(&mut unsent).is_pending());
        assert_eq!(drain.active(), 1);
        client.read_exact(&mut [0; 8]).await.unwrap();
        assert!(write(&mut unsent).is_ready());
        // Not everything may have been written with it.
        assert_eq!(drain.active(), 1);
        poll_fn(|cx| Pin::new(&mut unsent).poll_flush(cx))
            .await
            .unwrap();
        assert_eq!(drain.active(), 0);
    }
}
