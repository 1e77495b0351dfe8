//! A small cluster in which everything may change: pods that share addresses and come back, slices that name them or do not,
//! and the rules over them.

use std::fmt::Write;

use crate::source::folder::Folder;

pub const ADDRESSES: usize = 6;
pub const SERVICES: usize = 4;
pub const PODS: usize = 8;
const SLICES: usize = 6;

/// The generator of Knuth's MMIX: equal seeds, equal changes.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: usize) -> usize {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

pub fn namespace(index: usize) -> &'static str {
    ["shop", "edge"][index % 2]
}

fn pod(index: usize, chance: &mut Chance) -> String {
    let mode = chance.of(&["istio", "istio", "none"]);
    let app = chance.below(SERVICES);
    let ready = chance.of(&["True", "True", "False"]);
    let deleting = match chance.once_in(4) {
        true => "deletionTimestamp: 2026-01-01T00:00:00Z",
        false => "generateName: p",
    };
    let phase = chance.of(&[
        "Running",
        "Running",
        "Running",
        "Running",
        "Running",
        "Succeeded",
    ]);
    let (version, port) = (chance.of(&["v1", "v2"]), chance.of(&[8080, 9090]));
    let host = chance.once_in(8);
    let address = (index + chance.below(2)) % ADDRESSES;
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: p{index}
  namespace: {}
  {deleting}
  labels: {{app: s{app}, version: {version}, security.istio.io/tlsMode: {mode}}}
  annotations: {{tasuki.dev/proxy: \"1\"}}
spec: {{hostNetwork: {host}, serviceAccountName: a{app}, containers: [{{name: c, ports: [{{name: web, containerPort: {port}}}]}}]}}
status: {{phase: {phase}, podIP: 10.1.0.{address}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}
",
        namespace(index)
    )
}

fn service(index: usize, chance: &mut Chance) -> String {
    let ip = match chance.once_in(4) {
        true => "None".to_owned(),
        false => format!("10.96.0.{index}"),
    };
    let selector = match chance.once_in(4) {
        true => String::new(),
        false => format!("selector: {{app: s{index}}}, "),
    };
    let unready = chance.once_in(4);
    let protocol = chance.of(&["http", "tcp", "web", "grpc"]);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: s{index}, namespace: {}}}
spec: {{clusterIP: {ip}, {selector}publishNotReadyAddresses: {unready}, ports: [{{name: {protocol}-a, port: 80, targetPort: web}}, {{name: b, port: 81, targetPort: 8081}}]}}
",
        namespace(index)
    )
}

/// Whom it names changes less often than in what state they are.
fn slice(index: usize, chance: &mut Chance) -> String {
    let mut shape = Chance((index * 2 + chance.below(2)) as u64 * 7_919);
    shape.below(2);
    let service = shape.below(SERVICES);
    let port = chance.of(&[8080, 8080, 9090]);
    // Or nothing but the port would hardly ever change.
    let mut state = match chance.once_in(2) {
        true => Chance(index as u64),
        false => Chance(chance.below(1_000) as u64),
    };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: e{index}, namespace: {}, labels: {{kubernetes.io/service-name: s{service}}}}}
addressType: IPv4
ports: [{{name: http-a, port: {port}}}, {{name: web-a, port: {port}}}, {{name: b, port: 8081}}]
endpoints:
",
        namespace(service)
    );
    for _ in 0..=shape.below(4) {
        let target = shape.below(PODS);
        let reference = match shape.once_in(3) {
            true => String::new(),
            false => format!(
                ", targetRef: {{kind: Pod, name: p{target}, namespace: {}}}",
                namespace(target)
            ),
        };
        let (ready, serving, terminating) =
            (state.below(3) > 0, state.once_in(2), state.once_in(3));
        // Mostly where such a pod may be.
        let address = (target + shape.below(2)) % ADDRESSES;
        let _ = writeln!(
            text,
            "- {{addresses: [10.1.0.{address}], conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}{reference}}}"
        );
    }
    text
}

/// One object of a kind that is configuration.
fn rule(chance: &mut Chance) -> (&'static str, String) {
    let (service, address) = (chance.below(SERVICES), chance.below(ADDRESSES));
    let space = namespace(service);
    match chance.below(5) {
        0 => (
            "entry",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\nspec: {{hosts: [e.example.com, f.example.com], location: MESH_INTERNAL, ports: [{{number: 80, name: http}}], resolution: STATIC, endpoints: [{{address: 10.1.0.{address}}}, {{address: 10.9.0.1}}]}}\n"
            ),
        ),
        1 => (
            "routes",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: {space}}}\nspec:\n  hosts: [s{service}]\n  gateways: [mesh, shop/g]\n  http:\n  - match: [{{sourceLabels: {{version: v1}}}}]\n    route: [{{destination: {{host: s{service}, port: {{number: 81}}}}}}]\n  - route: [{{destination: {{host: s{service}, subset: one, port: {{number: 80}}}}}}]\n"
            ),
        ),
        2 => (
            "subsets",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d, namespace: {space}}}\nspec: {{host: s{service}, subsets: [{{name: one, labels: {{version: v1}}}}]}}\n"
            ),
        ),
        3 => {
            let mode = chance.of(&["STRICT", "PERMISSIVE", "DISABLE"]);
            (
                "mtls",
                format!(
                    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: m, namespace: {space}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
                ),
            )
        }
        _ => (
            "gateway",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: shop}\nspec: {selector: {app: gate}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: [\"*/*\"]}]}\n".to_owned(),
        ),
    }
}

/// Everything that may be there, but rules.
pub fn settle(folder: &mut Folder, chance: &mut Chance) {
    for index in 0..PODS {
        folder.put(&format!("pod-{index}"), Ok(pod(index, chance)));
    }
    for index in 0..SERVICES {
        folder.put(&format!("service-{index}"), Ok(service(index, chance)));
    }
    for index in 0..SLICES {
        folder.put(&format!("slice-{index}"), Ok(slice(index, chance)));
    }
}

/// One thing is made, changed or deleted; mostly what changes most in a cluster.
pub fn change(folder: &mut Folder, chance: &mut Chance) {
    let (path, text) = match chance.below(14) {
        0..6 => {
            let index = chance.below(PODS);
            (format!("pod-{index}"), pod(index, chance))
        }
        6..12 => {
            let index = chance.below(SLICES);
            (format!("slice-{index}"), slice(index, chance))
        }
        12 => {
            let index = chance.below(SERVICES);
            (format!("service-{index}"), service(index, chance))
        }
        _ => {
            let (path, text) = rule(chance);
            (path.to_owned(), text)
        }
    };
    match chance.once_in(6) {
        true => folder.remove(&path),
        false => folder.put(&path, Ok(text)),
    };
}
