//! How far a request's body has come, for those who do not read it: the record counts its bytes, timeouts do not run while the client is waited for.

use std::cell::Cell;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

/// Shared by a request's body and whoever wants to know of it. The body may be read by another task (an HTTP/1 upstream's
/// connection), so what a timeout waits for wakes it.
#[derive(Default)]
pub struct Upload {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    /// The reader waits for the client.
    awaited: Cell<bool>,
    /// When the reader last had to wait no longer; kept where a timeout looks at it.
    resumed: Cell<Option<Instant>>,
    timed: Cell<bool>,
    /// One is enough: all who wait do so in the request's own task.
    waiting: Cell<Option<Waker>>,
}

impl Upload {
    /// Bytes that have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the client is what everything waits for: what it has sent so far has been read.
    pub fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// From now on [`Self::resumed`] is kept.
    pub fn time(&self) {
        self.timed.set(true);
    }

    /// When the client was last waited for, if ever.
    pub fn resumed(&self) -> Option<Instant> {
        self.resumed.get()
    }

    /// Ready when the client is not waited for.
    pub fn poll_resumed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.awaited.get() {
            return Poll::Ready(());
        }
        let waker = match self.waiting.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waiting.set(Some(waker));
        Poll::Pending
    }

    pub(super) fn passed(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// The reader has to wait for the client.
    pub(crate) fn waits(&self) {
        self.awaited.set(!self.ended.get());
    }

    /// The client has sent something.
    pub(crate) fn resume(&self) {
        if !self.awaited.replace(false) {
            return;
        }
        if self.timed.get() {
            self.resumed.set(Some(Instant::now()));
        }
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.resume();
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("bytes", &self.bytes.get())
            .field("ended", &self.ended.get())
            .finish_non_exhaustive()
    }
}
