//! How far a request's body has come, for those who do not read it: the record counts its bytes, timeouts wait for its end.

use std::cell::Cell;
use std::task::{Context, Poll, Waker};

/// Shared by a request's body and whoever wants to know of it. The body may be read by another task (an HTTP/1 upstream's
/// connection), so its end wakes who waits.
#[derive(Default)]
pub struct Upload {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    /// One is enough: all who wait do so in the request's own task.
    waiting: Cell<Option<Waker>>,
}

impl Upload {
    /// Bytes that have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the client has sent everything, or nobody reads it any more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Ready when the body has ended.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.get() {
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

    pub(super) fn end(&self) {
        self.ended.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
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
