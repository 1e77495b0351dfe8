//! `config.route.v3.RetryPolicy`.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, Within, duration, each, optional_duration, pack, read_uint, refuse, required,
    uint, unpack,
};
use crate::model::route::{RetryOn, RetryPolicy};

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// How often Envoy looks for a host that was not tried yet; Istio's number.
const HOST_SELECTIONS: i64 = 5;

const ENVOY_BACKOFF: Duration = Duration::from_millis(25);

/// Names of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
const CONDITIONS: [(RetryOn, &str); 15] = [
    (RetryOn::Http5xx, "5xx"),
    (RetryOn::GatewayError, "gateway-error"),
    (RetryOn::Reset, "reset"),
    (RetryOn::ResetBeforeRequest, "reset-before-request"),
    (RetryOn::ConnectFailure, "connect-failure"),
    (RetryOn::EnvoyRatelimited, "envoy-ratelimited"),
    (RetryOn::Retriable4xx, "retriable-4xx"),
    (RetryOn::RefusedStream, "refused-stream"),
    (RetryOn::RetriableStatusCodes, "retriable-status-codes"),
    (
        RetryOn::Http3PostConnectFailure,
        "http3-post-connect-failure",
    ),
    (RetryOn::GrpcCancelled, "cancelled"),
    (RetryOn::GrpcDeadlineExceeded, "deadline-exceeded"),
    (RetryOn::GrpcInternal, "internal"),
    (RetryOn::GrpcResourceExhausted, "resource-exhausted"),
    (RetryOn::GrpcUnavailable, "unavailable"),
];

fn condition(on: RetryOn) -> &'static str {
    CONDITIONS
        .iter()
        .find(|(c, _)| *c == on)
        .map_or("", |(_, name)| name)
}

pub(super) fn write(of: Option<&RetryPolicy>, dialect: &Dialect) -> Option<pb::RetryPolicy> {
    let safe;
    let of = match (of, dialect) {
        (Some(policy), Dialect::Tasuki) => policy,
        // Without conditions, and for gRPC with 0 retries, a policy would be refused.
        (Some(policy), _) if policy.retries == 0 || policy.on.is_empty() => return None,
        (Some(policy), _) => policy,
        // Envoy has no safe default of its own; gRPC retries what was never sent by itself.
        (None, Dialect::Envoy { .. }) => {
            safe = safe_default();
            &safe
        }
        (None, Dialect::Tasuki | Dialect::Grpc { .. }) => return None,
    };
    let RetryPolicy {
        on,
        retries,
        per_try_timeout,
        status_codes,
        backoff_base,
        backoff_max,
        avoid_previous_hosts,
    } = of;
    // Envoy refuses a base of 0 and a maximum below the base.
    let (base, max) = match dialect {
        Dialect::Tasuki => (*backoff_base, *backoff_max),
        _ => {
            let base = (*backoff_base).max(Duration::from_millis(1));
            (base, (*backoff_max).max(base))
        }
    };
    let predicate = RetryHostPredicate {
        name: PREVIOUS_HOSTS.to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
            &PreviousHostsPredicate {},
        ))),
    };
    let avoid = *avoid_previous_hosts && !matches!(dialect, Dialect::Grpc { .. });
    Some(pb::RetryPolicy {
        retry_on: on
            .iter()
            .map(|c| condition(*c))
            .collect::<Vec<_>>()
            .join(","),
        num_retries: uint(*retries),
        per_try_timeout: per_try_timeout.and_then(duration),
        retriable_status_codes: status_codes.iter().map(|c| u32::from(*c)).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(base),
            max_interval: duration(max),
        }),
        retry_host_predicate: avoid.then_some(predicate).into_iter().collect(),
        host_selection_retry_max_attempts: if avoid { HOST_SELECTIONS } else { 0 },
        ..pb::RetryPolicy::default()
    })
}

/// Only what was provably not processed (semantics section 8).
fn safe_default() -> RetryPolicy {
    RetryPolicy {
        on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream],
        retries: 2,
        per_try_timeout: None,
        status_codes: Vec::new(),
        backoff_base: ENVOY_BACKOFF,
        backoff_max: ENVOY_BACKOFF * 10,
        avoid_previous_hosts: true,
    }
}

pub(super) fn read(message: pb::RetryPolicy) -> Read<RetryPolicy> {
    let pb::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts: _, // a bound on Envoy's search; ours always ends
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    refuse!(
        per_try_idle_timeout,
        retry_priority,
        retry_options_predicates,
        rate_limited_retry_back_off
    );
    refuse!(
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry
    );
    let (backoff_base, backoff_max) = read_backoff(retry_back_off).within("retry_back_off")?;
    let predicates = each("retry_host_predicate", retry_host_predicate, read_predicate)?;
    Ok(RetryPolicy {
        on: read_conditions(&retry_on)?,
        retries: read_uint(num_retries).unwrap_or(1),
        per_try_timeout: optional_duration("per_try_timeout", per_try_timeout)?
            .filter(|d| !d.is_zero()),
        status_codes: each(
            "retriable_status_codes",
            retriable_status_codes,
            read_status,
        )?,
        backoff_base,
        backoff_max,
        avoid_previous_hosts: !predicates.is_empty(),
    })
}

fn read_conditions(text: &str) -> Read<Vec<RetryOn>> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let known = CONDITIONS.iter().find(|(_, n)| *n == name).map(|(c, _)| *c);
            known.ok_or_else(|| Fault::new("retry_on", format!("`{name}` is not honoured")))
        })
        .collect()
}

fn read_status(code: u32) -> Read<u16> {
    u16::try_from(code)
        .ok()
        .filter(|c| (100..600).contains(c))
        .ok_or_else(|| Fault::new("", format!("{code} is not a status")))
}

fn read_predicate(message: RetryHostPredicate) -> Read<()> {
    let RetryHostPredicate {
        name: _,
        config_type,
    } = message;
    let retry_host_predicate::ConfigType::TypedConfig(any) = required("typed_config", config_type)?;
    let PreviousHostsPredicate {} = unpack(&any)?;
    Ok(())
}

fn read_backoff(message: Option<RetryBackOff>) -> Read<(Duration, Duration)> {
    let RetryBackOff {
        base_interval,
        max_interval,
    } = message.unwrap_or_default();
    let base = optional_duration("base_interval", base_interval)?.unwrap_or(ENVOY_BACKOFF);
    let max = optional_duration("max_interval", max_interval)?.unwrap_or(base.saturating_mul(10));
    if base.is_zero() || max < base {
        return Err(Fault::new(
            "max_interval",
            "below `base_interval`, or a base of zero",
        ));
    }
    Ok((base, max))
}
