//! What Prometheus and people see: metrics that promtool accepts, an access log that names everything,
//! and `tasuki check` on faulty documents.

use std::process::Command;
use std::time::Duration;

use tasuki_e2e::{HOST, VIP, backend, client, http_server};
use tasuki_testkit::binaries;
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::{Mesh, get};
use tasuki_testkit::require::{Need, have, program};
use tasuki_testkit::wait;

#[test]
fn prometheus_scrapes_both_planes_and_promtool_agrees() {
    if !have(
        "telemetry",
        &[
            Need::Namespaces,
            Need::Program("promtool"),
            Need::Program("prometheus"),
        ],
    ) {
        return;
    }
    let mesh = Mesh::start("telemetry").unwrap();
    http_server(&mesh).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    wait::until("the service answers", Duration::from_secs(15), || {
        let answer = pod.get(VIP, HOST, "/")?;
        anyhow::ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    })
    .unwrap();
    for protocol in [Protocol::Http1, Protocol::Grpc] {
        pod.load(Plan {
            requests: Some(100),
            protocol,
            ..Plan::new(VIP.parse().unwrap(), HOST).header("x-request-id", "one-of-many")
        })
        .unwrap();
    }
    let of_proxy = get(&pod.namespace, "127.0.0.1:15020", "/metrics").unwrap();
    for (plane, text) in [
        ("proxy", of_proxy),
        ("control", mesh.control_get("/metrics").unwrap()),
    ] {
        let complaints: Vec<_> = promtool(&text)
            .lines()
            .filter(|line| !line.contains("istio_request_duration_milliseconds"))
            .map(str::to_owned)
            .collect();
        assert!(complaints.is_empty(), "{plane}: {complaints:?}");
    }

    let metrics = sidecar.metrics().unwrap();
    let labels = [
        ("reporter", "source"),
        ("destination_service", HOST),
        ("destination_service_name", "http-server"),
        ("destination_service_namespace", "default"),
        ("destination_version", "version-a"),
        ("source_workload_namespace", "default"),
        ("response_code", "200"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/http-server",
        ),
    ];
    assert!(
        metrics.sum("istio_requests_total", &labels) >= 200.0,
        "{:?}",
        metrics.find("istio_requests_total", &[]).next()
    );
    let at_server = server.sidecar.metrics().unwrap();
    let labels = [
        ("reporter", "destination"),
        ("connection_security_policy", "mutual_tls"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/client",
        ),
    ];
    assert!(
        at_server.sum("istio_requests_total", &labels) >= 200.0,
        "{:?}",
        at_server.find("istio_requests_total", &[]).next()
    );

    let line = sidecar.access_log().into_iter().last().unwrap();
    for field in [
        "time",
        "protocol",
        "method",
        "authority",
        "path",
        "status",
        "flags",
        "bytes_in",
        "bytes_out",
        "duration_ms",
        "upstream",
        "cluster",
        "route",
        "request_id",
    ] {
        assert!(
            line.get(field).is_some(),
            "the access log has no {field}: {line}"
        );
    }
}

/// Runs a real Prometheus inside the client's pod; both targets must be up.
#[test]
fn a_real_prometheus_finds_both_planes_up() {
    if !have(
        "telemetry: prometheus",
        &[Need::Namespaces, Need::Program("prometheus")],
    ) {
        return;
    }
    let mesh = Mesh::start("prometheus").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let folder = mesh.folder().join("prometheus");
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("prometheus.yml");
    let yaml = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: planes\n  static_configs: [{{targets: ['127.0.0.1:15014', '{}:15020']}}]\n",
        pod.namespace.ip
    );
    std::fs::write(&config, yaml).unwrap();
    let _prometheus = tasuki_testkit::process::Process::start(tasuki_testkit::process::Launch {
        namespace: mesh.network.hub(),
        program: &program("prometheus").unwrap(),
        args: vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.display()),
            "--web.listen-address=127.0.0.1:9090".to_owned(),
        ],
        env: Vec::new(),
        uid: None,
        name: "prometheus".to_owned(),
        log_dir: &mesh.folder().join("logs"),
    })
    .unwrap();
    wait::until("both targets are up", Duration::from_secs(30), || {
        let answer = get(
            mesh.network.hub(),
            "127.0.0.1:9090",
            "/api/v1/query?query=sum(up)",
        )?;
        anyhow::ensure!(answer.contains("\"2\""), "{answer}");
        Ok(())
    })
    .unwrap();
}

fn promtool(metrics: &str) -> String {
    use std::io::Write;
    let mut child = Command::new(program("promtool").unwrap())
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn check_names_file_object_and_field_of_every_faulty_document() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/faulty");
    let output = Command::new(binaries::find("tasuki").unwrap())
        .args(["check", folder])
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    let mut documents = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let yaml = std::fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        // Each document begins with a comment that says which object and field the line must name.
        for (object, field) in yaml
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: ")?.split_once(' '))
        {
            documents += 1;
            let found = text
                .lines()
                .any(|line| line.contains(file) && line.contains(object) && line.contains(field));
            assert!(found, "no line names {file}, {object} and {field}:\n{text}");
        }
    }
    assert!(documents >= 40, "only {documents} faulty documents");
}
