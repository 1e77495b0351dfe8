//! The way of a connection that leaves: outbound, or through a gateway. What it speaks decides its itinerary.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::net::TcpStream;

use super::listen::{Found, PATIENCE, listen};
use super::{Connection, Destination, Direction};
use crate::detect::{Expect, Spoken};
use crate::error::Error;
use crate::http::{self, HttpVersion};
use crate::original_dst::original_dst;
use crate::state::{GatewayListener, ListenerName, Lookup, Outbound};
use crate::stream::Stream;
use crate::tcp::{self, Target as TcpTarget};
use crate::worker::Worker;

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

/// What is looked for on a port that was declared so; `None` where there is nothing to tell apart.
fn expect(declared: DeclaredProtocol) -> Option<Expect> {
    let (tls, http) = match declared {
        DeclaredProtocol::Auto => (true, true),
        DeclaredProtocol::Http | DeclaredProtocol::Http2 | DeclaredProtocol::Grpc => (false, true),
        DeclaredProtocol::Tls => (true, false),
        DeclaredProtocol::Tcp => return None,
    };
    Some(Expect { tls, http })
}

/// Finds out what an outbound or gateway connection speaks and hands it to its itinerary.
async fn distinguish(worker: Rc<Worker>, mut conn: Connection, mut stream: Stream, ways: Ways) {
    let Some(expect) = expect(conn.protocol) else {
        return Box::pin(tcp::proxy(worker, Rc::new(conn), stream, ways.tcp(), None)).await;
    };
    let server_first = conn.protocol == DeclaredProtocol::Auto;
    let target = server_first.then(|| ways.tcp());
    let found = listen(&worker, &conn, &mut stream, expect, target, PATIENCE).await;
    let version = match &found {
        Found::Client(Spoken::Http1) => Some(HttpVersion::Http1),
        Found::Client(Spoken::Http2) => Some(HttpVersion::Http2),
        // On a port declared HTTP the HTTP server says what is wrong with it.
        Found::Client(Spoken::Raw) if expect.http && !server_first => Some(HttpVersion::Http1),
        Found::Client(Spoken::Raw | Spoken::Tls(_)) | Found::Server(_) | Found::Nobody => None,
    };
    if let Some(version) = version {
        return Box::pin(http::serve(worker, Rc::new(conn), stream, version)).await;
    }
    let (target, leg) = match found {
        Found::Client(Spoken::Tls(hello)) => {
            let target = ways.tls(hello.server_name.as_deref());
            conn.passed_server_name = hello.server_name;
            (target, None)
        }
        Found::Client(Spoken::Http1 | Spoken::Http2 | Spoken::Raw) => (ways.tcp(), None),
        Found::Server(leg) => (ways.tcp(), Some(leg)),
        Found::Nobody => return,
    };
    Box::pin(tcp::proxy(worker, Rc::new(conn), stream, target, leg)).await;
}
