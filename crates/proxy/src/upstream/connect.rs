//! Opening a connection: TCP, then TLS if the endpoint wants it, within the cluster's connect timeout.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::bind_address;
use super::io::Io;
use super::pool::RawPlace;
use super::tls::{self, Security};
use crate::breaker::Permit;
use crate::cluster::{Cluster, Endpoint};
use crate::error::Error;
use crate::reach::Open;
use crate::worker::Worker;

/// What a connection is for; decides the ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    Http1,
    Http2,
    Tcp,
}

/// An open connection, and what it takes while it is open.
#[derive(Debug)]
pub struct Connected {
    pub io: Io,
    /// Both ends have shown a workload certificate.
    pub mutual_tls: bool,
    pub place: Place,
    /// Its place among this worker's raw connections.
    pub raw: Option<RawPlace>,
}

/// A connection's place under the cluster's limit and among its endpoint's.
#[derive(Debug)]
pub struct Place {
    _permit: Permit,
    _open: Open,
}

/// Why there is no connection.
enum Failure {
    /// It has nothing to do with the endpoint: no socket, no port, no certificate.
    Ours(Error),
    Theirs(Error),
}

/// A server that has not answered for this long gets nothing new meanwhile, unless nobody else is there: its packets may be
/// going nowhere. A SYN or an answer that was lost is sent again after a second (RFC 6298 section 2).
const SLOW: Duration = Duration::from_secs(2);

/// Connects to `endpoint`, and keeps in mind whether that was possible.
pub async fn connect(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
    permit: Permit,
) -> Result<Connected, Error> {
    let io = dial(worker, cluster, endpoint, purpose).await?;
    Ok(Connected {
        io,
        mutual_tls: Security::of(cluster, endpoint).is_mutual(),
        place: Place {
            _permit: permit,
            _open: Open::new(&endpoint.reach),
        },
        raw: None,
    })
}

/// Connects to an endpoint that is left out, only to see whether that is possible now. Takes no place under the cluster's
/// limits: it is one, and a moment long where somebody answers.
pub async fn try_again(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
) {
    if dial(worker, cluster, endpoint, purpose).await.is_err() {
        cluster.connect_failed_again(endpoint);
    }
}

async fn dial(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
) -> Result<Io, Error> {
    if worker.refuses(endpoint.address) {
        return Err(Error::Loop);
    }
    let opening = open(worker, cluster, endpoint, purpose);
    let mut opening = pin!(timeout(cluster.config.connect_timeout, opening));
    let opened = match timeout(SLOW, opening.as_mut()).await {
        Ok(opened) => opened,
        Err(_) => {
            cluster.connect_failed(endpoint, &Error::ConnectTimeout);
            opening.await
        }
    };
    match opened.unwrap_or(Err(Failure::Theirs(Error::ConnectTimeout))) {
        Ok(io) => {
            cluster.connected(endpoint);
            Ok(io)
        }
        Err(Failure::Ours(error)) => Err(error),
        Err(Failure::Theirs(error)) => {
            cluster.connect_failed(endpoint, &error);
            Err(error)
        }
    }
}

/// TCP, then TLS if the endpoint wants it.
async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
) -> Result<Io, Failure> {
    let stream = tcp(cluster, endpoint.address).await?;
    // Read after the TCP handshake: a certificate renewed meanwhile is used.
    let identity = worker.state.snapshot().identity.clone();
    let security = tls::client(cluster, endpoint, identity.as_ref(), purpose);
    let Some((config, name)) = security.map_err(Failure::Ours)? else {
        return Ok(Io::Plain(stream));
    };
    let session = TlsConnector::from(config).connect(name, stream).await;
    session
        .map(|session| Io::Tls(Box::new(session)))
        .map_err(|error| Failure::Theirs(Error::TlsFailed(error.to_string())))
}

async fn tcp(cluster: &Cluster, address: SocketAddr) -> Result<TcpStream, Failure> {
    let failed = |error: std::io::Error| Error::ConnectFailed(error.kind().to_string());
    let ours = |error| Failure::Ours(failed(error));
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(ours)?;
    if let Some(ip) = bind_address(cluster, address) {
        // The port is chosen by `connect`, per destination: chosen here, all destinations would share some 28,000.
        // A kernel without the option works, with that limit.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket.bind(SocketAddr::new(ip, 0)).map_err(ours)?;
    }
    let stream = socket.connect(address).await.map_err(|error| {
        if error.kind() == ErrorKind::AddrNotAvailable {
            return ours(error);
        }
        Failure::Theirs(failed(error))
    })?;
    stream.set_nodelay(true).map_err(ours)?;
    if let Some(keepalive) = &cluster.config.keepalive {
        set_keepalive(
            &stream,
            keepalive.time,
            keepalive.interval,
            keepalive.probes,
        )
        .map_err(ours)?;
    }
    Ok(stream)
}

fn set_keepalive(
    stream: &TcpStream,
    time: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
) -> std::io::Result<()> {
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes);
    }
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
