//! The pods that have a sidecar, by what they belong to, and what is to be done about them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tasuki_kubernetes::names::{INJECT_LABEL, PROXY_ANNOTATION};

use crate::cluster::injected;

/// Who made a pod, as `kubectl` takes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// `deployment/web`: what a rollout replaces.
    Rollout(String),
    /// What runs to its end, or is replaced by hand.
    Other(String),
}

/// How many pods each owner has, by namespace.
#[derive(Debug, Default)]
pub struct Injected(BTreeMap<String, BTreeMap<Owner, usize>>);

impl Injected {
    /// Those that still run; what has ended needs no certificate.
    pub fn of(pods: &[Pod]) -> Self {
        let mut found = Self::default();
        for pod in pods {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            let ended = matches!(phase, Some("Succeeded" | "Failed"));
            if ended || !injected(pod) || !pod.annotations().contains_key(PROXY_ANNOTATION) {
                continue;
            }
            let namespace = found.0.entry(pod.namespace().unwrap_or_default());
            *namespace.or_default().entry(owner(pod)).or_default() += 1;
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why not, and the commands after which it can be.
    pub fn refusal(&self) -> String {
        let mut text = String::from(
            "these pods have a sidecar, which needs the control plane; nothing was deleted here:\n",
        );
        self.list(&mut text);
        text.push_str("Take them out of the mesh, then uninstall again (or --force):\n");
        for (namespace, owners) in &self.0 {
            let _ = writeln!(
                text,
                "  kubectl label namespace {namespace} {INJECT_LABEL}=disabled --overwrite"
            );
            let restarts: BTreeSet<_> = owners
                .keys()
                .filter_map(|owner| match owner {
                    Owner::Rollout(name) => Some(name.as_str()),
                    Owner::Other(_) => None,
                })
                .collect();
            for name in restarts {
                let _ = writeln!(
                    text,
                    "  kubectl rollout restart {name} --namespace {namespace}"
                );
            }
        }
        if self.0.values().flatten().any(|(owner, _)| !restarts(owner)) {
            text.push_str("Pods without a rollout command end by themselves, or are to be deleted and made again.\n");
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// What becomes of those that are left alone. A certificate is renewed at half its life, so the youngest has all of it
    /// left and the oldest half.
    pub fn farewell(&self, lifetime: Duration) -> String {
        let mut text = String::from("these pods keep their sidecar and what it was told last:\n");
        self.list(&mut text);
        let _ = write!(
            text,
            "Their certificates expire in {} to {}; from then on they refuse each other, unless the mesh is installed again before.",
            hours(lifetime / 2),
            hours(lifetime)
        );
        text
    }

    fn list(&self, text: &mut String) {
        for (namespace, owners) in &self.0 {
            for (owner, pods) in owners {
                let (Owner::Rollout(name) | Owner::Other(name)) = owner;
                let plural = if *pods == 1 { "" } else { "s" };
                let _ = writeln!(text, "  {namespace}: {name}, {pods} pod{plural}");
            }
        }
    }
}

fn restarts(owner: &Owner) -> bool {
    matches!(owner, Owner::Rollout(_))
}

/// The Deployment rather than its ReplicaSet, whose name is the Deployment's with the hash of the template.
fn owner(pod: &Pod) -> Owner {
    let references = pod.owner_references();
    let Some(reference) = references
        .iter()
        .find(|reference| reference.controller == Some(true))
    else {
        return Owner::Other(format!("pod/{}", pod.name_any()));
    };
    let name = &reference.name;
    let hash = pod.labels().get("pod-template-hash");
    match reference.kind.as_str() {
        "ReplicaSet" => match hash.and_then(|hash| name.strip_suffix(&format!("-{hash}"))) {
            Some(deployment) => Owner::Rollout(format!("deployment/{deployment}")),
            None => Owner::Other(format!("replicaset/{name}")),
        },
        "StatefulSet" => Owner::Rollout(format!("statefulset/{name}")),
        "DaemonSet" => Owner::Rollout(format!("daemonset/{name}")),
        kind => Owner::Other(format!("{}/{name}", kind.to_lowercase())),
    }
}

fn hours(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: Option<(&str, &str)>, phase: &str) -> Value {
        let owners = owner.map(|(kind, name)| {
            json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true}])
        });
        json!({
            "metadata": {
                "name": name, "namespace": "shop",
                "labels": {"pod-template-hash": "5d4f"},
                "annotations": {"tasuki.dev/proxy": "0.1.0"},
                "ownerReferences": owners,
            },
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "tasuki-proxy"}]},
            "status": {"phase": phase},
        })
    }

    fn of(pods: Vec<Value>) -> Injected {
        let pods: Vec<Pod> = pods
            .into_iter()
            .map(|pod| serde_json::from_value(pod).unwrap())
            .collect();
        Injected::of(&pods)
    }

    #[test]
    fn pods_are_listed_by_owner_with_their_commands() {
        let injected = of(vec![
            pod("web-5d4f-a", Some(("ReplicaSet", "web-5d4f")), "Running"),
            pod("web-5d4f-b", Some(("ReplicaSet", "web-5d4f")), "Running"),
            pod("db-0", Some(("StatefulSet", "db")), "Pending"),
            pod("import-x", Some(("Job", "import")), "Running"),
            pod("alone", None, "Running"),
        ]);
        let text = injected.refusal();
        for line in [
            "  shop: deployment/web, 2 pods",
            "  shop: statefulset/db, 1 pod",
            "  shop: job/import, 1 pod",
            "  shop: pod/alone, 1 pod",
            "  kubectl label namespace shop tasuki.dev/inject=disabled --overwrite",
            "  kubectl rollout restart deployment/web --namespace shop",
            "  kubectl rollout restart statefulset/db --namespace shop",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("restart job"), "{text}");
        assert!(text.contains("made again"), "{text}");
    }

    #[test]
    fn pods_that_have_ended_or_are_not_ours_hold_nothing_up() {
        let mut plain = pod("plain", None, "Running");
        plain["spec"]["initContainers"] = json!([]);
        let mut istio = pod("istio", None, "Running");
        istio["metadata"]["annotations"] = json!({});
        let done = pod("done", Some(("Job", "done")), "Succeeded");
        assert!(of(vec![plain, istio, done]).is_empty());
    }

    #[test]
    fn it_is_said_when_certificates_expire() {
        let injected = of(vec![pod("alone", None, "Running")]);
        let text = injected.farewell(Duration::from_secs(24 * 3600));
        assert!(text.contains("expire in 12 h to 24 h"), "{text}");
        let text = injected.farewell(Duration::from_secs(5400));
        assert!(text.contains("expire in 45 min to 1 h 30 min"), "{text}");
    }
}
