//! `retries` of an HTTP rule.

use std::time::Duration;

use crate::fields::Value;

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

const NAMES: [(&str, RetryOn); 15] = [
    ("5xx", RetryOn::Http5xx),
    ("gateway-error", RetryOn::GatewayError),
    ("reset", RetryOn::Reset),
    ("reset-before-request", RetryOn::ResetBeforeRequest),
    ("connect-failure", RetryOn::ConnectFailure),
    ("envoy-ratelimited", RetryOn::EnvoyRatelimited),
    ("retriable-4xx", RetryOn::Retriable4xx),
    ("refused-stream", RetryOn::RefusedStream),
    ("retriable-status-codes", RetryOn::RetriableStatusCodes),
    (
        "http3-post-connect-failure",
        RetryOn::Http3PostConnectFailure,
    ),
    ("cancelled", RetryOn::GrpcCancelled),
    ("deadline-exceeded", RetryOn::GrpcDeadlineExceeded),
    ("internal", RetryOn::GrpcInternal),
    ("resource-exhausted", RetryOn::GrpcResourceExhausted),
    ("unavailable", RetryOn::GrpcUnavailable),
];

pub(super) fn read(value: &Value<'_>) -> Option<Retries> {
    let fields = value.fields()?;
    fields.not_honoured(&["retryRemoteLocalities"]);
    let (on, status_codes) = match fields
        .get("retryOn")
        .filter(|v| v.node.as_str() != Some(""))
    {
        None => (None, Vec::new()),
        Some(value) => read_conditions(&value),
    };
    let retries = Retries {
        attempts: fields
            .get("attempts")
            .and_then(|v| v.i32_positive())
            .unwrap_or(0),
        per_try_timeout: fields.get("perTryTimeout").and_then(|v| v.duration()),
        on,
        status_codes,
        backoff: fields.get("backoff").and_then(|v| v.duration()),
        avoid_previous_hosts: fields
            .get("retryIgnorePreviousHosts")
            .and_then(|v| v.boolean())
            .unwrap_or(true),
    };
    if retries.attempts == 0 && fields.count(&["retryOn", "perTryTimeout", "backoff"]) > 0 {
        fields.error_at(
            "attempts",
            "is 0, which switches retries off, but other retry settings are given",
            "write attempts: 2",
        );
    }
    fields.finish();
    Some(retries)
}

/// `5xx,reset,503`: names of conditions and status codes.
fn read_conditions(value: &Value<'_>) -> (Option<Vec<RetryOn>>, Vec<u16>) {
    let Some(text) = value.string() else {
        return (None, Vec::new());
    };
    let (mut on, mut codes) = (Vec::new(), Vec::new());
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let named = NAMES
            .iter()
            .find(|(name, _)| *name == part)
            .map(|(_, on)| *on);
        let code = part
            .parse::<u16>()
            .ok()
            .filter(|code| (100..=599).contains(code));
        let condition = match (named, code) {
            (Some(condition), _) => condition,
            (None, Some(code)) => {
                codes.push(code);
                RetryOn::RetriableStatusCodes
            }
            (None, None) if part == "retriable-headers" => {
                value.not_honoured(part);
                continue;
            }
            (None, None) => {
                let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
                value.error(
                    format!("unknown condition {part:?}"),
                    format!("write status codes or {}", names.join(", ")),
                );
                continue;
            }
        };
        if !on.contains(&condition) {
            on.push(condition);
        }
    }
    (Some(on), codes)
}
