//! 15020 `/metrics`: few answers, however many ask. The port is open to all, and what it gives is large: a proxy that has seen a
//! thousand workloads tells of them in megabytes, which take their time to be written and their memory to be read slowly.
//!
//! Whoever asks waits for the next answer, which is made after a pause and is everybody's.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tasuki_runtime::admin::{Response, Routes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::probe::shared::Shared;

/// Different answers in memory: one is the last, the others have readers that are slow. When all are taken the last one is
/// given again, which is at most as old as a reader may be slow.
const ANSWERS: usize = 4;

/// What makes answers.
pub struct Scrapes<M> {
    make: M,
    /// Between two of them.
    pause: Duration,
    answers: Shared<Bytes>,
    room: Arc<Semaphore>,
    next: Mutex<Instant>,
}

/// An answer, counted for as long as somebody reads it.
struct Counted {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// `/metrics`, as `make` has them.
pub fn routes<M, T>(routes: Routes, pause: Duration, make: M) -> Routes
where
    M: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = String> + Send + 'static,
{
    let scrapes = Arc::new(Scrapes::new(pause, make));
    routes.get("/metrics", move |_| {
        let scrapes = Arc::clone(&scrapes);
        async move { Response::metrics(scrapes.answer().await) }
    })
}

impl<M, T> Scrapes<M>
where
    M: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = String> + Send + 'static,
{
    fn new(pause: Duration, make: M) -> Self {
        Self {
            make,
            pause,
            answers: Shared::new(Duration::ZERO),
            room: Arc::new(Semaphore::new(ANSWERS)),
            next: Mutex::new(Instant::now()),
        }
    }

    async fn answer(self: &Arc<Self>) -> Bytes {
        let answer = self.answers.ask_or_last(|| {
            let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
            Some(Arc::clone(self).next(room))
        });
        answer.await.unwrap_or_default()
    }

    async fn next(self: Arc<Self>, room: OwnedSemaphorePermit) -> Bytes {
        let lock = || self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *lock();
        sleep_until(next).await;
        let text = (self.make)().await;
        *lock() = Instant::now() + self.pause;
        Bytes::from_owner(Counted { text, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    /// Answers that are numbered.
    fn scrapes() -> Arc<Scrapes<impl Fn() -> std::future::Ready<String>>> {
        let made = AtomicUsize::new(0);
        let make = move || std::future::ready(made.fetch_add(1, Ordering::Relaxed).to_string());
        Arc::new(Scrapes::new(PAUSE, make))
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_together_is_answered_together_and_afresh() {
        let scrapes = scrapes();
        assert_eq!(scrapes.answer().await, "0");
        let start = Instant::now();
        let asked: Vec<_> = (0..50)
            .map(|_| {
                let scrapes = scrapes.clone();
                tokio::spawn(async move { scrapes.answer().await })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), "1", "made after all had asked");
        }
        assert_eq!(start.elapsed(), PAUSE);
        tokio::time::sleep(2 * PAUSE).await;
        let start = Instant::now();
        assert_eq!(scrapes.answer().await, "2");
        assert_eq!(start.elapsed(), Duration::ZERO, "nobody asks often");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_hold_few_answers() {
        let scrapes = scrapes();
        let mut slow = Vec::new();
        for number in 0..2 * ANSWERS {
            let answer = scrapes.answer().await;
            let last = number.min(ANSWERS - 1);
            assert_eq!(answer, last.to_string(), "the last that had room");
            slow.push(answer);
        }
        slow.clear();
        assert_eq!(scrapes.answer().await, ANSWERS.to_string());
    }
}
