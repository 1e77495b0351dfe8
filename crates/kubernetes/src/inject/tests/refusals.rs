//! Who gets no sidecar, silently or with a reason.

use super::*;

fn skipped(pod: Value, namespace: &Namespace) -> Skip {
    match inject(pod, namespace, &settings(), HookKey::random()) {
        Outcome::Skipped(skip) => skip,
        other => panic!("{other:?}"),
    }
}

fn labelled(value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["labels"]["tasuki.dev/inject"] = json!(value);
    pod
}

#[test]
fn the_pod_counts_more_than_its_namespace() {
    let off = namespace(&[("tasuki.dev/inject", "disabled")]);
    assert!(matches!(
        inject(labelled("enabled"), &off, &settings(), HookKey::random()),
        Outcome::Injected { .. }
    ));
    assert_eq!(skipped(labelled("disabled"), &meshed()), Skip::Disabled);
    assert_eq!(skipped(pod(), &off), Skip::Disabled);
    assert_eq!(skipped(pod(), &namespace(&[])), Skip::NotAsked);
    assert!(refused(labelled("true")).ends_with("write enabled or disabled"));
}

#[test]
fn istios_label_counts_when_told_to() {
    let istio = namespace(&[("istio-injection", "enabled")]);
    assert_eq!(skipped(pod(), &istio), Skip::NotAsked);
    let mut settings = settings();
    settings.istio_injection = true;
    assert!(matches!(
        inject(pod(), &istio, &settings, HookKey::random()),
        Outcome::Injected { .. }
    ));
    let mut own = pod();
    own["metadata"]["labels"]["sidecar.istio.io/inject"] = json!("false");
    assert_eq!(
        inject(own, &istio, &settings, HookKey::random()),
        Outcome::Skipped(Skip::Disabled)
    );
    let both = namespace(&[
        ("istio-injection", "enabled"),
        ("tasuki.dev/inject", "disabled"),
    ]);
    assert_eq!(
        inject(pod(), &both, &settings, HookKey::random()),
        Outcome::Skipped(Skip::Disabled)
    );
}

#[test]
fn pods_that_cannot_have_a_sidecar() {
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut pod = pod();
        edit(&mut pod);
        skipped(pod, &meshed())
    };
    assert_eq!(
        with(&|pod| pod["spec"]["hostNetwork"] = json!(true)),
        Skip::HostNetwork
    );
    assert_eq!(
        with(&|pod| pod["spec"]["os"] = json!({"name": "windows"})),
        Skip::Windows
    );
    let windows = json!({"kubernetes.io/os": "windows"});
    assert_eq!(
        with(&|pod| pod["spec"]["nodeSelector"] = windows.clone()),
        Skip::Windows
    );
    let istio = json!([{"name": "istio-proxy", "restartPolicy": "Always"}]);
    assert_eq!(
        with(&|pod| pod["spec"]["initContainers"] = istio.clone()),
        Skip::OtherMesh("istio-proxy")
    );
    let mirror = json!({"kubernetes.io/config.mirror": "1"});
    assert_eq!(
        with(&|pod| pod["metadata"]["annotations"] = mirror.clone()),
        Skip::MirrorPod
    );
    for name in ["tasuki-system", "kube-system"] {
        let system = Namespace {
            name: name.to_owned(),
            ..meshed()
        };
        assert_eq!(skipped(labelled("enabled"), &system), Skip::SystemNamespace);
    }
}

#[test]
fn the_sidecars_user_is_nobody_elses() {
    let mut of_container = pod();
    of_container["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1337});
    assert!(refused(of_container).starts_with("container cart has runAsUser 1337"));
    let mut of_pod = pod();
    of_pod["spec"]["securityContext"] = json!({"runAsGroup": 1337});
    assert!(refused(of_pod.clone()).starts_with("container migrate has runAsGroup 1337"));
    for list in ["initContainers", "containers"] {
        of_pod["spec"][list][0]["securityContext"] = json!({"runAsGroup": 1000});
    }
    injected(of_pod);
}

#[test]
fn a_native_sidecar_cannot_wait_for_one_that_is_not() {
    let with = |field: &str, probe: Value| {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"tasuki.dev/native-sidecar": "false"});
        pod["spec"]["initContainers"] = json!([{"name": "cache", "restartPolicy": "Always"}]);
        pod["spec"]["initContainers"][0][field] = probe;
        pod
    };
    let tcp = json!({"tcpSocket": {"port": 6379}});
    for (field, probe) in [
        ("startupProbe", tcp.clone()),
        ("livenessProbe", json!({"grpc": {"port": 1}})),
        ("lifecycle", json!({"postStart": {"httpGet": {"port": 1}}})),
    ] {
        let reason = refused(with(field, probe));
        for part in ["native sidecar cache", "tasuki.dev/native-sidecar=true"] {
            assert!(reason.contains(part), "{reason}");
        }
    }
    for (field, probe) in [
        ("startupProbe", json!({"exec": {"command": ["true"]}})),
        ("readinessProbe", tcp.clone()),
    ] {
        injected(with(field, probe));
    }
    let mut ordinary = with("startupProbe", tcp);
    ordinary["spec"]["initContainers"][0]["restartPolicy"] = Value::Null;
    injected(ordinary);
}

#[test]
fn headers_that_cannot_be_sent() {
    let with = |get: Value| {
        let mut pod = pod();
        pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": get});
        pod
    };
    let header = |name: &str, value: &str| {
        with(json!({"port": 1, "httpHeaders": [{"name": name, "value": value}]}))
    };
    let reason = refused(header("X-Shop", "a\nb"));
    assert!(
        reason.starts_with("httpGet.httpHeaders[0].value of readinessProbe of container cart"),
        "{reason}"
    );
    injected(header("X-Shop", "K\u{e4}se"));
    let reason = refused(header("X-Shop", &"x".repeat(200_000)));
    assert!(
        reason.contains("200") && reason.contains("100000"),
        "{reason}"
    );
    // Kubernetes refuses these, in its own words, if it sees them.
    let two = json!({"httpGet": {"port": 1}, "tcpSocket": {"port": 1}});
    for probe in [
        header("a b", "")["spec"]["containers"][0]["readinessProbe"].clone(),
        json!({"httpGet": {"port": 1, "scheme": "ftp"}}),
        two,
    ] {
        let mut pod = pod();
        pod["spec"]["containers"][0]["readinessProbe"] = probe.clone();
        let (pod, _) = injected(pod);
        assert_eq!(pod["spec"]["containers"][0]["readinessProbe"], probe);
    }
}

#[test]
fn a_namespace_that_forbids_the_init_container() {
    for (level, fits) in [
        ("privileged", true),
        ("baseline", false),
        ("restricted", false),
    ] {
        let namespace = namespace(&[
            ("tasuki.dev/inject", "enabled"),
            ("pod-security.kubernetes.io/enforce", level),
        ]);
        match inject(pod(), &namespace, &settings(), HookKey::random()) {
            Outcome::Injected { .. } => assert!(fits),
            Outcome::Refused(reason) => {
                assert!(
                    !fits && reason.contains(level) && reason.contains("NET_ADMIN"),
                    "{reason}"
                )
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn malformed_annotations_are_named() {
    for (name, value, right) in [
        ("exclude-inbound-ports", "80-90", "port numbers"),
        ("exclude-outbound-ports", "0", "port numbers"),
        ("exclude-outbound-cidrs", "10.0.0.0/33", "blocks"),
        ("log-level", "loud", "debug"),
        ("workers", "0", "1 to 64"),
        ("cpu", "much", "100m"),
        ("memory", "-1", "64Mi"),
        ("cpu-limit", "10m", "at least 50m"),
        ("memory-limit", "1Gb", "256Mi"),
        ("drain-time", "30", "30s"),
        ("drain-minimum", "soon", "30s"),
        ("native-sidecar", "no", "false"),
        ("drain-time", "2h", "at most 1h"),
    ] {
        let mut pod = pod();
        let name = format!("tasuki.dev/{name}");
        pod["metadata"]["annotations"] = json!({ &name: value });
        let reason = refused(pod);
        assert!(
            reason.contains(&name) && reason.contains(value) && reason.contains(right),
            "{reason}"
        );
    }
}

#[test]
fn slips_are_warned_of() {
    let mut pod = pod();
    pod["metadata"]["annotations"] =
        json!({"tasuki.dev/inject": "enabled", "tasuki.dev/worker": "1"});
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15021}]);
    let (_, warnings) = injected(pod);
    assert!(warnings[0].contains("it is a label"), "{warnings:?}");
    assert!(warnings[1].contains("tasuki.dev/worker "), "{warnings:?}");
    assert!(warnings[2].contains("15021"), "{warnings:?}");
}

#[test]
fn what_is_no_pod_is_refused() {
    for (value, reason) in [
        (json!([]), "not an object"),
        (json!({"spec": {}}), "spec.containers is empty"),
        (
            json!({"spec": {"containers": {}}}),
            "spec.containers is not a list",
        ),
        (
            json!({"spec": {"containers": [{}]}}),
            "spec.containers[0].name is missing",
        ),
        (
            json!({"metadata": {"labels": 1}, "spec": {}}),
            "labels is not an object",
        ),
    ] {
        assert!(refused(value).contains(reason), "{reason}");
    }
}
