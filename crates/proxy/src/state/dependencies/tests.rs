//! The dependency manager, driven as the control thread drives it.

use tasuki_xds::model::endpoint::Endpoint;
use tasuki_xds::model::listener::{DeclaredProtocol, HttpConnection, RouteSource};
use tasuki_xds::model::route::{Forward, Route, RouteAction, RouteMatch, WeightedCluster};

use super::*;

/// Drives [`Dependencies`] as the control thread does.
struct Mesh {
    deps: Dependencies,
    subscribed: BTreeSet<Key>,
    now: Instant,
}

impl Mesh {
    fn new(root: &str) -> Mesh {
        let mut deps = Dependencies::default();
        deps.add_root(root);
        Mesh {
            deps,
            subscribed: BTreeSet::new(),
            now: Instant::now(),
        }
    }

    fn settle(&mut self) -> Vec<String> {
        let settled = self.deps.settle(self.now);
        for key in settled.subscribe {
            assert!(self.subscribed.insert(key), "subscribed to twice");
        }
        for key in settled.unsubscribe {
            assert!(self.subscribed.remove(&key), "was not subscribed to");
        }
        assert_eq!(self.subscribed.len(), self.deps.subscriptions());
        settled.ready.into_iter().map(|(name, _)| name).collect()
    }

    fn wants(&self, ty: ResourceType, name: &str) -> bool {
        self.subscribed.contains(&(ty, name.to_owned()))
    }
}

fn listener(rds: &str) -> Listener {
    let http = HttpConnection {
        stat_prefix: "cart".into(),
        routes: RouteSource::Rds(rds.into()),
        rbac: Vec::new(),
        forward_client_cert: Default::default(),
    };
    Listener {
        api: Some(http),
        ..Listener::new("cart:80", DeclaredProtocol::Http)
    }
}

fn routes(clusters: &[&str]) -> RouteConfiguration {
    let weighted = |name: &&str| WeightedCluster::new(name, 1);
    let forward = Forward::to(clusters.iter().map(weighted).collect());
    let route = Route::new("r", RouteMatch::all(), RouteAction::Forward(forward));
    RouteConfiguration::of_any_host("cart", vec![route])
}

fn cluster(name: &str) -> tasuki_xds::model::Cluster {
    tasuki_xds::model::Cluster::eds(name)
}

fn endpoints(name: &str, ports: &[u16]) -> ClusterLoadAssignment {
    let endpoint = |port: &u16| Endpoint::new(([10, 0, 0, 1], *port).into());
    ClusterLoadAssignment::new(name, ports.iter().map(endpoint).collect())
}

/// A mesh in which `cart:80` is served by cluster `a`.
fn serving() -> Mesh {
    let mut mesh = Mesh::new("cart:80");
    assert!(mesh.settle().is_empty());
    mesh.deps.put_listener(listener("cart"));
    assert!(mesh.settle().is_empty());
    assert!(mesh.wants(ResourceType::Route, "cart"));
    mesh.deps.put_routes(routes(&["a"]));
    assert!(mesh.settle().is_empty());
    assert!(mesh.wants(ResourceType::Cluster, "a"));
    mesh.deps.put_cluster(&cluster("a"));
    assert!(mesh.settle().is_empty());
    assert!(mesh.wants(ResourceType::Endpoint, "a"));
    assert!(mesh.deps.put_endpoints(endpoints("a", &[1])));
    assert_eq!(mesh.settle(), ["cart:80"]);
    mesh
}

#[test]
fn a_root_is_applied_when_its_last_part_arrives() {
    let mut mesh = serving();
    assert!(mesh.settle().is_empty());
    // Endpoints have their own path: no root is compiled again.
    assert!(!mesh.deps.put_endpoints(endpoints("a", &[1, 2])));
    assert!(mesh.settle().is_empty());
    assert_eq!(mesh.deps.clusters()["a"].endpoints().len(), 2);
}

#[test]
fn a_new_route_waits_while_the_old_one_serves() {
    let mut mesh = serving();
    mesh.deps.put_routes(routes(&["a", "b"]));
    assert!(mesh.settle().is_empty());
    assert!(mesh.wants(ResourceType::Cluster, "a") && mesh.wants(ResourceType::Cluster, "b"));
    mesh.deps.put_cluster(&cluster("b"));
    assert!(mesh.settle().is_empty());
    // Empty endpoints count as arrived.
    mesh.deps.put_endpoints(endpoints("b", &[]));
    assert_eq!(mesh.settle(), ["cart:80"]);
    // Back to one: the other is no longer wanted once it is no longer used.
    mesh.deps.put_routes(routes(&["b"]));
    assert_eq!(mesh.settle(), ["cart:80"]);
    assert!(!mesh.wants(ResourceType::Cluster, "a") && !mesh.wants(ResourceType::Endpoint, "a"));
}

#[test]
fn an_absent_cluster_fails_alone() {
    let mut mesh = serving();
    mesh.deps.put_routes(routes(&["a", "gone"]));
    mesh.settle();
    mesh.deps.declare_absent(ResourceType::Cluster, "gone");
    assert_eq!(mesh.settle(), ["cart:80"]);
    let parts = mesh.deps.ready_parts("cart:80").unwrap();
    assert!(parts.cluster("a").is_some() && parts.cluster("gone").is_none());
    // It appears after all.
    mesh.deps.put_cluster(&cluster("gone"));
    mesh.settle();
    mesh.deps.put_endpoints(endpoints("gone", &[3]));
    assert_eq!(mesh.settle(), ["cart:80"]);
}

#[test]
fn fifteen_seconds_are_enough() {
    let mut mesh = serving();
    mesh.deps.put_routes(routes(&["a", "late"]));
    mesh.settle();
    let deadline = mesh.deps.next_deadline().unwrap();
    assert_eq!(deadline, mesh.now + DOES_NOT_EXIST);
    mesh.deps.expire(deadline - Duration::from_millis(1));
    assert!(mesh.settle().is_empty());
    // A stream that was away begins the time anew.
    mesh.deps.connected(mesh.now + Duration::from_secs(10));
    mesh.deps.expire(deadline);
    assert!(mesh.settle().is_empty());
    mesh.deps.expire(deadline + Duration::from_secs(10));
    assert_eq!(mesh.settle(), ["cart:80"]);
    assert_eq!(mesh.deps.next_deadline(), None);
}

#[test]
fn a_changed_cluster_keeps_its_endpoints() {
    let mut mesh = serving();
    let old = mesh.deps.clusters()["a"].clone();
    let mut changed = cluster("a");
    changed.connect_timeout = Duration::from_secs(1);
    mesh.deps.put_cluster(&changed);
    assert_eq!(mesh.settle(), ["cart:80"]);
    let new = &mesh.deps.clusters()["a"];
    assert!(!Arc::ptr_eq(&old, new));
    assert_eq!(new.endpoints().len(), 1);
    // The very same definition changes nothing.
    mesh.deps.put_cluster(&changed);
    assert!(mesh.settle().is_empty());
}

#[test]
fn everything_goes_with_its_root() {
    let mut mesh = serving();
    mesh.deps.remove_root("cart:80");
    mesh.settle();
    assert!(mesh.subscribed.is_empty());
    assert!(mesh.deps.clusters().is_empty() && mesh.deps.next_deadline().is_none());
}

#[test]
fn what_two_roots_share_stays_until_the_second_goes() {
    let mut mesh = serving();
    mesh.deps.add_root("cart.shop:80");
    mesh.deps.put_listener(Listener {
        name: "cart.shop:80".into(),
        ..listener("cart")
    });
    // Everything that it needs is there already.
    assert_eq!(mesh.settle(), ["cart.shop:80"]);
    mesh.deps.put_routes(routes(&["a", "b"]));
    mesh.settle();
    mesh.deps.put_cluster(&cluster("b"));
    mesh.settle();
    mesh.deps.put_endpoints(endpoints("b", &[2]));
    assert_eq!(mesh.settle(), ["cart.shop:80", "cart:80"]);
    mesh.deps.remove_root("cart:80");
    mesh.settle();
    assert!(mesh.wants(ResourceType::Cluster, "a") && mesh.wants(ResourceType::Route, "cart"));
    mesh.deps.remove_root("cart.shop:80");
    mesh.settle();
    assert!(mesh.subscribed.is_empty());
}

#[test]
fn an_absent_root_lets_go_of_what_it_needed_and_comes_back_whole() {
    let mut mesh = serving();
    mesh.deps.declare_absent(ResourceType::Listener, "cart:80");
    assert!(mesh.settle().is_empty());
    assert!(!mesh.deps.is_applied("cart:80"));
    assert_eq!(mesh.subscribed.len(), 1, "only the name itself");
    mesh.deps.put_listener(listener("cart"));
    mesh.settle();
    mesh.deps.put_routes(routes(&["a"]));
    mesh.settle();
    mesh.deps.put_cluster(&cluster("a"));
    mesh.settle();
    assert!(mesh.deps.put_endpoints(endpoints("a", &[1])));
    assert_eq!(mesh.settle(), ["cart:80"]);
}

#[test]
fn a_change_touches_only_what_needs_it() {
    let mut mesh = serving();
    for index in 0..100 {
        mesh.deps.add_root(&format!("other-{index}:80"));
    }
    mesh.settle();
    assert!(mesh.deps.touched.is_empty());
    mesh.deps.put_endpoints(endpoints("a", &[7]));
    assert!(mesh.deps.touched.is_empty(), "no root for endpoints");
    mesh.deps.put_routes(routes(&["a"]));
    assert_eq!(mesh.deps.touched.len(), 1);
    assert_eq!(mesh.settle(), ["cart:80"]);
}
