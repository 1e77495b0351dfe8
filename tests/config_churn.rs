//! Configuration that changes, breaks and goes away under load, and a control plane that dies.

use std::time::Duration;

use tasuki_e2e::ads::{self, Ads};
use tasuki_e2e::{HOST, SUBSETS, VIP, backend, client, http_server, split};
use tasuki_testkit::load::Plan;
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, Sidecar, SidecarOptions, service};
use tasuki_testkit::metrics::Metrics;
use tasuki_testkit::namespace::HUB_IP;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;
use tasuki_xds::ResourceType;

fn answers(pod: &RunningPod) {
    wait::until("the service answers", Duration::from_secs(15), || {
        let answer = pod.get(VIP, HOST, "/")?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
}

#[test]
fn two_hundred_edits_lose_no_request() {
    if !have("churn: edits", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("churn").unwrap();
    http_server(&mesh).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let load = pod.start_load(Plan {
        concurrency: 8,
        rate: Some(300.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    for edit in 0..200u32 {
        match edit % 10 {
            0..=3 => mesh.apply("routes", &split(edit % 100, 100 - edit % 100, "")).unwrap(),
            4 => mesh.config.remove("routes").unwrap(),
            5 => mesh.apply("routes", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: [broken").unwrap(),
            6 => mesh.apply("routes", "").unwrap(),
            7 => mesh.apply("other", &service("default", "other", "10.96.9.9", &[("http", 80, edit as u16 + 1)])).unwrap(),
            8 => mesh.config.remove("other").unwrap(),
            _ => mesh.apply("http-server-rule", &format!("{SUBSETS}  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {}s}}}}}}\n", edit % 7 + 1)).unwrap(),
        }
        load.run_for(Duration::from_millis(150));
    }
    let report = load.finish().unwrap();
    assert!(report.total() > 5_000, "{report}");
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn a_broken_object_keeps_its_last_good_version_and_is_named() {
    if !have("churn: broken", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("broken").unwrap();
    http_server(&mesh).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let only_b = || {
        wait::until("only version-b", Duration::from_secs(10), || {
            let report = pod.load(Plan {
                requests: Some(50),
                ..Plan::new(VIP.parse()?, HOST)
            })?;
            anyhow::ensure!(
                report.by_backend().get("version-b") == Some(&50),
                "{report}"
            );
            Ok(())
        })
        .unwrap();
    };
    only_b();
    mesh.apply(
        "routes",
        &split(100, 0, "").replace("weight: 100", "weight: many"),
    )
    .unwrap();
    let report = wait::until("/debug/resources names it", Duration::from_secs(10), || {
        let report = mesh.control_get("/debug/resources")?;
        anyhow::ensure!(
            report.contains("routes.yaml") && report.contains("http-server"),
            "{report}"
        );
        Ok(report)
    })
    .unwrap();
    assert!(report.contains("weight"), "the field is named: {report}");
    only_b();
}

#[test]
fn the_mesh_outlives_its_control_plane() {
    if !have("churn: control plane away", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("away").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("routes", &split(100, 0, "")).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, mut sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let load = pod.start_load(Plan {
        concurrency: 4,
        rate: Some(200.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    mesh.kill_control();
    load.run_for(Duration::from_secs(3));
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "traffic goes on: {report}");

    sidecar.process.stop(Duration::from_secs(40));
    drop(sidecar);
    let restarted = pod
        .launch_sidecar(SidecarOptions {
            redirect: false,
            ..SidecarOptions::default()
        })
        .unwrap();
    restarted.wait_ready().unwrap();
    let report = pod
        .load(Plan {
            requests: Some(100),
            ..Plan::new(VIP.parse().unwrap(), HOST)
        })
        .unwrap();
    assert_eq!(
        report.by_backend().get("version-a"),
        Some(&100),
        "served from its state dir: {report}"
    );

    mesh.start_control().unwrap();
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    wait::until(
        "all converge when it returns",
        Duration::from_secs(30),
        || {
            let report = pod.load(Plan {
                requests: Some(20),
                ..Plan::new(VIP.parse()?, HOST)
            })?;
            anyhow::ensure!(
                report.by_backend().get("version-b") == Some(&20),
                "{report}"
            );
            Ok(())
        },
    )
    .unwrap();
}

/// Resources received by a proxy so far, by type and outcome.
fn received(sidecar: &Sidecar) -> Vec<(String, String, f64)> {
    let metrics: Metrics = sidecar.metrics().unwrap();
    let mut received: Vec<_> = metrics
        .find("tasuki_xds_resources_total", &[])
        .map(|s| (s.label("type").into(), s.label("outcome").into(), s.value))
        .collect();
    received.sort_by(|a, b| a.partial_cmp(b).unwrap());
    received
}

#[test]
fn a_control_plane_that_returns_sends_only_what_changed() {
    if !have("churn: nothing resent", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("returns").unwrap();
    http_server(&mesh).unwrap();
    // Both versions are used, so that another weight needs nothing but routes.
    mesh.apply("routes", &split(50, 50, "")).unwrap();
    let a = backend(&mesh, "version-a").unwrap();
    let b = backend(&mesh, "version-b").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let proxies = [&a.sidecar, &b.sidecar, &sidecar];
    let streams = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics()?;
        anyhow::ensure!(metrics.sum("tasuki_control_connected", &[]) == 1.0);
        Ok(metrics.sum("tasuki_control_connects_total", &[]))
    };
    // Both endpoints are known, the last of them only since it is ready.
    wait::until("all is quiet", Duration::from_secs(30), || {
        let before = proxies.map(received);
        std::thread::sleep(Duration::from_secs(1));
        anyhow::ensure!(proxies.map(received) == before, "something is still sent");
        Ok(())
    })
    .unwrap();
    let before = proxies.map(received);
    let connects = proxies.map(|proxy| streams(proxy).unwrap());

    mesh.kill_control();
    mesh.start_control().unwrap();
    for (proxy, connects) in proxies.iter().zip(connects) {
        wait::until("the proxy is back", Duration::from_secs(60), || {
            anyhow::ensure!(streams(proxy)? > connects, "not connected again");
            Ok(())
        })
        .unwrap();
    }
    // What follows on the same streams shows that what came before has come.
    let mut expected = before.clone();
    for (ty, outcome, count) in &mut expected[2] {
        if ty == "route" && outcome == "accepted" {
            *count += 1.0;
        }
    }
    mesh.apply("routes", &split(49, 51, "")).unwrap();
    // One more, exactly: what is resent comes before it, on the same streams.
    wait::until("one change arrives", Duration::from_secs(30), || {
        let now = proxies.map(received);
        anyhow::ensure!(now == expected, "{now:?}, not {expected:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn bad_resources_are_refused_by_name_while_good_ones_apply() {
    if !have("churn: bad resources", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("bad-ads").unwrap();
    let server = mesh.pod(PodSpec::new("server").plain()).unwrap();
    let origins = [8081, 8082].map(|port| server.http(port).unwrap());
    let address = (HUB_IP, 16010).into();
    let control = Ads::start(mesh.network.hub(), address).unwrap();
    let (one, two, bad) = ("10.96.1.1:80", "10.96.1.2:80", "10.96.1.3:80");
    let first = server.at(8081);
    for name in [one, two, bad] {
        control.put(ads::destination(name, first).iter().map(ads::good));
    }
    let router = ("http.router.v3.Router", "http.ruoter.v3.Router");
    control.put([ads::spoilt(&ads::listener(bad), router.0, router.1)]);

    let pod = mesh.pod(PodSpec::new("client")).unwrap();
    let sidecar = pod
        .launch_sidecar(SidecarOptions {
            control: format!("http://{address}"),
            ..SidecarOptions::default()
        })
        .unwrap();
    let answered = |target: &str| {
        wait::until("it is answered", Duration::from_secs(30), || {
            let answer = pod.get(target, target, "/")?;
            anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
            Ok(())
        })
        .unwrap();
    };
    let refused = |ty: ResourceType, name: &str, reason: &str| {
        wait::until("it is refused", Duration::from_secs(30), || {
            let all = control.refusals();
            let found = all
                .iter()
                .any(|r| r.ty == ty && r.name == name && r.reason.contains(reason));
            anyhow::ensure!(found, "{all:?}");
            Ok(())
        })
        .unwrap();
    };
    answered(one);
    answered(two);
    // Nothing serves a listener that was refused; asking for it is what has it sent.
    let denied = pod.get(bad, bad, "/");
    assert!(
        !denied.as_ref().is_ok_and(|answer| answer.status == 200),
        "{denied:?}"
    );
    refused(ResourceType::Listener, bad, "not the router");

    // In one response: good endpoints for one destination, bad ones for the other.
    let moved = ads::endpoints(one, server.at(8082));
    let ip = server.namespace.ip.to_string();
    let broken = format!("{}x", &ip[..ip.len() - 1]);
    let wrong = ads::spoilt(&ads::endpoints(two, server.at(8082)), &ip, &broken);
    control.put([ads::good(&moved), wrong]);
    refused(ResourceType::Endpoint, two, "not an IP address");
    wait::until("the good ones apply", Duration::from_secs(30), || {
        let before = origins[1].controls.seen();
        answered(one);
        anyhow::ensure!(origins[1].controls.seen() > before, "the old endpoint");
        Ok(())
    })
    .unwrap();
    let before = origins[0].controls.seen();
    answered(two);
    assert!(
        origins[0].controls.seen() > before,
        "the last good endpoints serve on"
    );
    assert!(
        control.refusals().iter().all(|r| r.name != one),
        "{:?}",
        control.refusals()
    );
    let rejected = sidecar
        .metrics()
        .unwrap()
        .sum("tasuki_xds_resources_total", &[("outcome", "rejected")]);
    assert!(rejected >= 2.0, "{rejected}");

    // Mended, it applies.
    control.put([ads::good(&ads::endpoints(two, server.at(8082)))]);
    control.put([ads::good(&ads::listener(bad))]);
    wait::until("the mended one applies", Duration::from_secs(30), || {
        let before = origins[1].controls.seen();
        answered(two);
        anyhow::ensure!(origins[1].controls.seen() > before, "the old endpoint");
        Ok(())
    })
    .unwrap();
    answered(bad);
}
