//! What the control plane costs in a cluster of many Services, whose pods exist at the API server only. Prints, and judges
//! nothing: `tests/cluster test scale --ignored --nocapture`, with `TASUKI_SERVICES` (2,000) of five endpoints each.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use tasuki_testkit::cluster::{Api, Call, Cluster, LIMIT, Process, Space};
use tasuki_testkit::wait;

use crate::app::is_ready;
use crate::control::Replicas;
use crate::install::{self, control_pods};
use crate::rollout::setting;
use crate::whole_mesh;

const NAMESPACES: u32 = 10;
const ENDPOINTS: u32 = 5;
/// Of endpoints, and of pods; and the time from one to the next.
const CHANGES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "measures; judges nothing"]
fn scale() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: scale") else {
        return;
    };
    let api = Api::open(cluster).unwrap();
    let replicas = install::scale(cluster, 0).unwrap();
    say("without services", &fresh(cluster));
    let began = Instant::now();
    let spaces: Vec<_> = (0..NAMESPACES)
        .map(|number| cluster.space(&format!("scale-{number}"), &[]).unwrap())
        .collect();
    let slices = fill(&api, &spaces);
    println!(
        "{} services, {} pods: made in {:.0?}",
        slices.len(),
        slices.len() as u32 * ENDPOINTS,
        began.elapsed()
    );
    say("that has seen them come", &control(cluster));

    install::scale(cluster, 0).unwrap();
    let process = fresh(cluster);
    let age = process.age().unwrap();
    println!(
        "a fresh replica is Ready {age:.1?} after its start, for which it has used {:.1?} of processor time",
        process.cpu().unwrap()
    );
    sleep(IDLE);
    say("fresh", &process);
    let idle = spent(&process, || sleep(IDLE)).as_secs_f64() / IDLE.as_secs_f64();
    println!("idle: {:.1} ms of processor time a second", idle * 1e3);

    let beside = PAUSE.mul_f64(idle);
    let changes = slices.iter().take(CHANGES as usize);
    let calls: Vec<_> = changes.map(one_endpoint_less).collect();
    let each = paced(&api, &process, calls).saturating_sub(beside);
    println!("a change of endpoints: {each:.1?} of processor time");
    let calls: Vec<_> = (0..CHANGES)
        .map(|number| {
            let path = format!("{}/p-0-0", pods(&spaces[0]));
            Call::patch(
                &path,
                &json!({"metadata": {"annotations": {"note": number.to_string()}}}),
            )
        })
        .collect();
    let each = paced(&api, &process, calls).saturating_sub(beside);
    println!("a change of a pod that means nothing to the mesh: {each:.1?} of processor time");
    say("after the changes", &process);
    install::scale(cluster, replicas).unwrap();
}

/// The one replica.
fn control(cluster: Cluster) -> Process {
    Replicas::find(cluster).unwrap().0.remove(0)
}

fn say(what: &str, process: &Process) {
    let (now, most) = process.memory().unwrap();
    println!(
        "control plane {what}: {} MB of memory, {} at most",
        now / 1_000_000,
        most / 1_000_000
    );
}

/// Starts a replica and waits until the cluster takes it for ready.
fn fresh(cluster: Cluster) -> Process {
    install::control(
        cluster,
        &["scale", "deployment/tasuki-control", "--replicas=1"],
    )
    .unwrap();
    wait::until("a replica is ready", LIMIT, || {
        let pods = control_pods(cluster)?;
        ensure!(pods.iter().any(is_ready), "not yet");
        Ok(())
    })
    .unwrap();
    control(cluster)
}

/// Processor time used meanwhile.
fn spent(process: &Process, work: impl FnOnce()) -> Duration {
    let before = process.cpu().unwrap();
    work();
    process.cpu().unwrap().saturating_sub(before)
}

/// Processor time for each of some calls, made one after the other in good time.
fn paced(api: &Api, process: &Process, calls: Vec<Call>) -> Duration {
    let count = calls.len() as u32;
    let spent = spent(process, || {
        for call in calls {
            let next = Instant::now() + PAUSE;
            api.call(&call).unwrap();
            sleep(next.saturating_duration_since(Instant::now()));
        }
        // What the last one costs.
        sleep(PAUSE);
    });
    spent / count
}

fn pods(space: &Space) -> String {
    format!("/api/v1/namespaces/{}/pods", space.name)
}

/// Services, pods as the injector would have them, and the endpoints, of which paths and objects are returned.
fn fill(api: &Api, spaces: &[Space]) -> Vec<(String, Value)> {
    let services = setting("TASUKI_SERVICES", 2_000);
    let of = |number: u32| &spaces[(number % NAMESPACES) as usize];
    for space in spaces {
        // Pods are refused before it is there.
        wait::until("the account of a namespace", LIMIT, || {
            space.get(&["serviceaccount", "default"])
        })
        .unwrap();
    }
    let all = (0..services).flat_map(|service| (0..ENDPOINTS).map(move |number| (service, number)));
    let create = |(service, number)| Call::create(&pods(of(service)), &pod(service, number));
    let created = api.all(all.clone().map(create).collect()).unwrap();
    let run = |(service, number)| {
        let path = format!("{}/p-{service}-{number}/status", pods(of(service)));
        Call::patch(&path, &running(service, number))
    };
    api.all(all.map(run).collect()).unwrap();
    let mut calls = Vec::new();
    let mut slices = Vec::new();
    for service in 0..services {
        let namespace = &of(service).name;
        let path = format!("/api/v1/namespaces/{namespace}/services");
        calls.push(Call::create(&path, &object(service)));
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let first = (service * ENDPOINTS) as usize;
        let slice = slice(service, &created[first..first + ENDPOINTS as usize]);
        calls.push(Call::create(&path, &slice));
        slices.push((format!("{path}/s-{service}"), slice));
    }
    api.all(calls).unwrap();
    slices
}

/// kube-proxy is told to leave it alone: it would have the machine's processors for itself.
fn object(service: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s-{service}"), "labels": {"service.kubernetes.io/service-proxy-name": "none"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// Of no scheduler and no node.
fn pod(service: u32, number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("p-{service}-{number}"),
            "labels": {"app": format!("s-{service}"), "security.istio.io/tlsMode": "istio"},
            "annotations": {"tasuki.dev/proxy": env!("CARGO_PKG_VERSION")},
        },
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "none"}],
        },
    })
}

fn running(service: u32, number: u32) -> Value {
    let ip = address(service, number);
    json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }})
}

/// Of a range that is nobody's.
fn address(service: u32, number: u32) -> String {
    let host = service * ENDPOINTS + number;
    format!(
        "10.{}.{}.{}",
        128 + (host >> 16),
        (host >> 8) & 255,
        host & 255
    )
}

fn slice(service: u32, pods: &[Value]) -> Value {
    let endpoints = pods.iter().zip(0..).map(|(pod, number)| {
        let meta = &pod["metadata"];
        json!({
            "addresses": [address(service, number)], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s-{service}"), "labels": {
            "kubernetes.io/service-name": format!("s-{service}"),
            "endpointslice.kubernetes.io/managed-by": "tasuki-test",
            "service.kubernetes.io/service-proxy-name": "none",
        }},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    })
}

/// As when a pod goes.
fn one_endpoint_less((path, slice): &(String, Value)) -> Call {
    let endpoints = slice["endpoints"].as_array().map(|all| &all[1..]);
    Call::patch(path, &json!({ "endpoints": endpoints }))
}
