//! A sidecar knows what its application uses, not what the mesh has.

use std::fmt::Write;
use std::time::Duration;

use tasuki_testkit::mesh::{Mesh, PodSpec, service};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

/// Resident memory of a sidecar whose application calls five services of a mesh of `size`.
fn resident(size: u32) -> u64 {
    let mesh = Mesh::start(&format!("memory-{size}")).unwrap();
    let mut yaml = String::new();
    for index in 0..size {
        let name = format!("service-{index}");
        let ip = format!("10.97.{}.{}", index / 250, index % 250 + 1);
        let _ = write!(
            yaml,
            "---\n{}",
            service("default", &name, &ip, &[("http", 80, 8080)])
        );
    }
    mesh.apply("services", &yaml).unwrap();
    // Only the first has a pod behind it: what is measured is the client's side.
    let spec = PodSpec::new("backend")
        .label("app", "service-0")
        .port("http", 8080);
    let backend = mesh.pod(spec).unwrap();
    let _origin = backend.http(8080).unwrap();
    let _backend = backend.sidecar().unwrap();
    let pod = mesh.pod(PodSpec::new("client")).unwrap();
    let sidecar = pod.sidecar().unwrap();
    wait::until("the first service answers", Duration::from_secs(30), || {
        let answer = pod.get("10.97.0.1:80", "service-0.default.svc.cluster.local", "/")?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
    for index in 0..5 {
        let answer = pod
            .get(
                &format!("10.97.0.{}:80", index + 1),
                &format!("service-{index}.default.svc.cluster.local"),
                "/",
            )
            .unwrap();
        let expected = if index == 0 { 200 } else { 503 };
        assert_eq!(answer.status, expected, "service-{index}: {}", answer.body);
    }
    sidecar.process.resident().unwrap()
}

#[test]
fn memory_does_not_grow_with_the_mesh() {
    if !have("memory", &[Need::Namespaces]) {
        return;
    }
    let (small, large) = (resident(5), resident(2_000));
    let grown = large.saturating_sub(small);
    assert!(
        grown < 2 << 20,
        "{grown} bytes more in a mesh of 2000 services than in one of 5 ({small})"
    );
}
