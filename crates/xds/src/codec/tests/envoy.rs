//! A real Envoy validates what is written for it, where there is the Python environment of `tests/run`.

use std::path::PathBuf;
use std::process::Command;

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::bootstrap::v3::bootstrap::{DynamicResources, StaticResources};
use envoy_types::pb::envoy::config::core::v3::api_config_source::ApiType;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiConfigSource, ApiVersion, GrpcService, Node};
use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use prost::Message;

use super::arbitrary;
use crate::codec::Dialect;
use crate::model::Resource;
use crate::model::cluster::{Cluster, Discovery};
use crate::model::listener::{Filter, Listener};

/// Envoy crashes when it validates a secret that comes over ADS, so only what needs none.
const DIALECT: Dialect = Dialect::Envoy { secrets: false };

fn some<T>(
    runner: &mut TestRunner,
    count: usize,
    strategy: &BoxedStrategy<Resource>,
    pick: fn(Resource) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(pick(strategy.new_tree(runner).unwrap().current()));
    }
    found
}

/// Clusters with names of their own and, for DNS, hosts.
fn cluster(resource: Resource) -> Option<Cluster> {
    match resource {
        Resource::Cluster(cluster) if cluster.discovery != Discovery::Static(Vec::new()) => {
            Some(cluster)
        }
        _ => None,
    }
}

/// Listeners with an address and one chain: chains that match alike are for the control plane to avoid.
fn listener(resource: Resource) -> Option<Listener> {
    let Resource::Listener(mut listener) = resource else {
        return None;
    };
    listener.address = Some("127.0.0.1:1".parse().unwrap());
    listener.chains.truncate(1);
    for chain in listener
        .chains
        .iter_mut()
        .chain(&mut listener.default_chain)
    {
        // Header rules on TCP chains are for the control plane to leave out.
        if let Filter::Tcp(tcp) = &mut chain.filter {
            tcp.rbac.clear();
        }
    }
    let tls = listener.chains.iter().any(|c| c.tls.is_some());
    (!listener.chains.is_empty() && !tls).then_some(listener)
}

fn ads() -> ApiConfigSource {
    let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
        cluster_name: "xds".to_owned(),
        ..EnvoyGrpc::default()
    });
    ApiConfigSource {
        api_type: ApiType::DeltaGrpc as i32,
        transport_api_version: ApiVersion::V3 as i32,
        grpc_services: vec![GrpcService {
            target_specifier: Some(target),
            ..GrpcService::default()
        }],
        ..ApiConfigSource::default()
    }
}

fn bootstrap(clusters: Vec<Cluster>, listeners: Vec<Listener>) -> Bootstrap {
    let mut xds = super::mesh_cluster();
    xds.name = "xds".to_owned();
    xds.discovery = Discovery::Static(vec!["127.0.0.1:1".parse().unwrap()]);
    xds.tls.clear();
    xds.http = crate::model::cluster::HttpProtocol::Http2;
    let write = |(i, mut cluster): (usize, Cluster)| {
        cluster.name = format!("c{i}");
        super::written(&cluster, &DIALECT)
    };
    let mut clusters: Vec<_> = clusters.into_iter().enumerate().map(write).collect();
    clusters.push(super::written(&xds, &Dialect::Envoy { secrets: false }));
    let write = |(i, mut listener): (usize, Listener)| {
        listener.name = format!("l{i}");
        listener
            .address
            .as_mut()
            .unwrap()
            .set_port(20_000 + i as u16);
        super::super::listener::write(&listener, &DIALECT)
    };
    Bootstrap {
        node: Some(Node {
            id: "n".to_owned(),
            cluster: "c".to_owned(),
            ..Node::default()
        }),
        static_resources: Some(StaticResources {
            listeners: listeners.into_iter().enumerate().map(write).collect(),
            clusters,
            secrets: Vec::new(),
        }),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ads()),
            ..DynamicResources::default()
        }),
        ..Bootstrap::default()
    }
}

/// Beside the interpreter that `TASUKI_PYTHON` names, or in the target folder.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("TASUKI_PYTHON").map(PathBuf::from);
    let target = std::env::current_exe()
        .ok()?
        .ancestors()
        .nth(3)?
        .join("e2e-python/bin/python");
    named
        .into_iter()
        .chain([target])
        .map(|python| python.with_file_name("envoy"))
        .find(|program| program.exists())
}

#[test]
fn envoy_accepts_what_is_written_for_it() {
    let Some(program) = program() else {
        println!("skipped: there is no Envoy");
        return;
    };
    let mut runner = TestRunner::deterministic();
    let clusters = some(&mut runner, 150, &arbitrary::cluster(), cluster);
    let listeners = some(&mut runner, 150, &arbitrary::listener(), listener);
    let path = std::env::temp_dir().join(format!("tasuki-envoy-{}.pb", std::process::id()));
    std::fs::write(&path, bootstrap(clusters, listeners).encode_to_vec()).unwrap();
    let run = Command::new(program)
        .args(["--mode", "validate", "-l", "error", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    if run.status.success() {
        std::fs::remove_file(&path).unwrap();
    }
    assert!(
        run.status.success(),
        "{}: {}",
        path.display(),
        String::from_utf8_lossy(&run.stderr)
    );
}
