//! CPU time of a change in a mesh of many services: reading the documents, joining them, and what one sidecar is told.
//!
//!     cargo run --release -p tasuki-control --example mesh_build -- 2000

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use tasuki_control::mesh::{Mesh, MeshSettings};
use tasuki_control::source::folder::Folder;
use tasuki_identity::TrustDomain;
use tasuki_resources::mesh_settings::OutboundTrafficPolicy;

const PODS: usize = 3;
const ROUNDS: u32 = 40;

fn main() {
    let services = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let services: usize = services.unwrap_or(2_000);
    let mut folder = Folder::default();
    let read = time(1, || {
        for index in 0..services {
            folder.put(&format!("{index:05}.yaml"), Ok(documents(index)));
        }
    });
    let changed = documents(1).replace("weight: 70", "weight: 71");
    let mut toggle = false;
    let one = time(ROUNDS, || {
        toggle = !toggle;
        let text = if toggle {
            changed.clone()
        } else {
            documents(1)
        };
        folder.put("00001.yaml", Ok(text));
    });
    let mut objects = folder.objects();
    let listed = time(ROUNDS, || objects = folder.objects());
    let settings = MeshSettings::new(
        TrustDomain::new("cluster.local").expect("a trust domain"),
        "istio-system",
        OutboundTrafficPolicy::AllowAny,
        Duration::from_secs(3600),
    );
    let mut mesh = Mesh::build(&objects, settings);
    let now = tokio::time::Instant::now();
    folder.put("00001.yaml", Ok(documents(1)));
    let first = Arc::new(folder.objects());
    folder.put("00001.yaml", Ok(changed));
    let second = Arc::new(folder.objects());
    let built = time(ROUNDS, || {
        toggle = !toggle;
        mesh = mesh.successor(if toggle { &first } else { &second }, now);
    });
    println!(
        "{services} services, {} objects, {} problems: read all {read:?}, read one {one:?}, list {listed:?}, join {built:?}",
        objects.objects.len(),
        mesh.problems.len()
    );
}

/// CPU time of one of several runs, on average: what else the machine does does not count.
fn time(rounds: u32, mut run: impl FnMut()) -> Duration {
    let start = cpu();
    (0..rounds).for_each(|_| run());
    (cpu() - start) / rounds
}

/// Of this thread, so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// A service, its pods, its rule and its routes; a namespace has 50 of them.
fn documents(index: usize) -> String {
    let namespace = format!("ns-{}", index / 50);
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{index}, namespace: {namespace}}}
spec:
  clusterIP: 10.{}.{}.{}
  selector: {{app: s{index}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: grpc, port: 81, targetPort: 8081}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{index}, namespace: {namespace}}}
spec: {{host: s{index}, subsets: [{{name: a, labels: {{version: a}}}}, {{name: b, labels: {{version: b}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{index}, namespace: {namespace}}}
spec:
  hosts: [s{index}]
  http:
  - route:
    - {{destination: {{host: s{index}, subset: a}}, weight: 70}}
    - {{destination: {{host: s{index}, subset: b}}, weight: 30}}
",
        96 + index / 60_000,
        index / 250 % 240,
        index % 250 + 1,
    );
    for pod in 0..PODS {
        let address = index * PODS + pod;
        let version = if pod == 0 { "a" } else { "b" };
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata:
  name: s{index}-{pod}
  namespace: {namespace}
  labels: {{app: s{index}, version: {version}, security.istio.io/tlsMode: istio}}
  annotations: {{tasuki.dev/proxy: \"1\"}}
spec: {{serviceAccountName: s{index}, containers: [{{name: app}}]}}
status: {{phase: Running, podIP: 10.{}.{}.{}, conditions: [{{type: Ready, status: \"True\"}}]}}
",
            100 + address / 60_000,
            address / 250 % 240,
            address % 250 + 1,
        );
    }
    text
}
