//! Questions to the API server on behalf of callers: so many at a time, so many a second, so many of one address. It serves the
//! whole cluster, and callers are anybody who can reach our port.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use crate::ads::Presented;
use crate::limits::{Bound, Places};

/// At a time, and in line for it.
const AT_A_TIME: usize = 16;
const WAITING: usize = 2_048;
/// Of one address: a pod has its own, and asks for a certificate and a stream; many may be behind one node's.
const WAITING_OF_PEER: usize = 64;
/// At most 200 a second, after 100 at once: 2,000 sidecars are back within ten seconds.
const SPACING: Duration = Duration::from_millis(5);
const BURST: u32 = 100;
/// In line and for the answer; callers give up after 10 s.
const PATIENCE: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(4);

pub(super) struct Asking {
    line: Arc<Places>,
    slots: Semaphore,
    pace: Mutex<Pace>,
    /// What the API server last failed with, which has been said.
    complained: Mutex<String>,
}

impl Default for Asking {
    fn default() -> Self {
        Self {
            line: Places::new(Bound {
                all: WAITING,
                each_peer: WAITING_OF_PEER,
            }),
            slots: Semaphore::new(AT_A_TIME),
            pace: Mutex::new(Pace { next: None }),
            complained: Mutex::default(),
        }
    }
}

impl Asking {
    /// # Errors
    /// RESOURCE_EXHAUSTED when the caller's address has too many questions open, UNAVAILABLE when there is no answer.
    pub(super) async fn ask<T>(
        &self,
        presented: &Presented,
        what: &str,
        question: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Status> {
        let peer = presented.connection.remote.map(|remote| remote.ip());
        let _place = self
            .line
            .take(peer)
            .map_err(|_| Status::resource_exhausted("too many credentials at a time"))?;
        let turn = async {
            let slot = self.slots.acquire().await;
            let start = lock(&self.pace).take(Instant::now());
            sleep_until(start).await;
            slot
        };
        let busy = |_| Status::unavailable("too many credentials are being checked");
        let _slot = timeout(PATIENCE, turn).await.map_err(busy)?;
        match timeout(ANSWER, question).await {
            Ok(Ok(answer)) => {
                lock(&self.complained).clear();
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.unavailable(what, &error.to_string())),
            Err(_) => Err(self.unavailable(what, "no answer")),
        }
    }

    /// Also when the API server forbids it: that is our installation's fault, not the caller's.
    fn unavailable(&self, what: &str, reason: &str) -> Status {
        let text = format!("{what}: {reason}");
        let mut complained = lock(&self.complained);
        if *complained != text {
            tracing::warn!(reason, "the API server could not be asked for a {what}");
            *complained = text;
        }
        Status::unavailable("the API server cannot be asked about the credential")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next start that is free; in the past while there has been less to do.
#[derive(Debug)]
struct Pace {
    next: Option<Instant>,
}

impl Pace {
    /// When the question that comes at `now` may be asked.
    fn take(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(SPACING * BURST).unwrap_or(now);
        let next = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(next + SPACING);
        next.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_evenly() {
        tokio::time::advance(Duration::from_secs(60)).await;
        let now = Instant::now();
        let mut pace = Pace { next: None };
        for _ in 0..=BURST {
            assert_eq!(pace.take(now), now);
        }
        assert_eq!(pace.take(now), now + SPACING);
        assert_eq!(pace.take(now), now + 2 * SPACING);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(later), later);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_not_the_callers_fault() {
        let asking = Asking::default();
        let presented = Presented::default();
        let silent = asking.ask(
            &presented,
            "TokenReview",
            std::future::pending::<Result<(), _>>(),
        );
        assert_eq!(silent.await.unwrap_err().code(), tonic::Code::Unavailable);
        let answered = asking.ask(&presented, "TokenReview", async { Ok(7) });
        assert_eq!(answered.await.unwrap(), 7);
    }
}
