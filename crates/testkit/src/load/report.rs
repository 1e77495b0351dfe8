//! What a load run saw.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One request and its end.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the run began.
    pub sent: Duration,
    pub latency: Duration,
    /// `200`, `grpc:0`, `error: ...`.
    pub outcome: String,
    /// `x-backend` of the answer; empty when it had none.
    pub backend: String,
}

impl Sample {
    /// 2xx, or gRPC OK.
    pub fn succeeded(&self) -> bool {
        self.outcome == "grpc:0" || (self.outcome.len() == 3 && self.outcome.starts_with('2'))
    }
}

/// All of them, in order of sending.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub samples: Vec<Sample>,
    pub elapsed: Duration,
}

impl Report {
    pub(super) fn new(mut samples: Vec<Sample>, elapsed: Duration) -> Self {
        samples.sort_by_key(|sample| sample.sent);
        Self { samples, elapsed }
    }

    pub fn total(&self) -> u64 {
        self.samples.len() as u64
    }

    pub fn succeeded(&self) -> u64 {
        self.samples
            .iter()
            .filter(|sample| sample.succeeded())
            .count() as u64
    }

    pub fn failed(&self) -> u64 {
        self.total() - self.succeeded()
    }

    /// When each failed request was sent, in seconds, and what became of it.
    fn failures(&self) -> impl Iterator<Item = String> {
        self.samples
            .iter()
            .filter(|sample| !sample.succeeded())
            .map(|sample| {
                let (sent, took) = (sample.sent.as_secs_f64(), sample.latency.as_secs_f64());
                format!(
                    "{sent:.3} s: {} {} after {took:.3} s",
                    sample.outcome, sample.backend
                )
            })
    }

    /// Requests by status or error.
    pub fn by_outcome(&self) -> BTreeMap<&str, u64> {
        count(self.samples.iter().map(|sample| sample.outcome.as_str()))
    }

    /// Successful requests by the backend that answered.
    pub fn by_backend(&self) -> BTreeMap<&str, u64> {
        count(
            self.samples
                .iter()
                .filter(|sample| sample.succeeded())
                .map(|sample| sample.backend.as_str()),
        )
    }

    /// Share of the successful requests that `backend` answered, in percent.
    pub fn share(&self, backend: &str) -> f64 {
        let all = self.succeeded().max(1);
        *self.by_backend().get(backend).unwrap_or(&0) as f64 * 100.0 / all as f64
    }

    /// The latency that this share (0.0 to 1.0) of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut latencies: Vec<_> = self.samples.iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        let index =
            ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).copied().unwrap_or_default()
    }

    /// Only the requests sent at `from` or later.
    pub fn since(&self, from: Duration) -> Self {
        let samples: Vec<_> = self
            .samples
            .iter()
            .filter(|sample| sample.sent >= from)
            .cloned()
            .collect();
        Self {
            samples,
            elapsed: self.elapsed.saturating_sub(from),
        }
    }

    /// What `tasuki-load` prints.
    pub fn to_json(&self) -> serde_json::Value {
        let micros = |share| self.quantile(share).as_micros() as u64;
        serde_json::json!({
            "requests": self.total(),
            "succeeded": self.succeeded(),
            "seconds": self.elapsed.as_secs_f64(),
            "outcomes": self.by_outcome(),
            "failures": self.failures().take(20).collect::<Vec<_>>(),
            "backends": self.by_backend(),
            "latency_us": { "p50": micros(0.5), "p90": micros(0.9), "p99": micros(0.99), "max": micros(1.0) },
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

fn count<'a>(keys: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}
