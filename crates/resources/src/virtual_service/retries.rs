//! `retries` of an HTTP rule.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Retries after the first try; 0 switches retries off.
    pub attempts: u32,
    /// `None`: the rule's timeout.
    pub per_try_timeout: Option<Duration>,
    /// `None`: the user named no conditions, the default ones apply.
    pub on: Option<Vec<RetryOn>>,
    /// Status codes that the user wrote into `retryOn`; they imply [`RetryOn::RetriableStatusCodes`], which is in `on` then.
    pub status_codes: Vec<u16>,
    /// First back-off; `None` is 25 ms.
    pub backoff: Option<Duration>,
    /// Prefer an endpoint that has not been tried. True unless the user says `false`.
    pub avoid_previous_hosts: bool,
}

/// Conditions of `retryOn`, by Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    Http5xx,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    Http3PostConnectFailure,
    GrpcCancelled,
    GrpcDeadlineExceeded,
    GrpcInternal,
    GrpcResourceExhausted,
    GrpcUnavailable,
}
