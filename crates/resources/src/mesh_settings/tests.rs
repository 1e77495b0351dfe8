//! Reading `MeshSettings`.

use std::time::Duration;

use super::{AccessLog, MeshSettings, OutboundTrafficPolicy};
use crate::{Document, Object, parse_documents};

fn document(rest: &str) -> Document {
    let text = format!("apiVersion: tasuki.dev/v1alpha1\nkind: MeshSettings\n{rest}");
    parse_documents("", &text).remove(0)
}

fn read(spec: &str) -> MeshSettings {
    let document = document(&format!(
        "metadata: {{name: default, namespace: tasuki-system}}\n{spec}"
    ));
    assert!(document.problems.is_empty(), "{:?}", document.problems);
    match document.object {
        Some(Object::MeshSettings(settings)) => settings,
        other => panic!("{other:?}"),
    }
}

fn refused(spec: &str) -> String {
    let document = document(&format!("metadata: {{name: default}}\nspec: {spec}\n"));
    assert!(document.object.is_none(), "{spec}");
    document.problems[0].to_string()
}

#[test]
fn everything_that_can_be_said() {
    let settings = read(
        "spec:
  outboundTrafficPolicy: registry-only
  accessLog: all
  certificateTtl: 12h
  connectionPool: {tcp: {connectTimeout: 2s}, http: {http2MaxRequests: 100}}
  retryBudget: {percent: 10, minRetryConcurrency: 1}
  injection:
    nativeSidecar: false
    istioInjectionLabel: true
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: 2.5, memory: 0.5Gi}}
    logLevel: info,tasuki_proxy=debug
    workers: 2
    drainTime: 45s
    drainMinimum: 0s
    excludeInboundPorts: [9090]
    excludeOutboundPorts: [3306, 5432]
    excludeOutboundCidrs: [10.1.0.0/16]
",
    );
    let policy = settings.outbound_traffic_policy;
    assert_eq!(policy, Some(OutboundTrafficPolicy::RegistryOnly));
    assert_eq!(settings.access_log, Some(AccessLog::All));
    assert_eq!(settings.certificate_ttl, Some(Duration::from_secs(43_200)));
    assert_eq!(settings.connection_pool.http.max_requests, Some(100));
    assert_eq!(settings.retry_budget.unwrap().min_concurrent, 1);
    let injection = settings.injection;
    assert_eq!(injection.native_sidecar, Some(false));
    assert_eq!(injection.limits.cpu.unwrap().as_str(), "2.5");
    assert_eq!(injection.limits.memory.unwrap().as_str(), "0.5Gi");
    assert_eq!(injection.drain_minimum, Some(Duration::ZERO));
    assert_eq!(injection.exclude_outbound_ports, [3306, 5432]);
    assert_eq!(
        injection.exclude_outbound_cidrs[0].to_string(),
        "10.1.0.0/16"
    );
}

#[test]
fn nothing_needs_to_be_said() {
    let settings = read("");
    assert_eq!(
        settings,
        MeshSettings {
            meta: settings.meta.clone(),
            ..MeshSettings::default()
        }
    );
    assert_eq!(read("spec: {}\n").injection, super::Injection::default());
}

#[test]
fn mistakes_are_named() {
    for (spec, expected) in [
        (
            "{outboundTrafficPolicy: ALLOW_ANY}",
            "write allow-any, registry-only",
        ),
        ("{accesslog: all}", "did you mean accessLog?"),
        (
            "{certificateTtl: 10s}",
            "spec.certificateTtl: is shorter than 1m",
        ),
        (
            "{connectionPool: {tcp: {maxConnections: -1}}}",
            "spec.connectionPool.tcp.maxConnections",
        ),
        (
            "{injection: {workers: 0}}",
            "spec.injection.workers: 0 is out of range",
        ),
        (
            "{injection: {resources: {requests: {cpu: 2}, limits: {cpu: 100m}}}}",
            "cpu: 2 is requested, the limit is 100m",
        ),
        (
            "{injection: {resources: {requests: {cpu: lots}}}}",
            "\"lots\" is not a quantity",
        ),
        ("{injection: {logLevel: \"a b\"}}", "is not a log filter"),
        (
            "{injection: {excludeInboundPorts: [0]}}",
            "spec.injection.excludeInboundPorts[0]",
        ),
        (
            "{injection: {excludeOutboundCidrs: [here]}}",
            "is not an IP block",
        ),
        ("{injection: {drainTime: 2h}}", "is longer than 1h"),
    ] {
        let problem = refused(spec);
        assert!(problem.contains(expected), "{spec}: {problem}");
    }
}

#[test]
fn another_name_is_said_to_be_unused() {
    let document = document("metadata: {name: mine, namespace: tasuki-system}\nspec: {}\n");
    assert!(document.object.is_some());
    assert!(document.problems[0].to_string().contains("not used"));
}

#[test]
fn other_versions_and_kinds_of_the_group() {
    for (text, expected) in [
        (
            "apiVersion: tasuki.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n",
            "no version",
        ),
        (
            "apiVersion: tasuki.dev/v1alpha1\nkind: MeshSetting\nmetadata: {name: default}\n",
            "no such kind",
        ),
    ] {
        let document = parse_documents("", text).remove(0);
        assert!(document.problems[0].to_string().contains(expected));
    }
}
