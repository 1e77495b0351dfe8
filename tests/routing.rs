//! Weighted and conditional routing: 70/30 over two versions, a change of weights under load that loses
//! nothing, and a header rule ahead of the split.

use std::time::Duration;

use tasuki_e2e::{HOST, VIP, backend, client, http_server, split};
use tasuki_testkit::client::Ask;
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::Mesh;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

#[test]
fn weights_are_kept_and_changed_without_losing_a_request() {
    if !have("routing: weights", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("routing").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("routes", &split(70, 30, "")).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    wait::until("both versions are known", Duration::from_secs(15), || {
        let report = pod.load(Plan {
            requests: Some(30),
            ..Plan::new(VIP.parse()?, HOST)
        })?;
        anyhow::ensure!(
            report.by_backend().len() == 2 && report.failed() == 0,
            "{report}"
        );
        Ok(())
    })
    .unwrap();

    for protocol in [Protocol::Http1, Protocol::Http2] {
        let plan = Plan {
            concurrency: 8,
            requests: Some(10_000),
            protocol,
            ..Plan::new(VIP.parse().unwrap(), HOST)
        };
        let report = pod.load(plan).unwrap();
        assert_eq!(report.succeeded(), 10_000, "{protocol:?}: {report}");
        let share = report.share("version-a");
        assert!(
            (68.5..=71.5).contains(&share),
            "{protocol:?}: version-a got {share} %: {report}"
        );
    }

    let load = pod.start_load(Plan {
        concurrency: 8,
        rate: Some(500.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    load.run_for(Duration::from_secs(1));
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    let edited = load.elapsed();
    load.run_for(Duration::from_secs(3));
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    let late = report.since(edited + Duration::from_secs(1));
    assert!(late.total() > 500, "{late}");
    assert_eq!(
        late.by_backend().get("version-a"),
        None,
        "version-a was used more than a second after the edit: {late}"
    );
}

#[test]
fn a_header_rule_ahead_of_the_split_wins() {
    if !have("routing: header rule", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("routing-ab").unwrap();
    http_server(&mesh).unwrap();
    let first = "
  - name: group
    match:
    - headers: {x-group: {exact: b}}
    route:
    - destination: {host: http-server, subset: version-b}";
    mesh.apply("routes", &split(100, 0, first)).unwrap();
    let _a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let target = VIP.parse().unwrap();
    wait::until("routed by header", Duration::from_secs(15), || {
        let answer = pod.send(Ask::get(target, HOST, "/").header("x-group", "b"))?;
        anyhow::ensure!(answer.header("x-backend") == "version-b", "{answer:?}");
        Ok(())
    })
    .unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        let plan = Plan {
            requests: Some(200),
            protocol,
            ..Plan::new(target, HOST)
        };
        let report = pod.load(plan.clone().header("x-group", "b")).unwrap();
        assert_eq!(
            report.by_backend().get("version-b"),
            Some(&200),
            "{protocol:?}: {report}"
        );
        let report = pod.load(plan.header("x-group", "c")).unwrap();
        assert_eq!(
            report.by_backend().get("version-a"),
            Some(&200),
            "{protocol:?}: {report}"
        );
    }
}
