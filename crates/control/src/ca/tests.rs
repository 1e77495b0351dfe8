//! The certificate service over real TLS on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use prometheus::Registry;
use rustls::ClientConfig;
use tasuki_identity::proto::IstioCertificateServiceClient;
use tasuki_identity::{CsrPem, KeyPem, ServerIdentity, client_config, key_and_csr, proto, token};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Status};

use super::*;
use crate::ads::NsName;
use crate::auth::incoming::Gate;
use crate::auth::{StateDirAuthenticator, incoming};
use crate::ca::server_tls::ServerTls;
use crate::limits::{Bound, Refused};

const TTL: Duration = Duration::from_secs(600);

struct Pods(HashMap<NsName, &'static str>);

impl WorkloadDirectory for Pods {
    fn service_account(&self, pod: &NsName) -> Option<String> {
        self.0.get(pod).map(|account| (*account).to_owned())
    }
}

struct ControlPlane {
    dir: TempDir,
    authority: Authority,
    registry: Registry,
    plaintext: SocketAddr,
    tls: SocketAddr,
}

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "shop", account).unwrap()
}

fn service(authority: &Authority, registry: &Registry) -> CertificateService {
    let pod = |name: &str| NsName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let pods = Pods(HashMap::from([
        (pod("cart-1"), "cart"),
        (pod("pay-1"), "pay"),
    ]));
    let Store::Directory { state_dir, .. } = &authority.0.store else {
        unreachable!("a folder was opened")
    };
    let authenticator = Arc::new(StateDirAuthenticator::new(state_dir, domain()).unwrap());
    CertificateService::new(authority.clone(), authenticator, pods, registry).unwrap()
}

impl ControlPlane {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::open(dir.path(), &domain(), TTL).unwrap();
        let registry = Registry::new();
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (plain, secure) = (listen().await.unwrap(), listen().await.unwrap());
        let (plaintext, tls) = (plain.local_addr().unwrap(), secure.local_addr().unwrap());
        let server_tls =
            ServerTls::new(authority.clone(), &["control.example".to_owned()]).unwrap();
        let bound = Bound {
            all: 100,
            each_peer: 100,
        };
        let gate = Gate::new(bound, Refused::new(&registry).unwrap());
        let secure = incoming::tls(secure, gate.clone(), server_tls.config());
        tokio::spawn(server_tls.keep_fresh());
        let router = Server::builder().add_service(service(&authority, &registry).into_server());
        tokio::spawn(router.serve_with_incoming(secure));
        let router =
            Server::builder().add_service(service(&authority, &Registry::new()).into_server());
        tokio::spawn(router.serve_with_incoming(incoming::plaintext(plain, gate)));
        Self {
            dir,
            authority,
            registry,
            plaintext,
            tls,
        }
    }

    fn token(&self, account: &str) -> String {
        token::issue(self.dir.path(), "shop", account, TTL, SystemTime::now()).unwrap()
    }

    /// Over TLS, with a client certificate or without.
    async fn dial(
        &self,
        own: Option<&WorkloadCertificate>,
    ) -> Result<Channel, tonic::transport::Error> {
        let roots = Roots::from_file(&ca::bundle_path(self.dir.path())).unwrap();
        let config = client_config(own, &roots, ServerIdentity::Dns, &[b"h2"]).unwrap();
        dial(self.tls, config).await
    }
}

async fn dial(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = rustls::pki_types::ServerName::try_from("control.example").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(
                TlsConnector::from(config).connect(name, tcp).await?,
            ))
        }
    });
    Endpoint::from_static("http://control.example")
        .connect_with_connector(connector)
        .await
}

async fn plaintext(control: &ControlPlane) -> Channel {
    Endpoint::from_shared(format!("http://{}", control.plaintext))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn ask(
    channel: Channel,
    bearer: Option<String>,
    message: proto::IstioCertificateRequest,
) -> Result<String, Status> {
    let mut request = Request::new(message);
    if let Some(token) = bearer {
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let answer = IstioCertificateServiceClient::new(channel)
        .create_certificate(request)
        .await?;
    Ok(answer.into_inner().cert_chain.concat())
}

fn for_account(account: &str, pod: Option<&str>) -> (KeyPem, proto::IstioCertificateRequest) {
    let (key, csr): (KeyPem, CsrPem) = key_and_csr(&id(account)).unwrap();
    (
        key,
        proto::request(&csr, None, pod.map(|name| ("shop", name))),
    )
}

#[tokio::test]
async fn first_by_token_then_by_the_certificate_itself() {
    let control = ControlPlane::start().await;
    let channel = control.dial(None).await.unwrap();
    let (key, request) = for_account("cart", Some("cart-1"));
    let chain = ask(channel, Some(control.token("cart")), request)
        .await
        .unwrap();
    let first = WorkloadCertificate::from_pem(&chain, key.as_str()).unwrap();
    assert_eq!(first.id(), &id("cart"));

    let channel = control.dial(Some(&first)).await.unwrap();
    let (key, request) = for_account("cart", Some("cart-1"));
    let chain = ask(channel.clone(), None, request).await.unwrap();
    assert_eq!(
        WorkloadCertificate::from_pem(&chain, key.as_str())
            .unwrap()
            .id(),
        &id("cart")
    );

    let (_, other) = for_account("pay", None);
    let refused = ask(channel, None, other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let scrape = tasuki_runtime::metrics::expose(&control.registry);
    assert!(
        scrape.contains("tasuki_ca_requests_total{result=\"ok\"} 2"),
        "{scrape}"
    );
    assert!(
        scrape.contains("tasuki_ca_requests_total{result=\"invalid_argument\"} 1"),
        "{scrape}"
    );
}

#[tokio::test]
async fn who_gets_nothing() {
    let control = ControlPlane::start().await;
    let secure = control.dial(None).await.unwrap();
    let plain = plaintext(&control).await;
    let cart = Some(control.token("cart"));
    let stale = token::issue(
        control.dir.path(),
        "shop",
        "cart",
        Duration::from_secs(60),
        SystemTime::now() - Duration::from_secs(61),
    );
    for (channel, bearer, account, pod, expected) in [
        (&plain, None, "cart", None, Code::Unauthenticated),
        (&secure, None, "cart", None, Code::Unauthenticated),
        (
            &plain,
            Some("a.b.c".to_owned()),
            "cart",
            None,
            Code::Unauthenticated,
        ),
        (
            &secure,
            Some(stale.unwrap()),
            "cart",
            None,
            Code::Unauthenticated,
        ),
        (&secure, cart.clone(), "pay", None, Code::InvalidArgument),
        (
            &secure,
            cart.clone(),
            "cart",
            Some("pay-1"),
            Code::PermissionDenied,
        ),
        (
            &secure,
            cart.clone(),
            "cart",
            Some("nobody"),
            Code::PermissionDenied,
        ),
        (&plain, cart.clone(), "cart", Some("cart-1"), Code::Ok),
        (&secure, cart, "cart", None, Code::Ok),
    ] {
        let (_, request) = for_account(account, pod);
        let result = ask(channel.clone(), bearer, request).await;
        assert_eq!(
            result.map_or_else(|s| s.code(), |_| Code::Ok),
            expected,
            "{account} {pod:?}"
        );
    }
}

#[tokio::test]
async fn strangers_do_not_get_through_the_handshake() {
    let control = ControlPlane::start().await;
    let elsewhere = TempDir::new().unwrap();
    let other = Authority::open(elsewhere.path(), &domain(), TTL).unwrap();
    let forged = other.workload_certificate(&id("cart")).unwrap();
    let (_, request) = for_account("cart", None);
    // TLS 1.3 lets the client finish first, so the refusal shows at the latest in the first call.
    if let Ok(channel) = control.dial(Some(&forged)).await {
        assert!(
            ask(channel, Some(control.token("cart")), request)
                .await
                .is_err()
        );
    }
    let config = client_config(None, &other.roots(), ServerIdentity::Dns, &[b"h2"]).unwrap();
    assert!(
        dial(control.tls, config).await.is_err(),
        "a proxy does not trust another authority"
    );
}

#[tokio::test]
async fn lives_as_long_as_asked_but_not_longer_than_allowed() {
    let control = ControlPlane::start().await;
    let channel = control.dial(None).await.unwrap();
    let shorter = TTL / 2;
    for (allowed, asked, expected) in [
        (TTL, 60, 60),
        (TTL, 1_000_000, TTL.as_secs()),
        (shorter, 0, shorter.as_secs()),
    ] {
        control.authority.set_ttl(allowed);
        let (key, mut request) = for_account("cart", None);
        request.validity_duration = asked;
        let chain = ask(channel.clone(), Some(control.token("cart")), request)
            .await
            .unwrap();
        let certificate = WorkloadCertificate::from_pem(&chain, key.as_str()).unwrap();
        let left = certificate
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap()
            .as_secs();
        assert!(left <= expected && left + 60 > expected, "{left}");
    }
    let (_, mut request) = for_account("cart", None);
    request.validity_duration = -1;
    let refused = ask(channel, Some(control.token("cart")), request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_servers_certificate_follows_the_roots() {
    let control = ControlPlane::start().await;
    let old_roots = control.authority.roots();
    let now = SystemTime::now();
    let step = |keys: &KeyRing| keys.add_root(None, now);
    control.authority.step(step).await.unwrap();
    let step = |keys: &KeyRing| keys.switch_signer(TTL, now);
    control.authority.step(step).await.unwrap();
    let config = |roots: &Roots| client_config(None, roots, ServerIdentity::Dns, &[b"h2"]).unwrap();
    // Until the end the server is one for those who were away and know the old root only.
    assert!(dial(control.tls, config(&old_roots)).await.is_ok());
    control
        .authority
        .step(|keys| keys.retire_old(now + 2 * TTL))
        .await
        .unwrap();
    let new_roots = control.authority.roots();
    // The renewal runs in another task: each failed dial gives it its turn.
    while dial(control.tls, config(&new_roots)).await.is_err() {}
    assert!(dial(control.tls, config(&old_roots)).await.is_err());
}
