//! One check at a time, whoever asks: strangers reach port 15021 too, and must not be able to hammer the application.
//!
//! Who asks while a check is under way, or shortly after it began, is told the outcome of that one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A check begins at most this often. The kubelet's shortest period is one second.
pub const APART: Duration = Duration::from_millis(500);

/// The check that was begun last.
#[derive(Debug)]
pub struct Shared<T> {
    apart: Duration,
    last: Mutex<Option<Begun<T>>>,
}

#[derive(Debug)]
struct Begun<T> {
    at: Instant,
    outcome: watch::Receiver<Option<T>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new(APART)
    }
}

impl<T> Shared<T> {
    /// Checks begin at most this often.
    pub fn new(apart: Duration) -> Self {
        Self {
            apart,
            last: Mutex::default(),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    /// The outcome of the check that is under way or was made just now, else of a new one. It runs on when the asker goes.
    /// `None` if it was lost, which only the end of the process does.
    pub async fn ask(&self, check: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.ask_or_last(|| Some(check)).await
    }

    /// The same, and the last outcome, however old, where no new one may be begun.
    pub async fn ask_or_last<C>(&self, begin: impl FnOnce() -> Option<C>) -> Option<T>
    where
        C: Future<Output = T> + Send + 'static,
    {
        let mut outcome = self.join(Instant::now(), begin)?;
        let seen = outcome.wait_for(Option::is_some).await;
        seen.ok().and_then(|outcome| outcome.clone())
    }

    fn join<C>(
        &self,
        now: Instant,
        begin: impl FnOnce() -> Option<C>,
    ) -> Option<watch::Receiver<Option<T>>>
    where
        C: Future<Output = T> + Send + 'static,
    {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = &*last {
            let running = begun.outcome.borrow().is_none() && begun.outcome.has_changed().is_ok();
            if running || now < begun.at + self.apart {
                return Some(begun.outcome.clone());
            }
        }
        let Some(check) = begin() else {
            return last.as_ref().map(|begun| begun.outcome.clone());
        };
        let (told, outcome) = watch::channel(None);
        tokio::spawn(async move {
            told.send_replace(Some(check.await));
        });
        *last = Some(Begun {
            at: now,
            outcome: outcome.clone(),
        });
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_one_is_made() {
        let shared = Arc::new(Shared::default());
        let made = Arc::new(AtomicUsize::new(0));
        let check = |lasts: Duration| {
            let made = made.clone();
            async move {
                let number = made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(lasts).await;
                number
            }
        };
        let slow = Duration::from_secs(3);
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let (shared, check) = (shared.clone(), check(slow));
                tokio::spawn(async move { shared.ask(check).await })
            })
            .collect();
        for one in asked {
            assert_eq!(one.await.unwrap(), Some(0));
        }
        assert_eq!(shared.ask(check(Duration::ZERO)).await, Some(1));
        assert_eq!(
            shared.ask(check(Duration::ZERO)).await,
            Some(1),
            "just made"
        );
        tokio::time::sleep(APART).await;
        assert_eq!(shared.ask(check(Duration::ZERO)).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_stands_in_for_one_that_may_not_be() {
        let shared = Shared::default();
        let never = || None::<std::future::Ready<i32>>;
        assert_eq!(shared.ask_or_last(never).await, None);
        assert_eq!(shared.ask(async { 1 }).await, Some(1));
        tokio::time::sleep(APART).await;
        assert_eq!(shared.ask_or_last(never).await, Some(1));
        assert_eq!(shared.ask(async { 2 }).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_leaves_takes_nothing_along() {
        let shared = Shared::default();
        let check = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        let left = tokio::time::timeout(Duration::from_millis(1), shared.ask(check)).await;
        assert!(left.is_err());
        assert_eq!(shared.ask(async { 8 }).await, Some(7));
    }
}
