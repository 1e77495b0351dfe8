//! The workload's own ports, compiled: which chain a connection takes by port, transport, server name and ALPN,
//! and what that chain asks of it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::model;
use tasuki_xds::model::cluster::{Balance, Discovery, HttpProtocol};
use tasuki_xds::model::endpoint::WorkloadRef;
use tasuki_xds::model::listener::{
    ChainMatch, Filter, FilterChain, ForwardClientCert, HttpConnection, Listener, RouteSource,
    Transport,
};
use tasuki_xds::model::route::RouteAction;
use tasuki_xds::model::tls::ServerTls;

use crate::authorize::{Authorizer, InvalidPolicy};
use crate::cluster::Cluster;
use crate::detect::{Expect, Spoken};
use crate::observe::{Destination, Party};

/// The source address of connections to the application, by which the packet rules know them. Its IPv6
/// counterpart is `::6`.
const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);

/// Istio's `connectTimeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The workload's own ports.
#[derive(Debug)]
pub struct Inbound {
    pub workload: Option<WorkloadRef>,
    chains: Vec<Arc<Chain>>,
    default: Option<Arc<Chain>>,
}

/// What becomes of the connections that match.
#[derive(Debug)]
pub struct Chain {
    pub name: String,
    matches: ChainMatch,
    /// TLS is ended here.
    pub tls: Option<ServerTls>,
    pub kind: Kind,
    pub authorizer: Authorizer,
    pub forward_client_cert: ForwardClientCert,
    /// The application: dialled at the connection's original destination, from 127.0.0.6.
    pub cluster: Arc<Cluster>,
    /// `inbound|8080||`, for records.
    pub cluster_name: Arc<str>,
    /// The service that leads to the port, for metrics.
    pub destination: Option<Arc<Destination>>,
    /// What the port was declared to speak; for peers that do not say what they spoke themselves.
    pub declared: HttpProtocol,
    pub idle_timeout: Option<Duration>,
}

/// How the bytes of a chain are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Tcp,
}

/// How a port's connections are told apart before a chain is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What the chains of the port can tell apart.
    pub expect: Expect,
    /// The server may speak first here.
    pub server_first: bool,
}

impl Inbound {
    /// Compiles the Listener `inbound`; `find` knows the clusters. Applications that `previous` had keep their
    /// pooled connections and their places under the limits.
    pub fn compile(
        listener: &Listener,
        find: &dyn Fn(&str) -> Option<Arc<Cluster>>,
        previous: Option<&Inbound>,
    ) -> Result<Self, InvalidPolicy> {
        let mut local = Locals {
            find,
            previous,
            made: HashMap::new(),
        };
        let mut chain = |chain: &FilterChain| Chain::compile(chain, &mut local).map(Arc::new);
        Ok(Self {
            workload: listener.workload.clone(),
            chains: listener
                .chains
                .iter()
                .map(&mut chain)
                .collect::<Result<_, _>>()?,
            default: listener
                .default_chain
                .as_ref()
                .map(&mut chain)
                .transpose()?,
        })
    }

    /// Whether chains of its own were given for `port`.
    pub fn declares(&self, port: u16) -> bool {
        self.chains
            .iter()
            .any(|chain| chain.matches.destination_port == Some(port))
    }

    /// The chains of `port`: its own if it has any, else those for every port. A port with chains of its own
    /// never falls back to others, so that STRICT there cannot be walked around.
    fn of_port(&self, port: u16) -> impl Iterator<Item = &Arc<Chain>> {
        let own = self.declares(port).then_some(port);
        let chains = self
            .chains
            .iter()
            .filter(move |chain| chain.matches.destination_port == own);
        chains.chain(self.default.iter().filter(move |_| own.is_none()))
    }

    /// How to tell the port's connections apart.
    pub fn ask(&self, port: u16) -> Ask {
        let mut ask = Ask {
            expect: Expect {
                tls: false,
                http: false,
            },
            server_first: false,
        };
        for chain in self.of_port(port) {
            ask.expect.tls |= chain.matches.transport == Transport::Tls;
            if chain.matches.transport != Transport::Tls && chain.tls.is_none() {
                ask.expect.http |= chain.kind == Kind::Http;
                ask.server_first |= chain.kind == Kind::Tcp;
            }
        }
        ask
    }

    /// The chain for a connection on which the client speaks `spoken`: of those that match, the one that says
    /// most about server name, transport and ALPN, as in Envoy.
    pub fn select(&self, port: u16, spoken: &Spoken) -> Option<&Arc<Chain>> {
        let matching = self
            .of_port(port)
            .filter_map(|chain| Some((chain.matches.rank(spoken)?, chain)));
        // The first of equals: `max_by_key` would take the last.
        matching
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
            .map(|(_, chain)| chain)
    }
}

/// How much a chain's conditions say about a connection.
trait Rank {
    /// `None` when they do not match. Greater is more specific.
    fn rank(&self, spoken: &Spoken) -> Option<(usize, bool, bool)>;
}

impl Rank for ChainMatch {
    fn rank(&self, spoken: &Spoken) -> Option<(usize, bool, bool)> {
        let hello = match spoken {
            Spoken::Tls(hello) => Some(hello),
            Spoken::Http1 | Spoken::Http2 | Spoken::Raw => None,
        };
        let transport = match self.transport {
            Transport::Any => true,
            Transport::Plaintext => hello.is_none(),
            Transport::Tls => hello.is_some(),
        };
        let server_name = hello.and_then(|hello| hello.server_name.as_deref());
        let name = self
            .server_names
            .iter()
            .filter_map(|pattern| name_rank(pattern, server_name))
            .max();
        let alpn = self.alpn.is_empty() || self.alpn.iter().any(|alpn| speaks(spoken, alpn));
        if !transport || !alpn || (name.is_none() && !self.server_names.is_empty()) {
            return None;
        }
        Some((
            name.unwrap_or(0),
            self.transport != Transport::Any,
            !self.alpn.is_empty(),
        ))
    }
}

/// Whether the client offers `alpn`; of plaintext HTTP what Envoy's inspector would say.
fn speaks(spoken: &Spoken, alpn: &str) -> bool {
    match spoken {
        Spoken::Tls(hello) => hello.offers(alpn.as_bytes()),
        Spoken::Http1 => alpn == "http/1.1" || alpn == "http/1.0",
        Spoken::Http2 => alpn == "h2c",
        Spoken::Raw => false,
    }
}

/// Exact names before wildcards, longer wildcards before shorter ones.
fn name_rank(pattern: &str, server_name: Option<&str>) -> Option<usize> {
    let name = server_name?;
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len() + 1)
        }
        None => (pattern == name).then_some(usize::MAX),
    }
}

/// The clusters of the workload's own ports. They are made here, whatever the control plane says of their
/// addresses: an inbound connection goes to the application beside this proxy and nowhere else.
struct Locals<'a> {
    find: &'a dyn Fn(&str) -> Option<Arc<Cluster>>,
    previous: Option<&'a Inbound>,
    made: HashMap<String, (Arc<Cluster>, HttpProtocol)>,
}

impl Locals<'_> {
    fn cluster(&mut self, name: &str) -> (Arc<Cluster>, HttpProtocol) {
        if let Some(made) = self.made.get(name) {
            return made.clone();
        }
        let known = (self.find)(name);
        let known = known.as_ref().map(|cluster| &cluster.config);
        let config = model::Cluster {
            name: name.to_owned(),
            discovery: Discovery::OriginalDestination {
                bind: Some(FROM.into()),
            },
            connect_timeout: known.map_or(CONNECT_TIMEOUT, |k| k.connect_timeout),
            balance: Balance::default(),
            limits: known.map(|k| k.limits).unwrap_or_default(),
            retry_budget: None,
            outliers: None,
            tls: Vec::new(),
            http: HttpProtocol::Downstream,
            panic_percent: 0,
            service: known.and_then(|k| k.service.clone()),
            keepalive: None,
            idle_timeout: known.and_then(|k| k.idle_timeout),
        };
        let made = (
            Arc::new(self.renewed(&config)),
            known.map(|k| k.http).unwrap_or_default(),
        );
        self.made.insert(name.to_owned(), made.clone());
        made
    }
}

impl Locals<'_> {
    fn renewed(&self, config: &model::Cluster) -> Cluster {
        let chains = self
            .previous
            .into_iter()
            .flat_map(|p| p.chains.iter().chain(&p.default));
        match chains
            .map(|chain| &chain.cluster)
            .find(|c| c.name() == config.name)
        {
            Some(cluster) => cluster.updated(config),
            None => Cluster::new(config),
        }
    }
}

impl Chain {
    fn compile(chain: &FilterChain, locals: &mut Locals<'_>) -> Result<Self, InvalidPolicy> {
        let (kind, rbac, forward_client_cert, idle_timeout) = match &chain.filter {
            Filter::Http(http) => (Kind::Http, &http.rbac, http.forward_client_cert, None),
            Filter::Tcp(tcp) => (
                Kind::Tcp,
                &tcp.rbac,
                ForwardClientCert::Sanitize,
                tcp.idle_timeout,
            ),
        };
        let (cluster, declared) =
            locals.cluster(cluster_name(&chain.filter).unwrap_or(&chain.name));
        Ok(Self {
            name: chain.name.clone(),
            matches: chain.matches.clone(),
            tls: chain.tls.clone(),
            kind,
            authorizer: Authorizer::compile(rbac)?,
            forward_client_cert,
            cluster_name: Arc::from(cluster.name()),
            destination: cluster.config.service.clone().map(|service| {
                Arc::new(Destination {
                    party: Party::default(),
                    service: Some(service),
                })
            }),
            cluster,
            declared,
            idle_timeout,
        })
    }
}

/// `inbound|8080||`, from wherever the filter says it.
fn cluster_name(filter: &Filter) -> Option<&str> {
    match filter {
        Filter::Tcp(tcp) => tcp.clusters.first().map(|c| c.name.as_str()),
        Filter::Http(HttpConnection {
            routes: RouteSource::Inline(routes),
            ..
        }) => routes
            .virtual_hosts
            .iter()
            .flat_map(|host| &host.routes)
            .find_map(|route| match &route.action {
                RouteAction::Forward(forward) => forward.clusters.first().map(|c| c.name.as_str()),
                RouteAction::Redirect(_) | RouteAction::Direct(_) | RouteAction::NonForwarding => {
                    None
                }
            }),
        Filter::Http(_) => None,
    }
}

#[cfg(test)]
mod tests;
