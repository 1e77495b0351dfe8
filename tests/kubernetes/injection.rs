//! What injection does to pods, as the kubelet, strangers and whoever applies them see it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tasuki_testkit::client::Ask;
use tasuki_testkit::cluster::{Cluster, IMAGE, LIMIT, Process, Space};
use tasuki_testkit::wait;

use crate::app::{App, deployment, mtls, service};
use crate::mesh;
use crate::shop::INJECTED;

#[test]
fn hooks_are_the_kubelets_alone() {
    let Some((cluster, _mesh)) = mesh("kubernetes: hooks") else {
        return;
    };
    let space = cluster.space("hooks", &[INJECTED]).unwrap();
    // After this hook the application answers with errors: whoever may call it may stop the service.
    let hook = json!({"httpGet": {"path": "/controls/fail/100", "port": 8080}});
    App::new("web")
        .container(json!({"lifecycle": {"preStop": hook}}))
        .deploy(&space)
        .unwrap();
    App::new("stranger").unmeshed().deploy(&space).unwrap();
    for name in ["web", "stranger"] {
        space.rolled_out(&deployment(name)).unwrap();
    }
    let pod = only(&space, "web").unwrap();
    let stranger = Process::of(&only(&space, "stranger").unwrap(), "app").unwrap();
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let health = format!("{ip}:15021").parse().unwrap();
    let ask = |path: &str| Ask::get(health, "web", path);
    let status = |ask: Ask| ask.send(stranger.network()).unwrap().status;
    for path in ["/app/app/prestop", "/app/app/poststart", "/app/x/prestop"] {
        assert_eq!(status(ask(path)), 404, "{path}");
        let guess = "0123456789abcdef0123456789abcdef";
        let guessed = ask(path).header("tasuki-hook-key", guess);
        assert_eq!(status(guessed), 404, "{path}");
    }
    assert_eq!(status(ask("/app/app/readiness")), 200);
    let call = ["tasuki-load", "127.0.0.1:8080", "--requests=1", "--strict"];
    space.exec("deployment/web", &call).unwrap();
    // The API server tells the key to those who may read the Pod, the kubelet among them.
    let shown = &pod["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["httpHeaders"][0];
    let key = shown["value"].as_str().unwrap();
    let called = ask("/app/app/prestop").header("tasuki-hook-key", key);
    assert_eq!(status(called), 200);
    assert!(space.exec("deployment/web", &call).is_err());
}

#[test]
fn an_ordinary_sidecar_is_there_before_the_application() {
    let Some((cluster, _mesh)) = mesh("kubernetes: ordinary sidecars") else {
        return;
    };
    let space = cluster.space("ordinary", &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    App::new("web").deploy(&space).unwrap();
    space.apply(&service("web").to_string()).unwrap();
    space.rolled_out("deployment/web").unwrap();
    // Under STRICT this needs a sidecar that works, while the kubelet has started no other container.
    let call = ["tasuki-load", "web:80", "--requests=5", "--strict"];
    let mut ordinary = App::new("ordinary")
        .container(json!({"lifecycle": {"postStart": {"exec": {"command": call}}}}))
        .objects();
    let template = &mut ordinary["items"][1]["spec"]["template"];
    template["metadata"]["annotations"] = json!({"tasuki.dev/native-sidecar": "false"});
    space.apply(&ordinary.to_string()).unwrap();
    space.rolled_out("deployment/ordinary").unwrap();
    let pod = only(&space, "ordinary").unwrap();
    let restarts = pod["status"]["containerStatuses"].as_array().unwrap();
    assert!(
        restarts.iter().all(|status| status["restartCount"] == 0),
        "{restarts:?}"
    );
    // kubectl means the application all the same.
    let said = space.kubectl(&["exec", "deployment/ordinary", "--", "tasuki-load", "--help"]);
    said.unwrap();
    let refused = with_cache_probed_over_the_network(&space);
    for part in [
        "startupProbe of the native sidecar cache",
        "tasuki.dev/native-sidecar=true",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
}

/// What the API server says to a pod whose own native sidecar could not start before ours.
fn with_cache_probed_over_the_network(space: &Space) -> String {
    let container = |name: &str| json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never"});
    let mut cache = container("cache");
    cache["restartPolicy"] = json!("Always");
    cache["startupProbe"] = json!({"tcpSocket": {"port": 6379}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cached", "annotations": {"tasuki.dev/native-sidecar": "false"}},
        "spec": {"initContainers": [cache], "containers": [container("app")]},
    });
    dry_run(space, &pod).unwrap_err().to_string()
}

#[test]
fn slips_are_told_to_whoever_makes_them() {
    let Some((cluster, _mesh)) = mesh("kubernetes: slips") else {
        return;
    };
    let space = cluster.space("slips", &[]).unwrap();
    let label = ["label", "namespace", "slips", "tasuki.dev/inject=true"];
    let output = space.command(&label).output().unwrap();
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && warning.contains("write enabled or disabled"),
        "{warning}"
    );
    wait::until("the control plane names the namespace", LIMIT, || {
        let resources = resources(cluster)?;
        ensure!(
            resources.contains("Namespace slips") && resources.contains("tasuki.dev/inject"),
            "{resources}"
        );
        Ok(())
    })
    .unwrap();
    let settings = |cpu: Value| {
        json!({
            "apiVersion": "tasuki.dev/v1alpha1", "kind": "MeshSettings",
            "metadata": {"name": "default", "namespace": "tasuki-system"},
            "spec": {"injection": {"resources": {"requests": {"cpu": cpu}}}},
        })
    };
    for cpu in [json!(0.5), json!(1), json!("100m")] {
        dry_run(&space, &settings(cpu)).unwrap();
    }
    let refused = dry_run(&space, &settings(json!("lots"))).unwrap_err();
    assert!(
        refused.to_string().contains("is not a quantity"),
        "{refused}"
    );
}

/// What the API server would say.
fn dry_run(space: &Space, object: &Value) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, object.to_string())?;
    let file = format!("--filename={}", file.path().display());
    let mut command = space.command(&["create", "--dry-run=server", &file]);
    if let Some(namespace) = object["metadata"]["namespace"].as_str() {
        // The last one counts.
        command.arg(format!("--namespace={namespace}"));
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), said);
    Ok(())
}

/// `/debug/resources` of a replica, which answers to its own network alone.
fn resources(cluster: Cluster) -> Result<String> {
    let pods = crate::install::control_pods(cluster)?;
    let pod = pods.first().context("no control plane")?;
    let network = Process::of(pod, "tasuki-control")?;
    let ask = |ip: &str| -> Result<Ask> {
        let address = format!("{ip}:15014").parse()?;
        Ok(Ask::get(address, "localhost", "/debug/resources"))
    };
    let ip = pod["status"]["podIP"].as_str().context("no address")?;
    let outside = ask(ip)?.send(network.network())?;
    ensure!(outside.status == 403, "{}", outside.status);
    Ok(ask("127.0.0.1")?.send(network.network())?.body)
}

fn only(space: &Space, name: &str) -> Result<Value> {
    let pods = space.pods(&format!("app={name}"))?;
    pods.into_iter().next().context("no pod")
}
