//! The inbound itinerary: authorize > limit > local application > respond.
//!
//! [`Inbound`] is the workload's own ports, compiled: which chain a connection takes by port, transport, server
//! name and ALPN, and what that chain asks of its requests.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use tasuki_xds::model::endpoint::WorkloadRef;
use tasuki_xds::model::listener::{
    ChainMatch, Filter, FilterChain, ForwardClientCert, Listener, RouteSource,
};
use tasuki_xds::model::route::RouteAction;
use tasuki_xds::model::tls::ServerTls;

use crate::authorize::{Authorizer, InvalidPolicy};
use crate::body::Body;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::Error;
use crate::observe::RequestRecord;
use crate::worker::Worker;

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
    /// Limits and protocol of the application; `None` when the control plane does not know the cluster (yet).
    pub cluster: Option<Arc<Cluster>>,
}

/// How the bytes of a chain are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Tcp { idle_timeout: Option<std::time::Duration> },
}

impl Inbound {
    /// Compiles the Listener `inbound`; `find` knows the clusters.
    pub fn compile(listener: &Listener, find: &dyn Fn(&str) -> Option<Arc<Cluster>>) -> Result<Self, InvalidPolicy> {
        let chain = |chain: &FilterChain| Chain::compile(chain, find).map(Arc::new);
        Ok(Self {
            workload: listener.workload.clone(),
            chains: listener.chains.iter().map(chain).collect::<Result<_, _>>()?,
            default: listener.default_chain.as_ref().map(chain).transpose()?,
        })
    }
}

impl Chain {
    fn compile(chain: &FilterChain, find: &dyn Fn(&str) -> Option<Arc<Cluster>>) -> Result<Self, InvalidPolicy> {
        let (kind, rbac, forward_client_cert, cluster) = match &chain.filter {
            Filter::Http(http) => {
                let cluster = match &http.routes {
                    RouteSource::Inline(routes) => routes.virtual_hosts.iter().flat_map(|h| &h.routes).find_map(|r| match &r.action {
                        RouteAction::Forward(forward) => forward.clusters.first().map(|c| c.name.as_str()),
                        RouteAction::Redirect(_) | RouteAction::Direct(_) | RouteAction::NonForwarding => None,
                    }),
                    RouteSource::Rds(_) => None,
                };
                (Kind::Http, &http.rbac, http.forward_client_cert, cluster)
            }
            Filter::Tcp(tcp) => {
                let cluster = tcp.clusters.first().map(|c| c.name.as_str());
                (Kind::Tcp { idle_timeout: tcp.idle_timeout }, &tcp.rbac, ForwardClientCert::Sanitize, cluster)
            }
        };
        Ok(Self {
            name: chain.name.clone(),
            matches: chain.matches.clone(),
            tls: chain.tls.clone(),
            kind,
            authorizer: Authorizer::compile(rbac)?,
            forward_client_cert,
            cluster: cluster.and_then(find),
        })
    }
}

/// One request to the local application.
pub async fn handle(worker: &Rc<Worker>, conn: &Rc<Connection>, request: Request<Body>, record: &mut RequestRecord) -> Result<Response<Body>, Error> {
    let _ = (worker, conn, request, record);
    Err(Error::NotImplemented("inbound"))
}
