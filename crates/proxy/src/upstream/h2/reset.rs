//! Streams that are given up before their end: when the upstream is told.
//!
//! Servers defend themselves against floods of resets (CVE-2023-44487) by ending the whole connection, and with it the streams of
//! callers who did nothing. One client that leaves with its hundreds of streams must not cause that, so a connection sends few
//! resets at once; other streams that were given up are kept, unread, until their turn. Meanwhile they hold their place, their
//! window (the connection's has room for every stream's) and nothing else. A connection with many resets takes no new streams,
//! and when nobody uses it any more its end cancels all that is left.
//!
//! What servers bear: the `h2` crate 20 resets of streams that it has not accepted yet, nghttp2 and Node.js 1,000 and then 33 a
//! second, Jetty 128 events a second, Netty 200 in 30 s, Envoy half of 500 streams, if they lived for less than a second.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::RecvStream;
use h2::client::ResponseFuture;
use tokio::time::{Instant, Sleep};

/// Resets that a connection sends at once.
const BURST: u32 = 10;
/// How soon another may follow: a server that is held up for two seconds has not seen too many when it goes on.
const INTERVAL: Duration = Duration::from_millis(250);
/// A connection that has come to so many takes no new streams.
const MANY: u32 = 100;

/// What can be given up; dropped, it is reset with CANCEL, unless it has ended.
pub trait Stream {
    /// Throws away what has come, without credit for more. Whether the stream has ended by itself.
    fn discard(&mut self) -> bool;
}

/// A stream of the `h2` crate.
pub enum Abandoned {
    Unanswered(ResponseFuture),
    Answered(RecvStream),
}

impl Stream for Abandoned {
    fn discard(&mut self) -> bool {
        // Looked at from time to time: there is nobody to wake.
        let cx = &mut Context::from_waker(Waker::noop());
        if let Self::Unanswered(response) = self {
            match Pin::new(response).poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(response)) => *self = Self::Answered(response.into_body()),
            }
        }
        let Self::Answered(stream) = self else {
            return false;
        };
        while let Poll::Ready(data) = stream.poll_data(cx) {
            if !matches!(data, Some(Ok(_))) {
                return true;
            }
        }
        stream.is_end_stream()
    }
}

/// The resets of one connection.
pub struct Resets<S = Abandoned> {
    /// Streams whose turn has not come, the oldest first.
    waiting: RefCell<VecDeque<S>>,
    /// Resets that may be sent at once, as of `counted`.
    allowance: Cell<u32>,
    counted: Cell<Instant>,
    /// Streams given up over the connection's life.
    total: Cell<u32>,
    /// The task that drives the connection.
    driver: RefCell<Option<Waker>>,
}

impl<S: Stream> Resets<S> {
    pub fn new() -> Self {
        Self {
            waiting: RefCell::default(),
            allowance: Cell::new(BURST),
            counted: Cell::new(Instant::now()),
            total: Cell::new(0),
            driver: RefCell::default(),
        }
    }

    /// Streams that hold a place though nobody waits for them.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Resets a stream, now or in its turn. Whether the connection has had so many that it should take no more streams.
    pub fn give_up(&self, mut stream: S) -> bool {
        if stream.discard() {
            return false;
        }
        self.total.set(self.total.get().saturating_add(1));
        if self.waiting() > 0 || !self.take_allowance() {
            self.waiting.borrow_mut().push_back(stream);
            self.wake();
        }
        self.total.get() >= MANY
    }

    fn take_allowance(&self) -> bool {
        let now = Instant::now();
        let since = now - self.counted.get();
        let earned = u32::try_from(since.as_millis() / INTERVAL.as_millis()).unwrap_or(BURST);
        if earned > 0 {
            let allowance = self.allowance.get().saturating_add(earned);
            self.allowance.set(allowance.min(BURST));
            self.counted.set(now);
        }
        let left = self.allowance.get().checked_sub(1);
        self.allowance.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Has the driver look again.
    pub fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Lets go of a stream whose turn has come, by the driver's clock. Whether there was one.
    pub fn poll(&self, turn: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.len();
        while !waiting.is_empty() {
            let sleep = turn.get_or_insert_with(|| Box::pin(tokio::time::sleep(INTERVAL)));
            if sleep.as_mut().poll(cx).is_pending() {
                break;
            }
            *turn = None;
            self.counted.set(Instant::now());
            waiting.retain_mut(|stream| !stream.discard());
            waiting.pop_front();
        }
        waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    #[derive(Default)]
    struct Log {
        ended: Cell<bool>,
        reset: Cell<u32>,
    }

    struct Fake(Rc<Log>);

    impl Stream for Fake {
        fn discard(&mut self) -> bool {
            self.0.ended.get()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            if !self.0.ended.get() {
                self.0.reset.set(self.0.reset.get() + 1);
            }
        }
    }

    /// Drives until none waits; how long that took.
    async fn drain(resets: &Resets<Fake>) -> Duration {
        let started = Instant::now();
        let mut turn = None;
        poll_fn(|cx| {
            resets.poll(&mut turn, cx);
            if resets.waiting() == 0 {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_reset_at_once_and_the_rest_in_turn() {
        let (resets, log) = (Resets::new(), Rc::<Log>::default());
        for _ in 0..BURST + 8 {
            assert!(!resets.give_up(Fake(log.clone())));
        }
        assert_eq!((log.reset.get(), resets.waiting()), (BURST, 8));
        assert_eq!(drain(&resets).await, 8 * INTERVAL);
        assert_eq!(log.reset.get(), BURST + 8);
        // What was sent in turn is not earned again.
        resets.give_up(Fake(log.clone()));
        assert_eq!(resets.waiting(), 1);
        drain(&resets).await;
        tokio::time::sleep(INTERVAL * 100).await;
        for _ in 0..BURST + 1 {
            resets.give_up(Fake(log.clone()));
        }
        assert_eq!(resets.waiting(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_end_by_themselves_are_not_counted() {
        let (resets, log) = (Resets::new(), Rc::<Log>::default());
        for _ in 0..BURST + 50 {
            resets.give_up(Fake(log.clone()));
        }
        log.ended.set(true);
        assert_eq!(drain(&resets).await, INTERVAL);
        for _ in 0..MANY {
            assert!(!resets.give_up(Fake(log.clone())));
        }
        assert_eq!((log.reset.get(), resets.waiting()), (BURST, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_resets_much_is_replaced() {
        let (resets, log) = (Resets::new(), Rc::<Log>::default());
        let given_up = (1..=MANY).filter(|_| resets.give_up(Fake(log.clone())));
        assert_eq!(given_up.count(), 1, "the last of them");
    }
}
