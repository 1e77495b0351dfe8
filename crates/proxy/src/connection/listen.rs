//! Who speaks first on a connection, and what (contract section 6).

use std::rc::Rc;
use std::time::Duration;

use super::Connection;
use crate::detect::{Detected, Expect, Spoken, Wait, detect, detect_or_hear};
use crate::stream::Stream;
use crate::tcp::{self, Leg, Target as TcpTarget};
use crate::worker::Worker;

/// A client on a port declared HTTP may be silent this long; then its connection is idle like any other.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);

/// Who spoke first, and what.
pub(super) enum Found {
    Client(Spoken),
    /// The server, on this connection to it; boxed, because hardly any connection has one and all would keep room for it.
    Server(Box<Leg>),
    /// The client left, or never began.
    Nobody,
}

/// Waits for the client. Where the server may speak first (`server_first` says where it is), silence leads to
/// connecting it, and then whoever speaks first decides (contract section 6).
pub(super) async fn listen(
    worker: &Rc<Worker>,
    conn: &Connection,
    stream: &mut Stream,
    expect: Expect,
    server_first: Option<TcpTarget>,
    patience: Duration,
) -> Found {
    let wait = if server_first.is_some() {
        Wait::Briefly
    } else {
        Wait::ForClient(patience)
    };
    let detected = detect(stream, expect, wait).await;
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
        Ok(leg) => Some(Box::new(leg)),
        Err(error) => {
            tracing::debug!(%error, "no server to speak first");
            None
        }
    };
    let Some(mut leg) = leg else {
        // Nobody to speak first, or nobody may hear: the client must.
        return match detect(stream, expect, Wait::ForClient(PATIENCE)).await {
            Ok(Detected::Spoken(spoken)) => Found::Client(spoken),
            Ok(Detected::Ended) => Found::Client(Spoken::Raw),
            Ok(Detected::Silent) | Err(_) => Found::Nobody,
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
