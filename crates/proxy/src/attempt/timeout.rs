//! How long a request may take: the route's timeout, and `grpc-timeout` as far as the route believes it.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::Timer;
use crate::headers;
use crate::route::Forward;

/// When the request must have been answered in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Never.
    pub const NONE: Self = Self(None);

    /// The deadline of a request that came at `now`.
    pub fn of(forward: &Forward, headers: &HeaderMap, is_grpc: bool, now: Instant) -> Self {
        let grpc = if is_grpc {
            headers::grpc_timeout(headers)
        } else {
            None
        };
        let timeout = effective(forward.timeout, forward.grpc_timeout_max, grpc);
        // A timeout beyond the clock's range is none.
        Self(timeout.and_then(|timeout| now.checked_add(timeout)))
    }

    /// What is left; `None` without a deadline.
    pub fn left(self) -> Option<Duration> {
        self.0
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// A timer for it.
    pub fn sleep(self) -> Option<Timer> {
        self.0
            .map(|deadline| Box::pin(tokio::time::sleep_until(deadline)))
    }
}

/// gRFC A31 and Envoy's `grpc_timeout_header_max`: a believed `grpc-timeout` takes the place of the route's timeout, cut to the
/// maximum; zero is no maximum.
fn effective(
    route: Option<Duration>,
    max: Option<Duration>,
    asked: Option<Duration>,
) -> Option<Duration> {
    match (max, asked) {
        (Some(max), Some(asked)) if max.is_zero() => Some(asked),
        (Some(max), Some(asked)) => Some(asked.min(max)),
        (_, None) | (None, Some(_)) => route,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_as_far_as_it_is_believed() {
        let s = Duration::from_secs;
        assert_eq!(effective(Some(s(5)), None, Some(s(1))), Some(s(5)));
        assert_eq!(effective(Some(s(5)), Some(s(0)), Some(s(9))), Some(s(9)));
        assert_eq!(effective(Some(s(5)), Some(s(5)), Some(s(9))), Some(s(5)));
        assert_eq!(effective(Some(s(5)), Some(s(5)), Some(s(1))), Some(s(1)));
        assert_eq!(effective(None, Some(s(0)), None), None);
    }
}
