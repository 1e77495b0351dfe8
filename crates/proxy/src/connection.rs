//! What becomes of an accepted connection: original destination > detect > terminate TLS > itinerary.
//!
//! One function per direction, read from the top. [`Connection`] is what a request can know of the connection
//! that it came on. Itineraries are boxed, so that a connection that still waits costs little.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tasuki_identity::PeerCertificate;
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::net::TcpStream;

use crate::authorize::Source;
use crate::detect::{Detected, Expect, SILENCE, Spoken, detect, detect_or_hear};
use crate::error::Error;
use crate::http::{self, HttpVersion};
use crate::inbound::{Chain, Kind};
use crate::original_dst::original_dst;
use crate::state::{GatewayListener, ListenerName, Lookup, Outbound, State};
use crate::stream::Stream;
use crate::tcp::{self, Leg, Target as TcpTarget};
use crate::terminate::{ALPN_MESH_HTTP, ALPN_MESH_TCP, terminate};
use crate::worker::Worker;

/// A client that must speak first (TLS is asked of it) has this long to begin.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// A client on a port declared HTTP may be silent this long; then its connection is idle like any other.
const PATIENCE: Duration = Duration::from_secs(3600);

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
    /// TLS that was ended here.
    pub tls: Option<PeerTls>,
    /// How the port was declared; `Auto` where nothing was.
    pub protocol: DeclaredProtocol,
    /// SNI of TLS that is passed through.
    passed_server_name: Option<String>,
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
        self.tls.as_ref().is_some_and(PeerTls::is_mesh)
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

/// An outbound connection that interception led here.
pub async fn outbound(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    match original_dst(&stream) {
        Ok(destination) => {
            leave(
                worker,
                stream,
                peer,
                ListenerName::address(destination),
                destination,
            )
            .await
        }
        Err(error) => tracing::warn!(%error, "original destination unknown"),
    }
}

/// An outbound connection to an explicit listener, whose destination the command line says.
pub async fn outbound_to(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    name: ListenerName,
) {
    let destination = match name.as_str().parse() {
        Ok(address) => Ok(address),
        Err(_) => stream.local_addr(),
    };
    match destination {
        Ok(destination) => leave(worker, stream, peer, name, destination).await,
        Err(error) => tracing::debug!(%error, "connection lost"),
    }
}

async fn leave(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    name: ListenerName,
    destination: SocketAddr,
) {
    let generation = worker.state.generation();
    let lookup = if worker.refuses(destination) && name.as_str().parse::<SocketAddr>().is_ok() {
        None
    } else {
        Some(worker.state.outbound(&name).await)
    };
    let looped = lookup.is_none();
    let lookup = lookup.unwrap_or(Lookup::Unknown);
    let target = Destination::Outbound {
        generation,
        name,
        lookup: lookup.clone(),
    };
    let mut conn = Connection::new(Direction::Outbound, peer, destination, target);
    if looped {
        return tcp::refuse(&worker, &conn, &stream, &Error::Loop);
    }
    let ways = Ways::of(&worker, lookup);
    conn.protocol = ways.protocol();
    distinguish(worker, conn, Stream::tcp(stream), ways).await;
}

/// A connection to a gateway's listener.
pub async fn gateway(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<GatewayListener>,
) {
    let generation = worker.state.generation();
    let ways = Ways::Found(listener.outbound.clone());
    let mut conn = Connection::new(
        Direction::Gateway,
        peer,
        listener.address,
        Destination::Gateway {
            generation,
            listener,
        },
    );
    conn.protocol = ways.protocol();
    distinguish(worker, conn, Stream::tcp(stream), ways).await;
}

/// Where an outbound connection can go, whatever it turns out to speak.
enum Ways {
    Found(Arc<Outbound>),
    /// The control plane is away and the destination was never seen: HTTP gets its 503 `NC` from the request path.
    Disconnected,
}

impl Ways {
    fn of(worker: &Worker, lookup: Lookup) -> Self {
        match lookup {
            Lookup::Found(outbound) => Self::Found(outbound),
            Lookup::Unknown => Self::Found(worker.state.snapshot().passthrough.clone()),
            Lookup::Disconnected => Self::Disconnected,
        }
    }

    fn protocol(&self) -> DeclaredProtocol {
        match self {
            Self::Found(outbound) => outbound.protocol,
            Self::Disconnected => DeclaredProtocol::Auto,
        }
    }

    fn tcp(&self) -> TcpTarget {
        match self {
            Self::Found(outbound) => outbound
                .tcp
                .clone()
                .map_or(TcpTarget::Nowhere(Error::BlackHole), TcpTarget::Clusters),
            Self::Disconnected => TcpTarget::Nowhere(Error::Disconnected),
        }
    }

    fn tls(&self, server_name: Option<&str>) -> TcpTarget {
        match self {
            Self::Found(outbound) => {
                let found = outbound.by_server_name(server_name).cloned();
                found.map_or(TcpTarget::Nowhere(Error::BlackHole), TcpTarget::Clusters)
            }
            Self::Disconnected => TcpTarget::Nowhere(Error::Disconnected),
        }
    }
}

/// Finds out what an outbound or gateway connection speaks and hands it to its itinerary.
async fn distinguish(worker: Rc<Worker>, mut conn: Connection, mut stream: Stream, ways: Ways) {
    let expect = match conn.protocol {
        DeclaredProtocol::Auto => Expect {
            tls: true,
            http: true,
        },
        DeclaredProtocol::Http | DeclaredProtocol::Http2 | DeclaredProtocol::Grpc => Expect {
            tls: false,
            http: true,
        },
        DeclaredProtocol::Tls => Expect {
            tls: true,
            http: false,
        },
        DeclaredProtocol::Tcp => {
            return Box::pin(tcp::proxy(worker, Rc::new(conn), stream, ways.tcp(), None)).await;
        }
    };
    let server_first = conn.protocol == DeclaredProtocol::Auto;
    let found = listen(
        &worker,
        &conn,
        &mut stream,
        expect,
        server_first.then(|| ways.tcp()),
        PATIENCE,
    )
    .await;
    match found {
        Found::Client(Spoken::Http1) => {
            Box::pin(http::serve(
                worker,
                Rc::new(conn),
                stream,
                HttpVersion::Http1,
            ))
            .await
        }
        Found::Client(Spoken::Http2) => {
            Box::pin(http::serve(
                worker,
                Rc::new(conn),
                stream,
                HttpVersion::Http2,
            ))
            .await
        }
        Found::Client(Spoken::Tls(hello)) => {
            let target = ways.tls(hello.server_name.as_deref());
            conn.passed_server_name = hello.server_name;
            Box::pin(tcp::proxy(worker, Rc::new(conn), stream, target, None)).await;
        }
        // On a port declared HTTP the HTTP server says what is wrong with it.
        Found::Client(Spoken::Raw) if expect.http && !server_first => {
            Box::pin(http::serve(
                worker,
                Rc::new(conn),
                stream,
                HttpVersion::Http1,
            ))
            .await;
        }
        Found::Client(Spoken::Raw) => {
            let target = ways.tcp();
            Box::pin(tcp::proxy(worker, Rc::new(conn), stream, target, None)).await;
        }
        Found::Server(leg) => {
            let target = ways.tcp();
            Box::pin(tcp::proxy(worker, Rc::new(conn), stream, target, Some(leg))).await;
        }
        Found::Nobody => {}
    }
}

/// Who spoke first, and what.
enum Found {
    Client(Spoken),
    /// The server, on this connection to it.
    Server(Leg),
    /// The client left, or never began.
    Nobody,
}

/// Waits for the client. Where the server may speak first (`server_first` says where it is), silence leads to
/// connecting it, and then whoever speaks first decides (contract section 6).
async fn listen(
    worker: &Rc<Worker>,
    conn: &Connection,
    stream: &mut Stream,
    expect: Expect,
    server_first: Option<TcpTarget>,
    patience: Duration,
) -> Found {
    let silence = if server_first.is_some() {
        SILENCE
    } else {
        patience
    };
    let detected = if server_first.is_some() {
        detect(stream, expect, Some(silence)).await
    } else {
        // A declared port is never timed out of detection: `patience` ends the connection, not the detection.
        match tokio::time::timeout(silence, detect(stream, expect, None)).await {
            Ok(detected) => detected,
            Err(_) => return Found::Nobody,
        }
    };
    match (detected, server_first) {
        (Ok(Detected::Spoken(spoken)), _) => Found::Client(spoken),
        // The client has ended its half and may still read: a server that speaks first is worth asking.
        (Ok(Detected::Ended), Some(_)) => Found::Client(Spoken::Raw),
        (Ok(Detected::Silent), Some(target)) => {
            Box::pin(whoever_speaks(worker, conn, stream, expect, &target)).await
        }
        (Ok(Detected::Ended | Detected::Silent), None) => Found::Nobody,
        (Err(error), _) => {
            tracing::debug!(%error, "client lost before it spoke");
            Found::Nobody
        }
    }
}

async fn whoever_speaks(
    worker: &Rc<Worker>,
    conn: &Connection,
    stream: &mut Stream,
    expect: Expect,
    target: &TcpTarget,
) -> Found {
    // The client's first bytes are not waited for while connecting: they stay in the socket.
    let leg = match Box::pin(tcp::connect(worker, conn, target)).await {
        Ok(leg) => Some(leg),
        Err(error) => {
            tracing::debug!(%error, "no server to speak first");
            None
        }
    };
    let Some(mut leg) = leg else {
        // Nobody to speak first, or nobody may hear: the client must.
        return match tokio::time::timeout(PATIENCE, detect(stream, expect, None)).await {
            Ok(Ok(Detected::Spoken(spoken))) => Found::Client(spoken),
            Ok(Ok(Detected::Ended)) => Found::Client(Spoken::Raw),
            Ok(Ok(Detected::Silent) | Err(_)) | Err(_) => Found::Nobody,
        };
    };
    let (upstream, said) = leg.listen();
    let heard =
        tokio::time::timeout(PATIENCE, detect_or_hear(stream, expect, upstream, said)).await;
    match heard {
        // HTTP and TLS go their own way: the connection that was opened is dropped unused.
        Ok(Ok(Some(Detected::Spoken(
            spoken @ (Spoken::Http1 | Spoken::Http2 | Spoken::Tls(_)),
        )))) => Found::Client(spoken),
        Ok(Ok(Some(Detected::Spoken(Spoken::Raw) | Detected::Ended | Detected::Silent) | None)) => {
            Found::Server(leg)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "connection lost before anybody spoke");
            Found::Nobody
        }
        Err(_) => Found::Nobody,
    }
}

/// An inbound connection that interception led here.
pub async fn inbound(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    match original_dst(&stream) {
        Ok(destination) => arrive(worker, stream, peer, destination, destination).await,
        Err(error) => tracing::warn!(%error, "original destination unknown"),
    }
}

/// An inbound connection to an explicit listener for the application's `port`, which is dialled at the
/// listener's own address, or on loopback where that would be the listener itself.
pub async fn inbound_to(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let Ok(listener) = stream.local_addr().map(crate::original_dst::canonical) else {
        return;
    };
    let application = if listener.port() == port {
        SocketAddr::new(loopback_of(listener.ip()), port)
    } else {
        SocketAddr::new(listener.ip(), port)
    };
    // Policies and modes are those of the port that the control plane knows: the application's, or the listener's
    // where the workload was declared with that.
    let declared = worker
        .state
        .snapshot()
        .inbound
        .as_ref()
        .is_some_and(|inbound| inbound.declares(port));
    let known = if declared { port } else { listener.port() };
    arrive(
        worker,
        stream,
        peer,
        SocketAddr::new(listener.ip(), known),
        application,
    )
    .await;
}

fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

async fn arrive(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    destination: SocketAddr,
    application: SocketAddr,
) {
    let mut conn = Connection::new(Direction::Inbound, peer, destination, Destination::Arriving);
    conn.application = application;
    if worker.refuses(application) {
        return tcp::refuse(&worker, &conn, &stream, &Error::Loop);
    }
    let snapshot = worker.state.snapshot();
    let Some(inbound) = snapshot.inbound.clone() else {
        // Before the control plane has said who may come in, nobody may.
        return tcp::refuse(&worker, &conn, &stream, &Error::Disconnected);
    };
    let generation = snapshot.generation;
    drop(snapshot);
    let port = destination.port();
    let ask = inbound.ask(port);
    let mut stream = Stream::tcp(stream);
    let server_first = ask
        .server_first
        .then(|| inbound.select(port, &Spoken::Raw).cloned())
        .flatten();
    let patience = if ask.expect.http {
        PATIENCE
    } else {
        FIRST_BYTE
    };
    let target = server_first.map(TcpTarget::Application);
    let (spoken, leg) = if target.is_some() && !ask.expect.tls && !ask.expect.http {
        // Bytes and nothing else: there is nothing to tell apart.
        (Spoken::Raw, None)
    } else {
        match listen(&worker, &conn, &mut stream, ask.expect, target, patience).await {
            Found::Client(spoken) => (spoken, None),
            Found::Server(leg) => (Spoken::Raw, Some(leg)),
            Found::Nobody => return,
        }
    };
    let Some(chain) = inbound.select(port, &spoken).cloned() else {
        return tcp::refuse(&worker, &conn, stream.socket(), &Error::IdentityRequired);
    };
    enter(worker, conn, stream, (generation, chain), spoken, leg).await;
}

/// Ends TLS where the chain says so, then the itinerary.
async fn enter(
    worker: Rc<Worker>,
    mut conn: Connection,
    mut stream: Stream,
    (generation, chain): (u64, Arc<Chain>),
    spoken: Spoken,
    leg: Option<Leg>,
) {
    let mut version = if spoken == Spoken::Http2 {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    if let Some(tls) = &chain.tls {
        let identity = worker.state.snapshot().identity.clone();
        let (inside, peer_tls) = match Box::pin(terminate(stream, tls, identity.as_deref())).await {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!(%error, peer = %conn.peer, "TLS refused");
                return tcp::note_refused(&worker, &conn, &Error::IdentityRequired);
            }
        };
        version = match peer_tls.alpn.as_deref() {
            Some(alpn) if alpn == ALPN_MESH_HTTP || alpn == b"h2" => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        };
        conn.tls = Some(peer_tls);
        stream = inside;
    } else if let Spoken::Tls(hello) = &spoken {
        conn.passed_server_name = hello.server_name.clone();
    }
    conn.destination = RefCell::new(Destination::Inbound {
        generation,
        spoken,
        chain: chain.clone(),
    });
    match chain.kind {
        Kind::Http => Box::pin(http::serve(worker, Rc::new(conn), stream, version)).await,
        Kind::Tcp => {
            Box::pin(tcp::proxy(
                worker,
                Rc::new(conn),
                stream,
                TcpTarget::Application(chain),
                leg,
            ))
            .await
        }
    }
}

#[cfg(test)]
mod tests;
