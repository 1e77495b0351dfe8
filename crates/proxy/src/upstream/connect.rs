//! Opening a connection: TCP, then TLS if the endpoint wants it, within the cluster's connect timeout.

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
use crate::breaker::{Kind, Permit};
use crate::cluster::{Cluster, Endpoint};
use crate::error::Error;
use crate::worker::Worker;

/// What a connection is for; decides the ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    Http1,
    Http2,
    Tcp,
}

/// An open connection and its place under the cluster's limit.
#[derive(Debug)]
pub struct Connected {
    pub io: Io,
    /// Both ends have shown a workload certificate.
    pub mutual_tls: bool,
    pub permit: Permit,
    /// Its place among this worker's raw connections.
    pub raw: Option<RawPlace>,
}

/// A server that has not answered for this long gets nothing new meanwhile, unless nobody else is there: its packets may be
/// going nowhere. One lost SYN is sent again after a second (RFC 6298 section 2).
const SLOW: Duration = Duration::from_secs(1);

/// Connects to `endpoint`, and keeps in mind whether that was possible.
pub async fn connect(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
    permit: Permit,
) -> Result<Connected, Error> {
    if worker.refuses(endpoint.address) {
        return Err(Error::Loop);
    }
    let security = Security::of(cluster, endpoint);
    let opening = open(worker, cluster, endpoint, purpose);
    let mut opening = pin!(timeout(cluster.config.connect_timeout, opening));
    let opened = match timeout(SLOW, opening.as_mut()).await {
        Ok(opened) => opened,
        Err(_) => {
            cluster.connect_failed(endpoint);
            opening.await
        }
    };
    match opened.unwrap_or(Err(Error::ConnectTimeout)) {
        Ok(io) => {
            cluster.connected(endpoint);
            Ok(Connected {
                io,
                mutual_tls: security.is_mutual(),
                permit,
                raw: None,
            })
        }
        Err(error) => {
            cluster.connect_failed(endpoint);
            Err(error)
        }
    }
}

/// Connects to an endpoint that could not be connected to, only to see whether it can be now.
pub async fn try_again(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
) {
    // Over the limit: it is one, and where the others have taken all it would never come back.
    let permit = Permit::force(cluster, Kind::Connection);
    let connected = connect(worker, cluster, endpoint, purpose, permit).await;
    if connected.is_err() {
        cluster.connect_failed_again(endpoint);
    }
}

/// TCP, then TLS if the endpoint wants it.
async fn open(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    purpose: Use,
) -> Result<Io, Error> {
    let stream = tcp(cluster, endpoint.address).await?;
    // Read after the TCP handshake: a certificate renewed meanwhile is used.
    let identity = worker.state.snapshot().identity.clone();
    let Some((config, name)) = tls::client(cluster, endpoint, identity.as_ref(), purpose)? else {
        return Ok(Io::Plain(stream));
    };
    let session = TlsConnector::from(config).connect(name, stream).await;
    session
        .map(|session| Io::Tls(Box::new(session)))
        .map_err(|error| Error::TlsFailed(error.to_string()))
}

async fn tcp(cluster: &Cluster, address: SocketAddr) -> Result<TcpStream, Error> {
    let failed = |error: std::io::Error| Error::ConnectFailed(error.kind().to_string());
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(failed)?;
    if let Some(ip) = bind_address(cluster, address) {
        // The port is chosen by `connect`, per destination: chosen here, all destinations would share some 28,000.
        // A kernel without the option works, with that limit.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket.bind(SocketAddr::new(ip, 0)).map_err(failed)?;
    }
    let stream = socket.connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if let Some(keepalive) = &cluster.config.keepalive {
        set_keepalive(
            &stream,
            keepalive.time,
            keepalive.interval,
            keepalive.probes,
        )
        .map_err(failed)?;
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
