//! The manager with a control plane and workers that are played by hand.

use envoy_types::pb::envoy::service::discovery::v3::Resource as WireResource;
use tasuki_xds::client::NodeInfo;
use tasuki_xds::codec::{Dialect, encode};
use tasuki_xds::model::endpoint::{ClusterLoadAssignment, Endpoint};
use tasuki_xds::model::listener::{DeclaredProtocol, Filter, FilterChain, TcpProxy};
use tasuki_xds::model::route::WeightedCluster;

use tasuki_xds::model::Listener;
use tokio::sync::oneshot;

use super::*;
use crate::settings::{ObjectName, UnknownPolicy};
use crate::state::Demand;

/// A manager with a control plane that is played by hand.
struct Play {
    manager: Manager,
    state: Arc<State>,
    folder: Arc<tempfile::TempDir>,
    nonce: u32,
}

impl Play {
    fn new() -> Play {
        Play::in_folder(Arc::new(tempfile::tempdir().unwrap()))
    }

    fn in_folder(folder: Arc<tempfile::TempDir>) -> Play {
        let (state, _demands) = State::new(UnknownPolicy::Refuse);
        let metrics = Arc::new(Metrics::new().unwrap());
        let ads = AdsClient::new(&NodeInfo::sidecar("shop", "cart-1", "0"));
        let manager = Manager::new(
            ads,
            &Role::Sidecar {
                pod: ObjectName {
                    namespace: "shop".into(),
                    name: "cart-1".into(),
                },
            },
            folder.path(),
            Arc::clone(&state),
            metrics,
            Instant::now(),
        );
        Play {
            manager,
            state,
            folder,
            nonce: 0,
        }
    }

    /// Connected, and used for one destination.
    fn serving() -> Play {
        let mut play = Play::new();
        play.connect();
        play.serves_redis();
        play
    }

    /// The process ends and another is started on its state dir.
    fn restarted(mut self) -> Play {
        self.manager.save();
        Play::in_folder(self.folder)
    }

    fn connect(&mut self) {
        self.manager.on_opening();
        self.manager.on_connected(Instant::now());
    }

    /// The control plane sends these and says that those are gone.
    fn says(&mut self, ty: ResourceType, resources: &[Resource], removed: &[&str]) {
        self.nonce += 1;
        let wire = |resource: &Resource| {
            let encoded = encode(resource, &Dialect::Tasuki);
            WireResource {
                name: encoded.name.clone(),
                version: encoded.version.clone(),
                resource: Some(encoded.any.clone()),
                ..WireResource::default()
            }
        };
        let response = DeltaDiscoveryResponse {
            type_url: ty.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            resources: resources.iter().map(wire).collect(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.manager.on_response(response, Instant::now());
        self.manager.settle(Instant::now());
    }

    fn ask(&mut self, name: &str) -> oneshot::Receiver<Lookup> {
        let (reply, answer) = oneshot::channel();
        self.manager.on_demand(
            Demand {
                name: ListenerName::exact(name),
                reply,
            },
            Instant::now(),
        );
        answer
    }

    /// Time passes, and what is due is done.
    async fn later(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.manager.tick(Instant::now());
    }

    /// Everything asked for since the last time, as `type:name`.
    fn asked(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        while let Some(request) = self.manager.next_request() {
            let ty = ResourceType::from_type_url(&request.type_url).unwrap();
            asked.extend(
                request
                    .resource_names_subscribe
                    .iter()
                    .map(|n| format!("{}:{n}", type_name(ty))),
            );
            asked.extend(
                request
                    .resource_names_unsubscribe
                    .iter()
                    .map(|n| format!("-{}:{n}", type_name(ty))),
            );
        }
        asked
    }

    fn serves_redis(&mut self) {
        let mut answer = self.ask(REDIS);
        assert!(answer.try_recv().is_err());
        self.says(ResourceType::Listener, &[listener()], &[]);
        self.says(ResourceType::Cluster, &[cluster()], &[]);
        assert!(answer.try_recv().is_err(), "its endpoints are missing");
        self.says(ResourceType::Endpoint, &[endpoints(6379)], &[]);
        assert!(matches!(answer.try_recv(), Ok(Lookup::Found(_))));
    }
}

const REDIS: &str = "10.96.0.7:6379";
const CLUSTER: &str = "outbound|6379||redis";

fn listener() -> Resource {
    listener_named(REDIS)
}

fn listener_named(name: &str) -> Resource {
    let tcp = TcpProxy {
        stat_prefix: "redis".into(),
        clusters: vec![WeightedCluster::new(CLUSTER, 1)],
        rbac: Vec::new(),
        idle_timeout: None,
    };
    let chain = FilterChain {
        name: "tcp".into(),
        matches: Default::default(),
        tls: None,
        filter: Filter::Tcp(tcp),
    };
    Resource::Listener(Listener {
        default_chain: Some(chain),
        ..Listener::new(name, DeclaredProtocol::Tcp)
    })
}

fn cluster() -> Resource {
    Resource::Cluster(tasuki_xds::model::Cluster::eds(CLUSTER))
}

fn endpoints(port: u16) -> Resource {
    let endpoint = Endpoint::new(([10, 0, 0, 1], port).into());
    Resource::Endpoint(ClusterLoadAssignment::new(CLUSTER, vec![endpoint]))
}

#[tokio::test(start_paused = true)]
async fn asks_for_what_is_used_and_answers_when_all_is_there() {
    let mut play = Play::new();
    play.connect();
    assert_eq!(
        play.asked(),
        [
            "trust:*",
            "settings:*",
            "listener:inbound",
            "listener:passthrough",
            "departure:shop/cart-1"
        ]
    );
    play.serves_redis();
    let asked = play.asked();
    assert!(
        asked.contains(&format!("listener:{REDIS}"))
            && asked.contains(&"cluster:outbound|6379||redis".into())
    );
    let name = ListenerName::exact(REDIS);
    assert!(matches!(play.state.outbound(&name).await, Lookup::Found(_)));
    // Endpoints change without a new snapshot.
    let generation = play.state.generation();
    play.says(ResourceType::Endpoint, &[endpoints(6380)], &[]);
    assert_eq!(play.state.generation(), generation);
    let snapshot = play.state.snapshot();
    let addresses: Vec<_> = snapshot.clusters[CLUSTER]
        .endpoints()
        .all()
        .map(|e| e.address)
        .collect();
    assert_eq!(addresses, ["10.0.0.1:6380".parse().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_is_remembered_for_a_while() {
    let mut play = Play::new();
    play.connect();
    let mut answer = play.ask("10.9.9.9:1");
    play.says(ResourceType::Listener, &[], &["10.9.9.9:1"]);
    assert!(matches!(answer.try_recv(), Ok(Lookup::Unknown)));
    let name = ListenerName::exact("10.9.9.9:1");
    assert!(matches!(play.state.outbound(&name).await, Lookup::Unknown));
    play.asked();
    assert!(!play.manager.deps.has_root("10.9.9.9:1"));
}

#[tokio::test(start_paused = true)]
async fn a_port_scan_is_bounded() {
    let mut play = Play::new();
    play.connect();
    play.asked();
    let answers: Vec<_> = (0..20_000)
        .map(|i| play.ask(&format!("10.1.{}.{}:80", i / 256, i % 256)))
        .collect();
    assert_eq!(play.asked().len(), 100);
    assert_eq!(play.state.counters.overflows(), 19_900);
    // The control plane says nothing: the names are given up after 15 s, and nothing of them stays.
    play.later(Duration::from_secs(31)).await;
    assert_eq!(play.asked().len(), 100);
    assert_eq!(play.manager.deps.root_count(), 2);
    assert!(play.manager.waiters.is_empty());
    let silent = answers.into_iter().take(100);
    for mut answer in silent {
        assert!(
            matches!(answer.try_recv(), Ok(Lookup::Disconnected)),
            "nobody said that there is no such name"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_control_plane_serves() {
    let mut again = Play::serving().restarted();
    let mut answer = again.ask(REDIS);
    assert!(matches!(answer.try_recv(), Ok(Lookup::Found(_))));
    assert_eq!(
        again.state.snapshot().clusters[CLUSTER].endpoints().len(),
        1
    );
    // When the control plane returns it is told what is held.
    again.connect();
    let mut held = Vec::new();
    while let Some(request) = again.manager.next_request() {
        held.extend(request.initial_resource_versions.into_keys());
    }
    assert!(held.contains(&REDIS.to_owned()), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_names_while_disconnected_passes_nothing_through() {
    let mut again = Play::serving().restarted();
    let answers: Vec<_> = (0..300)
        .map(|i| again.ask(&format!("10.0.0.1:{i}")))
        .collect();
    for mut answer in answers {
        assert!(!matches!(answer.try_recv(), Ok(Lookup::Unknown)));
    }
    // What is kept costs nobody anything.
    assert!(matches!(again.ask(REDIS).try_recv(), Ok(Lookup::Found(_))));
}

#[tokio::test(start_paused = true)]
async fn damaged_files_are_dropped() {
    let mut play = Play::serving();
    play.manager.save();
    let folder = Arc::clone(&play.folder);
    drop(play);
    for file in std::fs::read_dir(folder.path().join("config")).unwrap() {
        let path = file.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        content.truncate(content.len() / 2);
        std::fs::write(path, content).unwrap();
    }
    let mut again = Play::in_folder(folder);
    assert!(again.ask(REDIS).try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refused_resource_leaves_the_last_good_one() {
    let mut play = Play::serving();
    play.asked();
    let mut broken = encode(&cluster(), &Dialect::Tasuki).any.clone();
    broken.value = vec![0xff; 7];
    let response = DeltaDiscoveryResponse {
        type_url: ResourceType::Cluster.type_url().to_owned(),
        nonce: "n".into(),
        resources: vec![WireResource {
            name: CLUSTER.into(),
            version: "2".into(),
            resource: Some(broken),
            ..WireResource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    };
    play.manager.on_response(response, Instant::now());
    play.manager.settle(Instant::now());
    let nack = play.manager.next_request().unwrap();
    assert!(nack.error_detail.is_some());
    assert!(matches!(
        play.state.outbound(&ListenerName::exact(REDIS)).await,
        Lookup::Found(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn idle_destinations_go_but_not_while_disconnected() {
    let mut play = Play::serving();
    let name = ListenerName::exact(REDIS);
    play.state.snapshot().outbound[&name].forget_use();
    play.manager.on_disconnected();
    play.later(Duration::from_secs(40)).await;
    assert!(play.state.known(&name).is_some());
    play.state.snapshot().outbound[&name].forget_use();
    play.connect();
    play.later(Duration::from_secs(40)).await;
    assert!(play.state.known(&name).is_none());
    // Its files stay for a time without control plane.
    play.manager.save();
    play.manager.on_disconnected();
    let mut answer = play.ask(REDIS);
    assert!(matches!(answer.try_recv(), Ok(Lookup::Found(_))));
}

#[tokio::test(start_paused = true)]
async fn workers_wait_a_second_for_an_absent_control_plane() {
    let (state, mut demands) = State::new(UnknownPolicy::Refuse);
    let begin = Instant::now();
    let lookup = state.outbound(&ListenerName::exact("10.0.0.1:80")).await;
    assert!(matches!(lookup, Lookup::Disconnected));
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    demands.close();
    let (allowing, _demands) = State::new(UnknownPolicy::Allow);
    let lookup = allowing.outbound(&ListenerName::exact("10.0.0.1:80")).await;
    assert!(matches!(lookup, Lookup::Found(passthrough) if passthrough.tcp.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_made_again_is_pushed() {
    let mut play = Play::serving();
    play.asked();
    play.says(ResourceType::Listener, &[], &[REDIS]);
    let name = ListenerName::exact(REDIS);
    assert!(matches!(play.state.outbound(&name).await, Lookup::Unknown));
    let asked = play.asked();
    assert!(!asked.contains(&format!("-listener:{REDIS}")), "{asked:?}");
    assert!(asked.contains(&"-cluster:outbound|6379||redis".into()));
    // Past the negative cache's time nobody waits and nobody is asked.
    let mut later = play.ask(REDIS);
    assert!(matches!(later.try_recv(), Ok(Lookup::Unknown)));
    assert!(play.asked().is_empty());

    play.says(ResourceType::Listener, &[listener()], &[]);
    let mut waiting = play.ask(REDIS);
    assert!(waiting.try_recv().is_err(), "not passed through any more");
    assert!(
        !play
            .state
            .negative()
            .contains(&name, Instant::now().into_std())
    );
    play.says(ResourceType::Cluster, &[cluster()], &[]);
    play.says(ResourceType::Endpoint, &[endpoints(6379)], &[]);
    assert!(matches!(waiting.try_recv(), Ok(Lookup::Found(_))));
    assert!(play.state.known(&name).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_removed_destination_is_let_go_when_nobody_asks_for_it() {
    let mut play = Play::serving();
    play.says(ResourceType::Listener, &[], &[REDIS]);
    tokio::time::advance(Duration::from_secs(200)).await;
    drop(play.ask(REDIS));
    play.later(Duration::from_secs(200)).await;
    assert!(play.manager.deps.has_root(REDIS));
    play.asked();
    play.later(Duration::from_secs(101)).await;
    assert!(!play.manager.deps.has_root(REDIS));
    assert_eq!(play.asked(), [format!("-listener:{REDIS}")]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_destination_is_asked_for_on_the_next_stream() {
    let mut play = Play::serving();
    play.says(ResourceType::Listener, &[], &[REDIS]);
    play.manager.on_disconnected();
    let mut away = play.ask(REDIS);
    play.connect();
    let mut back = play.ask(REDIS);
    assert!(away.try_recv().is_err() && back.try_recv().is_err());
    assert!(play.asked().contains(&format!("listener:{REDIS}")));
    play.says(ResourceType::Listener, &[], &[REDIS]);
    assert!(matches!(away.try_recv(), Ok(Lookup::Unknown)));
    assert!(matches!(back.try_recv(), Ok(Lookup::Unknown)));
}

/// As many destinations as a proxy holds, all of them served by one cluster.
async fn full(play: &mut Play) -> Vec<String> {
    play.connect();
    play.serves_redis();
    let names: Vec<String> = (0..4_093)
        .map(|i| format!("10.1.{}.{}:80", i / 256, i % 256))
        .collect();
    for names in names.chunks(100) {
        play.later(Duration::from_secs(1)).await;
        let answers: Vec<_> = names.iter().map(|name| play.ask(name)).collect();
        let listeners: Vec<_> = names.iter().map(|name| listener_named(name)).collect();
        play.says(ResourceType::Listener, &listeners, &[]);
        for mut answer in answers {
            assert!(matches!(answer.try_recv(), Ok(Lookup::Found(_))));
        }
    }
    play.later(Duration::from_secs(1)).await;
    assert_eq!(play.manager.deps.root_count(), 4_096);
    names
}

#[tokio::test(start_paused = true)]
async fn one_name_too_many_takes_the_place_of_one_that_nobody_uses() {
    let mut play = Play::new();
    let names = full(&mut play).await;
    // A connection holds each of them.
    let mut connections: Vec<_> = play.state.snapshot().outbound.values().cloned().collect();
    let mut refused = play.ask("10.2.0.1:80");
    assert!(matches!(refused.try_recv(), Ok(Lookup::Unknown)));
    assert_eq!(play.state.counters.overflows(), 1);
    let idle = ListenerName::exact(&names[8]);
    connections.retain(|held| held.name != idle);
    play.state.snapshot().outbound[&idle].forget_use();
    play.asked();
    let mut admitted = play.ask("10.2.0.1:80");
    assert!(admitted.try_recv().is_err());
    let asked = play.asked();
    assert!(asked.contains(&"listener:10.2.0.1:80".into()), "{asked:?}");
    assert!(asked.contains(&format!("-listener:{idle}")), "{asked:?}");
    assert!(play.state.known(&idle).is_none());
    // What is gone anyway goes first.
    play.says(ResourceType::Listener, &[], &[&names[9]]);
    play.asked();
    drop(play.ask("10.2.0.2:80"));
    let asked = play.asked();
    assert!(
        asked.contains(&format!("-listener:{}", names[9])),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_later() {
    let mut play = Play::new();
    let folder = play.folder.path().join("config");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    play.connect();
    play.serves_redis();
    play.later(Duration::from_secs(2)).await;
    let failures = play.manager.metrics.state_write_failures.get();
    assert_eq!(failures, 3, "listener, cluster, endpoints");
    // Not every second, or the log and the disk have nothing but this.
    play.later(Duration::from_secs(10)).await;
    assert_eq!(play.manager.metrics.state_write_failures.get(), failures);
    std::fs::remove_file(&folder).unwrap();
    play.later(Duration::from_secs(30)).await;
    assert!(play.manager.unsaved.is_empty());
    let mut again = Play::in_folder(Arc::clone(&play.folder));
    assert!(matches!(again.ask(REDIS).try_recv(), Ok(Lookup::Found(_))));
}

#[tokio::test(start_paused = true)]
async fn a_form_that_this_version_cannot_read_is_asked_for_anew() {
    let mut play = Play::serving();
    play.manager.save();
    let kept = play.manager.shelf.get(ResourceType::Cluster, CLUSTER);
    let mut old = kept.unwrap();
    old.any.value = b"what another version wrote".to_vec();
    play.manager.shelf.put(&old).unwrap();

    let mut again = Play::in_folder(Arc::clone(&play.folder));
    assert!(again.ask(REDIS).try_recv().is_err(), "a part is missing");
    again.connect();
    let mut held = Vec::new();
    while let Some(request) = again.manager.next_request() {
        held.extend(request.initial_resource_versions.into_keys());
    }
    assert!(held.contains(&REDIS.to_owned()), "{held:?}");
    assert!(!held.contains(&CLUSTER.to_owned()));
}
