//! Probes under STRICT: the kubelet has no certificate, and what it learns must be the application's own answer.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tasuki_testkit::cluster::{LIMIT, Space};
use tasuki_testkit::wait;

use crate::app::{self, App, deployment, mtls};
use crate::mesh;
use crate::shop::INJECTED;

/// The four kinds, before an application that answers them and before one that does not.
fn probes() -> Vec<(&'static str, Vec<&'static str>, Value, bool)> {
    let plain = || vec!["--listen=0.0.0.0:8080"];
    vec![
        (
            "http",
            plain(),
            json!({"httpGet": {"path": "/ready", "port": 8080}}),
            true,
        ),
        (
            "http-named",
            plain(),
            json!({"httpGet": {"path": "/ready", "port": "http"}}),
            true,
        ),
        (
            "http-status",
            plain(),
            json!({"httpGet": {"path": "/status/500", "port": 8080}}),
            false,
        ),
        (
            "https",
            vec!["--listen=0.0.0.0:8080", "--kind=https"],
            json!({"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTPS"}}),
            true,
        ),
        (
            "https-plain",
            plain(),
            json!({"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTPS"}}),
            false,
        ),
        ("tcp", plain(), json!({"tcpSocket": {"port": 8080}}), true),
        (
            "tcp-closed",
            plain(),
            json!({"tcpSocket": {"port": 8081}}),
            false,
        ),
        ("grpc", plain(), json!({"grpc": {"port": 8080}}), true),
        (
            "grpc-other",
            vec!["--listen=0.0.0.0:8080", "--kind=echo"],
            json!({"grpc": {"port": 8080}}),
            false,
        ),
        (
            "exec",
            plain(),
            json!({"exec": {"command": ["tasuki-load", "127.0.0.1:8080", "--requests=1", "--strict"]}}),
            true,
        ),
    ]
}

#[test]
fn probes_tell_the_truth() {
    let Some((cluster, _mesh)) = mesh("kubernetes: probes") else {
        return;
    };
    let space = cluster.space("probes", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    let cases = probes();
    for (name, arguments, probe, _) in &cases {
        let mut probe = probe.clone();
        probe["periodSeconds"] = json!(1);
        probe["timeoutSeconds"] = json!(10);
        let container = json!({"args": arguments, "readinessProbe": probe});
        App::new(name).container(container).deploy(&space).unwrap();
    }
    for (name, _, _, ready) in &cases {
        if *ready {
            space.rolled_out(&deployment(name)).unwrap();
        } else {
            failed_probe(&space, name);
        }
    }
    // After all others had their time: what was wrong did not become right.
    for (name, _, _, ready) in &cases {
        for pod in space.pods(&format!("app={name}")).unwrap() {
            assert_eq!(app::is_ready(&pod), *ready, "{name}: {}", pod["status"]);
        }
    }
    readiness_follows_the_application(&space);
}

/// Waits until the kubelet says that it asked and was told no.
fn failed_probe(space: &Space, name: &str) {
    wait::until(&format!("the probe of {name} fails"), LIMIT, || {
        let pods = space.pods(&format!("app={name}"))?;
        let pod = pods.first().context("no pod")?["metadata"]["name"]
            .as_str()
            .context("no name")?;
        let selector = format!("--field-selector=reason=Unhealthy,involvedObject.name={pod}");
        let events = space.get(&["events", &selector])?;
        let events = events["items"].as_array().context("no list")?;
        let told = events.iter().any(|event| {
            let field = event["involvedObject"]["fieldPath"]
                .as_str()
                .unwrap_or_default();
            field == "spec.containers{app}"
        });
        ensure!(told, "{events:?}");
        Ok(())
    })
    .unwrap();
}

/// Ready, then not, then again, as the application says.
fn readiness_follows_the_application(space: &Space) {
    for (percent, ready) in [(100, false), (0, true)] {
        let path = format!("--path=/controls/fail/{percent}");
        let order = [
            "tasuki-load",
            "127.0.0.1:8080",
            "--requests=1",
            "--strict",
            path.as_str(),
        ];
        space.exec("deployment/http", &order).unwrap();
        wait::until(&format!("ready: {ready}"), LIMIT, || {
            let pods = space.pods("app=http")?;
            ensure!(
                !pods.is_empty() && pods.iter().all(|pod| app::is_ready(pod) == ready),
                "{pods:?}"
            );
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_dead_application_is_started_again() {
    let Some((cluster, _mesh)) = mesh("kubernetes: liveness") else {
        return;
    };
    let space = cluster.space("liveness", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    let probe = |path: &str, failures: u32| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": failures});
    let container =
        json!({"startupProbe": probe("/started", 60), "livenessProbe": probe("/alive", 2)});
    App::new("web").container(container).deploy(&space).unwrap();
    space.rolled_out("deployment/web").unwrap();
    let order = [
        "tasuki-load",
        "127.0.0.1:8080",
        "--requests=1",
        "--strict",
        "--path=/controls/fail/100",
    ];
    space.exec("deployment/web", &order).unwrap();
    wait::until("the container is started again", LIMIT, || {
        let pods = space.pods("app=web")?;
        let pod = pods.first().context("no pod")?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(
            status["name"] == "app" && status["restartCount"].as_u64() > Some(0),
            "{status}"
        );
        ensure!(app::is_ready(pod), "not ready again: {status}");
        Ok(())
    })
    .unwrap();
}
