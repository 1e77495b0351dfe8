//! The shop's traffic: one load client per call, and what each saw since the last look.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tasuki_testkit::load::{Plan, Sample, Stop, run_until};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::shop::CALLS;
use super::stage::Stage;

/// Running calls; they stop on drop.
pub struct Traffic {
    calls: Vec<(UnboundedReceiver<Sample>, std::thread::JoinHandle<()>)>,
    stop: Stop,
    looked: Instant,
}

/// What one call saw in a window of time.
pub struct Window {
    pub rate: f64,
    /// In percent; `None` without any answer.
    pub success: Option<f64>,
    pub p50: Duration,
    pub p99: Duration,
    /// Share of the successful answers by backend, in percent.
    pub shares: BTreeMap<String, f64>,
    /// Outcomes other than success.
    pub failures: BTreeMap<String, u64>,
}

impl Traffic {
    /// Starts every call of the shop from inside its caller's pod.
    pub fn start(stage: &Stage) -> Result<Self> {
        let stop = Stop::default();
        let mut calls = Vec::new();
        for (index, call) in CALLS.iter().enumerate() {
            let pod = stage
                .pod(call.caller)
                .with_context(|| format!("no pod {}", call.caller))?;
            let plan = Plan {
                protocol: call.protocol,
                concurrency: 4,
                rate: Some(call.rate),
                timeout: Duration::from_secs(5),
                ..Plan::new(
                    stage.target_of(index, call),
                    &format!("{}:{}", call.host, call.port),
                )
            };
            let (tell, told) = unbounded_channel();
            let (namespace, stop) = (pod.namespace.clone(), stop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("call-{index}"))
                .spawn(move || {
                    // Its failure shows as a call without answers.
                    let _ = namespace.block_on(move || run_until(plan, stop, Some(tell)));
                })?;
            calls.push((told, thread));
        }
        Ok(Self {
            calls,
            stop,
            looked: Instant::now(),
        })
    }

    /// What happened since the last time, call by call.
    pub fn take(&mut self) -> Vec<Window> {
        let elapsed = self.looked.elapsed().as_secs_f64();
        self.looked = Instant::now();
        let windows = self.calls.iter_mut().map(|(samples, _)| {
            let seen = std::iter::from_fn(|| samples.try_recv().ok()).collect();
            Window::over(seen, elapsed)
        });
        windows.collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.stop();
        for (_, thread) in self.calls.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Window {
    fn over(mut samples: Vec<Sample>, seconds: f64) -> Self {
        samples.sort_unstable_by_key(|sample| sample.latency);
        let at = |share: f64| {
            let index =
                ((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1));
            samples
                .get(index)
                .map_or(Duration::ZERO, |sample| sample.latency)
        };
        let good = samples.iter().filter(|sample| sample.succeeded()).count();
        let (mut shares, mut failures) = (BTreeMap::new(), BTreeMap::new());
        for sample in &samples {
            if sample.succeeded() {
                *shares.entry(sample.backend.clone()).or_insert(0.0) += 100.0 / good as f64;
            } else {
                *failures.entry(sample.outcome.clone()).or_insert(0) += 1;
            }
        }
        Self {
            rate: samples.len() as f64 / seconds,
            success: (!samples.is_empty()).then(|| good as f64 * 100.0 / samples.len() as f64),
            p50: at(0.5),
            p99: at(0.99),
            shares,
            failures,
        }
    }
}
