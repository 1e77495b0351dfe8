//! Exponential back-off with jitter.

use std::time::Duration;

/// Anything longer is a mistake, and floating point arithmetic on `Duration::MAX` would panic.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Delays that double from `base` to `max`, each shortened at random by up to `jitter` of itself so that clients that failed
/// together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    jitter: f64,
    failures: u32,
}

impl Backoff {
    /// `jitter` is from 0.0 (none) to 1.0 (anything between nothing and the whole delay).
    pub fn new(base: Duration, max: Duration, jitter: f64) -> Self {
        let (base, max) = (base.min(LONGEST), max.min(LONGEST));
        Self {
            base,
            max: max.max(base),
            jitter: jitter.clamp(0.0, 1.0),
            failures: 0,
        }
    }

    /// The delay before the next try; each call counts as one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - self.jitter * rand::random::<f64>())
    }

    /// To be called after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        // 2^31 times any sensible base is past `max`.
        self.base
            .saturating_mul(1 << self.failures.min(31))
            .min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_starts_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 0.0);
        let delays: Vec<u128> = (0..6).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::from_millis(100));
    }

    #[test]
    fn never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(u64::MAX / 2), Duration::MAX, 0.0);
        for _ in 0..100 {
            backoff.next_delay();
        }
    }

    #[test]
    fn jitter_only_shortens() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(100), 0.5);
        for _ in 0..1000 {
            let delay = backoff.next_delay();
            assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(100));
        }
    }
}
