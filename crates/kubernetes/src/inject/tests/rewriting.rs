//! Probes, hooks and scraping that lead to the sidecar.

use super::*;

fn with_container(container: Value) -> Value {
    let mut pod = pod();
    for (name, value) in container.as_object().unwrap() {
        pod["spec"]["containers"][0][name] = value.clone();
    }
    pod
}

fn checks(pod: &Value) -> Value {
    let text = variable(&pod["spec"]["initContainers"][1], "TASUKI_PROBES").unwrap_or("{}");
    serde_json::from_str(&text.replace("$$", "$")).unwrap()
}

#[test]
fn probes_of_every_kind_are_performed_by_the_sidecar() {
    let (pod, _) = injected(with_container(json!({
        "livenessProbe": {"httpGet": {"path": "/live?$(HOME)", "port": "web", "scheme": "HTTPS"}, "periodSeconds": 7, "timeoutSeconds": 4},
        "readinessProbe": {"grpc": {"port": 9000, "service": "cart"}},
        "startupProbe": {"tcpSocket": {"port": 6379}, "failureThreshold": 9},
    })));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        container["livenessProbe"],
        json!({"httpGet": {"path": "/app/cart/liveness", "port": 15021, "scheme": "HTTP"}, "periodSeconds": 7, "timeoutSeconds": 5})
    );
    assert_eq!(
        container["readinessProbe"]["httpGet"]["path"],
        "/app/cart/readiness"
    );
    assert_eq!(container["readinessProbe"].get("grpc"), None);
    assert_eq!(container["startupProbe"]["failureThreshold"], 9);
    assert_eq!(
        checks(&pod),
        json!({
            "cart/liveness": {"httpGet": {"path": "/live?$(HOME)", "port": 8080, "scheme": "HTTPS"}, "timeoutSeconds": 4},
            "cart/readiness": {"grpc": {"port": 9000, "service": "cart"}, "timeoutSeconds": 1},
            "cart/startup": {"tcpSocket": {"port": 6379}, "timeoutSeconds": 1},
        })
    );
}

#[test]
fn probes_that_do_not_reach_the_pod_by_network_stay() {
    let exec = json!({"exec": {"command": ["true"]}});
    let host = json!({"httpGet": {"host": "example.com", "port": 80}});
    let nowhere = json!({"tcpSocket": {"port": "none"}});
    let (pod, warnings) = injected(with_container(json!({
        "livenessProbe": exec,
        "readinessProbe": host,
        "startupProbe": nowhere,
        "lifecycle": {"postStart": {"exec": {"command": ["true"]}}},
    })));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["livenessProbe"], exec);
    assert_eq!(container["readinessProbe"], host);
    assert_eq!(container["startupProbe"], nowhere);
    assert_eq!(
        container["lifecycle"]["postStart"]["exec"]["command"][0],
        "true"
    );
    assert!(
        warnings[0].starts_with("startupProbe of container cart names a port"),
        "{warnings:?}"
    );
    assert_eq!(checks(&pod), json!({}));
}

#[test]
fn what_the_sidecar_does_not_know_is_told() {
    let (pod, warnings) = injected(with_container(json!({
        "readinessProbe": {"httpGet": {"port": 8080, "path": null, "version": "3"}},
    })));
    assert_eq!(
        warnings,
        [
            "httpGet.version of readinessProbe of container cart is not known to the sidecar and has no effect"
        ]
    );
    assert_eq!(
        checks(&pod)["cart/readiness"]["httpGet"],
        json!({"port": 8080})
    );
}

#[test]
fn hooks_over_http_are_performed_by_the_sidecar() {
    let (pod, warnings) = injected(with_container(json!({"lifecycle": {
        "postStart": {"httpGet": {"path": "/warm", "port": 8080}},
        "preStop": {"httpGet": {"path": "/bye", "port": "web"}},
    }})));
    let lifecycle = &pod["spec"]["containers"][0]["lifecycle"];
    assert_eq!(
        lifecycle["postStart"]["httpGet"]["path"],
        "/app/cart/poststart"
    );
    assert_eq!(lifecycle["preStop"]["httpGet"]["port"], 15021);
    assert_eq!(
        checks(&pod),
        json!({
            "cart/poststart": {"httpGet": {"path": "/warm", "port": 8080}},
            "cart/prestop": {"httpGet": {"path": "/bye", "port": 8080}, "timeoutSeconds": 30},
        })
    );
    assert!(
        warnings[0].starts_with("container cart has a preStop of its own"),
        "{warnings:?}"
    );
}

#[test]
fn a_pre_stop_of_ones_own_stays() {
    let sleep = json!({"preStop": {"sleep": {"seconds": 5}}, "stopSignal": "SIGUSR1"});
    let (pod, warnings) = injected(with_container(json!({"lifecycle": sleep})));
    assert_eq!(pod["spec"]["containers"][0]["lifecycle"], sleep);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn what_runs_once_gets_no_pre_stop() {
    let mut job = pod();
    job["spec"]["restartPolicy"] = json!("Never");
    let (job, _) = injected(job);
    assert_eq!(job["spec"]["containers"][0].get("lifecycle"), None);
}

#[test]
fn native_sidecars_of_the_application_are_probed_too() {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{
        "name": "cache",
        "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 6379}},
    }]);
    let (pod, _) = injected(pod);
    let cache = &pod["spec"]["initContainers"][2];
    assert_eq!(
        cache["startupProbe"]["httpGet"]["path"],
        "/app/cache/startup"
    );
    assert_eq!(cache.get("lifecycle"), None);
}

#[test]
fn scraping_finds_both_metrics_in_one_place() {
    let annotated = |annotations: Value| {
        let mut pod = pod();
        pod["metadata"]["annotations"] = annotations;
        injected(pod)
    };
    let metrics = |pod: &Value| {
        let sidecar = &pod["spec"]["initContainers"][1];
        variable(sidecar, "TASUKI_APPLICATION_METRICS").map(str::to_owned)
    };
    let (pod, _) = annotated(
        json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9100", "prometheus.io/path": "stats"}),
    );
    assert_eq!(metrics(&pod).as_deref(), Some(":9100/stats"));
    assert_eq!(
        pod["metadata"]["annotations"]["prometheus.io/port"],
        "15020"
    );
    assert_eq!(
        pod["metadata"]["annotations"]["prometheus.io/path"],
        "/metrics"
    );
    let (pod, _) = annotated(json!({"prometheus.io/scrape": "true"}));
    assert_eq!(metrics(&pod).as_deref(), Some(":8080/metrics"));
    let (pod, warnings) =
        annotated(json!({"prometheus.io/scrape": "true", "prometheus.io/path": "/a<b"}));
    assert_eq!((metrics(&pod), warnings.len()), (None, 1));
    let (pod, _) = annotated(json!({"prometheus.io/port": "9100"}));
    assert_eq!(metrics(&pod), None);
    let (pod, warnings) =
        annotated(json!({"prometheus.io/scrape": "true", "prometheus.io/scheme": "https"}));
    assert_eq!((metrics(&pod), warnings.len()), (None, 1));
}
