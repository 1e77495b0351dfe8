//! Manifests: which documents are changed, and that the others are not.

use super::*;
use crate::inject::offline::inject_manifests;

const TEMPLATE: &str =
    "{metadata: {labels: {app: cart}}, spec: {containers: [{name: cart, image: cart}]}}";

fn manifests(text: &str) -> (Vec<Value>, Vec<String>) {
    let manifests = inject_manifests(text, &settings(), HookKey::random).unwrap();
    let parsed = serde_saphyr::from_multiple(&manifests.text).unwrap();
    (parsed, manifests.notes)
}

#[test]
fn every_kind_that_makes_pods() {
    let mut text = String::new();
    for kind in [
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "Job",
    ] {
        text += &format!(
            "---\nkind: {kind}\nmetadata: {{name: cart}}\nspec: {{template: {TEMPLATE}}}\n"
        );
    }
    let (parsed, notes) = manifests(&text);
    assert_eq!((parsed.len(), notes.len()), (5, 0));
    for object in &parsed {
        let init = &object["spec"]["template"]["spec"]["initContainers"];
        assert_eq!(names(init), ["tasuki-redirect", "tasuki-proxy"]);
    }
    let cron = format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {TEMPLATE}}}}}}}");
    let (parsed, _) = manifests(&cron);
    let template = &parsed[0]["spec"]["jobTemplate"]["spec"]["template"];
    assert_eq!(
        template["metadata"]["labels"]["security.istio.io/tlsMode"],
        "istio"
    );
    let list = "kind: List\nitems:\n- {kind: Pod, metadata: {name: a}, spec: {containers: [{name: a}]}}\n- {kind: Service}\n";
    let (parsed, _) = manifests(list);
    assert_eq!(
        names(&parsed[0]["items"][0]["spec"]["initContainers"])[1],
        "tasuki-proxy"
    );
    assert_eq!(parsed[0]["items"][1], json!({"kind": "Service"}));
}

#[test]
fn other_documents_stay_to_the_letter() {
    let other = "# A comment\nkind:   ConfigMap\ndata: {mode: '0644', on: \"yes\"}\n";
    let text =
        format!("{other}---\nkind: Deployment\nspec: {{template: {TEMPLATE}}}\n---\n{other}");
    let injected = inject_manifests(&text, &settings(), HookKey::random)
        .unwrap()
        .text;
    assert!(
        injected.starts_with(other) && injected.ends_with(&format!("---\n{other}")),
        "{injected}"
    );
    let again = inject_manifests(&injected, &settings(), HookKey::random)
        .unwrap()
        .text;
    assert_eq!(again, injected);
}

#[test]
fn values_keep_their_types() {
    let text = "kind: Pod\nspec:\n  containers:\n  - {name: a, env: [{name: A, value: 'on'}, {name: B, value: '010'}]}\n  volumes:\n  - {name: v, secret: {secretName: s, defaultMode: 0640}}\n";
    let injected = inject_manifests(text, &settings(), HookKey::random)
        .unwrap()
        .text;
    let parsed: Value = serde_saphyr::from_str(&injected).unwrap();
    let spec = &parsed["spec"];
    assert_eq!(
        spec["containers"][0]["env"],
        json!([{"name": "A", "value": "on"}, {"name": "B", "value": "010"}])
    );
    assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 0o640);
    // YAML 1.1 readers, such as kubectl, take these for something else without quotes.
    assert!(
        injected.contains("\"on\"") || injected.contains("'on'"),
        "{injected}"
    );
    assert!(
        injected.contains("\"010\"") || injected.contains("'010'"),
        "{injected}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let error = |text: &str| inject_manifests(text, &settings(), HookKey::random).unwrap_err();
    assert!(error("kind: Pod\n---\n- [").starts_with("Pod default/: spec.containers is empty"));
    assert!(error("a: b\n---\n- [").starts_with("document of line 2: "));
    assert_eq!(
        error("kind: Job\nmetadata: {name: x, namespace: shop}"),
        "Job shop/x: has no spec.template"
    );
    let (parsed, notes) = manifests(
        "kind: Pod\nmetadata: {name: x}\nspec: {hostNetwork: true, containers: [{name: a}]}",
    );
    assert_eq!(parsed[0]["spec"].get("initContainers"), None);
    assert!(
        notes[0].starts_with("Pod default/x: no sidecar: hostNetwork"),
        "{notes:?}"
    );
}
