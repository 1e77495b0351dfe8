//! `config.cluster.v3.CircuitBreakers` at default priority, and the retry budget in it.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use envoy_types::pb::envoy::config::core::v3::RoutingPriority;

use crate::codec::Dialect;
use crate::codec::field::{Read, Within, percent, read_percent, read_uint, refuse, uint};
use crate::model::cluster::{Limits, RetryBudget};

const ENVOY_THRESHOLD: u32 = 1024;
const ENVOY_RETRIES: u32 = 3;

/// What `Cluster::retry_budget` means when it is `None`, written out for Envoy, which has no budget by default.
const DEFAULT_BUDGET: RetryBudget = RetryBudget {
    percent: 20.0,
    min_concurrent: 3,
};

pub(super) fn write(
    limits: &Limits,
    budget: Option<&RetryBudget>,
    dialect: &Dialect,
) -> pb::CircuitBreakers {
    let budget = match dialect {
        Dialect::Tasuki => budget,
        Dialect::Envoy { .. } => Some(budget.unwrap_or(&DEFAULT_BUDGET)),
        Dialect::Grpc { .. } => None,
    };
    let thresholds = Thresholds {
        priority: RoutingPriority::Default as i32,
        max_connections: uint(limits.max_connections),
        max_pending_requests: uint(limits.max_pending_requests),
        max_requests: uint(limits.max_requests),
        max_retries: uint(limits.max_retries),
        retry_budget: budget.map(|b| thresholds::RetryBudget {
            budget_percent: percent(b.percent),
            min_retry_concurrency: uint(b.min_concurrent),
            ..thresholds::RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    pb::CircuitBreakers {
        thresholds: vec![thresholds],
        per_host_thresholds: Vec::new(),
    }
}

pub(super) fn read(message: Option<pb::CircuitBreakers>) -> Read<(Limits, Option<RetryBudget>)> {
    let pb::CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = message.unwrap_or_default();
    refuse!(per_host_thresholds);
    let mut found = None;
    for (i, threshold) in thresholds.into_iter().enumerate() {
        // The high priority is never used: routes that ask for it are refused.
        if threshold.priority == RoutingPriority::Default as i32 && found.is_none() {
            found = Some(read_threshold(threshold).within(&format!("thresholds[{i}]"))?);
        }
    }
    found.map_or_else(|| read_threshold(Thresholds::default()), Ok)
}

fn read_threshold(message: Thresholds) -> Read<(Limits, Option<RetryBudget>)> {
    let Thresholds {
        priority: _,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining: _,
        max_connection_pools,
    } = message;
    refuse!(max_connection_pools);
    let limits = Limits {
        max_connections: read_uint(max_connections).unwrap_or(ENVOY_THRESHOLD),
        max_pending_requests: read_uint(max_pending_requests).unwrap_or(ENVOY_THRESHOLD),
        max_requests: read_uint(max_requests).unwrap_or(ENVOY_THRESHOLD),
        max_retries: read_uint(max_retries).unwrap_or(ENVOY_RETRIES),
        ..Limits::default()
    };
    Ok((
        limits,
        retry_budget
            .map(read_budget)
            .transpose()
            .within("retry_budget")?,
    ))
}

fn read_budget(message: thresholds::RetryBudget) -> Read<RetryBudget> {
    let thresholds::RetryBudget {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = message;
    refuse!(budget_interval);
    let percent = budget_percent
        .map(|p| read_percent("budget_percent", p))
        .transpose()?;
    Ok(RetryBudget {
        percent: percent.unwrap_or(DEFAULT_BUDGET.percent),
        min_concurrent: read_uint(min_retry_concurrency).unwrap_or(DEFAULT_BUDGET.min_concurrent),
    })
}
