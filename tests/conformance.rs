//! The real h2spec against our gateway and against Envoy on the same machine: no failure that Envoy has not.

use std::collections::BTreeSet;

use tasuki_e2e::gateway::{Gateway, envoy_static};
use tasuki_testkit::mesh::Mesh;
use tasuki_testkit::namespace::Namespace;
use tasuki_testkit::require::{Need, have, program};

#[test]
fn h2spec_finds_nothing_that_envoy_has_not() {
    if !have(
        "conformance",
        &[Need::Namespaces, Need::Python, Need::Program("h2spec")],
    ) {
        return;
    }
    let mesh = Mesh::start("conformance").unwrap();
    mesh.apply("hello", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: hello, namespace: default}\nspec:\n  hosts: ['*']\n  gateways: [gateway]\n  http: [{directResponse: {status: 200, body: {string: hello from the gateway}}}]\n").unwrap();
    let gateway = Gateway::start(&mesh, "gateway").unwrap();
    let (_envoy, place) = envoy_static(&mesh, "peer").unwrap();
    let ours = failures(&gateway.pod.namespace, 80);
    let theirs = failures(&place, 80);
    let only_ours: Vec<_> = ours.difference(&theirs).collect();
    println!(
        "h2spec: {} failures here, {} with Envoy: {ours:?}",
        ours.len(),
        theirs.len()
    );
    assert!(
        only_ours.is_empty(),
        "{only_ours:#?}\nfailed here but not with Envoy, which failed {theirs:#?}"
    );
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
