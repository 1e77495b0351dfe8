//! Waiting for the control plane's pods, and saying what keeps them.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tasuki_kubernetes::names::{CONTROL, SYSTEM_NAMESPACE};
use tokio::time::{Instant, sleep};

use crate::cluster::{EVERY, said};

/// More pods than these say nothing new.
const MOST_REASONS: usize = 10;

/// Until every replica is of this version and ready.
///
/// # Errors
/// At the deadline, with what the cluster says of the pods.
pub async fn wait(client: &Client, deadline: Instant) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let mut told = BTreeSet::new();
    loop {
        let deployment = deployments.get(CONTROL).await;
        let deployment = deployment.map_err(|error| said("Deployment tasuki-control", error))?;
        let progress = Progress::of(&deployment);
        if progress.done() {
            println!("control plane ready, replicas: {}", progress.wanted);
            return Ok(());
        }
        let reasons = reasons(client).await?;
        if Instant::now() >= deadline {
            let mut reasons = reasons;
            if reasons.is_empty() {
                reasons.extend(warnings(client).await?);
            }
            reasons.extend(conditions(&deployment));
            bail!(
                "the control plane is not ready, {} of {} pods are:\n  {}",
                progress.available,
                progress.wanted,
                reasons.into_iter().collect::<Vec<_>>().join("\n  ")
            );
        }
        let count = format!(
            "waiting for the control plane, {} of {} pods are ready",
            progress.available.min(progress.updated),
            progress.wanted
        );
        // Each once: a pod that is tried again and again goes back and forth between two.
        for line in [count].into_iter().chain(reasons) {
            if !told.contains(&line) {
                println!("{line}");
                told.insert(line);
            }
        }
        sleep(EVERY).await;
    }
}

/// A Deployment's numbers, when they are about its latest version.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    seen: bool,
    wanted: i32,
    updated: i32,
    available: i32,
    all: i32,
}

impl Progress {
    fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let spec = deployment.spec.as_ref();
        Self {
            seen: status.observed_generation >= deployment.metadata.generation,
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            all: status.replicas.unwrap_or(0),
        }
    }

    fn done(&self) -> bool {
        self.seen
            && self.updated >= self.wanted
            && self.available >= self.wanted
            && self.all <= self.updated
    }
}

/// What keeps each pod, by its own status.
async fn reasons(client: &Client) -> Result<BTreeSet<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let selector = format!("app.kubernetes.io/name={CONTROL}");
    let pods = pods.list(&ListParams::default().labels(&selector)).await;
    let pods = pods.map_err(|error| said("pods of the control plane", error))?;
    let reasons = pods.items.iter().flat_map(kept_by);
    Ok(reasons.take(MOST_REASONS).collect())
}

fn kept_by(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let unscheduled = status.conditions.iter().flatten().find_map(|condition| {
        (condition.type_ == "PodScheduled" && condition.status == "False")
            .then(|| condition.message.clone().unwrap_or_default())
    });
    let containers = status.container_statuses.iter().flatten();
    containers
        .filter_map(container)
        .chain(unscheduled)
        .map(|reason| format!("pod {}: {reason}", pod.name_any()))
        .collect()
}

fn container(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref())?;
    let reason = waiting.reason.clone().unwrap_or_default();
    // Every container passes through these.
    if matches!(reason.as_str(), "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let last = status.last_state.as_ref();
    let ended = last.and_then(|state| state.terminated.as_ref());
    let ended = ended.map_or(String::new(), |ended| {
        format!("; it ended with code {}", ended.exit_code)
    });
    let message = waiting.message.clone().unwrap_or_default();
    Some(format!("{reason}: {message}{ended}"))
}

/// What the Deployment itself complains of, such as a quota.
fn conditions(deployment: &Deployment) -> Vec<String> {
    let status = deployment.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let conditions = conditions.into_iter().flatten();
    conditions
        .filter(|condition| (condition.type_ == "ReplicaFailure") == (condition.status == "True"))
        .filter_map(|condition| Some(format!("deployment: {}", condition.message.as_ref()?)))
        .collect()
}

async fn warnings(client: &Client) -> Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let parameters = ListParams::default().fields("type=Warning").limit(100);
    let events = events.list(&parameters).await;
    let events = events.map_err(|error| said("events", error))?;
    let mut warnings: Vec<String> = events
        .into_iter()
        .filter_map(|event| {
            let about = event.involved_object.name.unwrap_or_default();
            Some(format!("event of {about}: {}", event.message?))
        })
        .collect();
    warnings.dedup();
    warnings.truncate(MOST_REASONS);
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": CONTROL, "generation": 2},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn done_when_all_pods_are_of_the_latest_version() {
        let done = |generation, all, updated, available| {
            let status = json!({
                "observedGeneration": generation, "replicas": all,
                "updatedReplicas": updated, "availableReplicas": available,
            });
            Progress::of(&deployment(status)).done()
        };
        assert!(done(2, 2, 2, 2));
        assert!(!done(1, 2, 2, 2));
        assert!(!done(2, 3, 2, 3));
        assert!(!done(2, 2, 2, 1));
        assert!(!Progress::of(&deployment(json!({}))).done());
    }

    #[test]
    fn a_pod_says_what_keeps_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "one"},
            "status": {
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}],
                "containerStatuses": [{
                    "name": CONTROL, "image": "", "imageID": "", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                    "lastState": {"terminated": {"exitCode": 1}},
                }],
            },
        }))
        .unwrap();
        assert_eq!(
            kept_by(&pod),
            [
                "pod one: CrashLoopBackOff: back-off 40s; it ended with code 1",
                "pod one: 0/1 nodes are available"
            ]
        );
    }

    #[test]
    fn conditions_that_are_good_are_no_reasons() {
        let status = json!({"conditions": [
            {"type": "Available", "status": "False", "message": "too few"},
            {"type": "Progressing", "status": "True", "message": "fine"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
        ]});
        assert_eq!(
            conditions(&deployment(status)),
            ["deployment: too few", "deployment: exceeded quota"]
        );
    }
}
