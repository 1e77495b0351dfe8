//! `Expect: 100-continue`: the request's body waits for the upstream's 100, or for a second (RFC 9110 section 10.1.1 lets a client
//! that waits in vain go on, and an upstream may not know the expectation).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, header};
use tokio::time::Sleep;

const PATIENCE: Duration = Duration::from_secs(1);

/// Opened by whoever sees the 100; hyper sees it in a callback that must be `Send`.
#[derive(Debug, Default)]
pub struct Opener {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Opener {
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Keeps a body back.
#[derive(Debug)]
pub struct Gate {
    opener: Arc<Opener>,
    patience: Pin<Box<Sleep>>,
}

impl Gate {
    /// A gate if the request expects a 100.
    pub fn for_request(headers: &HeaderMap) -> Option<Self> {
        let expects = headers
            .get(header::EXPECT)?
            .as_bytes()
            .eq_ignore_ascii_case(b"100-continue");
        expects.then(|| Self {
            opener: Arc::default(),
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        })
    }

    pub fn opener(&self) -> Arc<Opener> {
        self.opener.clone()
    }

    /// Ready when the body may go.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.opener.waker.register(cx.waker());
        if self.opener.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.as_mut().poll(cx)
    }
}
