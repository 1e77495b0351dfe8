//! The control plane is put into the cluster and taken away again by the shipped `tasuki`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tasuki_testkit::binaries;
use tasuki_testkit::client::Ask;
use tasuki_testkit::cluster::{Cluster, LIMIT, Load, Running, Space, run};
use tasuki_testkit::namespace::Namespace;
use tasuki_testkit::wait;

use crate::app::{App, mtls, service};
use crate::shop::{INJECTED, settled};
use crate::whole_mesh;

/// What a cluster without a registry needs to be told.
const SETTINGS: [&str; 2] = ["image.registry=tasuki.test", "image.tag=test"];
const CONTROL: &str = "deployment/tasuki-control";

/// `tasuki install`, which waits until pods are injected.
pub fn install(_: Cluster) -> Result<()> {
    install_with(&[])
}

/// The same with more settings, until none of the replicas from before is left: one that is ending still answers the API server
/// by what it was started with.
pub fn replace_with(cluster: Cluster, more: &[&str]) -> Result<()> {
    install_with(more)?;
    let replicas = replicas(cluster)?;
    replicas_are(cluster, replicas)
}

/// The same, as soon as `tasuki install` is satisfied.
fn install_with(more: &[&str]) -> Result<()> {
    let mut command = tasuki(&["install"])?;
    for setting in SETTINGS.iter().chain(more) {
        command.args(["--set", setting]);
    }
    eprintln!("{}", run(command, "")?);
    Ok(())
}

/// The shipped command-line tool.
pub fn tasuki(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binaries::find("tasuki")?);
    command.args(arguments);
    Ok(command)
}

/// `kubectl` in the control plane's namespace.
pub fn control(cluster: Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["--namespace=tasuki-system"], arguments].concat())
}

/// Gives the control plane so many replicas, and waits until it has them. Returns how many it had.
pub fn scale(cluster: Cluster, replicas: u64) -> Result<u64> {
    let before = self::replicas(cluster)?;
    control(
        cluster,
        &["scale", CONTROL, &format!("--replicas={replicas}")],
    )?;
    control(cluster, &["rollout", "status", CONTROL])?;
    replicas_are(cluster, replicas)?;
    Ok(before)
}

/// How many replicas the control plane is to have.
fn replicas(cluster: Cluster) -> Result<u64> {
    let deployment = cluster.get(&["--namespace=tasuki-system", CONTROL])?;
    deployment["spec"]["replicas"]
        .as_u64()
        .context("no replicas")
}

/// The pods of the control plane, those that are ending too.
pub fn control_pods(cluster: Cluster) -> Result<Vec<Value>> {
    let mut pods = cluster.get(&[
        "--namespace=tasuki-system",
        "pods",
        "--selector=app.kubernetes.io/name=tasuki-control",
    ])?;
    let pods = pods["items"].as_array_mut().context("no list of pods")?;
    Ok(std::mem::take(pods))
}

/// Waits until there are so many, none of which is ending.
fn replicas_are(cluster: Cluster, replicas: u64) -> Result<()> {
    wait::until("the control plane has its replicas", LIMIT, || {
        let pods = control_pods(cluster)?;
        let ending = pods
            .iter()
            .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        let ending = ending.count();
        ensure!(
            pods.len() as u64 == replicas && ending == 0,
            "{} pods, {ending} of them ending",
            pods.len()
        );
        Ok(())
    })
}

/// `web` under STRICT, and a client that calls it for as long as the test runs.
fn web_under_load(cluster: Cluster, name: &str) -> (Space, Running) {
    let space = cluster.space(name, &[INJECTED]).unwrap();
    space.apply(&mtls("STRICT")).unwrap();
    space.apply(&service("web").to_string()).unwrap();
    for name in ["web", "client"] {
        App::new(name).deploy(&space).unwrap();
        space.rolled_out(&format!("deployment/{name}")).unwrap();
    }
    answers("web answers", &space, "client");
    let load = Load::new("web:80").rate(50, 4);
    let running = load.start(&space, "deployment/client").unwrap();
    (space, running)
}

/// Waits until `web` answers all of a few requests from `client`.
fn answers(what: &str, space: &Space, client: &str) {
    let few = Load::new("web:80").requests(20);
    let client = format!("deployment/{client}");
    settled(what, &few, space, &client, |outcome| outcome.failed() == 0);
}

#[test]
fn all_replicas_killed() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: all replicas killed") else {
        return;
    };
    let (space, running) = web_under_load(cluster, "killed");
    // The webhook says Fail: whatever starts them again must not need it.
    control(
        cluster,
        &[
            "delete",
            "pods",
            "--selector=app.kubernetes.io/name=tasuki-control",
            "--force",
            "--grace-period=0",
        ],
    )
    .unwrap();
    App::new("late").deploy(&space).unwrap();
    space.rolled_out("deployment/late").unwrap();
    answers("a new pod is served", &space, "late");
    let outcome = running.finish().unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
}

#[test]
fn uninstalled_and_installed_again() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: uninstalled and installed") else {
        return;
    };
    let life = Duration::from_secs(90);
    cluster.apply(&certificate_life(life)).unwrap();
    let (space, running) = web_under_load(cluster, "again");
    let authority = || {
        control(
            cluster,
            &[
                "get",
                "secret",
                "tasuki-ca",
                "--output=jsonpath={.metadata.uid}{.data}",
            ],
        )
    };
    let before = authority().unwrap();

    let refused = run(tasuki(&["uninstall"]).unwrap(), "")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("again") && refused.contains("rollout"),
        "it does not say which pods: {refused}"
    );
    run(tasuki(&["uninstall", "--force"]).unwrap(), "").unwrap();
    assert_eq!(authority().unwrap(), before, "the authority outlives it");
    // Without webhooks nothing is injected, and nothing stands in the way.
    App::new("plain").deploy(&space).unwrap();
    space.rolled_out("deployment/plain").unwrap();

    install(cluster).unwrap();
    let installed = now();
    assert_eq!(authority().unwrap(), before, "the authority is the same");
    App::new("late").deploy(&space).unwrap();
    space.rolled_out("deployment/late").unwrap();
    // Of the same authority, so that they trust those that have run all the time.
    answers("a new pod is served", &space, "late");
    for name in ["web", "client"] {
        let pod = &space.pods(&format!("app={name}")).unwrap()[0];
        wait::until("certificates are renewed", LIMIT, || {
            let expiry = expiry(pod)?;
            ensure!(
                expiry > installed + life.as_secs_f64(),
                "{name} has one until {expiry}"
            );
            Ok(())
        })
        .unwrap();
    }
    let outcome = running.finish().unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
    cluster
        .kubectl(&[
            "delete",
            "meshsettings.tasuki.dev",
            "default",
            "--namespace=tasuki-system",
        ])
        .unwrap();
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0.0, |since| since.as_secs_f64())
}

fn certificate_life(life: Duration) -> String {
    let life = format!("{}s", life.as_secs());
    let meta = json!({"name": "default", "namespace": "tasuki-system"});
    json!({
        "apiVersion": "tasuki.dev/v1alpha1", "kind": "MeshSettings", "metadata": meta, "spec": {"certificateTtl": life},
    })
    .to_string()
}

/// When the certificate of a pod's sidecar expires, as its metrics say.
fn expiry(pod: &Value) -> Result<f64> {
    let ip = pod["status"]["podIP"].as_str().context("no address")?;
    let answer = Ask::get(format!("{ip}:15020").parse()?, ip, "/metrics").send(&Namespace::own())?;
    let line = answer
        .body
        .lines()
        .find_map(|line| line.strip_prefix("tasuki_certificate_expiry_timestamp_seconds "));
    Ok(line.context("no such metric")?.parse()?)
}
