//! Real handshakes over an in-memory pipe.

use std::time::{Duration, SystemTime};

use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::ca::CertificateAuthority;
use crate::peer::{PeerCertificate, peer_certificate};

const HOUR: Duration = Duration::from_secs(3600);

struct Mesh {
    ca: CertificateAuthority,
    _dir: TempDir,
}

impl Mesh {
    fn new(domain: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let domain = TrustDomain::new(domain).unwrap();
        let ca = CertificateAuthority::open(dir.path(), &domain, SystemTime::now()).unwrap();
        Self { ca, _dir: dir }
    }

    fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::new(self.ca.keys().trust_domain(), "shop", account).unwrap()
    }

    fn certificate(&mut self, account: &str) -> WorkloadCertificate {
        let id = self.id(account);
        self.ca
            .workload_certificate(&id, HOUR, SystemTime::now())
            .unwrap()
    }

    fn server(&mut self, account: &str, auth: ClientAuth) -> Arc<ServerConfig> {
        let certificate = self.certificate(account);
        server_config(&certificate, self.ca.roots(), &[b"tasuki-h2"], auth).unwrap()
    }

    fn client(&mut self, account: &str, expected: ServerIdentity) -> Arc<ClientConfig> {
        let certificate = self.certificate(account);
        client_config(
            Some(&certificate),
            self.ca.roots(),
            expected,
            &[b"tasuki-h2"],
        )
        .unwrap()
    }
}

struct Met {
    /// Whom the server saw.
    client: Option<PeerCertificate>,
    server: Option<PeerCertificate>,
    version: rustls::ProtocolVersion,
    alpn: Option<Vec<u8>>,
    group: rustls::NamedGroup,
    resumed: bool,
}

/// A handshake and one byte each way, so that the server's verdict on the client is known to both.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> std::io::Result<Met> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        Ok::<_, std::io::Error>(peer_certificate(stream.get_ref().1))
    };
    let connect = async move {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.read_u8().await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        let connection = stream.get_ref().1;
        Ok::<_, std::io::Error>((
            peer_certificate(connection),
            connection.protocol_version().unwrap(),
            connection.alpn_protocol().map(<[u8]>::to_vec),
            connection.negotiated_key_exchange_group().unwrap().name(),
            connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        ))
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    let (server, version, alpn, group, resumed) = connected?;
    Ok(Met {
        client: accepted?,
        server,
        version,
        alpn,
        group,
        resumed,
    })
}

fn any_of(ids: &[SpiffeId]) -> ServerIdentity {
    ServerIdentity::AnyOf(ids.to_vec())
}

#[tokio::test]
async fn two_workloads_meet() {
    let mut mesh = Mesh::new("cluster.local");
    let server = mesh.server("cart", ClientAuth::Required);
    let expected = any_of(&[mesh.id("other"), mesh.id("cart")]);
    let client = mesh.client("web", expected);
    let met = meet(Arc::clone(&server), Arc::clone(&client))
        .await
        .unwrap();
    assert_eq!(met.server.unwrap().id, mesh.id("cart"));
    let seen = met.client.unwrap();
    assert_eq!(
        (seen.id, seen.subject.as_str(), seen.sha256_hex.len()),
        (mesh.id("web"), "", 64)
    );
    assert_eq!(met.version, rustls::ProtocolVersion::TLSv1_3);
    assert_eq!(met.alpn.as_deref(), Some(&b"tasuki-h2"[..]));
    assert_eq!(met.group, rustls::NamedGroup::X25519MLKEM768);
    let again = meet(server, client).await.unwrap();
    assert!(
        !again.resumed,
        "a resumed session would skip the certificates"
    );
}

#[tokio::test]
async fn another_authority_is_refused_both_ways() {
    let (mut mesh, mut other) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let any = |mesh: &Mesh| ServerIdentity::TrustDomain(mesh.ca.keys().trust_domain().clone());
    let server = mesh.server("cart", ClientAuth::Required);
    let stranger = other.client("web", any(&other));
    assert!(
        meet(server, stranger).await.is_err(),
        "the client refuses the server"
    );

    // A client that trusts the mesh but is certified by the other authority.
    let certificate = other.certificate("web");
    let impostor = client_config(
        Some(&certificate),
        mesh.ca.roots(),
        any(&mesh),
        &[b"tasuki-h2"],
    )
    .unwrap();
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let server = mesh.server("cart", auth);
        assert!(
            meet(server, Arc::clone(&impostor)).await.is_err(),
            "the server refuses the client"
        );
    }
}

#[tokio::test]
async fn the_servers_identity_counts_not_only_its_chain() {
    let mut mesh = Mesh::new("cluster.local");
    let domain = |name| ServerIdentity::TrustDomain(TrustDomain::new(name).unwrap());
    for (expected, works) in [
        (any_of(&[mesh.id("pay")]), false),
        (any_of(&[]), false),
        (any_of(&[mesh.id("cart")]), true),
        (domain("elsewhere"), false),
        (domain("cluster.local"), true),
        (ServerIdentity::DnsAnyOf(vec!["cart".to_owned()]), false),
        (ServerIdentity::DnsAnyOf(vec![]), false),
        (ServerIdentity::Dns, false),
    ] {
        let server = mesh.server("cart", ClientAuth::Required);
        let client = mesh.client("web", expected.clone());
        assert_eq!(meet(server, client).await.is_ok(), works, "{expected:?}");
    }
}

#[tokio::test]
async fn names_outside_the_mesh() {
    let mut mesh = Mesh::new("cluster.local");
    let names = ["localhost".to_owned(), "10.0.0.1".to_owned()];
    let id = mesh.id("control");
    let certificate = mesh
        .ca
        .server_certificate(&id, &names, HOUR, SystemTime::now())
        .unwrap();
    for (expected, works) in [
        (ServerIdentity::Dns, true),
        (ServerIdentity::DnsAnyOf(vec!["localhost".to_owned()]), true),
        (
            ServerIdentity::DnsAnyOf(vec!["example.com".to_owned()]),
            false,
        ),
    ] {
        let server = server_config(
            &certificate,
            mesh.ca.roots(),
            &[b"tasuki-h2"],
            ClientAuth::None,
        )
        .unwrap();
        let client = client_config(None, mesh.ca.roots(), expected.clone(), &[]).unwrap();
        assert_eq!(meet(server, client).await.is_ok(), works, "{expected:?}");
    }
}

#[tokio::test]
async fn clients_without_certificate() {
    let mut mesh = Mesh::new("cluster.local");
    let expected = any_of(&[mesh.id("cart")]);
    let client = client_config(None, mesh.ca.roots(), expected, &[]).unwrap();
    let required = mesh.server("cart", ClientAuth::Required);
    assert!(meet(required, Arc::clone(&client)).await.is_err());
    let optional = mesh.server("cart", ClientAuth::Optional);
    assert_eq!(meet(optional, client).await.unwrap().client, None);
}

#[tokio::test]
async fn expired_and_not_yet_valid_are_refused() {
    let mut mesh = Mesh::new("cluster.local");
    let now = SystemTime::now();
    let any = ServerIdentity::TrustDomain(mesh.ca.keys().trust_domain().clone());
    for (issued, works) in [(now - 3 * HOUR, false), (now + HOUR, false), (now, true)] {
        let (web, cart) = (mesh.id("web"), mesh.id("cart"));
        let odd = mesh.ca.workload_certificate(&web, HOUR, issued).unwrap();
        let client = client_config(Some(&odd), mesh.ca.roots(), any.clone(), &[]).unwrap();
        assert_eq!(
            meet(mesh.server("cart", ClientAuth::Required), client)
                .await
                .is_ok(),
            works
        );
        let odd = mesh.ca.workload_certificate(&cart, HOUR, issued).unwrap();
        let server =
            server_config(&odd, mesh.ca.roots(), &[b"tasuki-h2"], ClientAuth::Required).unwrap();
        assert_eq!(
            meet(server, mesh.client("web", any.clone())).await.is_ok(),
            works
        );
    }
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused_although_its_root_is_trusted() {
    let (mut mesh, mut other) = (Mesh::new("cluster.local"), Mesh::new("elsewhere"));
    let both =
        Roots::from_der([mesh.ca.roots().to_der(), other.ca.roots().to_der()].concat()).unwrap();
    let certificate = mesh.certificate("cart");
    let server = server_config(&certificate, &both, &[], ClientAuth::Required).unwrap();
    let foreign = other.certificate("web");
    let client = client_config(Some(&foreign), &both, any_of(&[mesh.id("cart")]), &[]).unwrap();
    assert!(meet(server, client).await.is_err());
}

#[tokio::test]
async fn both_roots_are_accepted_during_a_rotation_and_the_old_one_is_not_after() {
    let mut mesh = Mesh::new("cluster.local");
    let now = SystemTime::now();
    let old = mesh.certificate("web");
    mesh.ca.step(|keys| keys.add_root(None, now)).unwrap();
    mesh.ca.step(|keys| keys.switch_signer(HOUR, now)).unwrap();
    let expected = any_of(&[mesh.id("cart")]);
    let client = client_config(Some(&old), mesh.ca.roots(), expected.clone(), &[]).unwrap();
    let server = mesh.server("cart", ClientAuth::Required);
    meet(server, Arc::clone(&client)).await.unwrap();
    let renewed = mesh.client("web", expected);
    meet(mesh.server("cart", ClientAuth::Required), renewed)
        .await
        .unwrap();
    mesh.ca
        .step(|keys| keys.retire_old(now + 2 * HOUR))
        .unwrap();
    assert!(
        meet(mesh.server("cart", ClientAuth::Required), client)
            .await
            .is_err()
    );
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let mut mesh = Mesh::new("cluster.local");
    let (one, two) = (mesh.certificate("a"), mesh.certificate("b"));
    assert!(WorkloadCertificate::from_pem(one.chain_pem(), two.key_pem()).is_err());
    assert!(!format!("{one:?}").contains("PRIVATE"));
}
