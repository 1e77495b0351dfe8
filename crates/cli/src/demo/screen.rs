//! What the demo prints: lines, never moving the cursor, so that a log reads like a terminal.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::check::Fact;
use super::shop::{CALLS, DENIED};
use super::stage::Stage;
use super::traffic::Window;

pub struct Screen {
    started: Instant,
}

impl Screen {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// One event of the story.
    pub fn say(&self, what: &str) {
        println!("[{:>5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    /// Who is there, and where to look.
    pub fn introduce(&self, stage: &Stage) {
        self.say("the shop is open: storefront > cart (80 % v1, 20 % v2) > pricing and, outside, payments");
        println!(
            "          resources   {}   (edit them: changes are live within a second)",
            stage.config_dir.display()
        );
        println!(
            "          control     {}",
            stage.control_command("/debug/clients")
        );
        for pod in stage.pods.iter().filter(|pod| pod.plan.meshed) {
            println!(
                "          {:<11} {}",
                pod.plan.name,
                stage.pod_command(pod, 15020, "/metrics")
            );
        }
        if let Some(pod) = stage.pod("storefront") {
            println!(
                "          admin       {}",
                stage.pod_command(pod, 15000, "/config_dump")
            );
        }
        println!("          Ctrl-C stops it and leaves nothing behind.");
    }

    /// The table of one window.
    pub fn show(&self, windows: &[Window]) {
        println!(
            "\n[{:>5.1} s] {:<11} {:<9} {:>7} {:>9} {:>9} {:>9}  answered by",
            self.started.elapsed().as_secs_f64(),
            "caller",
            "calls",
            "per s",
            "success",
            "p50",
            "p99"
        );
        for (index, (call, window)) in CALLS.iter().zip(windows).enumerate() {
            let success = window
                .success
                .map_or("-".to_owned(), |share| format!("{share:.1} %"));
            let shares: Vec<_> = window
                .shares
                .iter()
                .map(|(name, share)| format!("{name} {share:.0} %"))
                .collect();
            let failures: Vec<_> = window
                .failures
                .iter()
                .map(|(outcome, count)| format!("{count} x {outcome}"))
                .collect();
            let note = if index == DENIED && !failures.is_empty() {
                " (denied by policy)"
            } else {
                ""
            };
            println!(
                "          {:<11} {:<9} {:>7.1} {:>9} {:>9} {:>9}  {}{note}",
                call.caller,
                call.callee,
                window.rate,
                success,
                time(window.p50),
                time(window.p99),
                [shares, failures].concat().join(", "),
            );
        }
    }

    /// Prints each fact; success only if all hold.
    pub fn verdict(&self, facts: &[Fact]) -> ExitCode {
        println!();
        for fact in facts {
            println!(
                "{}  {}: {}",
                if fact.holds { "ok    " } else { "FAILED" },
                fact.claim,
                fact.seen
            );
        }
        match facts.iter().find(|fact| !fact.holds) {
            None => ExitCode::SUCCESS,
            Some(fact) => {
                eprintln!("demo --check failed: {}: {}", fact.claim, fact.seen);
                ExitCode::FAILURE
            }
        }
    }
}

fn time(latency: Duration) -> String {
    format!("{:.2} ms", latency.as_secs_f64() * 1000.0)
}
