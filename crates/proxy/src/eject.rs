//! Outlier detection, the consecutive kind: an endpoint that fails several times in a row gets nothing for a while
//! (Envoy `outlier_detection`). Pure: time is milliseconds of the cluster's own clock.
//!
//! Ejected for base x count of ejections, at most `max_ejection`; the count falls by one for each interval without a
//! new ejection. Return is at the interval's tick, as in Envoy, whose timer looks at each interval.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tasuki_xds::model::cluster::OutlierDetection;

use crate::error::{Error, Refusal};

/// What an attempt says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Any 5xx answer, or a gRPC status that stands for one.
    ServerError,
    /// 502, 503 or 504.
    GatewayError,
    /// No answer: connect failure, reset, timeout.
    LocalOrigin,
}

/// One endpoint's run of failures and its ejection.
#[derive(Debug, Default)]
pub struct Ejection {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_errors: AtomicU32,
    /// 0: not ejected. Otherwise when it may come back.
    until: AtomicU64,
    /// How often it was ejected, less what it has earned back.
    count: AtomicU32,
    /// When the last ejection ended.
    returned: AtomicU64,
}

impl Outcome {
    /// Envoy's view of an HTTP status.
    pub fn of_status(status: http::StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// Envoy's view of a gRPC status (`Grpc::Utility::grpcToHttpStatus`): what it maps to a 5xx is a failure.
    pub fn of_grpc(status: u16) -> Self {
        match status {
            // Unavailable is 503, deadline exceeded 504.
            14 | 4 => Self::GatewayError,
            // Unknown, internal, data loss: 500. Unimplemented is 501.
            2 | 13 | 15 | 12 => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// What a failed attempt says; `None` when it says nothing about the endpoint.
    pub fn of_error(error: &Error) -> Option<Self> {
        match error {
            Error::ConnectFailed(_)
            | Error::ConnectTimeout
            | Error::TlsFailed(_)
            | Error::ResetBeforeHeaders(_)
            | Error::ClosedBeforeHeaders
            | Error::ResetInResponse(_)
            | Error::ClosedInResponse
            | Error::UpstreamProtocol(_)
            | Error::RouteTimeout
            | Error::PerTryTimeout
            // Envoy's router counts every reset by the server.
            | Error::Refused(Refusal::Stream) => Some(Self::LocalOrigin),
            // What the peer's sidecar would answer to others.
            Error::ApplicationAway => Some(Self::GatewayError),
            Error::BadRequest(_)
            | Error::HeadersTooLarge
            | Error::DownstreamClosed
            | Error::DownstreamProtocol
            | Error::NoRoute
            | Error::NoCluster(_)
            | Error::Disconnected
            | Error::BlackHole
            | Error::NoHealthyUpstream
            | Error::Overflow(_)
            | Error::Loop
            | Error::DnsFailed
            | Error::Refused(Refusal::Connection(_))
            | Error::StreamIdle
            | Error::Denied(_)
            | Error::Limited(_)
            | Error::IdentityRequired
            | Error::NotImplemented(_) => None,
        }
    }
}

impl Ejection {
    /// Counts one result. True when a threshold has been reached.
    pub fn count(&self, config: &OutlierDetection, outcome: Outcome) -> bool {
        if outcome == Outcome::Success {
            for run in [&self.errors, &self.gateway_errors, &self.local_errors] {
                // A store on every request would bounce the cache line between workers.
                if run.load(Ordering::Relaxed) != 0 {
                    run.store(0, Ordering::Relaxed);
                }
            }
            return false;
        }
        if outcome == Outcome::LocalOrigin && config.split_local_origin {
            return reached(&self.local_errors, config.consecutive_local_origin);
        }
        let gateway = match outcome {
            // Without the split, Envoy counts a failure without an answer as 503.
            Outcome::GatewayError | Outcome::LocalOrigin => {
                reached(&self.gateway_errors, config.consecutive_gateway_errors)
            }
            Outcome::ServerError | Outcome::Success => {
                self.gateway_errors.store(0, Ordering::Relaxed);
                false
            }
        };
        reached(&self.errors, config.consecutive_5xx) || gateway
    }

    /// Ejects at `now`. False if it was out already.
    pub fn eject(&self, config: &OutlierDetection, now: u64) -> bool {
        let interval = millis(config.interval).max(1);
        if self.until.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let returned = self.returned.load(Ordering::Relaxed);
        let earned = if returned == 0 {
            0
        } else {
            now.saturating_sub(returned) / interval
        };
        let count = u64::from(self.count.load(Ordering::Relaxed)).saturating_sub(earned) + 1;
        let base = millis(config.base_ejection);
        let longest = millis(config.max_ejection).max(base);
        let lasts = base.saturating_mul(count).min(longest).max(1);
        let tick = (now + lasts).div_ceil(interval) * interval;
        // A base below the interval would otherwise be stretched by the tick: come back when the time is up.
        let until = if base < interval { now + lasts } else { tick };
        self.count
            .store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        for run in [&self.errors, &self.gateway_errors, &self.local_errors] {
            run.store(0, Ordering::Relaxed);
        }
        self.until
            .compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether it gets nothing at `now`.
    pub fn is_out(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
    }

    /// Ejected and not yet readmitted, whatever the time.
    pub fn is_marked(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0
    }

    /// Ends the ejection if its time is up. True once per ejection.
    pub fn readmit(&self, now: u64) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 || now < until {
            return false;
        }
        let won = self
            .until
            .compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if won {
            self.returned.store(now.max(1), Ordering::Relaxed);
        }
        won
    }

    /// A copy for the same endpoint under another definition.
    pub fn clone_state(&self) -> Self {
        let copy = |from: &AtomicU32| AtomicU32::new(from.load(Ordering::Relaxed));
        let copy64 = |from: &AtomicU64| AtomicU64::new(from.load(Ordering::Relaxed));
        Self {
            errors: copy(&self.errors),
            gateway_errors: copy(&self.gateway_errors),
            local_errors: copy(&self.local_errors),
            until: copy64(&self.until),
            count: copy(&self.count),
            returned: copy64(&self.returned),
        }
    }
}

/// Whether one more of `total` endpoints may go when `out` are out. At least one always may.
pub fn may_eject(config: &OutlierDetection, out: usize, total: usize) -> bool {
    out == 0 || (out + 1) * 100 <= total * config.max_ejection_percent.min(100) as usize
}

fn reached(run: &AtomicU32, threshold: u32) -> bool {
    let length = run.fetch_add(1, Ordering::Relaxed) + 1;
    threshold != 0 && length >= threshold
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_origin: 5,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
        }
    }

    #[test]
    fn five_in_a_row_and_not_four() {
        let ejection = Ejection::default();
        for _ in 0..4 {
            assert!(!ejection.count(&config(), Outcome::ServerError));
        }
        assert!(!ejection.count(&config(), Outcome::Success));
        for _ in 0..4 {
            assert!(!ejection.count(&config(), Outcome::LocalOrigin));
        }
        assert!(ejection.count(&config(), Outcome::GatewayError));
    }

    #[test]
    fn gateway_errors_have_their_own_run() {
        let config = OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway_errors: 2,
            ..config()
        };
        let ejection = Ejection::default();
        assert!(!ejection.count(&config, Outcome::GatewayError));
        assert!(!ejection.count(&config, Outcome::ServerError));
        assert!(!ejection.count(&config, Outcome::GatewayError));
        assert!(ejection.count(&config, Outcome::GatewayError));
    }

    #[test]
    fn stays_out_longer_each_time_and_comes_back() {
        let ejection = Ejection::default();
        assert!(ejection.eject(&config(), 1_000));
        assert!(!ejection.eject(&config(), 1_000));
        assert!(ejection.is_out(39_999));
        assert!(!ejection.is_out(40_000), "31 s, at the next tick of 10 s");
        assert!(!ejection.readmit(39_999));
        assert!(ejection.readmit(40_000));
        assert!(!ejection.readmit(40_000));
        assert!(ejection.eject(&config(), 41_000));
        assert!(ejection.is_out(109_999), "twice 30 s");
        assert!(ejection.readmit(110_000));
        assert!(ejection.eject(&config(), 200_000));
        assert!(
            !ejection.is_out(230_000),
            "nine quiet intervals earn the base back"
        );
    }

    #[test]
    fn at_least_one_may_go_then_the_share() {
        assert!(may_eject(&config(), 0, 1));
        assert!(!may_eject(&config(), 1, 3));
        let half = OutlierDetection {
            max_ejection_percent: 50,
            ..config()
        };
        assert!(may_eject(&half, 1, 4));
        assert!(!may_eject(&half, 2, 4));
    }
}
