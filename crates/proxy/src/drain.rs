//! Drain: the process takes no new work on, finishes what it has, then leaves (contract section 9).
//!
//! [`Drain`] starts it (SIGTERM or POST `/drain`) and waits until nothing is under way; [`Watch`] is held by
//! whoever must notice: the readiness probe fails, inbound HTTP/1 answers carry `Connection: close`, inbound
//! HTTP/2 connections get the two-step GOAWAY. Listeners keep accepting: the peers learn late that this
//! endpoint has gone. Outbound connections are not told anything, the application uses them to the end;
//! their requests are counted, so that none is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Nothing may be under way for this long before the process is idle: a request that has been written by a
/// peer, but not read here yet, is not counted.
const QUIET: Duration = Duration::from_millis(500);

/// The side that starts the drain; one per process, cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    started: watch::Sender<bool>,
    work: Arc<Work>,
}

/// The side that notices; cheap to clone, one per worker or connection.
#[derive(Clone, Debug)]
pub struct Watch {
    started: watch::Receiver<bool>,
    work: Arc<Work>,
}

/// Something that must not be cut off: a request, a TCP connection, an answer that its client has not taken yet.
#[derive(Debug)]
pub struct Activity {
    work: Arc<Work>,
}

#[derive(Debug, Default)]
struct Work {
    active: AtomicUsize,
    /// Somebody waits for [`Work::changed`]; before that, requests need not take its lock.
    awaited: AtomicBool,
    changed: Notify,
}

impl Work {
    /// After a change of `active`. Sequentially consistent with it: either the waiter is told or it has seen the change.
    fn tell(&self) {
        if self.awaited.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A process that is not draining.
    pub fn new() -> Self {
        Self {
            started: watch::Sender::new(false),
            work: Arc::default(),
        }
    }

    /// What workers, connections and the readiness probe hold.
    pub fn watch(&self) -> Watch {
        Watch {
            started: self.started.subscribe(),
            work: self.work.clone(),
        }
    }

    /// Starts the drain. Says whether this call did; later ones change nothing.
    pub fn start(&self) -> bool {
        self.started
            .send_if_modified(|started| !std::mem::replace(started, true))
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.started.borrow()
    }

    /// Resolves when the drain has started.
    pub async fn started(&self) {
        let mut started = self.started.subscribe();
        // The sender is alive: it is `self`.
        let _ = started.wait_for(|started| *started).await;
    }

    /// How many activities are under way.
    pub fn active(&self) -> usize {
        self.work.active.load(Ordering::SeqCst)
    }

    /// Waits until nothing has been under way for a moment, at most for `limit`. Says how many were cut off.
    pub async fn finished(&self, limit: Duration) -> usize {
        let _ = tokio::time::timeout(limit, self.quiet()).await;
        self.active()
    }

    async fn quiet(&self) {
        self.work.awaited.store(true, Ordering::SeqCst);
        loop {
            let changed = self.work.changed.notified();
            if self.active() > 0 {
                changed.await;
                continue;
            }
            let until = Instant::now() + QUIET;
            // Any start or end of an activity begins the quiet time anew.
            if tokio::time::timeout_at(until, changed).await.is_err() && self.active() == 0 {
                return;
            }
        }
    }
}

impl Watch {
    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.started.borrow()
    }

    /// Resolves when the drain has started; never if the process goes without one.
    pub async fn draining(&self) {
        let mut started = self.started.clone();
        if started.wait_for(|started| *started).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts something that must not be cut off, until the value is dropped.
    pub fn activity(&self) -> Activity {
        self.work.active.fetch_add(1, Ordering::SeqCst);
        self.work.tell();
        Activity {
            work: self.work.clone(),
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.work.active.fetch_sub(1, Ordering::SeqCst);
        self.work.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_is_under_way() {
        let drain = Drain::new();
        let watch = drain.watch();
        let activity = watch.activity();
        assert!(drain.start());
        assert!(!drain.start());
        assert!(watch.is_draining());
        watch.draining().await;
        let begun = Instant::now();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished(Duration::from_secs(30)).await }
        });
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(activity);
        assert_eq!(waiting.await.unwrap(), 0);
        assert_eq!(begun.elapsed(), Duration::from_secs(3) + QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_off_at_the_limit_and_says_how_many() {
        let drain = Drain::new();
        let _held = drain.watch().activity();
        drain.start();
        assert_eq!(drain.finished(Duration::from_secs(30)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_request_begins_the_quiet_time_anew() {
        let drain = Drain::new();
        let watch = drain.watch();
        drain.start();
        let begun = Instant::now();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished(Duration::from_secs(30)).await }
        });
        tokio::time::sleep(QUIET / 2).await;
        drop(watch.activity());
        assert_eq!(waiting.await.unwrap(), 0);
        assert_eq!(begun.elapsed(), QUIET / 2 + QUIET);
    }
}
