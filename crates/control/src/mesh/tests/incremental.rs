//! A mesh that came by many changes is the mesh that the last state makes from nothing: its joins, all that clients are told
//! of it by snapshots that remember, and who is said to have nothing to look at.

use std::collections::{BTreeMap, BTreeSet};

use tasuki_xds::codec::Dialect;
use tasuki_xds::model::ResourceType;

use super::*;
use crate::ads::{Client, ClientKind, NsName};
use crate::departures::Departures;
use crate::snapshot::Snapshot;
use crate::snapshot::depends::Interest;
use crate::source::folder::Folder;
use world::{ADDRESSES, Chance, PODS, SERVICES, change, namespace, settle};

mod world;

fn client(kind: ClientKind, dialect: Dialect, namespace: &str) -> Client {
    Client {
        kind,
        identity: (dialect == Dialect::Tasuki)
            .then(|| "spiffe://cluster.local/ns/shop/sa/a".parse().unwrap()),
        dialect,
        namespace: namespace.to_owned(),
        labels: [("app".to_owned(), "gate".to_owned())].into(),
        follows: None,
        proven: None,
        node_id: String::new(),
        features: Vec::new(),
    }
}

fn clients() -> Vec<Client> {
    let pod = |index: usize| NsName {
        namespace: namespace(index).to_owned(),
        name: format!("p{index}"),
    };
    let sidecar = |index| {
        let kind = ClientKind::Sidecar { pod: pod(index) };
        client(kind, Dialect::Tasuki, namespace(index))
    };
    let provider = Some("p".to_owned());
    let mut grpc = client(ClientKind::Grpc, Dialect::Grpc { provider }, "shop");
    grpc.follows = Some(pod(2));
    let envoy = |secrets| client(ClientKind::EnvoyGateway, Dialect::Envoy { secrets }, "shop");
    let gateway = "shop/g".parse().unwrap();
    let ours = ClientKind::TasukiGateway { gateway };
    vec![
        sidecar(0),
        sidecar(1),
        sidecar(2),
        sidecar(4),
        grpc,
        envoy(true),
        envoy(false),
        client(ours, Dialect::Tasuki, "shop"),
    ]
}

fn names() -> Vec<(ResourceType, String)> {
    let mut names = vec![
        (ResourceType::Listener, "inbound".to_owned()),
        (ResourceType::Listener, "passthrough".to_owned()),
        (ResourceType::Listener, "s0:80".to_owned()),
        (ResourceType::Listener, "0.0.0.0_8080".to_owned()),
        (ResourceType::Route, "http.8080".to_owned()),
    ];
    for port in [8080, 8081, 9090] {
        names.push((ResourceType::Cluster, format!("inbound|{port}||")));
    }
    for address in 0..ADDRESSES {
        let name = format!("pod|10.1.0.{address}|8080");
        names.push((ResourceType::Cluster, name.clone()));
        names.push((ResourceType::Endpoint, name));
        names.push((ResourceType::Listener, format!("10.1.0.{address}:8080")));
    }
    let services =
        (0..SERVICES).map(|index| format!("s{index}.{}.svc.cluster.local", namespace(index)));
    let external = ["e.example.com", "f.example.com"].map(str::to_owned);
    for host in services.chain(external) {
        for port in [80, 81] {
            names.push((ResourceType::Route, format!("{host}:{port}")));
            names.push((ResourceType::Listener, format!("{host}:{port}")));
            for (kind, subset) in [
                ("outbound", ""),
                ("outbound", "one"),
                ("outbound-plain", ""),
            ] {
                let name = format!("{kind}|{port}|{subset}|{host}");
                names.push((ResourceType::Cluster, name.clone()));
                names.push((ResourceType::Endpoint, name));
            }
        }
    }
    for index in 0..SERVICES {
        names.push((ResourceType::Listener, format!("10.96.0.{index}:80")));
    }
    names
}

type Told = BTreeMap<(ResourceType, String), Option<String>>;

fn told(snapshot: &Snapshot, client: &Client, names: &[(ResourceType, String)]) -> Told {
    let version = |(ty, name): &(ResourceType, String)| {
        let found = snapshot.get(client, *ty, name);
        (
            (*ty, name.clone()),
            found.map(|found| found.version.clone()),
        )
    };
    let listed = [ResourceType::Cluster, ResourceType::Listener]
        .into_iter()
        .flat_map(|ty| {
            let list = snapshot.list(client, ty).into_iter();
            list.map(move |found| {
                (
                    (ty, format!("* {}", found.name)),
                    Some(found.version.clone()),
                )
            })
        });
    names.iter().map(version).chain(listed).collect()
}

fn the_same(mesh: &Mesh, scratch: &Mesh) {
    assert_eq!(mesh.problems, scratch.problems);
    for service in scratch.services.iter() {
        for port in &service.ports {
            let (one, other) = (
                mesh.backends(service, port.number),
                scratch.backends(service, port.number),
            );
            assert_eq!(one, other, "{} {}", service.host, port.number);
        }
    }
    let ids = |mesh: &Mesh| {
        mesh.workloads
            .iter()
            .map(|w| w.id.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(ids(mesh), ids(scratch));
    for workload in scratch.workloads.iter() {
        assert_eq!(mesh.workloads.get(&workload.id), Some(workload));
        let ports = mesh.workload_ports(workload);
        assert_eq!(ports, scratch.workload_ports(workload), "{}", workload.id);
        for (port, protocol) in ports {
            assert_eq!(mesh.workload_port(workload, port), protocol);
        }
    }
    for address in (0..ADDRESSES).map(|last| IpAddr::from([10, 1, 0, u8::try_from(last).unwrap()]))
    {
        assert_eq!(mesh.workloads.at(address), scratch.workloads.at(address));
        let hosts: BTreeSet<&str> = mesh
            .serving(address)
            .map(|(service, _)| &*service.host)
            .collect();
        let is_there = |service: &&Arc<Service>| {
            let mut ports = service.ports.iter();
            ports.any(|port| {
                scratch
                    .backends(service, port.number)
                    .iter()
                    .any(|b| b.endpoint.address.ip() == address)
            })
        };
        let all: BTreeSet<&str> = scratch
            .services
            .iter()
            .filter(is_there)
            .map(|s| &*s.host)
            .collect();
        assert_eq!(hosts, all, "{address}");
    }
}

/// One client on a stream that looks only when it is told to.
struct Stream {
    client: Client,
    interest: Interest,
    told: Told,
}

impl Stream {
    fn labels(&mut self, mesh: &Mesh) -> bool {
        let pod = match &self.client.kind {
            ClientKind::Sidecar { pod } => Some(pod),
            _ => self.client.follows.as_ref(),
        };
        let pod = pod.map(|pod| NamespacedName::new(pod.namespace.clone(), pod.name.clone()));
        let workload = pod.and_then(|pod| mesh.workload(&pod));
        let labels = workload.map_or_else(|| self.client.labels.clone(), |w| w.labels.clone());
        let news = labels != self.client.labels;
        self.client.labels = labels;
        news
    }

    fn look(&mut self, snapshot: &Snapshot, names: &[(ResourceType, String)]) {
        self.labels(&snapshot.mesh);
        self.told = told(snapshot, &self.client, names);
        let asked: Vec<_> = names
            .iter()
            .map(|(ty, name)| (*ty, name.as_str()))
            .collect();
        self.interest = Interest::of(&snapshot.mesh, &self.client, &asked);
    }
}

/// Returns how often a stream had nothing to look at, and how often that was so of a change of endpoints.
fn run(seed: u64, steps: usize) -> usize {
    let mut chance = Chance(seed);
    let mut folder = Folder::default();
    settle(&mut folder, &mut chance);
    let settings = mesh(&[]).settings.clone();
    let mut now = Instant::now();
    let mut snapshot = Snapshot::new(Arc::new(Mesh::build(&folder.objects(), settings.clone())));
    let departures = Departures::default();
    departures.follow(None, &snapshot.mesh, 0);
    // A client asks for some of the names only, or every change would concern it.
    let all = names();
    let mut streams = Vec::new();
    for client in clients() {
        let asked: Vec<_> = all
            .iter()
            .filter(|(_, name)| name.starts_with("inbound") || chance.once_in(15))
            .cloned()
            .collect();
        let mut stream = Stream {
            client,
            interest: Interest::default(),
            told: Told::new(),
        };
        stream.look(&snapshot, &asked);
        streams.push((stream, asked));
    }
    let mut passed = 0;
    for step in 0..steps {
        for _ in 0..=chance.below(3) / 2 {
            change(&mut folder, &mut chance);
        }
        now += match chance.once_in(20) {
            true => departed::GRACE,
            false => std::time::Duration::from_secs(1),
        };
        let source = Arc::new(folder.objects());
        let mesh = Arc::new(snapshot.mesh.successor(&source, now));
        let scratch = Snapshot::new(Arc::new(Mesh::build(&source, settings.clone())));
        the_same(&mesh, &scratch.mesh);
        departures.follow(Some(&snapshot.mesh), &mesh, step as u64 + 1);
        let touched = mesh.touched_since(&snapshot.mesh).unwrap().clone();
        snapshot = snapshot.next(mesh);
        for index in 0..PODS {
            let pod = NsName {
                namespace: namespace(index).to_owned(),
                name: format!("p{index}"),
            };
            let id = NamespacedName::new(pod.namespace.clone(), pod.name.clone());
            assert_eq!(
                departures.of(&pod).deleting,
                snapshot.mesh.leaving(&id).is_some(),
                "{id}"
            );
        }
        for (stream, asked) in &mut streams {
            if stream.interest.meets(&touched) {
                stream.look(&snapshot, asked);
            } else {
                passed += 1;
                let who = format!(
                    "seed {seed} step {step} {:?} {touched:?}",
                    stream.client.kind
                );
                assert!(!stream.labels(&snapshot.mesh), "{who}");
                assert_eq!(told(&snapshot, &stream.client, asked), stream.told, "{who}");
            }
            let is_gone = match &stream.client.kind {
                ClientKind::Sidecar { pod } => scratch
                    .mesh
                    .workloads
                    .get(&NamespacedName::new(
                        pod.namespace.clone(),
                        pod.name.clone(),
                    ))
                    .is_none(),
                _ => false,
            };
            if !is_gone {
                let fresh = told(&scratch, &stream.client, asked);
                assert_eq!(
                    stream.told, fresh,
                    "seed {seed} step {step} {:?}",
                    stream.client.kind
                );
            }
        }
    }
    passed
}

#[test]
fn a_mesh_of_changes_is_a_mesh_of_nothing_and_nobody_misses_one() {
    let passed: usize = (1..=6).map(|seed| run(seed, 50)).sum();
    assert!(
        passed > 100,
        "changes that concern nobody are what this is about: {passed}"
    );
}
