//! Listeners: one per worker and address (SO_REUSEPORT), with backpressure when the process is full.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::limit::{Connections, Open};
use crate::original_dst::canonical;

/// Connections that may wait to be accepted; the kernel cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// After the process ran out of something, before it tries again. Waiting connections stay in the backlog.
const PAUSE: Duration = Duration::from_millis(50);

/// A dead client is noticed after 90 s: its connections would otherwise be kept for the idle time.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Binds `address` so that every worker can do the same; the kernel spreads connections over them. An IPv6
/// wildcard takes IPv4 too.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until `stop` resolves and spawns `serve` for each connection on this worker. While `connections` has
/// no room, nothing is accepted.
pub async fn serve<F>(
    listener: TcpListener,
    connections: Rc<Connections>,
    stop: impl Future<Output = ()>,
    mut serve: impl FnMut(TcpStream, SocketAddr, Open) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = next(&listener, &connections) => accepted,
            () = &mut stop => return,
        };
        let (stream, peer, open) = accepted;
        tokio::task::spawn_local(serve(stream, peer, open));
        // Connections that are open get their turn before the next is accepted: a burst waits in the kernel's
        // backlog, where it costs least.
        tokio::task::yield_now().await;
    }
}

async fn next(
    listener: &TcpListener,
    connections: &Rc<Connections>,
) -> (TcpStream, SocketAddr, Open) {
    loop {
        let open = connections.room().await;
        match listener.accept().await {
            Ok((stream, peer)) => match prepare(&stream) {
                Ok(()) => return (stream, canonical(peer), open),
                // The client has gone already.
                Err(error) => tracing::debug!(%error, "connection lost before it was read"),
            },
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept, pausing");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Failures of one connection (accept(2) passes on pending network errors), not of accepting.
fn is_transient(error: &io::Error) -> bool {
    use nix::libc::{
        EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPROTO,
    };
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    ) || matches!(
        error.raw_os_error(),
        Some(
            ENETDOWN
                | ENETUNREACH
                | EHOSTDOWN
                | EHOSTUNREACH
                | ENONET
                | ENOPROTOOPT
                | EOPNOTSUPP
                | EPROTO
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn workers_share_an_address() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = bind(first.local_addr().unwrap()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }

    #[test]
    fn a_full_process_accepts_when_there_is_room_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let connections = Rc::new(Connections::new(1));
            tokio::task::spawn_local(serve(
                listener,
                connections,
                std::future::pending(),
                |mut stream, _, open| async move {
                    let _open = open;
                    let mut byte = [0];
                    let _ = stream.read_exact(&mut byte).await;
                    let _ = stream.write_all(&byte).await;
                },
            ));
            let mut first = TcpStream::connect(address).await.unwrap();
            let mut second = TcpStream::connect(address).await.unwrap();
            second.write_all(b"2").await.unwrap();
            first.write_all(b"1").await.unwrap();
            let mut answer = Vec::new();
            first.read_to_end(&mut answer).await.unwrap();
            second.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"12");
        });
    }
}
