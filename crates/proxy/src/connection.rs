//! What becomes of an accepted connection: original destination > detect > terminate TLS > itinerary.
//!
//! `arrive.rs` and `leave.rs` are the two directions, each read from the top; `listen.rs` waits for the first bytes.
//! [`Connection`] is what a request can know of the connection that it came on. Itineraries are boxed, so that a
//! connection that still waits costs little.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use tasuki_identity::PeerCertificate;
use tasuki_xds::model::listener::DeclaredProtocol;

use crate::authorize::Source;
use crate::detect::Spoken;
use crate::error::Error;
use crate::inbound::{Caller, Chain};
use crate::state::{GatewayListener, ListenerName, Lookup, State};
use crate::terminate::{ALPN_MESH_HTTP, ALPN_MESH_TCP};

mod arrive;
mod leave;
mod listen;

pub use self::arrive::{inbound, inbound_to};
pub use self::leave::{gateway, outbound, outbound_to};

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
    /// Where the client was going. For explicit listeners: the address of the target if the command line gives
    /// one, else the listener's own.
    pub original_dst: SocketAddr,
    /// Where the application is dialled (inbound): the original destination, unless the listener is explicit.
    pub application: SocketAddr,
    /// TLS that was ended here. Boxed: connections that wait have none.
    pub tls: Option<Box<PeerTls>>,
    /// How the port was declared; `Auto` where nothing was.
    pub protocol: DeclaredProtocol,
    /// SNI of TLS that is passed through.
    passed_server_name: Option<String>,
    /// What inbound requests say of who asks.
    pub caller: Caller,
    destination: RefCell<Destination>,
}

/// What the configuration says about the connection; it is looked up again when the snapshot moves on.
enum Destination {
    /// Not chosen yet.
    Arriving,
    Inbound {
        generation: u64,
        /// What the chain was chosen by.
        spoken: Spoken,
        chain: Arc<Chain>,
    },
    Outbound {
        generation: u64,
        name: ListenerName,
        lookup: Lookup,
    },
    Gateway {
        generation: u64,
        listener: Arc<GatewayListener>,
    },
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Arriving => f.write_str("Arriving"),
            Self::Inbound { chain, .. } => f.debug_tuple("Inbound").field(&chain.name).finish(),
            Self::Outbound { name, .. } => f.debug_tuple("Outbound").field(name).finish(),
            Self::Gateway { listener, .. } => {
                f.debug_tuple("Gateway").field(&listener.name).finish()
            }
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
        self.peer.is_some()
            && self
                .alpn
                .as_deref()
                .is_some_and(|alpn| alpn == ALPN_MESH_HTTP || alpn == ALPN_MESH_TCP)
    }
}

impl Connection {
    fn new(
        direction: Direction,
        peer: SocketAddr,
        original_dst: SocketAddr,
        destination: Destination,
    ) -> Self {
        Self {
            direction,
            peer,
            original_dst,
            application: original_dst,
            tls: None,
            protocol: DeclaredProtocol::Auto,
            passed_server_name: None,
            caller: Caller::default(),
            destination: RefCell::new(destination),
        }
    }

    /// The verified identity of the client, `spiffe://...`.
    pub fn identity(&self) -> Option<&str> {
        self.tls
            .as_ref()?
            .peer
            .as_ref()
            .map(|peer| peer.id.as_str())
    }

    /// Whether `x-tasuki-*` of this client are believed.
    pub fn is_mesh_peer(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_mesh())
    }

    /// SNI, of TLS that ended here or is passed through.
    pub fn server_name(&self) -> Option<&str> {
        let ended = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        ended.or(self.passed_server_name.as_deref())
    }

    /// What policies look at.
    pub fn source(&self) -> Source<'_> {
        Source {
            identity: self.identity(),
            address: self.peer.ip(),
            destination: self.original_dst,
            server_name: self.server_name(),
        }
    }

    /// Whether a drain tells this connection's client to go elsewhere.
    pub fn drains(&self) -> bool {
        match self.direction {
            Direction::Inbound | Direction::Gateway => true,
            Direction::Outbound => false,
        }
    }

    /// The chain of the workload's port as it is now; inbound only. Connections between sidecars live for days, so
    /// a policy that only new connections saw would hardly ever take effect.
    ///
    /// # Errors
    /// [`Error::IdentityRequired`] when the port has become STRICT and this connection proved nothing.
    pub fn chain(&self, state: &State) -> Result<Arc<Chain>, Error> {
        let Destination::Inbound {
            generation,
            spoken,
            chain,
        } = &mut *self.destination.borrow_mut()
        else {
            return Err(Error::NoRoute);
        };
        if *generation != state.generation() {
            let snapshot = state.snapshot();
            if let Some(inbound) = &snapshot.inbound {
                let now = inbound.select(self.original_dst.port(), spoken);
                let now = now.filter(|now| self.may_stay(now));
                *chain = now.ok_or(Error::IdentityRequired)?.clone();
            }
            *generation = snapshot.generation;
        }
        Ok(chain.clone())
    }

    /// Whether the connection, as it was made, is one that `chain` would take.
    fn may_stay(&self, chain: &Chain) -> bool {
        match (&chain.tls, &self.tls) {
            (None, None) => true,
            (Some(tls), Some(_)) => !tls.require_client_certificate || self.identity().is_some(),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The gateway's listener as it is now; gateways only. One that has gone serves open connections on.
    pub fn gateway(&self, state: &State) -> Option<Arc<GatewayListener>> {
        let Destination::Gateway {
            generation,
            listener,
        } = &mut *self.destination.borrow_mut()
        else {
            return None;
        };
        let now = state.generation();
        if *generation != now {
            *generation = now;
            if let Some(newer) = state.snapshot().gateway.get(&listener.name) {
                *listener = newer.clone();
            }
        }
        Some(listener.clone())
    }

    /// What the connection's own destination is now. Never waits: an outbound destination that has gone is
    /// treated as an unknown one.
    pub fn lookup(&self, state: &State) -> Lookup {
        if let Some(listener) = self.gateway(state) {
            return Lookup::Found(listener.outbound.clone());
        }
        let Destination::Outbound {
            generation,
            name,
            lookup,
        } = &mut *self.destination.borrow_mut()
        else {
            return Lookup::Unknown;
        };
        let now = state.generation();
        if *generation != now {
            *generation = now;
            *lookup = match (state.known(name), &*lookup) {
                (Some(found), _) => Lookup::Found(found),
                // Nobody has said that there is no such destination: it must not be passed through.
                (None, Lookup::Disconnected) => Lookup::Disconnected,
                (None, Lookup::Found(_) | Lookup::Unknown) => Lookup::Unknown,
            };
        }
        lookup.clone()
    }

    /// Asks once more for an outbound connection's destination that could not be asked for when it came.
    pub async fn look_up_again(&self, state: &State) -> Lookup {
        let generation = state.generation();
        let Some(name) = self.name() else {
            return Lookup::Unknown;
        };
        let found = state.outbound(&name).await;
        *self.destination.borrow_mut() = Destination::Outbound {
            generation,
            name,
            lookup: found.clone(),
        };
        found
    }

    fn name(&self) -> Option<ListenerName> {
        match &*self.destination.borrow() {
            Destination::Outbound { name, .. } => Some(name.clone()),
            Destination::Arriving | Destination::Inbound { .. } | Destination::Gateway { .. } => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
