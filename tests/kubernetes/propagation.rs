//! How long a change of a route takes from the call that applies it until the last of many sidecars has acknowledged it. Prints,
//! and judges nothing: `tests/cluster test propagation --ignored --nocapture`, with `TASUKI_SIDECARS` (20) and
//! `TASUKI_CHANGES` (200).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tasuki_testkit::cluster::{Api, Call, Cluster, LIMIT, Process, Space, run};
use tasuki_testkit::wait;

use crate::app::{App, deployment, service};
use crate::control::Replicas;
use crate::rollout::setting;
use crate::shop::INJECTED;
use crate::whole_mesh;

const ROUTE: &str = "/apis/networking.istio.io/v1/namespaces/propagation/virtualservices/web";
/// Between changes, so that each is one of its own.
const PAUSE: Duration = Duration::from_millis(100);

#[test]
#[ignore = "measures; judges nothing"]
fn propagation() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: propagation") else {
        return;
    };
    let sidecars = setting("TASUKI_SIDECARS", 20);
    let space = with_clients(cluster, sidecars);
    let api = Api::open(cluster).unwrap();
    api.call(&Call::apply(ROUTE, &route(0))).unwrap();
    every_client_asks(&space);
    let watch = Watch::start(Replicas::find(cluster).unwrap());
    let count = sidecars as usize;
    let mut before = watch.settled(count).unwrap();

    let (mut whole, mut calls, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    for change in 1..=setting("TASUKI_CHANGES", 200) {
        sleep(PAUSE);
        let started = Instant::now();
        api.call(&Call::apply(ROUTE, &route(change))).unwrap();
        let applied = Instant::now();
        let (at, acked) = watch.all_differ(&before).unwrap();
        before = acked;
        whole.push(at - started);
        calls.push(applied - started);
        // An acknowledgement may be faster than the API server's answer.
        beyond.push(at.saturating_duration_since(applied));
    }
    println!(
        "{sidecars} sidecars, {} changes of a route, looked at every {:.1?}",
        whole.len(),
        watch.finish().unwrap()
    );
    println!("from the call to the last ACK: {}", spread(whole));
    println!("the call itself:               {}", spread(calls));
    println!("from its answer to that ACK:   {}", spread(beyond));
}

fn with_clients(cluster: Cluster, sidecars: u32) -> Space {
    let space = cluster.space("propagation", &[INJECTED]).unwrap();
    space.apply(&service("web").to_string()).unwrap();
    App::new("web").replicas(2).deploy(&space).unwrap();
    App::new("client")
        .replicas(sidecars)
        .deploy(&space)
        .unwrap();
    for name in ["web", "client"] {
        space.rolled_out(&deployment(name)).unwrap();
    }
    space
}

/// A sidecar is sent the routes of hosts that its application has asked for.
fn every_client_asks(space: &Space) {
    for pod in space.pods("app=client").unwrap() {
        let process = Process::of(&pod, "app").unwrap();
        wait::until("web answers", LIMIT, || {
            let mut command = process.command();
            command.args(["tasuki-load", "web:80", "--requests=1", "--strict"]);
            run(command, "")
        })
        .unwrap();
    }
}

/// A route that differs from those before and after.
fn route(change: u32) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "propagation"},
        "spec": {"hosts": ["web"], "http": [{
            "timeout": format!("{}ms", 10_000 + change), "route": [{"destination": {"host": "web"}}],
        }]},
    })
}

/// Versions of the route that clients have acknowledged, by client.
type Acked = BTreeMap<String, String>;

fn acked(replicas: &Replicas) -> Result<Acked> {
    let mut acked = Acked::new();
    for client in replicas.clients()? {
        let lines = client["resources"].as_array().context("no resources")?;
        let of_web = |line: &&Value| {
            let name = line["name"].as_str().unwrap_or_default();
            line["type"] == "RDS" && name.contains("web.propagation") && !line["acked"].is_null()
        };
        let versions: Vec<_> = lines
            .iter()
            .filter(of_web)
            .map(|line| line["acked"].to_string())
            .collect();
        if !versions.is_empty() {
            let node = client["node"].as_str().context("no node")?;
            acked.insert(node.to_owned(), versions.concat());
        }
    }
    Ok(acked)
}

/// Looks all the time at what clients have acknowledged.
struct Watch {
    looks: Receiver<(Instant, Acked)>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Duration>>,
}

impl Watch {
    fn start(replicas: Replicas) -> Self {
        let (sender, looks) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let (began, mut count) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                // What is in the answer may be as old as the question, and is taken to be as new as the answer.
                let acked = acked(&replicas)?;
                count += 1;
                // The listener ends only with the whole test.
                drop(sender.send((Instant::now(), acked)));
                sleep(Duration::from_millis(1));
            }
            Ok(began.elapsed() / count)
        });
        Self {
            looks,
            stop,
            thread,
        }
    }

    /// What so many clients have acknowledged, once nothing is under way.
    fn settled(&self, clients: usize) -> Result<Acked> {
        let mut last = (Instant::now(), Acked::new());
        loop {
            let (at, acked) = self.looks.recv_timeout(LIMIT)?;
            if acked != last.1 {
                last = (at, acked);
            } else if last.1.len() == clients && at - last.0 > Duration::from_secs(2) {
                return Ok(last.1);
            }
            ensure!(at - last.0 < LIMIT, "{} of {clients} clients", last.1.len());
        }
    }

    /// When it was first seen that all clients had acknowledged another version than before.
    fn all_differ(&self, before: &Acked) -> Result<(Instant, Acked)> {
        loop {
            let (at, acked) = self.looks.recv_timeout(LIMIT)?;
            let differs = |(node, version): (&String, &String)| {
                acked.get(node).is_some_and(|new| new != version)
            };
            if before.iter().all(differs) {
                return Ok((at, acked));
            }
        }
    }

    /// Ends it, and says how often it looked.
    fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(interval) => interval,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Median, 99th percentile and extremes.
pub fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    format!(
        "p50 {:.1?}, p99 {:.1?}, least {:.1?}, most {:.1?}",
        at(0.5),
        at(0.99),
        at(0.0),
        at(1.0)
    )
}
