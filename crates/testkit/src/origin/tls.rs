//! TLS in front of the HTTP origin, as an application that brings its own has it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::{Controls, http};

/// Serves one connection.
pub async fn serve(stream: TcpStream, peer: SocketAddr, name: Arc<str>, controls: Arc<Controls>) {
    static ACCEPTOR: OnceLock<Option<TlsAcceptor>> = OnceLock::new();
    let acceptor = ACCEPTOR.get_or_init(|| {
        let made = acceptor();
        made.inspect_err(|error| eprintln!("no certificate: {error:#}"))
            .ok()
    });
    let Some(acceptor) = acceptor else { return };
    // Whoever cannot or will not go on has gone.
    if let Ok(stream) = acceptor.accept(stream).await {
        http::serve(stream, peer, name, controls).await;
    }
}

fn acceptor() -> Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["origin".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)
        .context("private key")?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
