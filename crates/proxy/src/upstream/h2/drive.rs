//! The task of a connection to an upstream: moves its frames, asks whether it lives, sends resets in their turn.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::PingPong;
use h2::client::Connection;

use super::pool::Shared;
use crate::upstream::Io;

/// A peer of the mesh is asked so often whether it lives, and the connection closed if it does not answer. Others are not: gRPC
/// servers close connections that are asked more often than every five minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Moves the connection's frames until it ends, or until nobody has used it for `idle`. `attend` sees to those who wait for a place.
pub(super) async fn drive(
    mut connection: Connection<Io, Bytes>,
    shared: &Rc<Shared>,
    is_mesh: bool,
    idle: Duration,
    attend: impl Fn(),
) {
    let mut ping = connection.ping_pong().filter(|_| is_mesh);
    let mut alive = pin!(keep_alive(&mut ping));
    let mut unused = pin!(unused(shared, idle));
    let mut turn = None;
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "upstream connection ended");
            }
            return Poll::Ready(());
        }
        shared.resets.poll(&mut turn, cx);
        if shared.is_over() && shared.resets.waiting() > 0 {
            return Poll::Ready(());
        }
        // The peer may have raised its limit, or a stream that was given up has left its place.
        attend();
        if alive.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        unused.as_mut().poll(cx)
    })
    .await;
}

/// Resolves when the peer does not answer.
async fn keep_alive(ping: &mut Option<PingPong>) {
    while let Some(asked) = ping {
        tokio::time::sleep(KEEPALIVE).await;
        match tokio::time::timeout(KEEPALIVE_ANSWER, asked.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // It ends anyway, and says so itself.
            Ok(Err(_)) => *ping = None,
            Err(_) => return,
        }
    }
    std::future::pending().await
}

/// Resolves when there has been no stream for `idle`, or for somewhat longer: it is looked at now and then, so that requests need
/// not look at the clock.
async fn unused(shared: &Shared, idle: Duration) {
    const LOOKS: u32 = 4;
    let (mut seen, mut quiet) = (u32::MAX, 0);
    while quiet < LOOKS {
        tokio::time::sleep(idle / LOOKS).await;
        let (active, opened) = shared.streams();
        quiet = if active == 0 && opened == seen {
            quiet + 1
        } else {
            0
        };
        seen = opened;
    }
}
