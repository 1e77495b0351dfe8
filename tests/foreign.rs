//! Clients that we did not write, on our control plane: a real Envoy as gateway, beside ours, and a
//! proxyless gRPC client.

use std::collections::HashSet;
use std::time::Duration;

use http::Method;
use tasuki_e2e::gateway::{Ads, Gateway, envoy_gateway, envoy_gateway_in_mesh};
use tasuki_e2e::{HOST, SUBSETS, backend, http_server, python, split};
use tasuki_testkit::client::{Answer, Ask};
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, get, service};
use tasuki_testkit::namespace::HUB_IP;
use tasuki_testkit::origin::Origin;
use tasuki_testkit::process::{Launch, Process};
use tasuki_testkit::require::{Need, have, python as interpreter};
use tasuki_testkit::wait;

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [gateway]
  http:
  - name: exact
    match: [{uri: {exact: /exact}}]
    route: [{destination: {host: one}}]
  - name: case
    match: [{uri: {exact: /CASE}, ignoreUriCase: true}]
    route: [{destination: {host: two}}]
  - name: rewritten
    match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/, authority: inside.example.com}
    route: [{destination: {host: two}}]
  - name: regex
    match: [{uri: {regex: '/items/[0-9]+'}}]
    route: [{destination: {host: one}}]
  - name: header
    match: [{headers: {x-group: {exact: b}}}, {headers: {x-beta: {prefix: 'yes'}}}]
    headers: {request: {add: {x-added: group}, remove: [x-secret]}, response: {set: {x-answered: group}}}
    route: [{destination: {host: two}}]
  - name: not
    match: [{uri: {prefix: /not}, withoutHeaders: {x-group: {exact: c}}}]
    route: [{destination: {host: one}}]
  - name: query
    match: [{queryParams: {version: {exact: '2'}}}]
    route: [{destination: {host: two}}]
  - name: method
    match: [{method: {exact: DELETE}}]
    directResponse: {status: 418, body: {string: teapot}}
  - name: moved
    match: [{uri: {prefix: /moved}}]
    redirect: {uri: /here, authority: there.example.com, redirectCode: 308}
  - name: prefix
    match: [{uri: {prefix: /api}}]
    route: [{destination: {host: one}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wild, namespace: default}
spec:
  hosts: ['*.wild.example.com']
  gateways: [gateway]
  http:
  - route: [{destination: {host: two}}]
";

const HOSTS: &[&str] = &[
    "shop.example.com",
    "SHOP.example.com",
    "shop.example.com:80",
    "a.wild.example.com",
    "nobody.example.com",
];
const PATHS: &[&str] = &[
    "/exact",
    "/exact/",
    "/case",
    "/Case",
    "/old/x?y=1",
    "/old",
    "/items/12",
    "/items/12a",
    "/api",
    "/apix",
    "/api/v1",
    "/not/this",
    "/moved/on",
    "/x?version=2",
    "/nothing",
];
const HEADERS: &[&[(&str, &str)]] = &[
    &[],
    &[("x-group", "b"), ("x-secret", "s")],
    &[("x-group", "c")],
    &[("x-beta", "yes-please")],
];

fn backends(mesh: &Mesh) -> Vec<(RunningPod, Origin)> {
    let start = |(index, name): (usize, &&str)| {
        mesh.apply(
            &format!("service-{name}"),
            &service(
                "default",
                name,
                &format!("10.96.0.{}", 60 + index),
                &[("http", 80, 8080)],
            ),
        )
        .unwrap();
        let pod = mesh
            .pod(PodSpec::new(name).port("http", 8080).plain())
            .unwrap();
        let origin = pod.http(8080).unwrap();
        (pod, origin)
    };
    ["one", "two"].iter().enumerate().map(start).collect()
}

/// What a client and the application can tell of one request.
fn outcome(answer: &Answer) -> String {
    let seen = answer.json();
    let header = |name: &str| {
        let headers = seen["headers"].as_array().cloned().unwrap_or_default();
        let found = headers
            .iter()
            .filter(|pair| pair[0] == name)
            .map(|pair| pair[1].to_string());
        found.collect::<Vec<_>>().join(",")
    };
    format!(
        "status {} backend {} target {} authority {} method {} added {} secret {} answered {} location {}",
        answer.status,
        answer.header("x-backend"),
        seen["target"],
        seen["authority"],
        seen["method"],
        header("x-added"),
        header("x-secret"),
        answer.header("x-answered"),
        answer.header("location"),
    )
}

#[test]
fn envoy_and_our_gateway_agree() {
    if !have("foreign: envoy", &[Need::Namespaces, Need::Python]) {
        return;
    }
    let mesh = Mesh::start("envoy").unwrap();
    let _backends = backends(&mesh);
    mesh.apply("routes", ROUTES).unwrap();
    let ours = Gateway::start(&mesh, "ours").unwrap();
    let (_delta, delta) = envoy_gateway(&mesh, "delta", Ads::Delta).unwrap();
    let (_sotw, sotw) = envoy_gateway(&mesh, "sotw", Ads::StateOfTheWorld).unwrap();
    for pod in [&ours.pod, &delta, &sotw] {
        wait::until("the gateway routes", Duration::from_secs(30), || {
            let answer = pod.get("127.0.0.1:80", "shop.example.com", "/exact")?;
            anyhow::ensure!(
                answer.status == 200,
                "{}: {} {}",
                pod.spec.name,
                answer.status,
                answer.body
            );
            Ok(())
        })
        .unwrap();
    }
    let mut asked = 0;
    let mut differences = Vec::new();
    for (host, path) in HOSTS
        .iter()
        .flat_map(|host| PATHS.iter().map(move |path| (host, path)))
    {
        for headers in HEADERS {
            let method = [Method::GET, Method::POST, Method::DELETE][asked % 3].clone();
            let ask = |pod: &RunningPod| {
                let mut ask =
                    Ask::get("127.0.0.1:80".parse().unwrap(), host, path).method(method.clone());
                for (name, value) in *headers {
                    ask = ask.header(name, value);
                }
                outcome(&pod.send(ask).unwrap())
            };
            asked += 1;
            let expected = ask(&delta);
            for pod in [&ours.pod, &sotw] {
                let seen = ask(pod);
                if seen != expected {
                    differences.push(format!(
                        "{method} {host}{path} {headers:?}\n  envoy {expected}\n  {:5} {seen}",
                        pod.spec.name
                    ));
                }
            }
        }
    }
    assert!(asked >= 300);
    assert!(
        differences.is_empty(),
        "{} of {asked} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    for pod in [&delta, &sotw] {
        let stats = get(&pod.namespace, "127.0.0.1:9901", "/stats").unwrap();
        let rejected: Vec<_> = stats
            .lines()
            .filter(|line| line.contains("update_rejected") && !line.ends_with(": 0"))
            .collect();
        assert!(rejected.is_empty(), "{}: {rejected:?}", pod.spec.name);
        let active = stats
            .lines()
            .find(|line| line.contains("total_listeners_active"))
            .unwrap_or_default();
        assert!(active.ends_with(": 1"), "{}: {active}", pod.spec.name);
        let dump = get(&pod.namespace, "127.0.0.1:9901", "/config_dump?include_eds").unwrap();
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        assert!(
            dump["configs"]
                .as_array()
                .is_some_and(|configs| configs.len() > 3),
            "{}: an empty dump",
            pod.spec.name
        );
    }
}

const TO_HTTP_SERVER: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [gateway]
  http:
  - route: [{destination: {host: http-server}}]
";

#[test]
fn an_envoy_in_the_mesh_serves_a_service_half_in_the_mesh() {
    if !have("foreign: half meshed", &[Need::Namespaces, Need::Python]) {
        return;
    }
    let mesh = Mesh::start("envoy-half").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("edge", TO_HTTP_SERVER).unwrap();
    let _meshed = backend(&mesh, "version-a").unwrap();
    let spec = PodSpec::new("version-b")
        .account("http-server")
        .label("app", "http-server")
        .port("http", 8080)
        .plain();
    let plain = mesh.pod(spec).unwrap();
    let _origin = plain.http(8080).unwrap();
    for (name, ads) in [("delta", Ads::Delta), ("sotw", Ads::StateOfTheWorld)] {
        let (_envoy, pod) = envoy_gateway_in_mesh(&mesh, name, ads).unwrap();
        let ask = || pod.get("127.0.0.1:80", "shop.example.com", "/");
        wait::until("both halves are used", Duration::from_secs(30), || {
            let backends: HashSet<String> = (0..20)
                .map(|_| ask().map(|answer| answer.header("x-backend").to_owned()))
                .collect::<Result<_, _>>()?;
            let both = ["version-a", "version-b"].map(str::to_owned);
            anyhow::ensure!(backends == HashSet::from(both), "{backends:?}");
            Ok(())
        })
        .unwrap();
        for _ in 0..100 {
            let answer = ask().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            let seen = answer.json();
            let certificate = seen["headers"].as_array().is_some_and(|headers| {
                headers
                    .iter()
                    .any(|header| header[0] == "x-forwarded-client-cert")
            });
            let meshed = answer.header("x-backend") == "version-a";
            assert_eq!(certificate, meshed, "{seen}");
            assert_eq!(seen["version"], "HTTP/1.1", "{seen}");
        }
        let stats = get(&pod.namespace, "127.0.0.1:9901", "/stats").unwrap();
        let rejected: Vec<_> = stats
            .lines()
            .filter(|line| line.contains("update_rejected") && !line.ends_with(": 0"))
            .collect();
        assert!(rejected.is_empty(), "{name}: {rejected:?}");
    }
}

#[test]
fn a_proxyless_grpc_client_balances_and_follows_weights() {
    if !have("foreign: grpc", &[Need::Namespaces, Need::Python]) {
        return;
    }
    let mesh = Mesh::start("proxyless").unwrap();
    mesh.apply(
        "http-server",
        &service(
            "default",
            "http-server",
            "10.96.0.10",
            &[("grpc", 9000, 9000)],
        ),
    )
    .unwrap();
    mesh.apply("http-server-rule", SUBSETS).unwrap();
    let mut servers = Vec::new();
    for (name, version) in [
        ("a1", "version-a"),
        ("a2", "version-a"),
        ("b1", "version-b"),
    ] {
        let spec = PodSpec::new(name)
            .label("app", "http-server")
            .label("version", version)
            .port("grpc", 9000)
            .plain();
        let pod = mesh.pod(spec).unwrap();
        let program = python(
            &mesh,
            &pod.namespace,
            name,
            "grpc_server.py",
            &[name, "0.0.0.0:9000"],
        )
        .unwrap();
        servers.push((pod, program));
    }
    mesh.apply("routes", &split(100, 0, "")).unwrap();
    let pod = mesh.pod(PodSpec::new("client").plain()).unwrap();
    let bootstrap = mesh.folder().join("bootstrap.json");
    let node = format!(
        "sidecar~{}~client.default~default.svc.cluster.local",
        pod.namespace.ip
    );
    std::fs::write(
        &bootstrap,
        format!("{{\"xds_servers\":[{{\"server_uri\":\"{HUB_IP}:15010\",\"channel_creds\":[{{\"type\":\"insecure\"}}],\"server_features\":[\"xds_v3\"]}}],\"node\":{{\"id\":\"{node}\"}}}}"),
    )
    .unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/xds_client.py");
    let client = Process::start(Launch {
        namespace: &pod.namespace,
        program: &interpreter().unwrap(),
        args: vec![script.to_owned(), format!("{HOST}:9000"), "60".to_owned()],
        env: vec![(
            "GRPC_XDS_BOOTSTRAP".to_owned(),
            bootstrap.display().to_string(),
        )],
        uid: None,
        name: "xds-client".to_owned(),
        log_dir: &mesh.folder().join("logs"),
    })
    .unwrap();
    let last = || {
        let log = client.log();
        let line = log
            .lines()
            .rev()
            .find(|line| line.starts_with('{'))
            .map(str::to_owned);
        line.ok_or_else(|| anyhow::anyhow!("nothing yet: {log}"))
    };
    wait::until(
        "version-a answers, both of its pods",
        Duration::from_secs(30),
        || {
            let line = last()?;
            let both = line.contains("\"a1\"")
                && line.contains("\"a2\"")
                && !line.contains("\"b1\"")
                && line.contains("\"errors\": {}");
            anyhow::ensure!(both, "{line}");
            Ok(())
        },
    )
    .unwrap();
    mesh.apply("routes", &split(0, 100, "")).unwrap();
    wait::until(
        "the weights have moved to version-b",
        Duration::from_secs(15),
        || {
            let line = last()?;
            anyhow::ensure!(line.contains("{\"b1\": 50}"), "{line}");
            Ok(())
        },
    )
    .unwrap();
    drop(servers);
}
