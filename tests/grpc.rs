//! A real gRPC client and three real servers: balance of single calls over one connection, the four kinds
//! of call, trailers, deadlines and cancellation.

use std::time::Duration;

use tasuki_e2e::{client, python};
use tasuki_testkit::mesh::{Mesh, PodSpec, service};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

#[test]
fn calls_of_every_kind_are_balanced_one_by_one() {
    if !have("grpc", &[Need::Namespaces, Need::Python]) {
        return;
    }
    let mesh = Mesh::start("grpc").unwrap();
    mesh.apply(
        "echo",
        &service("default", "echo", "10.96.0.30", &[("grpc", 9000, 9000)]),
    )
    .unwrap();
    let servers: Vec<_> = ["one", "two", "three"]
        .iter()
        .map(|name| {
            let pod = mesh
                .pod(
                    PodSpec::new(name)
                        .account("echo")
                        .label("app", "echo")
                        .port("grpc", 9000),
                )
                .unwrap();
            let program = python(
                &mesh,
                &pod.namespace,
                name,
                "grpc_server.py",
                &[name, "0.0.0.0:9000"],
            )
            .unwrap();
            let sidecar = pod.sidecar().unwrap();
            wait::until("the server listens", Duration::from_secs(20), || {
                anyhow::ensure!(program.log().contains("listening"), "{}", program.log());
                Ok(())
            })
            .unwrap();
            (pod, program, sidecar)
        })
        .collect();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    // Three endpoints must be known before evenness means anything.
    wait::until("three endpoints are used", Duration::from_secs(15), || {
        let seen = run(&mesh, &pod, 30)?;
        anyhow::ensure!(
            seen["backends"]
                .as_object()
                .is_some_and(|map| map.len() == 3),
            "{seen}"
        );
        Ok(())
    })
    .unwrap();
    let seen = run(&mesh, &pod, 3_000).unwrap();
    for name in ["one", "two", "three"] {
        let calls = seen["backends"][name].as_u64().unwrap_or(0);
        assert!(
            (900..=1100).contains(&calls),
            "{name} got {calls} of 3000 calls: {seen}"
        );
    }
    assert_eq!(seen["trailers"], true, "{seen}");
    assert_eq!(seen["collected"], 200_000, "client streaming: {seen}");
    assert_eq!(seen["produced"], true, "server streaming: {seen}");
    assert_eq!(seen["chat"], true, "bidirectional streaming: {seen}");
    assert_eq!(seen["failure"][0], "FAILED_PRECONDITION", "{seen}");
    assert_eq!(seen["failure"][1], "as asked: once", "{seen}");
    assert_eq!(seen["deadline"], "DEADLINE_EXCEEDED", "{seen}");
    assert_eq!(seen["deadline_in_time"], true, "{seen}");
    assert!(
        seen["cancelled"].as_u64() >= Some(9),
        "the servers hear of cancellations: {seen}"
    );
    drop(servers);
}

fn run(
    mesh: &Mesh,
    pod: &tasuki_testkit::mesh::RunningPod,
    calls: u32,
) -> anyhow::Result<serde_json::Value> {
    let count = calls.to_string();
    let args = [
        "10.96.0.30:9000",
        &count,
        "echo.default.svc.cluster.local:9000",
    ];
    let name = format!(
        "client-{calls}-{}",
        std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_millis()
    );
    let mut program = python(mesh, &pod.namespace, &name, "grpc_client.py", &args)?;
    let status = program.wait(Duration::from_secs(90))?;
    let log = program.log();
    anyhow::ensure!(status.success(), "{status}: {log}");
    let line = log.lines().rev().find(|line| line.starts_with('{'));
    Ok(serde_json::from_str(line.unwrap_or("null"))?)
}
