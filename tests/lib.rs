//! What several end-to-end scenarios share: the seeds' `http-server` with its two versions, and YAML
//! for the resources that they write.

pub mod ads;
pub mod frames;
pub mod gateway;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, Sidecar, service};
use tasuki_testkit::namespace::Namespace;
use tasuki_testkit::origin::Origin;
use tasuki_testkit::process::{Launch, Process};
use tasuki_testkit::wait;

/// The address of the Service `http-server`, reachable only through interception.
pub const VIP: &str = "10.96.0.10:80";
/// Its name.
pub const HOST: &str = "http-server.default.svc.cluster.local";

/// A pod with its application and sidecar. The fields are kept so that they run.
pub struct Backend {
    pub pod: RunningPod,
    pub origin: Origin,
    pub sidecar: Sidecar,
}

/// A meshed pod of `app: http-server` in `default`, with an application on 8080.
pub fn backend(mesh: &Mesh, name: &str) -> Result<Backend> {
    let spec = PodSpec::new(name)
        .account("http-server")
        .label("app", "http-server")
        .label("version", name)
        .port("http", 8080);
    // As the kubelet has it: endpoints are those that are ready.
    let mut pod = mesh.pod(spec.starting())?;
    let origin = pod.http(8080)?;
    let sidecar = pod.sidecar()?;
    pod.set_ready(true)?;
    Ok(Backend {
        pod,
        origin,
        sidecar,
    })
}

/// A meshed pod without an application of its own, to send from.
pub fn client(mesh: &Mesh, name: &str, namespace: &str) -> Result<(RunningPod, Sidecar)> {
    let pod = mesh.pod(PodSpec::new(name).namespace(namespace))?;
    let sidecar = pod.sidecar()?;
    Ok((pod, sidecar))
}

/// Waits until `http-server` answers the pod's application.
pub fn answers(pod: &RunningPod) {
    wait::until("the service answers", Duration::from_secs(30), || {
        let answer = pod.get(VIP, HOST, "/")?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
}

/// The namespace's PeerAuthentication: `STRICT`, `PERMISSIVE` or `DISABLE`.
pub fn mtls_mode(mode: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// Applies the Service `http-server` and a DestinationRule whose subsets are its versions.
pub fn http_server(mesh: &Mesh) -> Result<()> {
    mesh.apply(
        "http-server",
        &service(
            "default",
            "http-server",
            "10.96.0.10",
            &[("http", 80, 8080)],
        ),
    )?;
    mesh.apply("http-server-rule", SUBSETS)
}

/// Subsets `version-a` and `version-b` of `http-server`.
pub const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: http-server, namespace: default}
spec:
  host: http-server
  subsets:
  - {name: version-a, labels: {version: version-a}}
  - {name: version-b, labels: {version: version-b}}
";

/// A VirtualService that splits `http-server` between its versions; `first` is YAML of rules ahead of it.
pub fn split(a: u32, b: u32, first: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: http-server, namespace: default}}
spec:
  hosts: [http-server]
  http:{first}
  - name: split
    route:
    - destination: {{host: http-server, subset: version-a}}
      weight: {a}
    - destination: {{host: http-server, subset: version-b}}
      weight: {b}
"
    )
}

/// Starts one of the programs in `tests/python` inside a namespace.
pub fn python(
    mesh: &Mesh,
    namespace: &Namespace,
    name: &str,
    script: &str,
    args: &[&str],
) -> Result<Process> {
    let interpreter = tasuki_testkit::require::python().context("no Python environment")?;
    let script = format!("{}/python/{script}", env!("CARGO_MANIFEST_DIR"));
    let log_dir = mesh.folder().join("logs");
    let args = std::iter::once(script)
        .chain(args.iter().map(|arg| (*arg).to_owned()))
        .collect();
    let env = vec![("PYTHONUNBUFFERED".to_owned(), "1".to_owned())];
    Process::start(Launch {
        namespace,
        program: &interpreter,
        args,
        env,
        uid: None,
        name: name.to_owned(),
        log_dir: &log_dir,
    })
}
