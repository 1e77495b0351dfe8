//! Accepted connections with what they prove, for tonic's `serve_with_incoming`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tasuki_identity::peer_certificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::ads::ConnectionFacts;

/// A handshake that takes longer is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; more wait in the kernel's backlog, so strangers cost bounded memory and CPU.
const HANDSHAKES: usize = 128;

/// A connection and the facts about it.
pub struct Connection<S> {
    stream: S,
    facts: ConnectionFacts,
}

/// Connections of 15010. Ends when the returned stream is dropped.
pub fn plaintext(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<Connection<TcpStream>>> + Send + 'static {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some((stream, remote)) = accept(&listener, &ready).await {
            let facts = ConnectionFacts {
                tls: false,
                peer: None,
                remote: Some(remote),
            };
            if ready.send(Ok(Connection { stream, facts })).await.is_err() {
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
    config: Arc<ArcSwap<ServerConfig>>,
) -> impl Stream<Item = io::Result<Connection<TlsStream<TcpStream>>>> + Send + 'static {
    let (ready, connections) = mpsc::channel(16);
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            let Some((stream, remote)) = accept(&listener, &ready).await else {
                return;
            };
            let (config, ready) = (config.load_full(), ready.clone());
            tokio::spawn(async move {
                let _permit = permit;
                if let Some(connection) = handshake(stream, remote, config).await {
                    // An error means that the server is going down.
                    let _ = ready.send(Ok(connection)).await;
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// The next connection; `None` when nobody wants any more.
async fn accept<T>(
    listener: &TcpListener,
    ready: &mpsc::Sender<T>,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return None,
        };
        match accepted {
            Ok((stream, remote)) => {
                // Pushes are small and latency matters; a socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                return Some((stream, remote));
            }
            Err(error) => {
                // Mostly EMFILE: trying again at once would only burn CPU.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    config: Arc<ServerConfig>,
) -> Option<Connection<TlsStream<TcpStream>>> {
    match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let peer = peer_certificate(stream.get_ref().1);
            Some(Connection {
                facts: ConnectionFacts {
                    tls: true,
                    peer,
                    remote: Some(remote),
                },
                stream,
            })
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
