//! A control plane that dies, returns, or returns without its files, and proxies that live, restart and run out of
//! their certificate meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tasuki_e2e::{
    Backend, HOST, SUBSETS, VIP, answers, backend, client, http_server, mtls_mode, split,
};
use tasuki_testkit::client::Ask;
use tasuki_testkit::load::{Plan, Report};
use tasuki_testkit::mesh::{ControlOptions, Mesh, PodSpec, RunningPod, Sidecar, SidecarOptions};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

/// Resources received by a proxy since its start, by type and outcome.
fn received(sidecar: &Sidecar) -> Vec<(String, String, f64)> {
    let metrics = sidecar.metrics().unwrap();
    let mut received: Vec<_> = metrics
        .find("tasuki_xds_resources_total", &[])
        .map(|s| (s.label("type").into(), s.label("outcome").into(), s.value))
        .collect();
    received.sort_by(|a, b| a.partial_cmp(b).unwrap());
    received
}

/// The same with one more accepted of each of these types.
fn and_accepted(
    mut received: Vec<(String, String, f64)>,
    types: &[&str],
) -> Vec<(String, String, f64)> {
    for ty in types {
        let one = received
            .iter_mut()
            .find(|(t, outcome, _)| t == ty && outcome == "accepted");
        match one {
            Some((_, _, count)) => *count += 1.0,
            None => received.push(((*ty).into(), "accepted".into(), 1.0)),
        }
    }
    received.sort_by(|a, b| a.partial_cmp(b).unwrap());
    received
}

fn gauge(sidecar: &Sidecar, name: &str) -> f64 {
    sidecar.metrics().unwrap().sum(name, &[])
}

/// Waits until nothing is sent any more, and all of it is in the state dirs.
fn quiet(proxies: &[&Sidecar]) {
    let all = || proxies.iter().map(|p| received(p)).collect::<Vec<_>>();
    wait::until("all is quiet", Duration::from_secs(60), || {
        let before = all();
        std::thread::sleep(Duration::from_secs(1));
        anyhow::ensure!(all() == before, "something is still sent");
        let saved = |p: &&Sidecar| gauge(p, "tasuki_state_unsaved_resources") == 0.0;
        anyhow::ensure!(proxies.iter().all(saved), "something is not kept yet");
        Ok(())
    })
    .unwrap();
}

fn connected(sidecar: &Sidecar) {
    wait::until("the proxy is connected", Duration::from_secs(60), || {
        anyhow::ensure!(gauge(sidecar, "tasuki_control_connected") == 1.0);
        Ok(())
    })
    .unwrap();
}

/// The pod's sidecar once more, in the interception and with the state dir of the one before.
fn again(pod: &RunningPod) -> Sidecar {
    let options = SidecarOptions {
        redirect: false,
        ..SidecarOptions::default()
    };
    pod.sidecar_with(options).unwrap()
}

/// The certificate that a proxy shows to its peers.
fn certificate(sidecar: &Sidecar) -> String {
    let certs: serde_json::Value = serde_json::from_str(&sidecar.admin("/certs").unwrap()).unwrap();
    let chain = certs["certificate"]["chain"].as_str();
    chain.expect("no certificate").to_owned()
}

fn requests(pod: &RunningPod, count: u64) -> Report {
    let report = pod.load(Plan {
        requests: Some(count),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    report.unwrap()
}

/// Those who stay up and those who restart meanwhile, of both ends, under mutual TLS. Afterwards one change reaches
/// everybody; it comes on the same stream, after all that was resent.
#[test]
fn the_mesh_outlives_its_control_plane_and_gets_only_what_changed() {
    if !have("away: restarts", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("away").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    // Both versions are used, so that another weight needs nothing but routes.
    mesh.apply("routes", &split(50, 50, "")).unwrap();
    let Backend {
        pod: server,
        origin: _origin,
        sidecar: server_sidecar,
    } = backend(&mesh, "version-a").unwrap();
    let other = backend(&mesh, "version-b").unwrap();
    let (pod, mut sidecar) = client(&mesh, "client", "default").unwrap();
    let stranger = mesh.pod(PodSpec::new("stranger").plain()).unwrap();
    answers(&pod);
    quiet(&[&sidecar, &server_sidecar, &other.sidecar]);
    let before = received(&other.sidecar);
    let certificates = [&sidecar, &server_sidecar].map(certificate);

    let load = pod.start_load(Plan {
        concurrency: 4,
        rate: Some(200.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    mesh.kill_control();
    load.run_for(Duration::from_secs(3));
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "traffic goes on: {report}");

    // One ends in order, the other is killed.
    sidecar.process.stop(Duration::from_secs(40));
    drop((sidecar, server_sidecar));
    let (sidecar, server_sidecar) = (again(&pod), again(&server));
    let report = requests(&pod, 200);
    assert_eq!(report.failed(), 0, "from the state dir: {report}");
    assert_eq!(report.by_backend().len(), 2, "{report}");
    let kept = [&sidecar, &server_sidecar].map(certificate);
    assert_eq!(kept, certificates, "mutual TLS with what was kept");
    let direct = server.at(8080).to_string();
    let plain = stranger.get(&direct, HOST, "/");
    assert!(plain.is_err(), "STRICT is forgotten: {plain:?}");
    let shown = requests_identity(&pod);
    assert!(shown.contains("/sa/client"), "{shown}");
    for proxy in [&sidecar, &server_sidecar] {
        assert_eq!(received(proxy), [], "the control plane is away");
    }

    mesh.start_control().unwrap();
    for proxy in [&sidecar, &server_sidecar, &other.sidecar] {
        connected(proxy);
    }
    mesh.apply("mode", &mtls_mode("PERMISSIVE")).unwrap();
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    // Whether a pod leaves is not kept over a restart: it would be yesterday's news.
    let expected = [
        and_accepted(Vec::new(), &["departure", "listener", "route"]),
        and_accepted(Vec::new(), &["departure", "listener"]),
        and_accepted(before, &["listener"]),
    ];
    wait::until("the change arrives", Duration::from_secs(60), || {
        let now = [&sidecar, &server_sidecar, &other.sidecar].map(received);
        anyhow::ensure!(now == expected, "{now:?}, not {expected:?}");
        Ok(())
    })
    .unwrap();
    let report = requests(&pod, 50);
    let backends = report.by_backend();
    assert_eq!(backends.get("version-b"), Some(&50), "{report}");
}

/// What `http-server` is told of the client's identity.
fn requests_identity(pod: &RunningPod) -> String {
    let answer = pod.get(VIP, HOST, "/").unwrap();
    answer.json()["headers"].to_string()
}

#[test]
fn a_spoilt_state_dir_stops_nobody() {
    if !have("away: spoilt state", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("spoilt").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let _server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    quiet(&[&sidecar]);
    drop(sidecar);
    // Half of each file is garbage, the rest is missing; and from now on the disk takes nothing more.
    let state = pod.state_dir();
    let mut spoilt = 0;
    for folder in [state.clone(), state.join("config")] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let length = std::fs::metadata(&path).unwrap().len() as usize;
                std::fs::write(&path, vec![0xa5; length / 2]).unwrap();
                spoilt += 1;
            }
        }
        let read_only = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(&folder, read_only).unwrap();
    }
    assert!(spoilt > 5, "only {spoilt} files");

    // It belongs to root, which the proxy is not.
    std::os::unix::fs::chown(&state, Some(0), Some(0)).unwrap();
    std::os::unix::fs::chown(state.join("config"), Some(0), Some(0)).unwrap();
    let sidecar = again(&pod);
    answers(&pod);
    wait::until(
        "the failed writes are told",
        Duration::from_secs(30),
        || {
            anyhow::ensure!(gauge(&sidecar, "tasuki_state_write_failures_total") > 0.0);
            Ok(())
        },
    )
    .unwrap();
    let log = sidecar.process.log();
    assert!(log.contains("damaged"), "of what was kept");
    assert!(log.contains("the state dir cannot be written"));
    mesh.kill_control();
    assert_eq!(requests(&pod, 100).failed(), 0, "from memory");
}

#[test]
fn an_expired_certificate_is_named_and_replaced() {
    if !have("away: expired", &[Need::Namespaces]) {
        return;
    }
    let options = ControlOptions {
        args: vec!["--certificate-ttl=10s".into()],
    };
    let mesh = Mesh::start_with("expired", options).unwrap();
    http_server(&mesh).unwrap();
    // Nobody has a connection to version-b before it is too late.
    let first = "
  - name: b
    match: [{headers: {version: {exact: b}}}]
    route:
    - destination: {host: http-server, subset: version-b}";
    mesh.apply("routes", &split(100, 0, first)).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    mesh.kill_control();
    wait::until("it has expired", Duration::from_secs(60), || {
        let expiry = gauge(&sidecar, "tasuki_certificate_expiry_timestamp_seconds");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        anyhow::ensure!(now.as_secs_f64() > expiry, "not yet");
        anyhow::ensure!(
            sidecar
                .process
                .log()
                .contains("the certificate has expired")
        );
        Ok(())
    })
    .unwrap();
    // What is open goes on.
    assert_eq!(pod.get(VIP, HOST, "/").unwrap().status, 200);
    let to_b = || {
        let ask = Ask::get(VIP.parse().unwrap(), HOST, "/").header("version", "b");
        pod.send(ask).unwrap()
    };
    assert_eq!(to_b().status, 503);
    let named = |line: &serde_json::Value| {
        let reason = line["reason"].as_str().unwrap_or_default();
        line["flags"].to_string().contains("UF")
            && reason.contains("the workload certificate expired at")
    };
    wait::until("the access log says why", Duration::from_secs(30), || {
        let log = sidecar.access_log();
        anyhow::ensure!(log.iter().any(named), "{log:?}");
        Ok(())
    })
    .unwrap();

    mesh.start_control().unwrap();
    wait::until("it is replaced", Duration::from_secs(60), || {
        let answer = to_b();
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_control_plane_without_its_files_takes_nothing_away() {
    if !have("away: no files", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("no-files").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("routes", &split(100, 0, "")).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    quiet(&[&sidecar, &server.sidecar]);
    let before = [&sidecar, &server.sidecar].map(received);
    let load = pod.start_load(Plan {
        concurrency: 4,
        rate: Some(100.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    mesh.kill_control();
    let files = mesh.config.path();
    let aside = mesh.folder().join("aside");
    std::fs::rename(files, &aside).unwrap();
    let missing = mesh.start_control().unwrap_err().to_string();
    assert!(missing.contains("--config-dir"), "{missing}");

    std::fs::create_dir(files).unwrap();
    mesh.start_control().unwrap();
    let proxies = [&sidecar, &server.sidecar];
    for proxy in proxies {
        connected(proxy);
    }
    quiet(&proxies);
    assert_eq!(proxies.map(received), before, "nothing was taken away");
    std::fs::remove_dir(files).unwrap();
    std::fs::rename(&aside, files).unwrap();
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    wait::until("changes arrive again", Duration::from_secs(60), || {
        let report = requests(&pod, 20);
        let backends = report.by_backend();
        anyhow::ensure!(backends.get("version-b") == Some(&20), "{report}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn files_that_are_broken_when_the_control_plane_returns_lose_nothing() {
    if !have("away: broken files", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("broken-start").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    quiet(&[&sidecar]);
    let before = received(&sidecar);
    let connects = gauge(&sidecar, "tasuki_control_connects_total");
    mesh.kill_control();
    // Half a file, an empty one, and one with a wrong field.
    mesh.apply("routes", &split(0, 100, "")[..80]).unwrap();
    mesh.apply("http-server", "").unwrap();
    let wrong = SUBSETS.replace("host: http-server", "host: 7");
    mesh.apply("http-server-rule", &wrong).unwrap();
    mesh.start_control().unwrap();
    let report = mesh.control_get("/debug/resources").unwrap();
    for file in ["routes.yaml", "http-server.yaml", "http-server-rule.yaml"] {
        assert!(report.contains(file), "{file}: {report}");
    }
    wait::until("the proxy is back", Duration::from_secs(60), || {
        let now = gauge(&sidecar, "tasuki_control_connects_total");
        anyhow::ensure!(now > connects && gauge(&sidecar, "tasuki_control_connected") == 1.0);
        Ok(())
    })
    .unwrap();
    // Also for one that never saw the good files.
    let (newcomer, newcomers) = client(&mesh, "newcomer", "default").unwrap();
    answers(&newcomer);
    quiet(&[&sidecar, &newcomers]);
    assert_eq!(received(&sidecar), before, "nothing was taken away");
    for pod in [&pod, &newcomer] {
        let report = requests(pod, 50);
        let backends = report.by_backend();
        assert_eq!(backends.get("version-b"), Some(&50), "{report}");
    }
}
