//! The manifests against what a cluster and its owner demand of them.

use serde_json::Value;

use super::*;
use crate::access;

fn rendered(set: &[&str]) -> Manifests {
    let mut values = Values::defaults().unwrap();
    for assignment in set {
        values.set(assignment).unwrap();
    }
    Manifests::render(&values.settings().unwrap())
}

/// Whether a selector takes labels, as the API server decides it.
fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
    let requirements = selector["matchExpressions"].as_array().unwrap();
    requirements.iter().all(|requirement| {
        let value = labels
            .iter()
            .find(|(key, _)| requirement["key"] == *key)
            .map(|(_, value)| *value);
        let values = requirement["values"].as_array();
        let mut values = values.into_iter().flatten();
        let listed = values.any(|one| value.is_some_and(|value| one == value));
        match requirement["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("DoesNotExist") => value.is_none(),
            other => panic!("{other:?}"),
        }
    })
}

/// How many of the injecting webhooks are asked about a pod.
fn asked(manifests: &Manifests, namespace: &[(&str, &str)], pod: &[(&str, &str)]) -> usize {
    let webhooks = manifests.mutating_webhook.webhooks.as_ref().unwrap();
    webhooks
        .iter()
        .map(|webhook| serde_json::to_value(webhook).unwrap())
        .filter(|webhook| {
            selects(&webhook["namespaceSelector"], namespace)
                && selects(&webhook["objectSelector"], pod)
        })
        .count()
}

const ENABLED: (&str, &str) = (INJECT_LABEL, "enabled");
const DISABLED: (&str, &str) = (INJECT_LABEL, "disabled");
const ISTIO: (&str, &str) = ("istio-injection", "enabled");

#[test]
fn pods_are_sent_once_when_namespace_or_pod_asks() {
    let manifests = rendered(&[]);
    assert_eq!(asked(&manifests, &[ENABLED], &[]), 1);
    assert_eq!(asked(&manifests, &[ENABLED], &[ENABLED]), 1);
    assert_eq!(asked(&manifests, &[ENABLED], &[DISABLED]), 0);
    assert_eq!(asked(&manifests, &[], &[]), 0);
    assert_eq!(asked(&manifests, &[], &[ENABLED]), 1);
    assert_eq!(asked(&manifests, &[DISABLED], &[ENABLED]), 0);
    assert_eq!(asked(&manifests, &[ISTIO], &[]), 0);
}

#[test]
fn istios_label_counts_when_told_to() {
    let manifests = rendered(&["injection.istioLabel=true"]);
    assert_eq!(asked(&manifests, &[ISTIO], &[]), 1);
    assert_eq!(asked(&manifests, &[ISTIO], &[ENABLED]), 1);
    assert_eq!(asked(&manifests, &[ISTIO, ENABLED], &[]), 1);
    assert_eq!(asked(&manifests, &[ISTIO, DISABLED], &[]), 0);
    assert_eq!(asked(&manifests, &[ISTIO], &[DISABLED]), 0);
    let refused = ("sidecar.istio.io/inject", "false");
    assert_eq!(asked(&manifests, &[ISTIO], &[refused]), 0);
}

#[test]
fn our_own_namespace_and_the_clusters_never_wait_for_us() {
    let manifests = rendered(&["injection.istioLabel=true"]);
    for namespace in [SYSTEM_NAMESPACE, "kube-system"] {
        let name = ("kubernetes.io/metadata.name", namespace);
        for labels in [
            &[name][..],
            &[name, ENABLED],
            &[name, DISABLED],
            &[name, ISTIO],
        ] {
            for pod in [&[][..], &[ENABLED], &[DISABLED]] {
                assert_eq!(asked(&manifests, labels, pod), 0, "{labels:?} {pod:?}");
            }
        }
    }
}

#[test]
fn each_written_resource_is_validated_once_but_not_istios() {
    let asked = |manifests: &Manifests, namespace: &[(&str, &str)]| {
        let webhooks = manifests.validating_webhook.webhooks.as_ref().unwrap();
        webhooks
            .iter()
            .filter_map(|webhook| webhook.namespace_selector.as_ref())
            .map(|selector| serde_json::to_value(selector).unwrap())
            .filter(|selector| selects(selector, namespace))
            .count()
    };
    let manifests = rendered(&[]);
    let name = ("kubernetes.io/metadata.name", SYSTEM_NAMESPACE);
    assert_eq!(asked(&manifests, &[]), 1);
    assert_eq!(asked(&manifests, &[name]), 1);
    assert_eq!(asked(&manifests, &[name, DISABLED]), 1);
    assert_eq!(asked(&manifests, &[DISABLED]), 0);
    assert_eq!(asked(&manifests, &[ISTIO]), 0);
    assert_eq!(asked(&manifests, &[("istio.io/rev", "canary")]), 0);
    let istios = ("kubernetes.io/metadata.name", "istio-system");
    assert_eq!(asked(&manifests, &[istios]), 0);
    let honoured = rendered(&["injection.istioLabel=true"]);
    assert_eq!(asked(&honoured, &[ISTIO]), 1);
}

#[test]
fn what_the_control_plane_writes_is_not_sent() {
    for object in rendered(&[]).objects().unwrap() {
        let text = object.to_string();
        assert!(!text.contains("caBundle"), "{text}");
        assert_ne!(object["kind"], "Secret");
    }
}

#[test]
fn roles_are_what_the_control_plane_needs() {
    let manifests = rendered(&[]);
    let granted = |rules: &Option<Vec<_>>| rules.as_ref().map_or(0, Vec::len);
    let needed = |parts: &[&[access::Rule]]| parts.iter().map(|part| part.len()).sum::<usize>();
    let cluster = &manifests.cluster_role.rules;
    assert_eq!(granted(cluster), needed(access::CLUSTER));
    assert_eq!(granted(&manifests.role.rules), needed(access::NAMESPACE));
    let text = serde_json::to_string(cluster).unwrap();
    assert!(!text.contains("\"*\""), "{text}");
    assert!(!text.contains("secrets"), "{text}");
}

#[test]
fn the_control_plane_has_no_privilege() {
    for set in [&[][..], &["webhook.hostNetwork=true"]] {
        let deployment = value(&rendered(set).deployment).unwrap();
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let profile = &pod["securityContext"]["seccompProfile"];
        assert_eq!(profile["type"], "RuntimeDefault");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(
            container["capabilities"],
            serde_json::json!({"drop": ["ALL"]})
        );
    }
}

#[test]
fn a_webhook_port_is_the_same_wherever_it_is_named() {
    let manifests = rendered(&["webhook.port=10260"]);
    let deployment = value(&manifests.deployment).unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&"--webhook=0.0.0.0:10260".into()));
    assert_eq!(container["ports"][1]["containerPort"], 10260);
    let policy = value(&manifests.network_policy).unwrap();
    assert_eq!(policy["spec"]["ingress"][0]["ports"][1]["port"], 10260);
}

#[test]
fn pods_in_their_nodes_network_make_room_for_each_other() {
    let manifests = rendered(&["webhook.hostNetwork=true"]);
    let deployment = value(&manifests.deployment).unwrap();
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(
        update,
        &serde_json::json!({"maxSurge": 0, "maxUnavailable": 1})
    );
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["dnsPolicy"], "ClusterFirstWithHostNet");
    let labels = manifests.namespace.metadata.labels.unwrap();
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
}
