//! Injecting what was injected: nothing changes, and nothing of another webhook is lost.

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;

/// Probes and hooks of every sort, also of none.
fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let fields = vec![
        (
            "livenessProbe",
            json!({"httpGet": {"path": "/", "port": "web"}}),
        ),
        (
            "readinessProbe",
            json!({"tcpSocket": {"port": 1}, "timeoutSeconds": 2}),
        ),
        ("startupProbe", json!({"exec": {"command": ["x"]}})),
        ("ports", json!([{"name": "web", "containerPort": 80}])),
        (
            "lifecycle",
            json!({"preStop": {"httpGet": {"port": 80}}, "stopSignal": "SIGINT"}),
        ),
        ("restartPolicy", json!("Always")),
    ];
    let count = 0..=fields.len();
    subsequence(fields, count).prop_map(move |fields| {
        let mut container = json!({"name": name});
        for (field, value) in fields {
            container[field] = value;
        }
        container
    })
}

prop_compose! {
    fn pods()(
        init in proptest::option::of(container("init")),
        first in container("first"),
        second in proptest::option::of(container("second")),
        native in any::<bool>(),
        scrape in any::<bool>(),
        once in any::<bool>(),
    ) -> Value {
        let mut pod = json!({"metadata": {"annotations": {}}, "spec": {}});
        pod["spec"]["containers"] = Vec::from_iter([first].into_iter().chain(second)).into();
        pod["spec"]["initContainers"] = Vec::from_iter(init).into();
        if once {
            pod["spec"]["restartPolicy"] = json!("Never");
        }
        if !native {
            // A native sidecar whose probes would wait for one that is not is refused.
            if let Some(init) = pod["spec"]["initContainers"].get_mut(0).and_then(Value::as_object_mut) {
                init.remove("restartPolicy");
            }
            pod["metadata"]["annotations"]["tasuki.dev/native-sidecar"] = json!("false");
        }
        if scrape {
            pod["metadata"]["annotations"]["prometheus.io/scrape"] = json!("true");
            pod["metadata"]["annotations"]["prometheus.io/port"] = json!("80");
        }
        pod
    }
}

/// What another webhook might add between two calls.
fn add_stranger(pod: &mut Value, at: usize) {
    let stranger = json!({"name": "stranger", "readinessProbe": {"tcpSocket": {"port": 7}}});
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"][list].as_array_mut().unwrap();
        containers.insert(at.min(containers.len()), stranger.clone());
    }
    pod["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "theirs"}));
}

proptest! {
    #[test]
    fn twice_is_once(pod in pods()) {
        let (once, _) = injected(pod);
        prop_assert_eq!(&injected(once.clone()).0, &once);
    }

    #[test]
    fn others_in_between_change_nothing(pod in pods(), at in 0usize..4) {
        let (mut between, _) = injected(pod.clone());
        add_stranger(&mut between, at);
        let (again, _) = injected(between);
        prop_assert_eq!(&injected(again.clone()).0, &again);
        let checks = |pod: &Value| {
            let containers = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().unwrap().clone());
            let all = containers.concat();
            let sidecar = all.iter().find(|c| c["name"] == "tasuki-proxy").unwrap();
            serde_json::from_str::<Value>(variable(sidecar, "TASUKI_PROBES").unwrap_or("{}")).unwrap()
        };
        let mut expected = checks(&injected(pod).0);
        expected["stranger/readiness"] = json!({"tcpSocket": {"port": 7}, "timeoutSeconds": 1});
        prop_assert_eq!(checks(&again), expected);
    }
}

#[test]
fn what_was_changed_after_injection_stays_changed() {
    let mut original = pod();
    original["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 1}});
    let (mut changed, _) = injected(original);
    changed["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 2}});
    let (again, _) = injected(changed);
    let sidecar = &again["spec"]["initContainers"][1];
    assert!(
        variable(sidecar, "TASUKI_PROBES")
            .unwrap()
            .contains(r#""port":2"#)
    );
}

#[test]
fn originals_that_are_lost_are_not_guessed() {
    let mut original = pod();
    original["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 1}});
    let (mut injected, _) = injected(original);
    injected["metadata"]["annotations"]["tasuki.dev/probes"] = json!("{");
    assert!(
        refused(injected)
            .starts_with("readinessProbe of container cart leads to the sidecar already")
    );
}
