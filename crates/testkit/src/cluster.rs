//! A running Kubernetes, spoken to through `kubectl` as `tests/cluster exec` and `tests/cluster test` offer it. The test
//! itself is in the network of the node: it reaches pods and services as a client without a sidecar.

mod api;
mod load;
mod process;
mod space;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use api::{Api, Call};
pub use load::{Load, Outcome, Running};
pub use process::Process;
pub use space::Space;

use crate::wait;

/// Bounds every wait: far longer than a busy machine of two cores takes, so that it is only a failure that reaches it.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The image that [`crate::origin`] and [`crate::load`] are in.
pub const IMAGE: &str = "tasuki.test/tasuki-testkit:test";

/// The cluster beside this process.
#[derive(Clone, Copy, Debug)]
pub struct Cluster(());

impl Cluster {
    /// `None` where no cluster runs beside this process.
    pub fn find() -> Option<Self> {
        std::env::var_os("TASUKI_CLUSTER").map(|_| Self(()))
    }

    /// A `kubectl` that is yet to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments);
        command
    }

    /// Runs `kubectl` and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// The same with an input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        run(self.command(arguments), input)
    }

    /// One object, or a list of them.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output=json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// Server-side apply; repeated while a webhook or a kind is not there yet.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        wait::until("objects are applied", LIMIT, || {
            self.kubectl_with(&["apply", "--filename=-"], yaml)
        })?;
        Ok(())
    }

    /// A namespace for one test, with labels such as `tasuki.dev/inject=enabled`; it goes with the value.
    pub fn space(&self, name: &str, labels: &[&str]) -> Result<Space> {
        Space::new(*self, name, labels)
    }

    /// Kills (`kill`) or launches (`launch`) a component of the cluster.
    pub fn component(&self, action: &str, component: &str) -> Result<()> {
        self.script(&[action, component])
    }

    /// What else `tests/cluster` does.
    pub fn script(&self, arguments: &[&str]) -> Result<()> {
        let script = std::env::var("TASUKI_CLUSTER").context("no cluster")?;
        let mut command = Command::new(script);
        command.args(arguments);
        run(command, "").map(drop)
    }

    /// The last lines of the control plane and the events and pods of all namespaces, for a test that failed.
    pub fn diagnose(&self) {
        eprintln!("---- pods");
        self.show(&["get", "pods", "--all-namespaces", "--output=wide"]);
        eprintln!("---- control plane");
        self.show(&[
            "logs",
            "--namespace=tasuki-system",
            "--selector=app.kubernetes.io/name=tasuki-control",
            "--tail=40",
            "--prefix",
        ]);
    }

    fn show(&self, arguments: &[&str]) {
        match self.kubectl(arguments) {
            Ok(text) => eprintln!("{text}"),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

/// Runs a program to its end: what it printed, or what it complained about.
pub fn run(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let input = input.to_owned();
    // Beside reading its output, since either pipe may fill; a program that ends early does not read its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output()?;
    drop(writer.join());
    if !output.status.success() {
        bail!(
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
