//! Configuration that changes, breaks and goes away under load, and a control plane that dies.

use std::time::Duration;

use tasuki_e2e::{HOST, SUBSETS, VIP, backend, client, http_server, split};
use tasuki_testkit::load::Plan;
use tasuki_testkit::mesh::{Mesh, RunningPod, SidecarOptions, service};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

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
