//! Ends the client's TLS here, with this workload's identity.
//!
//! Which chain of the port applies, and so whether TLS is ended at all, was decided from the ClientHello
//! (`inbound.rs`); this only performs the handshake, in bounded time.

use std::time::Duration;

use tasuki_identity::{ClientAuth, peer_certificate};
use tasuki_xds::model::tls::ServerTls;
use tokio_rustls::TlsAcceptor;

use crate::connection::PeerTls;
use crate::identity::Identity;
use crate::stream::Stream;

/// HTTP between mesh peers, framed as HTTP/2.
pub const ALPN_MESH_HTTP: &[u8] = b"tasuki-h2";
/// Raw bytes between mesh peers.
pub const ALPN_MESH_TCP: &[u8] = b"tasuki-tcp";

/// The handshake is over by then, or the connection is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why there is no TLS session. The client is told by a TLS alert, or by the connection's end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no certificate yet")]
    NoIdentity,
    #[error("certificate: {0}")]
    Identity(#[from] tasuki_identity::Error),
    #[error("handshake took longer than {HANDSHAKE:?}")]
    Timeout,
    #[error("handshake: {0}")]
    Handshake(#[from] std::io::Error),
}

/// Performs the handshake that `tls` describes and says who the client is.
pub async fn terminate(
    stream: Stream,
    tls: &ServerTls,
    identity: Option<&Identity>,
) -> Result<(Stream, PeerTls), Error> {
    let identity = identity.ok_or(Error::NoIdentity)?;
    let config = identity.server(&tls.alpn, client_auth(tls))?;
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    let session = accepted.map_err(|_| Error::Timeout)??;
    let (_, connection) = session.get_ref();
    let peer = PeerTls {
        peer: peer_certificate(connection),
        server_name: connection.server_name().map(str::to_ascii_lowercase),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
    };
    Ok((Stream::tls(session), peer))
}

fn client_auth(tls: &ServerTls) -> ClientAuth {
    match (&tls.trust, tls.require_client_certificate) {
        (Some(_), true) => ClientAuth::Required,
        (Some(_), false) => ClientAuth::Optional,
        (None, _) => ClientAuth::None,
    }
}

#[cfg(test)]
mod tests;
