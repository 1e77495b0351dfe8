//! When a failed attempt is repeated. Pure.
//!
//! Without a policy only what cannot have had an effect, or whose method has none (semantics section 8). A policy is obeyed
//! as written, with Envoy's meaning of each word.

use std::time::Duration;

use http::{Method, Response};
use tasuki_xds::model::route::{RetryOn, RetryPolicy};

use crate::balance;
use crate::body::Body;
use crate::error::{Error, Refusal, RetryClass};
use crate::headers;

/// Retries without a policy (Istio's default is 2 as well).
const DEFAULT_RETRIES: u32 = 2;
const DEFAULT_BASE: Duration = Duration::from_millis(25);
const DEFAULT_MAX: Duration = Duration::from_millis(250);

/// The route's policy, or the safe default.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    policy: Option<&'a RetryPolicy>,
    /// What the application refuses, or is not there to take, is handed back to a caller that repeats it.
    hands_back: bool,
}

impl<'a> Plan<'a> {
    pub fn new(policy: Option<&'a RetryPolicy>) -> Self {
        Self {
            policy,
            hands_back: false,
        }
    }

    /// Beside the application: the safe default for what its connections do, which close when they like. Where the caller has a
    /// sidecar, that one repeats what the application itself refuses, elsewhere if it can: twice over, three tries would be nine.
    pub fn beside_application(caller_repeats: bool) -> Self {
        Self {
            policy: None,
            hands_back: caller_repeats,
        }
    }

    /// Retries after the first attempt.
    pub fn retries(&self) -> u32 {
        self.policy.map_or(DEFAULT_RETRIES, |policy| policy.retries)
    }

    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.policy
            .and_then(|policy| policy.per_try_timeout)
            .filter(|timeout| !timeout.is_zero())
    }

    /// Whether endpoints already tried are avoided.
    pub fn avoids_previous(&self) -> bool {
        self.policy.is_none_or(|policy| policy.avoid_previous_hosts)
    }

    /// Whether this result calls for another attempt.
    pub fn wants_retry(&self, method: &Method, result: &Result<Response<Body>, Error>) -> bool {
        match (self.policy, result) {
            (None, Ok(_)) => false,
            (None, Err(Error::Refused(Refusal::Stream))) => !self.hands_back,
            (None, Err(error)) if error.retry_class() == RetryClass::ConnectFailure => {
                !self.hands_back
            }
            (None, Err(error)) => is_safe(method, error.retry_class()),
            (Some(policy), Ok(response)) => policy
                .on
                .iter()
                .any(|on| on_response(*on, policy, response)),
            (Some(policy), Err(error)) => policy.on.iter().any(|on| on_failure(*on, policy, error)),
        }
    }

    /// How long to wait before retry `number` (from 0): full jitter over an exponentially growing interval. What was refused
    /// unprocessed goes elsewhere at once.
    pub fn backoff(&self, number: u32, result: &Result<Response<Body>, Error>) -> Duration {
        if matches!(result, Err(error) if error.retry_class() == RetryClass::Refused) && number == 0
        {
            return Duration::ZERO;
        }
        let (base, max) = self.policy.map_or((DEFAULT_BASE, DEFAULT_MAX), |p| {
            (p.backoff_base, p.backoff_max)
        });
        jittered(base, max, number, balance::random())
    }
}

fn jittered(base: Duration, max: Duration, number: u32, random: u64) -> Duration {
    let base = base.max(Duration::from_millis(1));
    let longest = base
        .saturating_mul(1_u32.checked_shl(number).unwrap_or(u32::MAX))
        .min(max.max(base));
    let micros = u64::try_from(longest.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    Duration::from_micros(random % micros)
}

fn is_safe(method: &Method, class: RetryClass) -> bool {
    match class {
        RetryClass::ConnectFailure | RetryClass::Refused => true,
        RetryClass::Reset => matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS),
        RetryClass::Never | RetryClass::PerTryTimeout => false,
    }
}

fn on_response(on: RetryOn, policy: &RetryPolicy, response: &Response<Body>) -> bool {
    let status = response.status();
    let grpc = |code: u16| headers::grpc_status(response.headers()) == Some(code);
    match on {
        RetryOn::Http5xx => status.is_server_error(),
        RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
        RetryOn::Retriable4xx => status == http::StatusCode::CONFLICT,
        RetryOn::RetriableStatusCodes => policy.status_codes.contains(&status.as_u16()),
        RetryOn::EnvoyRatelimited => response.headers().contains_key("x-envoy-ratelimited"),
        RetryOn::GrpcCancelled => grpc(1),
        RetryOn::GrpcDeadlineExceeded => grpc(4),
        RetryOn::GrpcResourceExhausted => grpc(8),
        RetryOn::GrpcInternal => grpc(13),
        RetryOn::GrpcUnavailable => grpc(14),
        RetryOn::Reset
        | RetryOn::ResetBeforeRequest
        | RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::Http3PostConnectFailure => false,
    }
}

fn on_failure(on: RetryOn, policy: &RetryPolicy, error: &Error) -> bool {
    let class = error.retry_class();
    if class == RetryClass::Never {
        return false;
    }
    match on {
        // Envoy counts every failure without an answer as a 5xx, a gateway error and a reset.
        RetryOn::Http5xx | RetryOn::GatewayError | RetryOn::Reset => true,
        RetryOn::ConnectFailure => class == RetryClass::ConnectFailure,
        RetryOn::RefusedStream => class == RetryClass::Refused,
        RetryOn::ResetBeforeRequest => {
            matches!(class, RetryClass::ConnectFailure | RetryClass::Refused)
        }
        // gRPC's own view: a connection that could not be made is "unavailable".
        RetryOn::GrpcUnavailable => {
            matches!(class, RetryClass::ConnectFailure | RetryClass::Refused)
        }
        // Not a status that anybody answered: resets are not "503" here (Istio). But where the peer's sidecar would have answered
        // so to others.
        RetryOn::RetriableStatusCodes => {
            *error == Error::ApplicationAway && policy.status_codes.contains(&503)
        }
        RetryOn::Retriable4xx
        | RetryOn::EnvoyRatelimited
        | RetryOn::Http3PostConnectFailure
        | RetryOn::GrpcCancelled
        | RetryOn::GrpcDeadlineExceeded
        | RetryOn::GrpcInternal
        | RetryOn::GrpcResourceExhausted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[RetryOn]) -> RetryPolicy {
        RetryPolicy {
            on: on.to_vec(),
            retries: 3,
            per_try_timeout: None,
            status_codes: vec![418],
            backoff_base: DEFAULT_BASE,
            backoff_max: DEFAULT_MAX,
            avoid_previous_hosts: true,
        }
    }

    fn answer(status: u16, grpc: Option<&'static str>) -> Result<Response<Body>, Error> {
        let mut response = Response::builder().status(status);
        if let Some(grpc) = grpc {
            response = response.header("grpc-status", grpc);
        }
        Ok(response.body(Body::empty()).unwrap())
    }

    #[test]
    fn the_default_never_repeats_an_effect() {
        let plan = Plan::new(None);
        let wants = |method: Method, error: Error| plan.wants_retry(&method, &Err(error));
        for error in [
            Error::ConnectTimeout,
            Error::Refused(Refusal::Connection("GOAWAY")),
        ] {
            assert!(wants(Method::POST, error.clone()), "{error}");
        }
        for error in [Error::ClosedBeforeHeaders, Error::ResetBeforeHeaders(8)] {
            assert!(!wants(Method::POST, error.clone()), "{error}");
            assert!(wants(Method::GET, error.clone()), "{error}");
        }
        for error in [
            Error::RouteTimeout,
            Error::PerTryTimeout,
            Error::ClosedInResponse,
            Error::Overflow("x"),
        ] {
            assert!(!wants(Method::GET, error.clone()), "{error}");
        }
        assert!(!plan.wants_retry(&Method::GET, &answer(503, None)));
    }

    #[test]
    fn what_the_application_refuses_is_repeated_by_one_of_two() {
        let refused = Err(Error::Refused(Refusal::Stream));
        let leaves = Err(Error::Refused(Refusal::Connection("GOAWAY")));
        for (caller_repeats, here) in [(true, false), (false, true)] {
            let plan = Plan::beside_application(caller_repeats);
            assert_eq!(plan.wants_retry(&Method::POST, &refused), here);
            assert!(plan.wants_retry(&Method::POST, &leaves));
        }
        assert!(Plan::new(None).wants_retry(&Method::POST, &refused));
    }

    #[test]
    fn policies_are_obeyed_as_written() {
        let wants = |on: RetryOn, result| {
            let policy = policy(&[on]);
            Plan::new(Some(&policy)).wants_retry(&Method::POST, &result)
        };
        assert!(wants(RetryOn::Http5xx, answer(500, None)));
        assert!(wants(RetryOn::Http5xx, Err(Error::ClosedBeforeHeaders)));
        assert!(wants(RetryOn::Http5xx, Err(Error::PerTryTimeout)));
        assert!(!wants(RetryOn::Http5xx, Err(Error::Overflow("x"))));
        assert!(!wants(RetryOn::GatewayError, answer(500, None)));
        assert!(wants(RetryOn::GatewayError, answer(502, None)));
        assert!(wants(RetryOn::Retriable4xx, answer(409, None)));
        assert!(wants(RetryOn::RetriableStatusCodes, answer(418, None)));
        assert!(!wants(
            RetryOn::RetriableStatusCodes,
            Err(Error::ClosedBeforeHeaders)
        ));
        assert!(!wants(
            RetryOn::ConnectFailure,
            Err(Error::ClosedBeforeHeaders)
        ));
        assert!(wants(RetryOn::ConnectFailure, Err(Error::ConnectTimeout)));
        assert!(wants(
            RetryOn::RefusedStream,
            Err(Error::Refused(Refusal::Stream))
        ));
        for (on, code) in [
            (RetryOn::GrpcCancelled, "1"),
            (RetryOn::GrpcDeadlineExceeded, "4"),
            (RetryOn::GrpcResourceExhausted, "8"),
            (RetryOn::GrpcInternal, "13"),
            (RetryOn::GrpcUnavailable, "14"),
        ] {
            assert!(wants(on, answer(200, Some(code))));
            assert!(!wants(on, answer(200, Some("5"))));
        }
    }

    #[test]
    fn back_off_grows_to_its_bound() {
        let longest = |number| jittered(DEFAULT_BASE, DEFAULT_MAX, number, u64::MAX / 2);
        assert!(longest(0) < Duration::from_millis(25));
        assert!((0..100).all(|n| longest(n) < DEFAULT_MAX));
        assert!(
            (0..1_000)
                .any(|r| jittered(DEFAULT_BASE, DEFAULT_MAX, 5, r * 7_919)
                    > Duration::from_millis(1))
        );
    }
}
