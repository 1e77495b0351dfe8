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
    last: Mutex<Option<Begun<T>>>,
}

#[derive(Debug)]
struct Begun<T> {
    at: Instant,
    outcome: watch::Receiver<Option<T>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
        }
    }
}

impl<T: Copy + Send + Sync + 'static> Shared<T> {
    /// The outcome of the check that is under way or was made just now, else of a new one. It runs on when the asker goes.
    /// `None` if it was lost, which only the end of the process does.
    pub async fn ask(&self, check: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let mut outcome = self.join(Instant::now(), check);
        let seen = outcome.wait_for(Option::is_some).await;
        seen.ok().and_then(|outcome| *outcome)
    }

    fn join(
        &self,
        now: Instant,
        check: impl Future<Output = T> + Send + 'static,
    ) -> watch::Receiver<Option<T>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = &*last {
            let running = begun.outcome.borrow().is_none() && begun.outcome.has_changed().is_ok();
            if running || now < begun.at + APART {
                return begun.outcome.clone();
            }
        }
        let (told, outcome) = watch::channel(None);
        tokio::spawn(async move {
            told.send_replace(Some(check.await));
        });
        *last = Some(Begun {
            at: now,
            outcome: outcome.clone(),
        });
        outcome
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
