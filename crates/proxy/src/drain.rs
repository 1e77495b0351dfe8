//! Drain: the process takes no new work on, finishes what it has, then leaves (contract section 9).
//!
//! [`Drain`] starts it (SIGTERM or POST `/drain`) and waits until nothing is under way; [`Watch`] is held by
//! whoever must notice: the readiness probe fails, inbound HTTP/1 answers carry `Connection: close`, inbound
//! HTTP/2 connections get the two-step GOAWAY. Listeners keep accepting: the peers learn late that this
//! endpoint has gone. Outbound connections are not told anything, the application uses them to the end;
//! their requests are counted, so that none is cut off.
//!
//! Where a Pod is deleted it begins earlier (`departure.rs`): its clients are told to go while the application still
//! serves, and the process stays until it is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Nothing may be under way for this long before the process is idle: a request that has been written by a
/// peer, but not read here yet, is not counted.
const QUIET: Duration = Duration::from_millis(500);

/// How far a process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Clients are told to go with the answers they get.
    Departing,
    /// Those that have nothing under way are sent off.
    Closing,
    /// And the process ends when nothing is under way any more.
    Ending,
}

/// The side that starts the drain; one per process, cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    work: Arc<Work>,
}

/// The side that notices; cheap to clone, one per worker or connection.
#[derive(Clone, Debug)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
    work: Arc<Work>,
}

/// Something that must not be cut off: a request, a TCP connection, an answer that its client has not taken yet.
#[derive(Debug)]
pub struct Activity {
    work: Arc<Work>,
}

#[derive(Debug)]
struct Work {
    active: AtomicUsize,
    epoch: Instant,
    /// When a client outside the mesh was served last: milliseconds since `epoch`, 0 for never.
    outsider: AtomicU64,
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
            phase: watch::Sender::new(Phase::Serving),
            work: Arc::new(Work {
                active: AtomicUsize::new(0),
                epoch: Instant::now(),
                outsider: AtomicU64::new(0),
                awaited: AtomicBool::new(false),
                changed: Notify::new(),
            }),
        }
    }

    /// What workers, connections and the readiness probe hold.
    pub fn watch(&self) -> Watch {
        Watch {
            phase: self.phase.subscribe(),
            work: self.work.clone(),
        }
    }

    /// Starts the drain. Says whether this call did; later ones change nothing.
    pub fn start(&self) -> bool {
        self.advance(Phase::Ending)
    }

    /// Clients are told to go elsewhere from now on, and nothing else changes.
    pub fn depart(&self) -> bool {
        self.advance(Phase::Departing)
    }

    /// Clients with nothing under way are sent off: the application is about to end.
    pub fn close_idle(&self) -> bool {
        self.advance(Phase::Closing)
    }

    /// Takes a departure back: the Pod stays after all. A drain that has started is not.
    pub fn stay(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let departs = matches!(*phase, Phase::Departing | Phase::Closing);
            if departs {
                *phase = Phase::Serving;
            }
            departs
        })
    }

    fn advance(&self, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let further = *phase < to;
            *phase = to.max(*phase);
            further
        })
    }

    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() == Phase::Ending
    }

    /// Resolves when the drain has started.
    pub async fn started(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is alive: it is `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
    }

    /// Whether a client outside the mesh was served within this time.
    pub fn served_outsiders(&self, within: Duration) -> bool {
        let last = self.work.outsider.load(Ordering::Relaxed);
        let last = self.work.epoch + Duration::from_millis(last);
        self.work.outsider.load(Ordering::Relaxed) > 0 && last.elapsed() <= within
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
    /// Whether clients are to be told to go elsewhere.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Departing
    }

    /// Resolves when clients are to be told to go elsewhere; never if the process goes without.
    pub async fn draining(&self) {
        self.reached(Phase::Departing).await;
    }

    /// Resolves when connections with nothing under way are to be closed; never if the process goes without.
    pub async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    async fn reached(&self, wanted: Phase) {
        let mut phase = self.phase.clone();
        if phase.wait_for(|phase| *phase >= wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes that a client outside the mesh is served: the mesh cannot tell it to go elsewhere.
    pub fn serves_outsider(&self) {
        let now = self.work.epoch.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX).max(1);
        self.work.outsider.store(now, Ordering::Relaxed);
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
    async fn a_departure_tells_clients_and_ends_nothing() {
        let drain = Drain::new();
        let watch = drain.watch();
        assert!(drain.depart());
        watch.draining().await;
        assert!(watch.is_draining() && !drain.is_draining());
        assert!(drain.stay() && !watch.is_draining());
        assert!(drain.start() && !drain.stay());
        watch.closing().await;
        assert!(!drain.depart() && drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn outsiders_are_remembered_for_a_while() {
        let drain = Drain::new();
        let minute = Duration::from_secs(60);
        assert!(!drain.served_outsiders(minute));
        tokio::time::sleep(minute).await;
        drain.watch().serves_outsider();
        tokio::time::sleep(minute).await;
        assert!(drain.served_outsiders(minute));
        tokio::time::sleep(minute).await;
        assert!(!drain.served_outsiders(minute));
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
