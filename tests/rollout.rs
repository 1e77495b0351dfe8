//! Rolling restarts of a backend: an endpoint leaves the files, then its proxy drains; nothing is lost.

use std::time::Duration;

use tasuki_e2e::{Backend, HOST, VIP, backend, client, http_server};
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::Mesh;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

#[test]
fn twenty_rolling_restarts_lose_nothing() {
    if !have("rollout", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("rollout").unwrap();
    http_server(&mesh).unwrap();
    let mut backends: Vec<Backend> = (0..3)
        .map(|index| backend(&mesh, &format!("v{index}")).unwrap())
        .collect();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let plan = |protocol| Plan {
        concurrency: 4,
        rate: Some(100.0),
        protocol,
        ..Plan::new(VIP.parse().unwrap(), HOST)
    };
    wait::until("all endpoints are used", Duration::from_secs(15), || {
        let report = pod.load(Plan {
            requests: Some(30),
            ..Plan::new(VIP.parse()?, HOST)
        })?;
        anyhow::ensure!(report.by_backend().len() == 3, "{report}");
        Ok(())
    })
    .unwrap();
    let loads = [Protocol::Http1, Protocol::Http2, Protocol::Grpc]
        .map(|protocol| pod.start_load(plan(protocol)));
    for round in 0..20 {
        let mut old = backends.remove(0);
        old.pod.remove().unwrap();
        // Kubernetes gives the endpoint's removal this head start, too: SIGTERM follows a preStop pause.
        std::thread::sleep(Duration::from_millis(1_200));
        old.sidecar.process.stop(Duration::from_secs(40));
        drop(old);
        backends.push(backend(&mesh, &format!("v{}", round + 3)).unwrap());
    }
    for load in loads {
        let report = load.finish().unwrap();
        assert!(report.total() > 1_000, "{report}");
        assert_eq!(report.failed(), 0, "{report}");
    }
}
