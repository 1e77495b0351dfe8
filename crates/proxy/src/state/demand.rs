//! Bounds of on-demand discovery: what a port scan by the application may cost (contract section 3).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ListenerName;

/// Names known not to exist that are remembered.
const NEGATIVE_ENTRIES: usize = 1_024;
/// How long, on average.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// Names that the control plane said do not exist, for about five seconds each; the oldest goes first.
#[derive(Default)]
pub struct NegativeCache(Mutex<Negative>);

#[derive(Default)]
struct Negative {
    until: HashMap<ListenerName, Instant>,
    order: VecDeque<ListenerName>,
}

impl NegativeCache {
    /// Whether `name` is known not to exist.
    pub fn contains(&self, name: &ListenerName, now: Instant) -> bool {
        self.lock()
            .until
            .get(name)
            .is_some_and(|until| now < *until)
    }

    /// Remembers that `name` does not exist. The time is spread by a fifth either way, so that names learned together are
    /// not asked for again together.
    pub fn insert(&self, name: ListenerName, now: Instant) {
        let ttl = NEGATIVE_TTL.mul_f64(rand::random_range(0.8..1.2));
        let mut negative = self.lock();
        if negative.until.insert(name.clone(), now + ttl).is_none() {
            negative.order.push_back(name);
        }
        while negative.until.len() > NEGATIVE_ENTRIES {
            let Some(oldest) = negative.order.pop_front() else {
                break;
            };
            negative.until.remove(&oldest);
        }
    }

    /// Forgets `name`, which exists after all.
    pub fn remove(&self, name: &ListenerName) {
        let mut negative = self.lock();
        if negative.until.remove(name).is_some() {
            negative.order.retain(|other| other != name);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        *self.lock() = Negative::default();
    }

    pub fn len(&self) -> usize {
        self.lock().until.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Negative> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the bounds cost; exported as metrics.
#[derive(Debug, Default)]
pub struct Counters {
    overflow: AtomicU64,
}

impl Counters {
    /// A name counted as unknown because too many were asked for.
    pub fn overflowed(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    pub fn overflows(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }
}

/// A token bucket: `rate` a second, with a burst of one second's worth. Time is a parameter.
#[derive(Debug)]
pub struct RateLimit {
    rate: f64,
    tokens: f64,
    last: Instant,
}

impl RateLimit {
    pub fn new(rate: u32, now: Instant) -> RateLimit {
        RateLimit {
            rate: f64::from(rate),
            tokens: f64::from(rate),
            last: now,
        }
    }

    /// Takes one token if there is one.
    pub fn admit(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.last);
        self.last = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.rate).min(self.rate);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: usize) -> ListenerName {
        ListenerName::exact(&format!("10.0.{}.{}:80", i / 256, i % 256))
    }

    #[test]
    fn negative_cache_is_bounded_and_forgets() {
        let cache = NegativeCache::default();
        let now = Instant::now();
        (0..5_000).for_each(|i| cache.insert(name(i), now));
        assert_eq!(cache.len(), NEGATIVE_ENTRIES);
        assert!(cache.contains(&name(4_999), now));
        assert!(!cache.contains(&name(0), now));
        assert!(cache.contains(&name(4_999), now + Duration::from_millis(3_900)));
        assert!(!cache.contains(&name(4_999), now + Duration::from_secs(6)));
        cache.remove(&name(4_999));
        assert!(!cache.contains(&name(4_999), now));
    }

    #[test]
    fn a_second_holds_a_hundred_new_names() {
        let start = Instant::now();
        let mut limit = RateLimit::new(100, start);
        assert_eq!((0..1_000).filter(|_| limit.admit(start)).count(), 100);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..1_000).filter(|_| limit.admit(later)).count(), 50);
    }
}
