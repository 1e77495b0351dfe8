//! One outbound destination, compiled: what a connection to a name or an address does.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tasuki_xds::model::cluster::Discovery;
use tasuki_xds::model::listener::{DeclaredProtocol, Filter, Transport};
use tasuki_xds::model::route::{Forward, Route, RouteAction, RouteMatch, WeightedCluster};
use tasuki_xds::model::{Cluster as ClusterModel, Listener, RouteConfiguration};

use super::ListenerName;
use super::dependencies::inline_routes;
use crate::cluster::Cluster;
use crate::route::RouteTable;

/// Envoy's and Istio's name for what goes to its original destination.
const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";

/// What becomes of connections to one Listener name.
#[derive(Debug)]
pub struct Outbound {
    pub name: ListenerName,
    pub protocol: DeclaredProtocol,
    /// For connections that turn out to be HTTP.
    pub http: Option<Arc<RouteTable>>,
    /// For everything else.
    pub tcp: Option<Arc<TcpTarget>>,
    /// For TLS of the application's own, by SNI; the first match wins, then `tcp`.
    pub tls: Vec<SniTarget>,
    /// What it was compiled from, for the dump; `None` for the built-in ones.
    pub source: Option<(Arc<Listener>, Option<Arc<RouteConfiguration>>)>,
    /// When it was looked up last, on the clock of [`now`].
    used: AtomicU64,
}

/// TLS that is passed through by its server name.
#[derive(Debug)]
pub struct SniTarget {
    /// Lower case; `*.example.com` matches any deeper name.
    pub server_names: Vec<String>,
    pub tcp: Arc<TcpTarget>,
}

/// Where bytes go: one of some clusters, by weight, per connection.
#[derive(Debug)]
pub struct TcpTarget {
    pub stat_prefix: String,
    /// `None` for a cluster that the control plane does not know: its share fails with `NC`.
    pub clusters: Vec<(String, u32, Option<Arc<Cluster>>)>,
    pub idle_timeout: Option<Duration>,
}

/// Why no cluster could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsentCluster;

impl TcpTarget {
    /// The cluster for `roll`, a random number.
    pub fn pick(&self, roll: u64) -> Result<&Arc<Cluster>, AbsentCluster> {
        let total: u64 = self
            .clusters
            .iter()
            .map(|(_, weight, _)| u64::from(*weight))
            .sum();
        let single = self.clusters.len() == 1;
        let mut rest = if total == 0 { 0 } else { roll % total };
        for (_, weight, cluster) in &self.clusters {
            let weight = u64::from(*weight);
            if single || rest < weight {
                return cluster.as_ref().ok_or(AbsentCluster);
            }
            rest -= weight;
        }
        Err(AbsentCluster)
    }

    fn new(
        stat_prefix: &str,
        clusters: &[WeightedCluster],
        idle_timeout: Option<Duration>,
        find: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Arc<TcpTarget> {
        let clusters = clusters
            .iter()
            .map(|c| (c.name.clone(), c.weight, find(&c.name)))
            .collect();
        Arc::new(TcpTarget {
            stat_prefix: stat_prefix.to_owned(),
            clusters,
            idle_timeout,
        })
    }
}

impl Outbound {
    /// Compiles `listener`; `routes` is the route table that it fetches by name, if it does.
    pub fn compile(
        listener: &Arc<Listener>,
        routes: Option<Arc<RouteConfiguration>>,
        find: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Outbound {
        let mut outbound = Outbound {
            name: ListenerName::exact(&listener.name),
            protocol: listener.protocol,
            http: routes
                .as_deref()
                .or_else(|| inline_routes(listener))
                .map(|routes| Arc::new(RouteTable::compile(routes, find))),
            tcp: None,
            tls: Vec::new(),
            source: Some((Arc::clone(listener), routes)),
            used: AtomicU64::new(now()),
        };
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            let Filter::Tcp(tcp) = &chain.filter else {
                continue;
            };
            let target = TcpTarget::new(&tcp.stat_prefix, &tcp.clusters, tcp.idle_timeout, find);
            if !chain.matches.server_names.is_empty() {
                outbound.tls.push(SniTarget {
                    server_names: chain.matches.server_names.clone(),
                    tcp: target,
                });
            } else if chain.matches.transport != Transport::Tls {
                outbound.tcp.get_or_insert(target);
            } else {
                outbound.tls.push(SniTarget {
                    server_names: vec!["*".into()],
                    tcp: target,
                });
            }
        }
        outbound
    }

    /// Everything to its original destination: before any configuration, and for `--unknown-when-disconnected=allow`.
    pub fn allow_any() -> Arc<Outbound> {
        static ALLOW: OnceLock<Arc<Outbound>> = OnceLock::new();
        Arc::clone(ALLOW.get_or_init(|| {
            let discovery = Discovery::OriginalDestination { bind: None };
            let model = ClusterModel::new(PASSTHROUGH_CLUSTER, discovery);
            let cluster = Arc::new(Cluster::new(&model));
            let table = RouteTable::compile(&passthrough_routes(), &|_| Some(Arc::clone(&cluster)));
            Arc::new(Outbound {
                name: ListenerName::exact("passthrough"),
                protocol: DeclaredProtocol::Auto,
                http: Some(Arc::new(table)),
                tcp: Some(Arc::new(TcpTarget {
                    stat_prefix: PASSTHROUGH_CLUSTER.into(),
                    clusters: vec![(PASSTHROUGH_CLUSTER.into(), 1, Some(cluster))],
                    idle_timeout: None,
                })),
                tls: Vec::new(),
                source: None,
                used: AtomicU64::new(0),
            })
        }))
    }

    /// Refuses everything: before any configuration has arrived.
    pub fn refuse() -> Arc<Outbound> {
        Arc::new(Outbound {
            name: ListenerName::exact("passthrough"),
            protocol: DeclaredProtocol::Auto,
            http: None,
            tcp: None,
            tls: Vec::new(),
            source: None,
            used: AtomicU64::new(0),
        })
    }

    /// Where TLS for `server_name` goes.
    pub fn by_server_name(&self, server_name: Option<&str>) -> Option<&Arc<TcpTarget>> {
        let matches = |pattern: &String| match (pattern.as_str(), server_name) {
            ("*", _) => true,
            (_, None) => false,
            (pattern, Some(name)) => match pattern.strip_prefix('*') {
                Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
                None => pattern == name,
            },
        };
        let exact = |t: &&SniTarget| {
            server_name.is_some_and(|name| t.server_names.iter().any(|p| p == name))
        };
        self.tls
            .iter()
            .find(exact)
            .or_else(|| self.tls.iter().find(|t| t.server_names.iter().any(matches)))
            .map(|t| &t.tcp)
            .or(self.tcp.as_ref())
    }

    /// Notes that the destination is in use, which keeps its subscription.
    pub fn touch(&self) {
        self.used.store(now(), Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn forget_use(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// How long nobody has looked it up.
    pub fn idle(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.used.load(Ordering::Relaxed)))
    }
}

/// Whatever the host, to where the client wanted to go.
fn passthrough_routes() -> RouteConfiguration {
    let forward = Forward::to(vec![WeightedCluster::new(PASSTHROUGH_CLUSTER, 1)]);
    let route = Route::new(
        "allow_any",
        RouteMatch::all(),
        RouteAction::Forward(forward),
    );
    RouteConfiguration::of_any_host("passthrough", vec![route])
}

/// Seconds on a clock that began an hour before the process first asked, so that 0 is long ago.
fn now() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_secs() + 3_600
}
