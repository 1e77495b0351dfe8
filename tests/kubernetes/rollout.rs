//! Rolling restarts under load, without a request lost. By hand: `TASUKI_ROLLOUTS` says how many of each (CI makes two),
//! `TASUKI_ROLLOUT_RATE` how many requests a second of each protocol, `TASUKI_PRESTOP` gives the application a fixed pause
//! in place of ours, to compare; how long pods took to go is printed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tasuki_testkit::cluster::{Cluster, LIMIT, Load, Running, Space};
use tasuki_testkit::wait;

use crate::app::{App, deployment, mtls, service};
use crate::shop::{INJECTED, settled};
use crate::{install, mesh, whole_mesh};

/// Client, protocol, port and share of the rate.
const LOADS: [(&str, &str, u16, f64); 5] = [
    ("client", "http1", 80, 1.0),
    ("client", "http2", 80, 1.0),
    ("client", "grpc", 9090, 1.0),
    // A stream has ten messages and takes half a second.
    ("client", "grpc-stream", 9090, 0.1),
    ("unmeshed", "http1", 80, 1.0),
];

/// A number from the environment.
pub fn setting(name: &str, default: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// Three meshed pods of `web`, a client with a sidecar and one without.
fn with_web(cluster: Cluster, name: &str) -> Space {
    let space = cluster.space(name, &[INJECTED]).unwrap();
    space.apply(&mtls("PERMISSIVE")).unwrap();
    let mut web = App::new("web").replicas(3);
    if let Ok(seconds) = std::env::var("TASUKI_PRESTOP") {
        let seconds: u32 = seconds.parse().unwrap();
        web = web.container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}}));
    }
    web.deploy(&space).unwrap();
    let mut service = service("web");
    service["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "grpc", "port": 9090, "targetPort": 8080},
    ]);
    space.apply(&service.to_string()).unwrap();
    App::new("client").deploy(&space).unwrap();
    App::new("unmeshed").unmeshed().deploy(&space).unwrap();
    for name in ["web", "client", "unmeshed"] {
        space.rolled_out(&deployment(name)).unwrap();
    }
    for (client, protocol, port, _) in LOADS {
        let load = Load::new(&format!("web:{port}"))
            .protocol(protocol)
            .requests(60)
            .with("--concurrency=6");
        settled(
            "all three answer",
            &load,
            &space,
            &deployment(client),
            |outcome| outcome.failed() == 0 && outcome.backends.len() == 3,
        );
    }
    space
}

/// All kinds of load on a Deployment, and who watches its pods go.
struct Trial<'a> {
    space: &'a Space,
    loads: Vec<Running>,
    departures: Departures,
}

impl<'a> Trial<'a> {
    fn start(space: &'a Space) -> Result<Self> {
        let rate = setting("TASUKI_ROLLOUT_RATE", 125);
        let start = |(client, protocol, port, share): (&str, &str, u16, f64)| {
            Load::new(&format!("web:{port}"))
                .protocol(protocol)
                .rate((f64::from(rate) * share) as u32, 16)
                .start(space, &deployment(client))
        };
        let departures = Departures::watch(space)?;
        let loads = LOADS.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Self {
            space,
            loads,
            departures,
        })
    }

    /// Ends the load, of which nothing may have failed.
    fn finish(self, what: &str) {
        let mut lost = Vec::new();
        for (load, kind) in self.loads.into_iter().zip(LOADS) {
            let outcome = load.finish().unwrap();
            eprintln!(
                "{what}: {} from {}: {} of {} failed in {:.0} s",
                kind.1,
                kind.0,
                outcome.failed(),
                outcome.requests,
                outcome.seconds
            );
            if outcome.failed() > 0 || outcome.succeeded == 0 {
                lost.push(format!("{} from {}: {outcome:?}", kind.1, kind.0));
            }
        }
        let drains = self.departures.finish();
        eprintln!("{what}: seconds from deletion to end: {drains:.1?}");
        assert!(lost.is_empty(), "{what} in {}: {lost:#?}", self.space.name);
    }
}

fn restart(space: &Space) {
    space
        .kubectl(&["rollout", "restart", "deployment/web"])
        .unwrap();
    space.rolled_out("deployment/web").unwrap();
    // Ready is what is new; what is old goes on leaving.
    gone(space);
}

/// Waits until nothing is left of the pods that were deleted.
pub fn gone(space: &Space) {
    wait::until("old pods are gone", LIMIT, || {
        let pods = space.get(&["pods", "--selector=app=web"])?;
        let pods = pods["items"].as_array().context("no pods")?;
        ensure!(
            pods.iter()
                .all(|pod| pod["metadata"]["deletionTimestamp"].is_null()),
            "some are left"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn rolling_restarts() {
    let Some((cluster, _mesh)) = mesh("kubernetes: rolling restarts") else {
        return;
    };
    let space = with_web(cluster, "rollout");
    let trial = Trial::start(&space).unwrap();
    for _ in 0..setting("TASUKI_ROLLOUTS", 2) {
        restart(&space);
    }
    trial.finish("rolling restart");
}

#[test]
fn a_new_image_of_the_sidecar() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: sidecar's image") else {
        return;
    };
    let space = with_web(cluster, "image");
    let trial = Trial::start(&space).unwrap();
    for round in 0..setting("TASUKI_ROLLOUTS", 1) {
        let image = [
            "tasuki.test/tasuki-proxy:other",
            "tasuki.test/tasuki-proxy:test",
        ][round as usize % 2];
        install::replace_with(cluster, &[&format!("proxy.image={image}")]).unwrap();
        restart(&space);
        for pod in space.pods("app=web").unwrap() {
            let init = pod["spec"]["initContainers"].as_array();
            let has = init
                .into_iter()
                .flatten()
                .any(|container| container["image"] == image);
            assert!(has, "{pod}");
        }
    }
    trial.finish("new image");
    install::install(cluster).unwrap();
}

#[test]
fn pods_go_while_the_control_plane_is_away() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: rollout without control plane") else {
        return;
    };
    let space = with_web(cluster, "away");
    let trial = Trial::start(&space).unwrap();
    for _ in 0..setting("TASUKI_ROLLOUTS", 1) {
        let before = install::scale(cluster, 0).unwrap();
        // New ones are not let in without a sidecar, so that the others have to do.
        for pod in space.pods("app=web").unwrap().iter().take(2) {
            let name = pod["metadata"]["name"].as_str().unwrap();
            space.kubectl(&["delete", "pod", name]).unwrap();
        }
        install::scale(cluster, before).unwrap();
        // A ReplicaSet whose pods were refused tries again after minutes; a new one at once.
        restart(&space);
    }
    trial.finish("control plane away");
}

/// How long pods take from their deletion to their end, as the API server tells of both.
struct Departures {
    watch: Child,
    reader: Option<JoinHandle<()>>,
    seconds: Arc<Mutex<Vec<f64>>>,
}

impl Departures {
    fn watch(space: &Space) -> Result<Self> {
        let mut command = space.command(&[
            "get",
            "pods",
            "--selector=app=web",
            "--watch",
            "--output-watch-events",
            "--output=jsonpath={.type} {.object.metadata.name} {.object.metadata.deletionTimestamp}{\"\\n\"}",
        ]);
        let mut watch = command.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        let seconds = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&seconds);
        let reader = std::thread::spawn(move || {
            let mut leaving = HashMap::new();
            for line in lines.map_while(Result::ok) {
                let words: Vec<_> = line.split_whitespace().collect();
                match words[..] {
                    ["DELETED", name, ..] => {
                        let since: Option<Instant> = leaving.remove(name);
                        let took = since
                            .as_ref()
                            .map(Instant::elapsed)
                            .as_ref()
                            .map(Duration::as_secs_f64);
                        shared.lock().unwrap().extend(took);
                    }
                    ["MODIFIED", name, _] => {
                        leaving.entry(name.to_owned()).or_insert_with(Instant::now);
                    }
                    _ => {}
                }
            }
        });
        Ok(Self {
            watch,
            reader: Some(reader),
            seconds,
        })
    }

    fn finish(mut self) -> Vec<f64> {
        drop(self.watch.kill());
        drop(self.watch.wait());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.seconds.lock().unwrap())
    }
}
