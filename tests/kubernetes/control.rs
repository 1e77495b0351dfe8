//! The control plane's pods as somebody sees them who stands beside them: their debug pages, and what they cost.

use anyhow::{Context, Result};
use serde_json::Value;
use tasuki_testkit::client::Ask;
use tasuki_testkit::cluster::{Cluster, Process};

use crate::install::control_pods;

/// The processes of the replicas that there are.
#[derive(Clone, Debug)]
pub struct Replicas(pub Vec<Process>);

impl Replicas {
    pub fn find(cluster: Cluster) -> Result<Self> {
        let pods = control_pods(cluster)?;
        let process = |pod| Process::of(pod, "tasuki-control");
        Ok(Self(pods.iter().map(process).collect::<Result<_>>()?))
    }

    /// What each answers on its admin port.
    pub fn ask(&self, path: &str) -> Result<Vec<Value>> {
        let ask = |process: &Process| {
            let ask = Ask::get("127.0.0.1:15014".parse()?, "localhost", path);
            let answer = ask.send(process.network())?;
            serde_json::from_str(&answer.body).with_context(|| answer.body)
        };
        self.0.iter().map(ask).collect()
    }

    /// What each sidecar has of which resource, as the replica says that it is connected to.
    pub fn clients(&self) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for answer in self.ask("/debug/clients")? {
            all.extend(answer.as_array().context("not a list")?.iter().cloned());
        }
        Ok(all)
    }
}
