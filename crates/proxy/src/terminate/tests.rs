//! Real handshakes over loopback sockets.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tasuki_identity::ca::CertificateAuthority;
use tasuki_identity::{ServerIdentity, SpiffeId, TrustDomain, client_config};
use tasuki_xds::model::tls::CertificateSource;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::detect::{Detected, Expect, Wait, detect};

struct Mesh {
    ca: CertificateAuthority,
    _dir: TempDir,
}

impl Mesh {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ca = CertificateAuthority::open(
            dir.path(),
            &TrustDomain::new("cluster.local").unwrap(),
            SystemTime::now(),
        )
        .unwrap();
        Self { ca, _dir: dir }
    }

    fn identity(&mut self, account: &str) -> Arc<Identity> {
        let id = SpiffeId::new(self.ca.trust_domain(), "shop", account).unwrap();
        let certificate = self
            .ca
            .workload_certificate(&id, Duration::from_secs(3600), SystemTime::now())
            .unwrap();
        Identity::new(certificate, self.ca.roots().clone())
    }
}

/// The client's side of an attempt: its own identity, if any, and what it offers.
fn client(server: &Mesh, own: Option<&Identity>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let expected = ServerIdentity::TrustDomain(TrustDomain::new("cluster.local").unwrap());
    client_config(
        own.map(|own| &own.certificate),
        server.ca.roots(),
        expected,
        alpn,
    )
    .unwrap()
}

fn mutual(alpn: &[u8]) -> ServerTls {
    let workload = || CertificateSource::ProviderInstance("workload".into());
    let alpn = vec![String::from_utf8(alpn.to_vec()).unwrap()];
    ServerTls {
        certificate: workload(),
        trust: Some(workload()),
        require_client_certificate: true,
        alpn,
    }
}

/// What the server learns of the client, after detection has read the ClientHello, and after an echo through both.
async fn meet(
    config: Arc<ClientConfig>,
    identity: Option<&Identity>,
    tls: &ServerTls,
) -> Result<PeerTls, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calling = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("cart.shop").unwrap();
        let mut session = TlsConnector::from(config).connect(name, stream).await?;
        session.write_all(b"ping").await?;
        let mut echo = [0; 4];
        session.read_exact(&mut echo).await?;
        assert_eq!(&echo, b"ping");
        std::io::Result::Ok(())
    });
    let (accepted, _) = listener.accept().await.unwrap();
    let mut stream = Stream::tcp(accepted);
    let detected = detect(
        &mut stream,
        Expect {
            tls: true,
            http: true,
        },
        Wait::ForClient(Duration::from_secs(5)),
    )
    .await
    .unwrap();
    assert!(
        matches!(detected, Detected::Spoken(crate::detect::Spoken::Tls(_))),
        "{detected:?}"
    );
    let (mut inside, peer) = terminate(stream, tls, identity).await?;
    let mut ping = [0; 4];
    inside.read_exact(&mut ping).await.unwrap();
    inside.write_all(&ping).await.unwrap();
    inside.flush().await.unwrap();
    calling.await.unwrap().unwrap();
    Ok(peer)
}

#[tokio::test]
async fn a_mesh_peer_is_known_by_its_certificate() {
    let mut mesh = Mesh::new();
    let (server, caller) = (mesh.identity("cart"), mesh.identity("web"));
    let config = client(&mesh, Some(&caller), &[ALPN_MESH_HTTP]);
    let peer = meet(config, Some(&server), &mutual(ALPN_MESH_HTTP))
        .await
        .unwrap();
    assert!(peer.is_mesh());
    assert_eq!(
        peer.peer.as_ref().map(|p| p.id.as_str()),
        Some("spiffe://cluster.local/ns/shop/sa/web")
    );
    assert_eq!(peer.alpn.as_deref(), Some(ALPN_MESH_HTTP));
    assert_eq!(peer.server_name.as_deref(), Some("cart.shop"));
}

#[tokio::test]
async fn grpcs_own_tls_is_authenticated_but_no_mesh_peer() {
    let mut mesh = Mesh::new();
    let (server, caller) = (mesh.identity("cart"), mesh.identity("web"));
    let peer = meet(
        client(&mesh, Some(&caller), &[b"h2"]),
        Some(&server),
        &mutual(b"h2"),
    )
    .await
    .unwrap();
    assert!(peer.peer.is_some());
    assert!(!peer.is_mesh());
}

#[tokio::test]
async fn strangers_are_refused() {
    let mut mesh = Mesh::new();
    let mut other = Mesh::new();
    let server = mesh.identity("cart");
    let forged = other.identity("web");
    let tls = mutual(ALPN_MESH_HTTP);
    for own in [None, Some(&*forged)] {
        let refused = meet(client(&mesh, own, &[ALPN_MESH_HTTP]), Some(&server), &tls).await;
        assert!(matches!(refused, Err(Error::Handshake(_))), "{refused:?}");
    }
    let caller = mesh.identity("web");
    let wrong_alpn = meet(
        client(&mesh, Some(&caller), &[b"http/1.1"]),
        Some(&server),
        &tls,
    )
    .await;
    assert!(
        matches!(wrong_alpn, Err(Error::Handshake(_))),
        "{wrong_alpn:?}"
    );
}

#[tokio::test]
async fn without_a_certificate_nobody_is_let_in() {
    let mut mesh = Mesh::new();
    let caller = mesh.identity("web");
    let refused = meet(
        client(&mesh, Some(&caller), &[ALPN_MESH_HTTP]),
        None,
        &mutual(ALPN_MESH_HTTP),
    )
    .await;
    assert!(matches!(refused, Err(Error::NoIdentity)));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends() {
    let mut mesh = Mesh::new();
    let server = mesh.identity("cart");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let refused = terminate(
        Stream::tcp(accepted),
        &mutual(ALPN_MESH_HTTP),
        Some(&server),
    )
    .await;
    assert!(matches!(refused, Err(Error::Timeout)));
}
