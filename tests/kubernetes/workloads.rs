//! Kinds of workloads, meshed and unmeshed, side by side.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tasuki_testkit::client::Ask;
use tasuki_testkit::cluster::{LIMIT, Load, Process, Space};
use tasuki_testkit::metrics::Metrics;
use tasuki_testkit::wait;

use crate::app::{App, account, deployment, list, mtls, service};
use crate::rollout::gone;
use crate::shop::{INJECTED, settled};
use crate::{app, mesh};

/// A program that calls `web` a few times and fails if one call does.
fn caller(name: &str) -> Value {
    json!({
        "name": name,
        "image": tasuki_testkit::cluster::IMAGE,
        "imagePullPolicy": "Never",
        "command": ["tasuki-load", "web:80", "--requests=20", "--strict"],
    })
}

/// A namespace with the meshed service `web` of two pods.
fn with_web(space: &Space) {
    App::new("web").replicas(2).deploy(space).unwrap();
    space.apply(&service("web").to_string()).unwrap();
}

#[test]
fn jobs_and_init_containers_call_services() {
    let Some((cluster, _mesh)) = mesh("kubernetes: jobs") else {
        return;
    };
    let space = cluster.space("jobs", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    with_web(&space);
    space.rolled_out("deployment/web").unwrap();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
        "spec": {"backoffLimit": 4, "template": {"spec": {
            "restartPolicy": "Never", "serviceAccountName": "web", "containers": [caller("job")],
        }}},
    });
    space.apply(&job.to_string()).unwrap();
    App::new("prepared")
        .pod(json!({"initContainers": [caller("prepare")]}))
        .deploy(&space)
        .unwrap();
    // The sidecar must end by itself for the Job to be complete.
    space.wait("condition=Complete", "job/job").unwrap();
    space.rolled_out("deployment/prepared").unwrap();
}

#[test]
fn stateful_pods_reach_each_other_by_name() {
    let Some((cluster, _mesh)) = mesh("kubernetes: stateful") else {
        return;
    };
    let space = cluster.space("stateful", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    let app = App::new("peers");
    let mut headless = service("peers");
    headless["spec"]["clusterIP"] = json!("None");
    // As databases have it: they find each other before they are ready.
    headless["spec"]["publishNotReadyAddresses"] = json!(true);
    headless["spec"]["ports"][0]["port"] = json!(8080);
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "peers"},
        "spec": {
            "serviceName": "peers", "replicas": 3, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": app.labels}, "template": app.template(),
        },
    });
    space
        .apply(&list(vec![account("peers"), headless, set]).to_string())
        .unwrap();
    App::new("outsider").unmeshed().deploy(&space).unwrap();
    space.rolled_out("statefulset/peers").unwrap();
    space.rolled_out("deployment/outsider").unwrap();
    for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 1)] {
        let (from, to) = (format!("peers-{from}"), format!("peers-{to}"));
        let load = Load::new(&format!("{to}.peers:8080")).requests(20);
        settled(
            &format!("{from} reaches {to}"),
            &load,
            &space,
            &from,
            |outcome| outcome.failed() == 0 && outcome.share(&to) == 100.0,
        );
    }
    let load = Load::new("peers-0.peers:8080").requests(5);
    settled(
        "who has no sidecar is refused",
        &load,
        &space,
        "deployment/outsider",
        |outcome| outcome.succeeded == 0,
    );
}

#[test]
fn an_unmeshed_pod_calls_a_permissive_service() {
    let Some((cluster, _mesh)) = mesh("kubernetes: permissive") else {
        return;
    };
    let space = cluster.space("permissive", &[INJECTED]).unwrap();
    space.apply(&mtls("PERMISSIVE")).unwrap();
    with_web(&space);
    App::new("outsider").unmeshed().deploy(&space).unwrap();
    space.rolled_out("deployment/web").unwrap();
    space.rolled_out("deployment/outsider").unwrap();
    let address = space.service_ip("web").unwrap();
    let load = Load::new(&format!("{address}:80"))
        .requests(50)
        .with("--authority=web");
    let balanced = load.clone().with("--concurrency=8");
    settled(
        "both pods answer",
        &balanced,
        &space,
        "deployment/outsider",
        |outcome| outcome.failed() == 0 && outcome.backends.len() == 2,
    );
    space.apply(&mtls("STRICT")).unwrap();
    settled(
        "nobody answers",
        &load,
        &space,
        "deployment/outsider",
        |outcome| outcome.succeeded == 0,
    );
}

#[test]
fn a_half_migrated_deployment_loses_nothing() {
    let Some((cluster, _mesh)) = mesh("kubernetes: half migrated") else {
        return;
    };
    // Not injected yet; only the client is.
    let space = cluster.space("migrated", &[]).unwrap();
    // What runs unmeshed needs a pause of its own to leave unnoticed.
    let pause = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 6}}}});
    App::new("web")
        .replicas(2)
        .container(pause)
        .deploy(&space)
        .unwrap();
    space.apply(&service("web").to_string()).unwrap();
    App::new("meshed")
        .label("tasuki.dev/inject", "enabled")
        .deploy(&space)
        .unwrap();
    App::new("unmeshed").unmeshed().deploy(&space).unwrap();
    for name in ["web", "meshed", "unmeshed"] {
        space.rolled_out(&deployment(name)).unwrap();
    }
    let few = Load::new("web:80").requests(20);
    for client in ["meshed", "unmeshed"] {
        settled(
            "web answers",
            &few,
            &space,
            &deployment(client),
            |outcome| outcome.failed() == 0,
        );
    }
    let load = Load::new("web:80").rate(50, 4);
    let loads =
        ["meshed", "unmeshed"].map(|client| load.start(&space, &deployment(client)).unwrap());
    space
        .kubectl(&["label", "namespace", &space.name, INJECTED])
        .unwrap();
    // Half of it: the Deployment is stopped where one pod is new.
    space
        .kubectl(&["rollout", "restart", "deployment/web"])
        .unwrap();
    wait::until("one pod is meshed", LIMIT, || {
        let ready = sidecars_ready(&space.pods("app=web")?);
        ensure!(ready > 0, "none yet");
        Ok(())
    })
    .unwrap();
    space
        .kubectl(&["rollout", "pause", "deployment/web"])
        .unwrap();
    for client in ["meshed", "unmeshed"] {
        let load = few.clone().with("--concurrency=4");
        settled(
            "old and new answer",
            &load,
            &space,
            &deployment(client),
            |outcome| outcome.failed() == 0 && outcome.backends.len() > 1,
        );
    }
    space
        .kubectl(&["rollout", "resume", "deployment/web"])
        .unwrap();
    space.rolled_out("deployment/web").unwrap();
    // Connections of whoever has no sidecar stay with the old pods until these end.
    gone(&space);
    for (load, client) in loads.into_iter().zip(["meshed", "unmeshed"]) {
        let outcome = load.finish().unwrap();
        assert_eq!(outcome.failed(), 0, "{client}: {outcome:?}");
        assert!(outcome.backends.len() > 2, "{client}: {outcome:?}");
    }
    assert_eq!(sidecars_ready(&space.pods("app=web").unwrap()), 2);
}

/// How many of the pods have a sidecar and are ready.
fn sidecars_ready(pods: &[Value]) -> usize {
    let ready = pods.iter().filter(|pod| app::is_ready(pod));
    ready.filter(|pod| app::has_sidecar(pod)).count()
}

/// Samples that a Prometheus without a certificate would get where a pod's annotations send it.
fn scraped(pod: &Value, from: &Process) -> anyhow::Result<Metrics> {
    let annotation = |name: &str| {
        let value = pod["metadata"]["annotations"][format!("prometheus.io/{name}")].as_str();
        value.with_context(|| format!("no {name}: {}", pod["metadata"]))
    };
    let ip = pod["status"]["podIP"].as_str().context("no address")?;
    let target = format!("{ip}:{}", annotation("port")?).parse()?;
    let answer = Ask::get(target, ip, annotation("path")?).send(from.network())?;
    ensure!(answer.status == 200, "{answer:?}");
    Metrics::parse(&answer.body)
}

#[test]
fn metrics_are_scraped_under_strict() {
    let Some((cluster, _mesh)) = mesh("kubernetes: metrics") else {
        return;
    };
    let space = cluster.space("metrics", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    space.apply(&service("web").to_string()).unwrap();
    App::new("web")
        .annotation("prometheus.io/scrape", "true")
        .annotation("prometheus.io/port", "8080")
        .deploy(&space)
        .unwrap();
    App::new("client").deploy(&space).unwrap();
    App::new("prometheus").unmeshed().deploy(&space).unwrap();
    for name in ["web", "client", "prometheus"] {
        space.rolled_out(&deployment(name)).unwrap();
    }
    let few = Load::new("web:80").requests(20);
    settled(
        "web answers",
        &few,
        &space,
        "deployment/client",
        |outcome| outcome.failed() == 0,
    );
    let pod = |name: &str| space.pods(&format!("app={name}")).unwrap().remove(0);
    let (web, prometheus) = (pod("web"), pod("prometheus"));
    let prometheus = Process::of(&prometheus, "app").unwrap();
    let metrics = scraped(&web, &prometheus).unwrap();
    // The application's own, and the sidecar's.
    let seen = metrics.sum("origin_requests_total", &[]);
    assert!(seen >= 20.0, "{seen}");
    let source = [("source_workload", "client"), ("response_code", "200")];
    let counted = metrics.sum("istio_requests_total", &source);
    assert!(counted >= 20.0, "{counted} in {metrics:?}");
    // The application's port is closed to whoever has no certificate, as it is said to be.
    let mut direct = web.clone();
    direct["metadata"]["annotations"]["prometheus.io/port"] = json!("8080");
    let refused = scraped(&direct, &prometheus);
    assert!(refused.is_err(), "{refused:?}");
}
