//! Retry policies of VirtualServices in the model's words, with Istio's and Envoy's defaults.

use std::time::Duration;

use tasuki_resources::virtual_service::Retries;
use tasuki_xds::model::route::{self, RetryPolicy};

/// First back-off of retries, unless the user says otherwise (Envoy).
const BACKOFF: Duration = Duration::from_millis(25);
/// Largest back-off, as a multiple of the first (Envoy).
const BACKOFF_GROWTH: u32 = 10;

/// The policy that a rule asks for.
pub fn retry(retries: &Retries) -> RetryPolicy {
    let base = retries
        .backoff
        .unwrap_or(BACKOFF)
        .max(Duration::from_millis(1));
    RetryPolicy {
        on: match &retries.on {
            Some(on) => on.iter().copied().map(retry_on).collect(),
            // Istio's default, without status codes to look for.
            None => vec![
                route::RetryOn::ConnectFailure,
                route::RetryOn::RefusedStream,
                route::RetryOn::GrpcUnavailable,
                route::RetryOn::GrpcCancelled,
            ],
        },
        retries: retries.attempts,
        per_try_timeout: retries.per_try_timeout,
        status_codes: retries.status_codes.clone(),
        backoff_base: base,
        backoff_max: base * BACKOFF_GROWTH,
        avoid_previous_hosts: retries.avoid_previous_hosts,
    }
}

fn retry_on(on: tasuki_resources::virtual_service::RetryOn) -> route::RetryOn {
    use tasuki_resources::virtual_service::RetryOn;
    match on {
        RetryOn::Http5xx => route::RetryOn::Http5xx,
        RetryOn::GatewayError => route::RetryOn::GatewayError,
        RetryOn::Reset => route::RetryOn::Reset,
        RetryOn::ResetBeforeRequest => route::RetryOn::ResetBeforeRequest,
        RetryOn::ConnectFailure => route::RetryOn::ConnectFailure,
        RetryOn::EnvoyRatelimited => route::RetryOn::EnvoyRatelimited,
        RetryOn::Retriable4xx => route::RetryOn::Retriable4xx,
        RetryOn::RefusedStream => route::RetryOn::RefusedStream,
        RetryOn::RetriableStatusCodes => route::RetryOn::RetriableStatusCodes,
        RetryOn::Http3PostConnectFailure => route::RetryOn::Http3PostConnectFailure,
        RetryOn::GrpcCancelled => route::RetryOn::GrpcCancelled,
        RetryOn::GrpcDeadlineExceeded => route::RetryOn::GrpcDeadlineExceeded,
        RetryOn::GrpcInternal => route::RetryOn::GrpcInternal,
        RetryOn::GrpcResourceExhausted => route::RetryOn::GrpcResourceExhausted,
        RetryOn::GrpcUnavailable => route::RetryOn::GrpcUnavailable,
    }
}
