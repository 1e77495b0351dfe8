//! How the process ends. Whoever chooses a replica by its readiness learns a moment late that one leaves, and what is refused
//! meanwhile would fail: a Pod that is created, say. So it first says that it leaves, and then goes on.
//!
//! | phase | `/ready` | ports | until |
//! |---|---|---|---|
//! | serving | 200 | accept | SIGTERM or SIGINT |
//! | leaving | 503 | accept | `--drain-delay` is over |
//! | stopping | | refuse; what is under way finishes | nothing is, each port within its bound |
//!
//! A second signal ends the process at once, in either of the last two.

use std::time::Duration;

use tasuki_runtime::signals::Termination;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::info;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Leaving,
    Stopping,
}

/// The phase, for those who act by it.
#[derive(Clone, Debug)]
pub struct Life(watch::Receiver<Phase>);

impl Life {
    /// Whether new work is wanted here.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow() == Phase::Serving
    }

    /// Resolves when nothing is accepted any more.
    pub async fn stopping(mut self) {
        // Without its other end nobody could tell any more.
        let _ = self.0.wait_for(|phase| *phase == Phase::Stopping).await;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Ending(watch::Sender<Phase>);

impl Ending {
    pub fn new() -> (Self, Life) {
        let (phase, life) = watch::channel(Phase::Serving);
        (Self(phase), Life(life))
    }

    /// Moves from phase to phase until `work`, which follows them, has finished, or a second signal comes.
    pub async fn run(
        self,
        work: impl Future<Output = ()>,
        termination: &mut Termination,
        delay: Duration,
    ) {
        self.by(work, delay, async || termination.wait().await)
            .await;
    }

    async fn by(
        self,
        work: impl Future<Output = ()>,
        delay: Duration,
        mut signal: impl AsyncFnMut() -> &'static str,
    ) {
        let twice = async {
            let name = signal().await;
            self.0.send_replace(Phase::Leaving);
            info!(signal = name, seconds = delay.as_secs_f64(), "leaving");
            tokio::select! {
                () = sleep(delay) => {}
                again = signal() => return again,
            }
            self.0.send_replace(Phase::Stopping);
            signal().await
        };
        tokio::select! {
            () = work => info!("ended"),
            name = twice => info!(signal = name, "ended at once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    const DELAY: Duration = Duration::from_secs(5);

    /// After how many ms it ends when it is told so at these, and the work takes another 1,000 to finish.
    async fn ends(signals: &[u64]) -> u128 {
        let (ending, life) = Ending::new();
        let (sender, mut told) = mpsc::channel(4);
        for after in signals.iter().copied().map(Duration::from_millis) {
            let sender = sender.clone();
            tokio::spawn(async move {
                sleep(after).await;
                sender.send("SIGTERM").await
            });
        }
        let seen = life.clone();
        let work = async move {
            assert!(seen.is_ready());
            seen.clone().stopping().await;
            assert!(!seen.is_ready());
            sleep(Duration::from_secs(1)).await;
        };
        let start = Instant::now();
        let signal = async || match told.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        };
        ending.by(work, DELAY, signal).await;
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_for_a_moment_then_finishes() {
        assert_eq!(ends(&[1_000]).await, 1_000 + 5_000 + 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_it_at_once() {
        assert_eq!(ends(&[1_000, 3_000]).await, 3_000);
        assert_eq!(ends(&[1_000, 6_500]).await, 6_500);
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_that_it_leaves_while_it_goes_on() {
        let (ending, life) = Ending::new();
        let seen = life.clone();
        let work = async move {
            sleep(DELAY).await;
            assert!(!seen.is_ready(), "it leaves");
            let stopped = tokio::time::timeout(DELAY - Duration::from_secs(2), seen.stopping());
            assert!(stopped.await.is_err(), "but it goes on");
        };
        let mut told = false;
        let signal = async || {
            if std::mem::replace(&mut told, true) {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_secs(4)).await;
            "SIGTERM"
        };
        ending.by(work, DELAY, signal).await;
        assert!(!life.is_ready());
    }
}
