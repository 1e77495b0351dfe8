//! Load from inside a pod: `tasuki-load` in one of its containers.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Process, Space};

/// What to send from a pod.
#[derive(Clone, Debug)]
pub struct Load {
    arguments: Vec<String>,
}

impl Load {
    /// To a name and a port, or an address and a port: HTTP/1.1 GETs of `/`, one at a time, at most 20 minutes.
    pub fn new(target: &str) -> Self {
        let arguments = ["tasuki-load", target, "--seconds=1200"];
        Self {
            arguments: arguments.map(str::to_owned).to_vec(),
        }
    }

    /// An argument of `tasuki-load` more.
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn requests(self, count: u32) -> Self {
        self.with(&format!("--requests={count}"))
    }

    /// `http1`, `http2`, `grpc`, `grpc-stream`.
    pub fn protocol(self, protocol: &str) -> Self {
        self.with(&format!("--protocol={protocol}"))
    }

    pub fn path(self, path: &str) -> Self {
        self.with(&format!("--path={path}"))
    }

    /// Requests a second, and how many may be in flight.
    pub fn rate(self, rate: u32, concurrency: u32) -> Self {
        self.with(&format!("--rate={rate}"))
            .with(&format!("--concurrency={concurrency}"))
    }

    /// Runs it to its end in the container `app` of a pod, or another workload (`deployment/NAME`).
    pub fn run(&self, space: &Space, pod: &str) -> Result<Outcome> {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        Outcome::parse(&space.exec(pod, &arguments)?)
    }

    /// Starts it; [`Running::finish`] ends it.
    pub fn start(&self, space: &Space, pod: &str) -> Result<Running> {
        let command = space.command(&["exec", "--stdin", "--container=app", pod, "--"]);
        self.spawn(command)
    }

    /// The same beside a process of the pod, without the API server, which may be killed meanwhile.
    pub fn start_beside(&self, process: &Process) -> Result<Running> {
        self.spawn(process.command())
    }

    fn spawn(&self, mut command: Command) -> Result<Running> {
        command.args(&self.arguments).arg("--until-input-ends");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let what = format!("{command:?}");
        let child = command.spawn().with_context(|| what.clone())?;
        Ok(Running { child, what })
    }
}

/// Load under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
}

impl Running {
    /// Ends it after the answers to what is in flight.
    pub fn finish(mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let stdout = self.child.stdout.take().context("no standard output")?;
        let text = std::io::read_to_string(stdout)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{}: {status}, {text}", self.what);
        Outcome::parse(&text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that finished there is nothing left to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What `tasuki-load` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    pub requests: u64,
    pub succeeded: u64,
    pub seconds: f64,
    pub outcomes: BTreeMap<String, u64>,
    pub backends: BTreeMap<String, u64>,
    pub failures: Vec<String>,
}

impl Outcome {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("not a report: {text}"))
    }

    pub fn failed(&self) -> u64 {
        self.requests - self.succeeded
    }

    /// Share of the successful requests that pods whose names begin so have answered, in percent.
    pub fn share(&self, prefix: &str) -> f64 {
        let answered = self.backends.iter();
        let theirs: u64 = answered
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, count)| count)
            .sum();
        theirs as f64 * 100.0 / self.succeeded.max(1) as f64
    }
}
