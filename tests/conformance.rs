//! The real h2spec against our gateway and against Envoy on the same machine: no failure that Envoy has not.
//!
//! Both route to an application that answers only after the whole request: a response that is finished
//! before the malformed rest of its request arrives is a race, and the rest may then be ignored (RFC
//! 9113, 8.1).

use std::collections::BTreeSet;

use tasuki_e2e::gateway::{Gateway, envoy_static};
use tasuki_testkit::mesh::{Mesh, PodSpec, READY, get, service};
use tasuki_testkit::namespace::Namespace;
use tasuki_testkit::require::{Need, have, program};
use tasuki_testkit::wait;

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: origin, namespace: default}
spec:
  hosts: ['*']
  gateways: [gateway]
  http: [{route: [{destination: {host: origin}}]}]
";

#[test]
fn h2spec_finds_nothing_that_envoy_has_not() {
    if !have(
        "conformance",
        &[Need::Namespaces, Need::Python, Need::Program("h2spec")],
    ) {
        return;
    }
    let mesh = Mesh::start("conformance").unwrap();
    let application = mesh
        .pod(PodSpec::new("origin").port("http", 8080).plain())
        .unwrap();
    let _origin = application.http(8080).unwrap();
    let origin = service("default", "origin", "10.96.0.60", &[("http", 80, 8080)]);
    mesh.apply("origin", &origin).unwrap();
    mesh.apply("routes", ROUTES).unwrap();
    let gateway = Gateway::start(&mesh, "gateway").unwrap();
    let (_envoy, place) = envoy_static(&mesh, "peer", application.at(8080)).unwrap();
    for namespace in [&gateway.pod.namespace, &place] {
        wait::until("the application answers", READY, || {
            get(namespace, "127.0.0.1:80", "/").map(drop)
        })
        .unwrap();
    }
    let ours = failures(&gateway.pod.namespace, 80);
    let theirs = failures(&place, 80);
    let only_ours: Vec<_> = ours.difference(&theirs).collect();
    println!("h2spec fails here: {ours:#?}\nwith Envoy: {theirs:#?}");
    assert!(only_ours.is_empty(), "not with Envoy: {only_ours:#?}");
}

/// Names of the failed cases.
fn failures(namespace: &Namespace, port: u16) -> BTreeSet<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let h2spec = program("h2spec").unwrap();
    let port = port.to_string();
    // It exits with 1 when a case fails; the report says which.
    let _ = namespace.command(
        h2spec.to_str().unwrap(),
        &["-h", "127.0.0.1", "-p", &port, "-o", "3", "-j", &path],
    );
    let report = std::fs::read_to_string(&path).unwrap();
    assert!(report.contains("<testcase"), "h2spec did not run: {report}");
    report
        .split("<testcase ")
        .skip(1)
        .filter(|case| {
            case.split("</testcase>")
                .next()
                .is_some_and(|body| body.contains("<failure") || body.contains("<error"))
        })
        .filter_map(|case| {
            let attribute = |name: &str| {
                Some(
                    case.split_once(&format!("{name}=\""))?
                        .1
                        .split('"')
                        .next()?
                        .to_owned(),
                )
            };
            Some(format!(
                "{} {}",
                attribute("package")?,
                attribute("classname")?
            ))
        })
        .collect()
}
