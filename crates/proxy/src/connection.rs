//! What becomes of an accepted connection: original destination > detect > terminate TLS > itinerary.
//!
//! One function per direction, read from the top. [`Connection`] is what a request can know of the connection
//! that it came on.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tasuki_identity::PeerCertificate;
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::net::TcpStream;

use crate::authorize::Source;
use crate::inbound::Chain;
use crate::state::{GatewayListener, ListenerName, Lookup, Outbound, State};
use crate::terminate::{ALPN_MESH_HTTP, ALPN_MESH_TCP};
use crate::worker::Worker;

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the network to the application beside this proxy.
    Inbound,
    /// From the application beside this proxy to the network.
    Outbound,
    /// Through a gateway.
    Gateway,
}

/// A client's connection, as its requests see it.
#[derive(Debug)]
pub struct Connection {
    pub direction: Direction,
    /// The client's address; IPv4 is never dressed as IPv6.
    pub peer: SocketAddr,
    /// Where the client was going; for explicit listeners and gateways the listener's own address.
    pub original_dst: SocketAddr,
    /// Where the application is dialled: inbound only, the original destination unless the listener is explicit.
    pub application: SocketAddr,
    /// TLS that was terminated here.
    pub tls: Option<PeerTls>,
    /// How the port was declared; `Auto` where nothing was.
    pub protocol: DeclaredProtocol,
    target: RefCell<Target>,
}

/// What the configuration says about the connection; looked up again when the snapshot moves on.
#[derive(Clone)]
enum Target {
    Inbound(Arc<Chain>),
    Outbound { generation: u64, name: Option<ListenerName>, lookup: Lookup },
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Inbound(chain) => f.debug_tuple("Inbound").field(&chain.name).finish(),
            Target::Outbound { name, .. } => f.debug_tuple("Outbound").field(name).finish(),
        }
    }
}

/// A TLS session that ended here.
#[derive(Clone, Debug)]
pub struct PeerTls {
    /// The client's verified certificate.
    pub peer: Option<PeerCertificate>,
    /// SNI, lower case.
    pub server_name: Option<String>,
    /// What was agreed upon.
    pub alpn: Option<Vec<u8>>,
}

impl PeerTls {
    /// A sidecar or gateway of the mesh: it showed an identity and speaks our ALPN. Only its `x-tasuki-*` are believed.
    pub fn is_mesh(&self) -> bool {
        self.peer.is_some() && self.alpn.as_deref().is_some_and(|alpn| alpn == ALPN_MESH_HTTP || alpn == ALPN_MESH_TCP)
    }
}

impl Connection {
    /// The verified identity of the client, `spiffe://...`.
    pub fn identity(&self) -> Option<String> {
        self.tls.as_ref()?.peer.as_ref().map(|peer| peer.id.to_string())
    }

    /// Whether `x-tasuki-*` of this client are believed.
    pub fn is_mesh_peer(&self) -> bool {
        self.tls.as_ref().is_some_and(PeerTls::is_mesh)
    }

    /// Whether a drain tells this connection's client to go elsewhere.
    pub fn drains(&self) -> bool {
        match self.direction {
            Direction::Inbound | Direction::Gateway => true,
            Direction::Outbound => false,
        }
    }

    /// The chain of the workload's port; inbound only.
    pub fn chain(&self) -> Option<Arc<Chain>> {
        match &*self.target.borrow() {
            Target::Inbound(chain) => Some(chain.clone()),
            Target::Outbound { .. } => None,
        }
    }

    /// What the connection's own destination is now; outbound and gateways only. Never waits: a destination
    /// that has gone is treated as the unknown one.
    pub fn lookup(&self, state: &State) -> Lookup {
        let Target::Outbound { generation, name, lookup } = &mut *self.target.borrow_mut() else {
            return Lookup::Unknown;
        };
        let now = state.generation();
        if *generation != now {
            *generation = now;
            if let Some(name) = name {
                *lookup = state.known(name).map_or(Lookup::Unknown, Lookup::Found);
            }
        }
        lookup.clone()
    }
}

/// An outbound connection that interception led here.
pub async fn outbound(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let _ = (worker, stream, peer);
}

/// An outbound connection to an explicit listener, whose destination the command line says.
pub async fn outbound_to(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, name: ListenerName) {
    let _ = (worker, stream, peer, name);
}

/// An inbound connection that interception led here.
pub async fn inbound(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let _ = (worker, stream, peer);
}

/// An inbound connection to an explicit listener for the application's `port`.
pub async fn inbound_to(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let _ = (worker, stream, peer, port);
}

/// A connection to a gateway's listener.
pub async fn gateway(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, listener: Arc<GatewayListener>) {
    let _ = (worker, stream, peer, listener);
}
