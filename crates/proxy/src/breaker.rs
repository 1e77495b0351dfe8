//! Circuit breakers: how much of a cluster's work may be under way in this process. What is over a limit fails at once
//! with flag `UO` (Envoy `circuit_breakers`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tasuki_xds::model::cluster::RetryBudget;

use crate::cluster::Cluster;
use crate::error::Error;

/// What is under way, over all workers.
#[derive(Debug, Default)]
pub struct Breaker {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// Which counter a [`Permit`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

/// A place under a limit; given back on drop.
#[derive(Debug)]
pub struct Permit {
    cluster: Arc<Cluster>,
    kind: Kind,
}

/// Tasuki's default budget (semantics section 8).
const DEFAULT_BUDGET: RetryBudget = RetryBudget {
    percent: 20.0,
    min_concurrent: 3,
};

impl Breaker {
    fn counter(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Pending => &self.pending,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
        }
    }

    /// How many are under way.
    pub fn active(&self, kind: Kind) -> u32 {
        self.counter(kind).load(Ordering::Relaxed)
    }
}

impl Permit {
    /// A place under `kind`'s limit, or `UO`.
    pub fn acquire(cluster: &Arc<Cluster>, kind: Kind) -> Result<Self, Error> {
        let limits = &cluster.config.limits;
        let (limit, name) = match kind {
            Kind::Connection => (limits.max_connections, "max_connections"),
            Kind::Pending => (limits.max_pending_requests, "max_pending_requests"),
            Kind::Request => (limits.max_requests, "max_requests"),
            Kind::Retry => (limits.max_retries.min(budget(cluster)), "retry_budget"),
        };
        let counter = cluster.breaker().counter(kind);
        if counter.fetch_add(1, Ordering::Relaxed) >= limit {
            counter.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Overflow(name));
        }
        Ok(Self {
            cluster: cluster.clone(),
            kind,
        })
    }

    /// A place that is taken even over the limit: each worker may always hold one connection.
    pub fn force(cluster: &Arc<Cluster>, kind: Kind) -> Self {
        cluster
            .breaker()
            .counter(kind)
            .fetch_add(1, Ordering::Relaxed);
        Self {
            cluster: cluster.clone(),
            kind,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.cluster
            .breaker()
            .counter(self.kind)
            .fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many retries may be under way now.
fn budget(cluster: &Cluster) -> u32 {
    let budget = cluster.config.retry_budget.unwrap_or(DEFAULT_BUDGET);
    retries_allowed(&budget, cluster.breaker().active(Kind::Request))
}

/// The larger of the share of active requests and the minimum (Envoy `retry_budget`).
pub fn retries_allowed(budget: &RetryBudget, active_requests: u32) -> u32 {
    let share = f64::from(active_requests) * budget.percent / 100.0;
    // In range: the share is at most u32::MAX.
    (share as u32).max(budget.min_concurrent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_a_share_with_a_floor() {
        assert_eq!(retries_allowed(&DEFAULT_BUDGET, 0), 3);
        assert_eq!(retries_allowed(&DEFAULT_BUDGET, 15), 3);
        assert_eq!(retries_allowed(&DEFAULT_BUDGET, 100), 20);
        assert_eq!(
            retries_allowed(
                &RetryBudget {
                    percent: 100.0,
                    min_concurrent: 0
                },
                7
            ),
            7
        );
    }
}
