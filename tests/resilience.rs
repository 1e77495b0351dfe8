//! Failures of the application and of its connections: retries and their budget, requests that must not
//! be repeated, timeouts, full pools, ejection.

use std::time::{Duration, Instant};

use tasuki_e2e::{HOST, VIP, backend, client, http_server};
use tasuki_testkit::client::Ask;
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, service};
use tasuki_testkit::origin::{Kind, Origin, rude::Manner};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

fn virtual_service(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: http-server, namespace: default}}\nspec:\n  hosts: [http-server]\n  http:\n  - route: [{{destination: {{host: http-server}}}}]\n{policy}"
    )
}

fn destination_rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: http-server, namespace: default}}\nspec:\n  host: http-server\n  trafficPolicy:\n{policy}"
    )
}

fn reachable(pod: &RunningPod, target: &str, host: &str) {
    wait::until("the service answers", Duration::from_secs(15), || {
        let answer = pod.get(target, host, "/")?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
}

fn plan() -> Plan {
    Plan::new(VIP.parse().unwrap(), HOST)
}

#[test]
fn retries_hide_failures_within_their_budget() {
    if !have("resilience: retries", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("retries").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply(
        "routes",
        &virtual_service("    retries: {attempts: 3, retryOn: \"5xx\"}\n"),
    )
    .unwrap();
    let tenfold = "    connectionPool: {http: {}}\n    retryBudget: {percent: 100}\n";
    mesh.apply("http-server-rule", &destination_rule(tenfold))
        .unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    reachable(&pod, VIP, HOST);
    server.origin.controls.fail(50, 503);
    let report = pod
        .load(Plan {
            concurrency: 16,
            requests: Some(10_000),
            ..plan()
        })
        .unwrap();
    assert!(report.succeeded() >= 9_200, "a budget of 100 %: {report}");

    mesh.config.remove("http-server-rule").unwrap();
    let tries = |concurrency: usize| {
        let before = server.origin.controls.seen();
        let report = pod
            .load(Plan {
                concurrency,
                requests: Some(4_000),
                ..plan()
            })
            .unwrap();
        (server.origin.controls.seen() - before, report)
    };
    wait::until(
        "the default budget applies",
        Duration::from_secs(10),
        || {
            let (tries, report) = tries(16);
            anyhow::ensure!(
                tries as f64 <= 1.25 * 4_000.0 + 3.0 * 16.0,
                "{tries} tries: {report}"
            );
            Ok(())
        },
    )
    .unwrap();
}

/// A server pod with one rude application per port, and its Service.
fn rude(mesh: &Mesh, cases: &[(&str, u16, Manner)]) -> (RunningPod, Vec<Origin>) {
    let mut spec = PodSpec::new("rude");
    let ports: Vec<_> = cases
        .iter()
        .map(|(name, port, _)| (*name, *port, *port))
        .collect();
    for (name, port, _) in cases {
        spec = spec.port(name, *port);
    }
    mesh.apply("rude", &service("default", "rude", "10.96.0.20", &ports))
        .unwrap();
    let pod = mesh.pod(spec).unwrap();
    let origins = cases
        .iter()
        .map(|(_, port, manner)| pod.origin(*port, Kind::Rude(*manner)).unwrap())
        .collect();
    (pod, origins)
}

/// A hundred POSTs that are counted one by one, to a port of the Service `rude`.
fn once(name: &str, port: u16) -> Plan {
    // A request reaches the application in the version in which it was sent, and these speak only one.
    let protocol = if name.starts_with("http2") {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    let target = format!("10.96.0.20:{port}").parse().unwrap();
    Plan {
        protocol,
        method: http::Method::POST,
        body: "once".into(),
        // One at a time, refusals come in an order that retries certainly outlast.
        concurrency: if name.contains("refuse") { 1 } else { 4 },
        requests: Some(100),
        once: true,
        ..Plan::new(target, "rude.default.svc.cluster.local")
    }
}

#[test]
fn a_post_is_executed_at_most_once_however_the_connection_ends() {
    if !have("resilience: exactly once", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("once").unwrap();
    let cases = [
        ("http-reset", 9001, Manner::ResetAfterRequest),
        ("http-silent", 9002, Manner::Silent),
        ("http2-reset", 9003, Manner::ResetStream),
        ("http2-refuse", 9004, Manner::RefuseEverySecond),
        ("http2-goaway", 9005, Manner::GoAway),
        ("http2-refuse-more", 9010, Manner::RefuseThreeOfFour),
        ("http2-leave", 9006, Manner::GoAwayUnanswered),
        ("http2-silent", 9007, Manner::SilentStream),
    ];
    let (server, origins) = rude(&mesh, &cases);
    mesh.apply("rude-routes", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: rude, namespace: default}\nspec:\n  hosts: [rude]\n  http:\n  - match: [{port: 9002}, {port: 9007}]\n    timeout: 0.2s\n    route: [{destination: {host: rude}}]\n  - match: [{port: 9010}]\n    retries: {attempts: 3, retryOn: refused-stream}\n    route: [{destination: {host: rude}}]\n  - route: [{destination: {host: rude}}]\n").unwrap();
    let _server = server.sidecar().unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    for ((name, port, manner), origin) in cases.iter().zip(&origins) {
        let plan = once(name, *port);
        let report = pod.load(plan).unwrap();
        let executed = origin.controls.executions();
        let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
        assert!(
            twice.is_empty(),
            "{name}: executed more than once: {twice:?}; {report}"
        );
        assert!(!executed.is_empty(), "{name}: nothing arrived: {report}");
        match manner {
            Manner::Silent | Manner::SilentStream => {
                assert_eq!(report.by_outcome().get("504"), Some(&100), "{report}")
            }
            Manner::ResetAfterRequest | Manner::ResetStream | Manner::GoAwayUnanswered => {
                assert_eq!(report.succeeded(), 0, "{report}")
            }
            // Refused unprocessed, so tried again: by the sidecar beside the application where a connection went away, by the
            // caller's where the application refused; three times where a policy says so, and not by both.
            Manner::RefuseEverySecond | Manner::RefuseThreeOfFour | Manner::GoAway => {
                assert_eq!(report.failed(), 0, "{name}: {report}");
                assert_eq!(executed.len(), 100, "{name}: {report}");
            }
        }
    }
}

#[test]
fn timeouts_are_504_or_deadline_exceeded() {
    if !have("resilience: timeout", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("timeout").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("routes", &virtual_service("    timeout: 0.3s\n"))
        .unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    reachable(&pod, VIP, HOST);
    server
        .origin
        .controls
        .delay_ms
        .store(5_000, std::sync::atomic::Ordering::Relaxed);
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        let started = Instant::now();
        let answer = pod
            .send(Ask::get(VIP.parse().unwrap(), HOST, "/slow").protocol(protocol))
            .unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{protocol:?}: the application's answer was awaited"
        );
        match protocol {
            Protocol::Grpc => assert_eq!(answer.header("grpc-status"), "4", "{answer:?}"),
            _ => assert_eq!(answer.status, 504, "{answer:?}"),
        }
    }
    flagged(&sidecar, "UT");
}

fn flagged(sidecar: &tasuki_testkit::mesh::Sidecar, flag: &str) {
    wait::until(
        "the access log shows the flag",
        Duration::from_secs(5),
        || {
            let log = sidecar.access_log();
            let found = log
                .iter()
                .any(|line| line["flags"].to_string().contains(flag));
            anyhow::ensure!(found, "no {flag} in {:?}", log.last());
            Ok(())
        },
    )
    .unwrap();
}

#[test]
fn a_full_pool_refuses_at_once() {
    if !have("resilience: pool", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("pool").unwrap();
    http_server(&mesh).unwrap();
    let limits = "    connectionPool:\n      tcp: {maxConnections: 1}\n      http: {http1MaxPendingRequests: 1, http2MaxRequests: 2}\n";
    mesh.apply("http-server-rule", &destination_rule(limits))
        .unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    reachable(&pod, VIP, HOST);
    server
        .origin
        .controls
        .delay_ms
        .store(2_000, std::sync::atomic::Ordering::Relaxed);
    let report = pod
        .load(Plan {
            concurrency: 20,
            requests: Some(20),
            ..plan()
        })
        .unwrap();
    let refused: Vec<_> = report
        .samples
        .iter()
        .filter(|sample| sample.outcome == "503")
        .collect();
    assert!(refused.len() >= 15, "{report}");
    assert!(report.succeeded() >= 1, "{report}");
    assert!(
        refused
            .iter()
            .all(|sample| sample.latency < Duration::from_secs(1)),
        "refused late: {report}"
    );
    flagged(&sidecar, "UO");
}

#[test]
fn five_failures_in_a_row_eject_an_endpoint_and_it_comes_back() {
    if !have("resilience: ejection", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("ejection").unwrap();
    http_server(&mesh).unwrap();
    let outliers = "    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}\n";
    mesh.apply("http-server-rule", &destination_rule(outliers))
        .unwrap();
    let bad = backend(&mesh, "version-a").unwrap();
    let good = backend(&mesh, "version-b").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    wait::until("both endpoints are used", Duration::from_secs(15), || {
        let report = pod.load(Plan {
            requests: Some(20),
            ..plan()
        })?;
        anyhow::ensure!(report.by_backend().len() == 2, "{report}");
        Ok(())
    })
    .unwrap();
    bad.origin.controls.fail(100, 500);
    let before = bad.origin.controls.seen();
    let report = pod
        .load(Plan {
            requests: Some(200),
            ..plan()
        })
        .unwrap();
    let failures = bad.origin.controls.seen() - before;
    assert!(
        (5..20).contains(&failures),
        "{failures} requests before it was ejected: {report}"
    );
    assert_eq!(report.failed(), failures, "{report}");
    bad.origin.controls.fail(0, 500);
    wait::until("the endpoint is back", Duration::from_secs(15), || {
        let report = pod.load(Plan {
            requests: Some(20),
            ..plan()
        })?;
        anyhow::ensure!(report.by_backend().contains_key("version-a"), "{report}");
        Ok(())
    })
    .unwrap();
    drop(good);
}
