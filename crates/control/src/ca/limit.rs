//! How often one identity may have a certificate signed. Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tasuki_identity::SpiffeId;

/// All pods of a service account share its identity, so a rollout of a hundred pods must pass at once.
const BURST: f64 = 200.0;
/// Enough for 200 pods whose certificates live 10 s; far below what one core signs.
const PER_SECOND: f64 = 40.0;
/// Identities remembered. One whose allowance is full again is forgotten, so only those active within the last seconds count.
const IDENTITIES: usize = 16_384;

/// A token bucket per identity.
#[derive(Debug, Default)]
pub struct SigningLimit {
    buckets: HashMap<SpiffeId, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl SigningLimit {
    /// Takes one signature from the allowance of `id`; otherwise how long until there is one.
    pub fn take(&mut self, id: &SpiffeId, now: Instant) -> Result<(), Duration> {
        if self.buckets.len() >= IDENTITIES && !self.buckets.contains_key(id) {
            self.buckets
                .retain(|_, bucket| bucket.refilled(now) < BURST);
            if self.buckets.len() >= IDENTITIES {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = self.buckets.entry(id.clone()).or_insert(Bucket {
            left: BURST,
            at: now,
        });
        bucket.left = bucket.refilled(now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / PER_SECOND));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn refilled(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + passed * PER_SECOND).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/a{account}")).unwrap()
    }

    #[test]
    fn one_identity_cannot_spend_anothers_allowance() {
        let mut limit = SigningLimit::default();
        let now = Instant::now();
        let allowed = (0..1000)
            .filter(|_| limit.take(&id(1), now).is_ok())
            .count();
        assert_eq!(allowed as f64, BURST);
        assert!(limit.take(&id(2), now).is_ok());
        let wait = limit.take(&id(1), now).unwrap_err();
        assert!(limit.take(&id(1), now + wait).is_ok());
    }

    #[test]
    fn remembers_boundedly_and_forgets_the_idle() {
        let mut limit = SigningLimit::default();
        let now = Instant::now();
        for account in 0..IDENTITIES {
            assert!(limit.take(&id(account), now).is_ok());
        }
        assert!(limit.take(&id(IDENTITIES), now).is_err());
        assert!(
            limit
                .take(&id(IDENTITIES), now + Duration::from_secs(60))
                .is_ok()
        );
        assert_eq!(limit.buckets.len(), 1);
    }
}
