//! The way of a connection that arrives: detect > end TLS > the itinerary of its chain.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::listen::{Found, PATIENCE, listen};
use super::{Connection, Destination, Direction};
use crate::detect::Spoken;
use crate::error::Error;
use crate::http::{self, HttpVersion};
use crate::inbound::{Chain, Kind};
use crate::original_dst::original_dst;
use crate::stream::Stream;
use crate::tcp::{self, Leg, Target as TcpTarget};
use crate::terminate::{ALPN_MESH_HTTP, terminate};
use crate::worker::Worker;

/// A client that must speak first (TLS is asked of it) has this long to begin.
const FIRST_BYTE: Duration = Duration::from_secs(15);

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
    leg: Option<Box<Leg>>,
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
        conn.tls = Some(Box::new(peer_tls));
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
