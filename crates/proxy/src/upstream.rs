//! One request, or one TCP connection, to one endpoint: connection pools of this worker, TLS, HTTP/2 and HTTP/1.
//!
//! Which endpoint is decided elsewhere. What happens here may fail before anything was sent, and then says so
//! ([`crate::error::RetryClass`]).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ::h2::Reason;
use http::{Request, Response};
use tasuki_xds::model::cluster::{Discovery, HttpProtocol};

use crate::body::Body;
use crate::cluster::{Cluster, Endpoint, Picked};
use crate::error::Error;
use crate::fast_map::FastMap;
use crate::http::{HttpVersion, Interim};
use crate::worker::Worker;

pub mod connect;
pub mod gate;
pub mod h1;
pub mod h2;
pub mod io;
pub mod pool;
pub mod tls;

pub use self::connect::{Connected, Use};
pub use self::io::Io;
pub use self::pool::Lease;
use self::tls::Security;

/// How one sidecar tells another that it could not connect to its application: nothing was processed, and a retry would do better
/// elsewhere. The code is that of the connection of a CONNECT that failed (RFC 9113 section 7); others see a reset.
pub const APPLICATION_AWAY: Reason = Reason::CONNECT_ERROR;

/// Where a request goes and what is spoken there.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub endpoint: &'a Arc<Endpoint>,
    /// What a plain endpoint is spoken to; mesh peers always get HTTP/2.
    pub version: HttpVersion,
    /// gRPC does not exist over HTTP/1.1, whatever the port was declared to speak.
    pub is_grpc: bool,
}

/// Connections of one worker, by endpoint. Nothing here is shared with other threads.
#[derive(Default)]
pub struct Pools {
    h2: RefCell<FastMap<Key, Rc<h2::Pool>>>,
    h1: RefCell<FastMap<Key, Rc<h1::Pool>>>,
    raw: pool::Raw,
}

/// What makes a connection reusable: the endpoint, and how it is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    endpoint: u64,
    security: u64,
}

impl Pools {
    pub fn new() -> Self {
        Self::default()
    }

    /// Open connections of this worker; for `/clusters` and tests.
    pub fn connections(&self) -> usize {
        let h2: usize = self
            .h2
            .borrow()
            .values()
            .map(|pool| pool.connections())
            .sum();
        let h1: usize = self
            .h1
            .borrow()
            .values()
            .map(|pool| pool.connections())
            .sum();
        h1 + h2
    }

    fn h2(&self, key: Key) -> Rc<h2::Pool> {
        if let Some(pool) = self.h2.borrow().get(&key) {
            return pool.clone();
        }
        let mut pools = self.h2.borrow_mut();
        // Endpoints come and go; their pools go with their last connection.
        pools.retain(|_, pool| !pool.is_idle());
        pools.entry(key).or_default().clone()
    }

    fn h1(&self, key: Key) -> Rc<h1::Pool> {
        if let Some(pool) = self.h1.borrow().get(&key) {
            return pool.clone();
        }
        let mut pools = self.h1.borrow_mut();
        pools.retain(|_, pool| !pool.is_idle());
        pools.entry(key).or_default().clone()
    }
}

impl Target<'_> {
    fn key(&self) -> Key {
        Key {
            endpoint: self.endpoint.id,
            security: self.cluster.security(),
        }
    }

    /// What a connection for it is for.
    pub fn purpose(&self) -> Use {
        if self.is_h2() { Use::Http2 } else { Use::Http1 }
    }

    /// Whether HTTP/2 is spoken there.
    pub fn is_h2(&self) -> bool {
        self.is_grpc
            || Security::of(self.cluster, self.endpoint).is_mesh()
            || match self.cluster.config.http {
                HttpProtocol::Http1 => false,
                HttpProtocol::Http2 => true,
                HttpProtocol::Downstream => self.version == HttpVersion::Http2,
            }
    }

    /// Whether the endpoint is a peer of the mesh, which is told about the source and the original protocol.
    pub fn is_mesh(&self) -> bool {
        Security::of(self.cluster, self.endpoint).is_mesh()
    }

    /// Whether the connection is TLS on which both ends show a workload certificate.
    pub fn is_mutual_tls(&self) -> bool {
        Security::of(self.cluster, self.endpoint).is_mutual()
    }
}

/// Chooses an endpoint of `cluster` ([`Cluster::pick`]). If one that cannot be connected to is due to be tried again, that is
/// done on the side, with a connection for `purpose`: the request that was chosen for it would have to wait otherwise.
pub fn pick(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    purpose: impl FnOnce(&Arc<Endpoint>) -> Use,
    avoid: &[u64],
    original: Option<SocketAddr>,
) -> Result<Picked, Error> {
    if let Some(endpoint) = cluster.to_try_again() {
        let purpose = purpose(&endpoint);
        let (worker, cluster) = (worker.clone(), cluster.clone());
        tokio::task::spawn_local(async move {
            connect::try_again(&worker, &cluster, &endpoint, purpose).await;
        });
    }
    cluster.pick(avoid, original)
}

/// Sends a request and waits for the response's head. The request's body goes up while the response is awaited and, if it
/// is still going then, while the response's body is read. The authority is in the URI.
///
/// # Errors
/// Whatever the upstream or the way there did; [`Error::DownstreamClosed`] and the like if the request's body failed.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    request: Request<Body>,
    interim: &Interim,
) -> Result<Response<Body>, Error> {
    if target.is_h2() {
        h2::send(worker, target, request, interim).await
    } else {
        h1::send(worker, target, request, interim).await
    }
}

/// A connection for raw bytes: mesh TLS with ALPN `tasuki-tcp` to mesh peers, what the cluster says to others.
///
/// # Errors
/// [`Error::Overflow`], [`Error::ConnectFailed`], [`Error::ConnectTimeout`], [`Error::TlsFailed`], [`Error::Loop`].
pub async fn connect_tcp(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
) -> Result<Connected, Error> {
    let (raw, others) = worker.pools.raw.enter(cluster);
    let permit =
        pool::connection_permit(cluster, others).ok_or(Error::Overflow("max_connections"))?;
    let connected = connect::connect(worker, cluster, endpoint, Use::Tcp, permit).await?;
    Ok(Connected {
        raw: Some(raw),
        ..connected
    })
}

/// The address from which an original-destination cluster dials, if it says (127.0.0.6 inbound).
pub(crate) fn bind_address(cluster: &Cluster, remote: SocketAddr) -> Option<std::net::IpAddr> {
    match cluster.config.discovery {
        Discovery::OriginalDestination { bind: Some(bind) }
            if bind.is_ipv4() == remote.is_ipv4() =>
        {
            Some(bind)
        }
        // The IPv6 counterpart of 127.0.0.6 (Istio's InboundPassthroughBindIpv6).
        Discovery::OriginalDestination { bind: Some(_) } if remote.is_ipv6() => {
            Some(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into())
        }
        _ => None,
    }
}
