//! The control plane's pods as somebody sees them who stands beside them: their debug pages, and what they cost.

use anyhow::{Context, Result};
use serde_json::Value;
use tasuki_testkit::client::Ask;
use tasuki_testkit::cluster::{Cluster, Process};

use crate::install::control_pods;

/// The process of each replica.
pub fn processes(cluster: Cluster) -> Result<Vec<Process>> {
    let pods = control_pods(cluster)?;
    pods.iter()
        .map(|pod| Process::of(pod, "tasuki-control"))
        .collect()
}

/// What each replica answers on its admin port.
pub fn ask(cluster: Cluster, path: &str) -> Result<Vec<Value>> {
    let processes = processes(cluster)?;
    let ask = |process: &Process| {
        let ask = Ask::get("127.0.0.1:15014".parse()?, "localhost", path);
        let answer = ask.send(process.network())?;
        serde_json::from_str(&answer.body).with_context(|| answer.body)
    };
    processes.iter().map(ask).collect()
}

/// What each sidecar has of which resource, as the replica says that it is connected to: `/debug/clients`.
pub fn clients(cluster: Cluster) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for answer in ask(cluster, "/debug/clients")? {
        all.extend(answer.as_array().context("not a list")?.iter().cloned());
    }
    Ok(all)
}
