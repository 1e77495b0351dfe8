//! A namespace of the cluster that a test has for itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, LIMIT};
use crate::wait;

/// Deleted on drop; a test that fails prints the state of what is in it first.
#[derive(Debug)]
pub struct Space {
    pub cluster: Cluster,
    pub name: String,
}

impl Space {
    pub(super) fn new(cluster: Cluster, name: &str, labels: &[&str]) -> Result<Self> {
        // What a killed run left.
        cluster.kubectl(&["delete", "namespace", name, "--ignore-not-found"])?;
        cluster.kubectl(&["create", "namespace", name])?;
        for label in labels {
            cluster.kubectl(&["label", "namespace", name, label])?;
        }
        Ok(Self {
            cluster,
            name: name.to_owned(),
        })
    }

    /// A `kubectl` in this namespace that is yet to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self
            .cluster
            .command(&[&format!("--namespace={}", self.name)]);
        command.args(arguments);
        command
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        super::run(self.command(arguments), "")
    }

    /// One object, or a list of them.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let namespace = format!("--namespace={}", self.name);
        self.cluster
            .get(&[&[namespace.as_str()], arguments].concat())
    }

    /// Applies objects that name no namespace.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let namespace = format!("--namespace={}", self.name);
        wait::until("objects are applied", LIMIT, || {
            let arguments = [namespace.as_str(), "apply", "--filename=-"];
            self.cluster.kubectl_with(&arguments, yaml)
        })?;
        Ok(())
    }

    /// Waits until a workload (`deployment/NAME`, `statefulset/NAME`) is as it is declared.
    pub fn rolled_out(&self, workload: &str) -> Result<()> {
        let limit = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl(&["rollout", "status", workload, &limit])
            .map(drop)
    }

    /// Waits for a condition (`condition=Complete`, `jsonpath=...`, `delete`) of an object.
    pub fn wait(&self, condition: &str, object: &str) -> Result<()> {
        let (condition, limit) = (
            format!("--for={condition}"),
            format!("--timeout={}s", LIMIT.as_secs()),
        );
        self.kubectl(&["wait", &condition, object, &limit])
            .map(drop)
    }

    /// Runs a program in the container `app` of a pod or a workload.
    pub fn exec(&self, pod: &str, program: &[&str]) -> Result<String> {
        self.exec_in(pod, "app", program)
    }

    /// Runs a program in a container.
    pub fn exec_in(&self, pod: &str, container: &str, program: &[&str]) -> Result<String> {
        let container = format!("--container={container}");
        self.kubectl(&[&["exec", pod, &container, "--"], program].concat())
    }

    /// The pods with a label, those that are being deleted left out.
    pub fn pods(&self, selector: &str) -> Result<Vec<Value>> {
        let mut list = self.get(&["pods", &format!("--selector={selector}")])?;
        let items = list["items"].as_array_mut().context("no list of pods")?;
        items.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(std::mem::take(items))
    }

    /// The address of a Service.
    pub fn service_ip(&self, service: &str) -> Result<String> {
        let service = self.get(&["service", service])?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        ensure!(!address.is_empty(), "no address: {service}");
        Ok(address.to_owned())
    }

    fn diagnose(&self) {
        self.cluster.diagnose();
        eprintln!("---- events of {}", self.name);
        self.show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let names = self.kubectl(&["get", "pods", "--output=name"]);
        for pod in names.unwrap_or_default().lines() {
            eprintln!("---- {pod}");
            self.show(&["logs", pod, "--all-containers", "--tail=15", "--prefix"]);
        }
    }

    fn show(&self, arguments: &[&str]) {
        match self.kubectl(arguments) {
            Ok(text) => eprintln!("{text}"),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.diagnose();
        }
        if std::env::var_os("TASUKI_KEEP").is_some() {
            return;
        }
        let deleted = self
            .cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        if let Err(error) = deleted {
            eprintln!("{error:#}");
        }
    }
}
