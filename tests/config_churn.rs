//! Configuration that changes, breaks and goes away under load.

use std::time::Duration;

use tasuki_e2e::ads::{self, Ads};
use tasuki_e2e::{HOST, SUBSETS, VIP, answers, backend, client, http_server, split};
use tasuki_testkit::load::Plan;
use tasuki_testkit::mesh::{Mesh, PodSpec, Sidecar, SidecarOptions, service};
use tasuki_testkit::namespace::HUB_IP;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;
use tasuki_xds::ResourceType;

/// In half a minute on an idle machine, where a minute would do.
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
fn a_service_that_is_made_again_is_pushed_to_those_who_used_it() {
    if !have("churn: made again", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("made-again").unwrap();
    http_server(&mesh).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let listeners = |outcome| {
        let labels = [("type", "listener"), ("outcome", outcome)];
        let metrics = sidecar.metrics()?;
        anyhow::Ok(metrics.sum("tasuki_xds_resources_total", &labels))
    };
    let before = listeners("accepted").unwrap();
    mesh.config.remove("http-server").unwrap();
    wait::until("it is gone", Duration::from_secs(30), || {
        anyhow::ensure!(listeners("removed")? >= 1.0);
        Ok(())
    })
    .unwrap();
    let gone = pod.get(VIP, HOST, "/");
    assert!(!gone.as_ref().is_ok_and(|a| a.status == 200), "{gone:?}");

    http_server(&mesh).unwrap();
    // Nobody asks for it meanwhile.
    wait::until("it is pushed", Duration::from_secs(30), || {
        let now = listeners("accepted")?;
        anyhow::ensure!(now >= before + 1.0, "{now} listeners, {before} before");
        Ok(())
    })
    .unwrap();
    let unknown = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics().unwrap();
        metrics.sum("tasuki_demands_total", &[("outcome", "unknown")])
    };
    let before = unknown(&sidecar);
    answers(&pod);
    assert_eq!(unknown(&sidecar), before, "it was passed through");
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

#[test]
fn an_enormous_resource_is_not_taken_and_harms_nothing() {
    if !have("churn: enormous", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("enormous").unwrap();
    let server = mesh.pod(PodSpec::new("server").plain()).unwrap();
    let _origin = server.http(8081).unwrap();
    let address = (HUB_IP, 16010).into();
    let control = Ads::start(mesh.network.hub(), address).unwrap();
    let (small, large) = ("10.96.1.1:80", "10.96.1.2:80");
    for name in [small, large] {
        control.put(
            ads::destination(name, server.at(8081))
                .iter()
                .map(ads::good),
        );
    }
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
    let connects = || {
        let metrics = sidecar.metrics().unwrap();
        metrics.sum("tasuki_control_connects_total", &[])
    };
    answered(small);
    answered(large);
    let (resident, before) = (sidecar.process.resident().unwrap(), connects());
    control.put([ads::enormous(&ads::endpoints(large, server.at(8081)))]);
    wait::until("streams end over it", Duration::from_secs(60), || {
        anyhow::ensure!(connects() >= before + 2.0);
        Ok(())
    })
    .unwrap();
    answered(small);
    answered(large);
    let grown = sidecar.process.resident().unwrap().saturating_sub(resident);
    assert!(grown < 32 << 20, "{grown} bytes more");
    // What follows is taken again.
    control.put([ads::good(&ads::endpoints(large, server.at(8082)))]);
    wait::until("the stream holds again", Duration::from_secs(60), || {
        let answer = pod.get(large, large, "/")?;
        anyhow::ensure!(answer.status == 503, "still at the old endpoint");
        Ok(())
    })
    .unwrap();
}
