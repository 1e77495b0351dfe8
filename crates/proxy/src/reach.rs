//! Endpoints where nobody is: the balancer leaves them out until a connection to them is made again.
//!
//! Ejection ([`crate::eject`]) judges answers, is the user's to configure and off by default. This needs no judgement: what
//! is sent to an address where nobody listens costs a retry and gets nothing. gRPC and linkerd balance over connections that
//! are ready, with the same effect. So an endpoint that has gone is forgotten at the first failure, also while the control
//! plane, which would take it off the list, is away. Three things speak against an endpoint:
//! - no connection can be made, and none is open: one that has its fill, or whose network lost a packet, goes on with those
//!   that it has;
//! - the peer's sidecar says that it cannot connect to its application ([`crate::upstream::APPLICATION_AWAY`]);
//! - the peer's sidecar says with a GOAWAY that its Pod leaves (`departure.rs`). It takes connections until it has gone, so
//!   that they say nothing for a while.
//!
//! No request is spent on finding out whether it is back. A request that could have gone there starts a connection in the
//! background ([`crate::upstream::pick`]), no more often than the back-off allows. Where no other endpoint is left, those left
//! out are used as if nothing were known: the failure of a connection says more than that of a balancer.
//!
//! Pure: time is milliseconds of the cluster's own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The first pause, as linkerd's. A server that restarts is back within a few of them.
const BASE: u64 = 100;
/// The longest: one connection per proxy that wants to send there. gRPC waits for up to two minutes, which is long for
/// servers that are scheduled in seconds.
const LONGEST: u64 = 5_000;
/// A peer that has said that it leaves is looked at after this time: it has gone, or stayed after all. As long as a Pod may take to
/// end (the default of `terminationGracePeriodSeconds`), for in between it accepts and has no application any more.
const LEAVING: u64 = 30_000;

/// Whether one endpoint can be reached, as far as this proxy knows.
#[derive(Debug, Default)]
pub struct Reach {
    /// Open connections, of all workers.
    open: AtomicU32,
    /// Connections in a row that failed; 0 while nothing speaks against it.
    failures: AtomicU32,
    /// When the next may be tried.
    again: AtomicU64,
    /// It has said that it leaves: connections say nothing before `again`.
    leaving: AtomicBool,
}

/// An open connection to an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Open(Arc<Reach>);

impl Open {
    pub fn new(reach: &Arc<Reach>) -> Self {
        reach.open.fetch_add(1, Ordering::Relaxed);
        Self(reach.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reach {
    /// Whether the balancer leaves it out.
    pub fn is_out(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    /// When it may be tried again, while it is out.
    pub fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// A connection for a request failed at `now`. True if the endpoint is out because of it; the many that fail with the first
    /// are one failure.
    pub fn failed(&self, now: u64, random: u64) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.away(now, random)
    }

    /// The peer said at `now` that its application is not there. True if nothing spoke against it before.
    pub fn away(&self, now: u64, random: u64) -> bool {
        let first = self
            .failures
            .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if first {
            self.again.store(now + pause(0, random), Ordering::Relaxed);
        }
        first
    }

    /// The peer said at `now` that it leaves. True if nothing spoke against it before.
    pub fn leaves(&self, now: u64) -> bool {
        self.again.store(now + LEAVING, Ordering::Relaxed);
        self.leaving.store(true, Ordering::Relaxed);
        self.failures.swap(1, Ordering::Relaxed) == 0
    }

    /// A connection that was claimed failed at `now`.
    pub fn failed_again(&self, now: u64, random: u64) {
        // Zero: another connection was made meanwhile, and that is newer.
        let counted =
            self.failures
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failures| {
                    (failures != 0).then(|| failures.saturating_add(1))
                });
        if let Ok(before) = counted {
            self.again
                .store(now + pause(before, random), Ordering::Relaxed);
        }
    }

    /// A connection was made at `now`. True if it brings the endpoint back.
    pub fn succeeded(&self, now: u64) -> bool {
        // Looked at first: a write for each connection would bounce the cache line between workers.
        if !self.is_out() || self.leaving.load(Ordering::Relaxed) && now < self.again() {
            return false;
        }
        self.leaving.store(false, Ordering::Relaxed);
        self.failures.swap(0, Ordering::Relaxed) != 0
    }

    /// What kept it out may have been on our side: it is tried again at once.
    pub fn hurry(&self, now: u64) {
        if self.is_out() && !self.leaving.load(Ordering::Relaxed) {
            self.again.store(now, Ordering::Relaxed);
        }
    }

    /// Whether it is time to try again at `now`. True for one caller, who tells the outcome within `limit` milliseconds;
    /// afterwards another may try.
    pub fn claim(&self, now: u64, limit: u64) -> bool {
        let again = self.again();
        if !self.is_out() || now < again {
            return false;
        }
        // What it said is old by now, and the connection decides.
        self.leaving.store(false, Ordering::Relaxed);
        self.again
            .compare_exchange(
                again,
                now.saturating_add(limit),
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }
}

/// Doubles with each failure; a random half of it is left away, so that many proxies do not come back at once.
fn pause(failures: u32, random: u64) -> u64 {
    let whole = BASE
        .checked_shl(failures.min(16))
        .unwrap_or(LONGEST)
        .min(LONGEST);
    whole - random % (whole / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_out_from_the_first_failure_until_a_connection() {
        let reach = Reach::default();
        assert!(!reach.is_out() && !reach.succeeded(1_000));
        assert!(reach.failed(1_000, 0));
        assert!(!reach.failed(1_000, 0), "one of those that failed together");
        assert!(reach.is_out());
        assert!(reach.succeeded(1_000) && !reach.is_out());
        assert!(!reach.succeeded(1_000));
    }

    #[test]
    fn one_at_a_time_tries_again_and_ever_less_often() {
        let reach = Reach::default();
        reach.failed(1_000, 0);
        assert!(!reach.claim(1_099, 10_000));
        assert!(reach.claim(1_100, 10_000));
        assert!(!reach.claim(2_000, 10_000), "one is under way");
        assert!(reach.claim(11_100, 10_000), "and was never heard of again");
        let mut now = 20_000;
        for expected in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            reach.failed_again(now, 0);
            assert!(!reach.claim(now + expected - 1, 10));
            now += expected;
            assert!(reach.claim(now, 10), "{expected}");
        }
    }

    #[test]
    fn who_leaves_is_out_for_a_while_whatever_it_accepts() {
        let reach = Reach::default();
        assert!(reach.leaves(1_000) && !reach.leaves(2_000));
        assert!(!reach.succeeded(3_000) && reach.is_out());
        reach.hurry(3_000);
        assert!(!reach.claim(31_999, 10));
        assert!(reach.claim(32_000, 10) && reach.succeeded(32_001));
        assert!(!reach.is_out());
    }

    #[test]
    fn open_connections_speak_for_an_endpoint() {
        let reach = Arc::new(Reach::default());
        let open = Open::new(&reach);
        assert!(!reach.failed(0, 0) && !reach.is_out());
        assert!(reach.away(0, 0), "not for its application");
        assert!(reach.succeeded(1));
        drop(open);
        assert!(reach.failed(2, 0));
    }

    #[test]
    fn one_that_hurries_is_due_at_once() {
        let reach = Reach::default();
        reach.hurry(1);
        assert!(!reach.claim(1, 10), "nothing speaks against it");
        reach.failed(1, 0);
        reach.hurry(2);
        assert!(reach.claim(2, 10));
    }

    #[test]
    fn a_late_failure_does_not_take_back_a_connection() {
        let reach = Reach::default();
        reach.failed(0, 0);
        assert!(reach.claim(200, 10_000));
        assert!(reach.succeeded(1_000));
        reach.failed_again(300, 0);
        assert!(!reach.is_out() && !reach.claim(60_000, 10));
    }

    #[test]
    fn pauses_stay_between_a_half_and_the_whole() {
        for random in [0, 1, 49, 50, 51, u64::MAX] {
            assert!((51..=100).contains(&pause(0, random)), "{random}");
            assert!((2_501..=5_000).contains(&pause(u32::MAX, random)));
        }
    }
}
