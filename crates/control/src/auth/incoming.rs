//! Accepted connections with what they prove, for tonic's `serve_with_incoming`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tasuki_identity::{PeerCertificate, peer_certificate};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::ads::ConnectionFacts;
use crate::limits::{Bound, Full, Place, Places, Refused};

/// A handshake that takes longer is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection on which nobody has made a call that he may make by then is closed: time for a slow handshake and for the
/// first message of a stream, which has 10 s too.
const PROOF: Duration = Duration::from_secs(20);
/// Handshakes at a time; more wait in the kernel's backlog, so strangers cost bounded memory and CPU.
const HANDSHAKES: usize = 128;
/// Of one address, so that a silent one does not keep the others waiting; who is refused tries again a moment later.
const PEER_HANDSHAKES: usize = 32;

/// How many connections a port takes, and where the others are counted.
#[derive(Clone)]
pub struct Gate {
    places: Arc<Places>,
    refused: Refused,
}

impl Gate {
    pub fn new(bound: Bound, refused: Refused) -> Self {
        Self {
            places: Places::new(bound),
            refused,
        }
    }

    fn admit(&self, remote: SocketAddr) -> Option<Admitted> {
        let place = take(&self.places, remote, &self.refused, "connections")?;
        Some(Admitted {
            remote,
            place,
            deadline: Box::pin(sleep(PROOF)),
            refused: self.refused.clone(),
        })
    }
}

fn take(
    places: &Arc<Places>,
    remote: SocketAddr,
    refused: &Refused,
    what: &'static str,
) -> Option<Place> {
    let reason = match places.take(Some(remote.ip())) {
        Ok(place) => return Some(place),
        Err(Full::All) => what.to_owned(),
        Err(Full::Peer) => format!("peer_{what}"),
    };
    tracing::debug!(%remote, reason, "connection refused");
    refused.count(&reason);
    None
}

/// What goes with an accepted connection from its first moment.
struct Admitted {
    remote: SocketAddr,
    place: Place,
    deadline: Pin<Box<Sleep>>,
    refused: Refused,
}

/// A connection and the facts about it.
pub struct Connection<S> {
    stream: S,
    facts: ConnectionFacts,
    admitted: Admitted,
    proven: bool,
    known: bool,
}

impl<S> Connection<S> {
    fn new(stream: S, admitted: Admitted, tls: bool, peer: Option<PeerCertificate>) -> Self {
        let facts = ConnectionFacts {
            tls,
            peer,
            remote: Some(admitted.remote),
            standing: Arc::default(),
        };
        Self {
            stream,
            facts,
            admitted,
            proven: false,
            known: false,
        }
    }

    /// An error when it has proven nothing in time.
    fn poll_proof(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.known && self.facts.standing.is_known() {
            self.known = true;
            self.admitted.place.known();
        }
        if self.proven {
            return Ok(());
        }
        let late = self.admitted.deadline.as_mut().poll(cx).is_ready();
        self.proven = self.facts.standing.is_proven();
        if late && !self.proven {
            self.admitted.refused.count("silent");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// Connections of 15010. Ends when the returned stream is dropped.
pub fn plaintext(
    listener: TcpListener,
    gate: Gate,
) -> impl Stream<Item = io::Result<Connection<TcpStream>>> + Send + 'static {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some((stream, admitted)) = accept(&listener, &gate, &ready).await {
            let connection = Connection::new(stream, admitted, false, None);
            if ready.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(connections)
}

/// Connections of 15012, each with the configuration that is current when it arrives. Handshakes run beside each other, so one
/// silent client holds up nobody.
pub fn tls(
    listener: TcpListener,
    gate: Gate,
    config: Arc<ArcSwap<ServerConfig>>,
) -> impl Stream<Item = io::Result<Connection<TlsStream<TcpStream>>>> + Send + 'static {
    let (ready, connections) = mpsc::channel(16);
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    let handshakes = Places::new(Bound {
        all: HANDSHAKES,
        each_peer: PEER_HANDSHAKES,
    });
    tokio::spawn(async move {
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            let Some((stream, admitted)) = accept(&listener, &gate, &ready).await else {
                return;
            };
            let remote = admitted.remote;
            let Some(place) = take(&handshakes, remote, &gate.refused, "handshakes") else {
                continue;
            };
            let (config, ready) = (config.load_full(), ready.clone());
            tokio::spawn(async move {
                let connection = handshake(stream, admitted, config).await;
                drop((permit, place));
                if let Some(connection) = connection {
                    // An error means that the server is going down.
                    let _ = ready.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// The next connection for which there is a place; `None` when nobody wants any more.
async fn accept<T>(
    listener: &TcpListener,
    gate: &Gate,
    ready: &mpsc::Sender<T>,
) -> Option<(TcpStream, Admitted)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return None,
        };
        match accepted {
            Ok((stream, remote)) => {
                let Some(admitted) = gate.admit(remote) else {
                    continue;
                };
                // Pushes are small and latency matters; a socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                return Some((stream, admitted));
            }
            Err(error) => {
                // Mostly EMFILE: trying again at once would only burn CPU.
                tracing::warn!(%error, "accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    admitted: Admitted,
    config: Arc<ServerConfig>,
) -> Option<Connection<TlsStream<TcpStream>>> {
    let remote = admitted.remote;
    match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let peer = peer_certificate(stream.get_ref().1);
            Some(Connection::new(stream, admitted, true, peer))
        }
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "TLS handshake");
            None
        }
        Err(_) => {
            tracing::debug!(%remote, "TLS handshake took too long");
            None
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = ConnectionFacts;

    fn connect_info(&self) -> ConnectionFacts {
        self.facts.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_proof(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn gate(all: usize) -> Gate {
        let refused = Refused::new(&prometheus::Registry::new()).unwrap();
        Gate::new(
            Bound {
                all,
                each_peer: all,
            },
            refused,
        )
    }

    fn connection(gate: &Gate) -> Option<(DuplexStream, Connection<DuplexStream>)> {
        let admitted = gate.admit("10.0.0.1:1234".parse().unwrap())?;
        let (near, far) = duplex(16);
        Some((near, Connection::new(far, admitted, false, None)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_proves_nothing_ends() {
        let gate = gate(8);
        let (mut near, mut silent) = connection(&gate).unwrap();
        near.write_all(b"x").await.unwrap();
        assert_eq!(silent.read_u8().await.unwrap(), b'x');
        let error = silent.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(gate.refused.get("silent"), 1);

        let (mut near, mut proven) = connection(&gate).unwrap();
        proven.facts.standing.prove();
        assert!(timeout(PROOF * 10, proven.read_u8()).await.is_err());
        near.write_all(b"x").await.unwrap();
        assert_eq!(proven.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_gives_its_place_back() {
        let gate = gate(1);
        let first = connection(&gate);
        assert!(first.is_some() && connection(&gate).is_none());
        assert_eq!(gate.refused.get("connections"), 1);
        drop(first);
        assert!(connection(&gate).is_some());
    }
}
