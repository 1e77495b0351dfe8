//! Gateways for the scenarios that compare ours with a real Envoy: `tasuki-proxy gateway`, Envoy on our
//! control plane, Envoy on a file of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tasuki_testkit::binaries;
use tasuki_testkit::mesh::{Mesh, PodSpec, READY, RunningPod, get};
use tasuki_testkit::namespace::{HUB_IP, Namespace};
use tasuki_testkit::process::{Launch, Process};
use tasuki_testkit::{require, wait};

/// The Gateway that both serve: plain HTTP on 80 for every host.
pub const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
";

/// A running `tasuki-proxy gateway` for the Gateway `default/gateway`.
pub struct Gateway {
    pub pod: RunningPod,
    pub process: Process,
}

impl Gateway {
    /// Starts it in a pod of its own and waits until it is ready.
    pub fn start(mesh: &Mesh, name: &str) -> Result<Self> {
        mesh.apply("gateway", GATEWAY)?;
        let pod = mesh.pod(
            PodSpec::new(name)
                .account("gateway")
                .label("istio", "ingressgateway")
                .plain(),
        )?;
        let token = pod.write_token("1h")?;
        let state = pod.state_dir();
        std::fs::create_dir_all(&state)?;
        let process = Process::start(Launch {
            namespace: &pod.namespace,
            program: &binaries::find("tasuki-proxy")?,
            args: vec![
                "gateway".to_owned(),
                "--gateway=default/gateway".to_owned(),
                format!("--control=https://{HUB_IP}:15012"),
                format!(
                    "--control-ca={}",
                    mesh.state_dir().join("ca/root-cert.pem").display()
                ),
                format!("--token-file={}", token.display()),
                format!("--state-dir={}", state.display()),
                "--workers=1".to_owned(),
                "--access-log=all".to_owned(),
            ],
            env: Vec::new(),
            uid: None,
            name: name.to_owned(),
            log_dir: &mesh.folder().join("logs"),
        })?;
        wait::until("the gateway is ready", READY, || {
            get(&pod.namespace, "127.0.0.1:15021", "/ready").map(drop)
        })
        .with_context(|| process.log())?;
        Ok(Self { pod, process })
    }
}

/// The variant of xDS that an Envoy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ads {
    Delta,
    StateOfTheWorld,
}

/// A real Envoy as gateway on our control plane, a stranger to it; its admin port is 9901 on loopback.
pub fn envoy_gateway(mesh: &Mesh, name: &str, ads: Ads) -> Result<(Process, RunningPod)> {
    envoy_gateway_with(mesh, name, ads, None)
}

/// The same, with a token: it has the mesh's certificates.
pub fn envoy_gateway_in_mesh(mesh: &Mesh, name: &str, ads: Ads) -> Result<(Process, RunningPod)> {
    let token = mesh.token("default", "gateway", "1h")?;
    envoy_gateway_with(mesh, name, ads, Some(token.trim()))
}

fn envoy_gateway_with(
    mesh: &Mesh,
    name: &str,
    ads: Ads,
    token: Option<&str>,
) -> Result<(Process, RunningPod)> {
    mesh.apply("gateway", GATEWAY)?;
    let pod = mesh.pod(
        PodSpec::new(name)
            .account("gateway")
            .label("istio", "ingressgateway")
            .plain(),
    )?;
    let api = if ads == Ads::Delta {
        "DELTA_GRPC"
    } else {
        "GRPC"
    };
    let metadata = match token {
        Some(token) => {
            format!(", initial_metadata: [{{key: authorization, value: 'Bearer {token}'}}]")
        }
        None => String::new(),
    };
    let config = format!(
        "
node: {{id: 'router~{ip}~{name}.default~default.svc.cluster.local', cluster: gateway}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
dynamic_resources:
  ads_config:
    api_type: {api}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}{metadata}}}]
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 2s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {HUB_IP}, port_value: 15010}}}}}}}}]}}]
",
        ip = pod.namespace.ip,
    );
    let process = envoy(mesh, &pod.namespace, name, &config)?;
    wait::until("Envoy is live", READY, || {
        get(&pod.namespace, "127.0.0.1:9901", "/ready").map(drop)
    })
    .with_context(|| process.log())?;
    Ok((process, pod))
}

/// An Envoy on port 80 of a namespace of its own that sends every request to `upstream` over HTTP/1.1.
pub fn envoy_static(mesh: &Mesh, name: &str, upstream: SocketAddr) -> Result<(Process, Namespace)> {
    let namespace = mesh.network.pod(name)?;
    let config = format!(
        "
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 0.0.0.0, port_value: 80}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: origin
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]
",
        ip = upstream.ip(),
        port = upstream.port(),
    );
    let process = envoy(mesh, &namespace, name, &config)?;
    wait::until("Envoy is live", READY, || {
        get(&namespace, "127.0.0.1:9901", "/ready").map(drop)
    })
    .with_context(|| process.log())?;
    Ok((process, namespace))
}

fn envoy(mesh: &Mesh, namespace: &Namespace, name: &str, config: &str) -> Result<Process> {
    let program = envoy_program()?;
    let file = mesh.folder().join(format!("{name}.yaml"));
    std::fs::write(&file, config)?;
    // Each Envoy of the machine needs a base id of its own for its shared memory.
    let base = rand_base();
    Process::start(Launch {
        namespace,
        program: &program,
        args: vec![
            "-c".to_owned(),
            file.display().to_string(),
            "--concurrency".to_owned(),
            "1".to_owned(),
            "--base-id".to_owned(),
            base.to_string(),
            "--log-level".to_owned(),
            "warning".to_owned(),
        ],
        env: Vec::new(),
        uid: None,
        name: name.to_owned(),
        log_dir: &mesh.folder().join("logs"),
    })
}

fn rand_base() -> u32 {
    let time = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.subsec_nanos());
    (std::process::id() ^ time) % 100_000_000
}

/// The `envoy` of the Python environment.
fn envoy_program() -> Result<PathBuf> {
    let python = require::python().context("no Python environment")?;
    let program = python.with_file_name("envoy");
    ensure!(program.exists(), "{} does not exist", program.display());
    Ok(program)
}
