//! What injection makes of pods: additions, probes, refusals, and that doing it twice is doing it once.

use serde_json::{Value, json};

use super::*;

mod again;
mod offline;
mod refusals;
mod rewriting;

fn settings() -> InjectionSettings {
    InjectionSettings::new("tasuki-proxy:test")
}

fn meshed() -> Namespace {
    namespace(&[("tasuki.dev/inject", "enabled")])
}

fn namespace(labels: &[(&str, &str)]) -> Namespace {
    Namespace {
        name: "shop".to_owned(),
        labels: labels
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "cart-", "labels": {"app": "cart"}},
        "spec": {
            "futureField": {"kept": true},
            "initContainers": [{"name": "migrate", "image": "migrate"}],
            "containers": [{"name": "cart", "image": "cart", "ports": [{"name": "web", "containerPort": 8080}]}],
        },
    })
}

fn injected(pod: Value) -> (Value, Vec<String>) {
    match inject(pod, &meshed(), &settings(), HookKey::random()) {
        Outcome::Injected { pod, warnings } => (pod, warnings),
        other => panic!("{other:?}"),
    }
}

fn refused(pod: Value) -> String {
    match inject(pod, &meshed(), &settings(), HookKey::random()) {
        Outcome::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn names(containers: &Value) -> Vec<&str> {
    let containers = containers.as_array().unwrap();
    containers
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect()
}

/// A variable of the sidecar's environment.
fn variable<'a>(sidecar: &'a Value, name: &str) -> Option<&'a str> {
    let environment = sidecar["env"].as_array().unwrap();
    environment.iter().find(|v| v["name"] == name)?["value"].as_str()
}

#[test]
fn a_native_sidecar_starts_before_the_pods_own_init_containers() {
    let (pod, warnings) = injected(pod());
    assert_eq!(warnings, [""; 0]);
    let spec = &pod["spec"];
    assert_eq!(
        names(&spec["initContainers"]),
        ["tasuki-redirect", "tasuki-proxy", "migrate"]
    );
    assert_eq!(names(&spec["containers"]), ["cart"]);
    assert_eq!(spec["futureField"]["kept"], true);
    let sidecar = &spec["initContainers"][1];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["securityContext"]["runAsUser"], 1337);
    assert_eq!(
        variable(sidecar, "TASUKI_CONTROL"),
        Some("https://tasuki-control.tasuki-system.svc:15012")
    );
    assert_eq!(variable(sidecar, "TASUKI_PRESTOP_LIMIT"), Some("10000ms"));
    assert_eq!(
        pod["metadata"]["labels"]["security.istio.io/tlsMode"],
        "istio"
    );
    assert_eq!(
        pod["metadata"]["annotations"]["tasuki.dev/proxy"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        spec["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"],
        "/app/cart/prestop"
    );
}

#[test]
fn a_classic_sidecar_runs_among_the_containers() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"tasuki.dev/native-sidecar": "false"});
    let (pod, _) = injected(pod);
    let spec = &pod["spec"];
    assert_eq!(
        names(&spec["initContainers"]),
        ["migrate", "tasuki-redirect"]
    );
    assert_eq!(names(&spec["containers"]), ["tasuki-proxy", "cart"]);
    assert_eq!(spec["containers"][0].get("restartPolicy"), None);
    let lifecycle = &spec["containers"][0]["lifecycle"];
    assert_eq!(lifecycle["preStop"]["httpGet"]["port"], 15021);
    assert_eq!(
        lifecycle["postStart"]["exec"]["command"],
        json!(["tasuki-proxy", "wait"]),
        "nothing starts before its network"
    );
    assert_eq!(
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"],
        "cart"
    );
}

/// The key that the kubelet shows when it calls a hook.
fn shown(hook: &Value) -> &str {
    let headers = hook["httpGet"]["httpHeaders"].as_array().unwrap();
    assert_eq!(headers[0]["name"], "tasuki-hook-key");
    headers[0]["value"].as_str().unwrap()
}

#[test]
fn hooks_have_a_key_that_the_sidecar_knows() {
    let (first, _) = injected(pod());
    let sidecar = &first["spec"]["initContainers"][1];
    let key = variable(sidecar, "TASUKI_HOOK_KEY").unwrap();
    let hook = &first["spec"]["containers"][0]["lifecycle"]["preStop"];
    assert_eq!(shown(hook), key);
    let (second, _) = injected(pod());
    let sidecar = &second["spec"]["initContainers"][1];
    assert_ne!(variable(sidecar, "TASUKI_HOOK_KEY"), Some(key));
    let mut classic = pod();
    classic["metadata"]["annotations"] = json!({"tasuki.dev/native-sidecar": "false"});
    let (classic, _) = injected(classic);
    let sidecar = &classic["spec"]["containers"][0];
    let key = variable(sidecar, "TASUKI_HOOK_KEY").unwrap();
    assert_eq!(shown(&sidecar["lifecycle"]["preStop"]), key);
}

#[test]
fn a_key_that_is_none_is_replaced() {
    let (mut broken, _) = injected(pod());
    let environment = &mut broken["spec"]["initContainers"][1]["env"];
    for variable in environment.as_array_mut().unwrap() {
        if variable["name"] == "TASUKI_HOOK_KEY" {
            variable["value"] = json!("guess");
        }
    }
    let (mended, _) = injected(broken);
    let key = variable(&mended["spec"]["initContainers"][1], "TASUKI_HOOK_KEY").unwrap();
    assert_eq!(key.len(), 32);
    let hook = &mended["spec"]["containers"][0]["lifecycle"]["preStop"];
    assert_eq!(shown(hook), key);
}

#[test]
fn the_pod_says_what_its_sidecar_is_like() {
    let mut pod = pod();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    pod["metadata"]["annotations"] = json!({
        "tasuki.dev/exclude-inbound-ports": "9000, 9001",
        "tasuki.dev/exclude-outbound-ports": "5432",
        "tasuki.dev/exclude-outbound-cidrs": "10.0.0.0/8,fd00::/8",
        "tasuki.dev/log-level": "info,tasuki_proxy=debug",
        "tasuki.dev/workers": "3",
        "tasuki.dev/cpu": "3",
        "tasuki.dev/memory": "64Mi",
        "tasuki.dev/memory-limit": "128Mi",
        "tasuki.dev/drain-time": "1m30s",
        "tasuki.dev/drain-minimum": "0",
    });
    let (pod, warnings) = injected(pod);
    assert_eq!(warnings, [""; 0]);
    let init = &pod["spec"]["initContainers"];
    assert_eq!(
        init[0]["args"],
        json!([
            "redirect",
            "install",
            "--exclude-inbound-ports=9000,9001",
            "--exclude-outbound-ports=5432",
            "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8",
        ])
    );
    let expected = json!({
        "requests": {"cpu": "3", "memory": "64Mi"},
        "limits": {"cpu": "3", "memory": "128Mi"},
    });
    assert_eq!(init[1]["resources"], expected);
    for (name, value) in [
        ("TASUKI_LOG", "info,tasuki_proxy=debug"),
        ("TASUKI_WORKERS", "3"),
        ("TASUKI_DRAIN_TIME", "90000ms"),
        ("TASUKI_DRAIN_MINIMUM", "0ms"),
        ("TASUKI_PRESTOP_LIMIT", "2500ms"),
    ] {
        assert_eq!(variable(&init[1], name), Some(value), "{name}");
    }
}

#[test]
fn the_patch_leads_from_one_pod_to_the_other() {
    let before = pod();
    let (after, _) = injected(before.clone());
    let patch: json_patch::Patch =
        serde_json::from_slice(&patch(&before, &after).unwrap()).unwrap();
    let mut patched = before;
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched, after);
}
