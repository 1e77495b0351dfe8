//! Mutual TLS between sidecars: what STRICT and PERMISSIVE let in, half-meshed services, short-lived
//! certificates and a rotation of the root, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tasuki_e2e::{HOST, VIP, answers, backend, client, http_server, mtls_mode};
use tasuki_identity::ca::CertificateAuthority;
use tasuki_identity::{
    ClientAuth, Roots, ServerIdentity, SpiffeId, TrustDomain, WorkloadCertificate, client_config,
    server_config,
};
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::{ControlOptions, Mesh, PodSpec, SidecarOptions, service};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn strict_refuses_plaintext_and_permissive_takes_both() {
    if !have("mtls: modes", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("mtls").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let stranger = mesh.pod(PodSpec::new("stranger").plain()).unwrap();
    answers(&pod);
    let direct = server.pod.at(8080).to_string();
    assert!(
        stranger.get(&direct, HOST, "/").is_err(),
        "STRICT answered plaintext"
    );
    let six = format!("[{}]:8080", server.pod.namespace.ip6);
    assert!(
        stranger.get(&six, HOST, "/").is_err(),
        "STRICT answered plaintext over IPv6"
    );
    let seen = server.origin.controls.seen();
    mesh.apply("mode", &mtls_mode("PERMISSIVE")).unwrap();
    wait::until(
        "PERMISSIVE takes plaintext",
        Duration::from_secs(10),
        || {
            let answer = stranger.get(&direct, HOST, "/")?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            let headers = answer.json()["headers"].to_string();
            anyhow::ensure!(
                !headers.contains("x-forwarded-client-cert"),
                "an identity without mTLS: {headers}"
            );
            Ok(())
        },
    )
    .unwrap();
    assert!(server.origin.controls.seen() > seen);
    let forged = tasuki_testkit::client::Ask::get(server.pod.at(8080), HOST, "/").header(
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/ns/a/sa/b",
    );
    let headers = stranger.send(forged).unwrap().json()["headers"].to_string();
    assert!(
        !headers.contains("x-forwarded-client-cert"),
        "a forged identity reached the application: {headers}"
    );
    let meshed = pod.get(VIP, HOST, "/").unwrap();
    assert!(
        meshed
            .body
            .contains("URI=spiffe://cluster.local/ns/default/sa/client"),
        "and mTLS still: {}",
        meshed.body
    );
}

/// One request over mutual TLS of our own, as a sidecar would send it: its status, or what went wrong.
async fn ask(
    server: SocketAddr,
    own: Option<WorkloadCertificate>,
    roots: Roots,
) -> anyhow::Result<u16> {
    let mesh = ServerIdentity::TrustDomain(TrustDomain::new("cluster.local")?);
    let config = client_config(own.as_ref(), &roots, mesh, &[b"tasuki-h2"])?;
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(server).await?;
        let name = server.ip().into();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let request = http::Request::get(format!("http://{HOST}/")).body(())?;
        let (response, _) = sender.ready().await?.send_request(request, true)?;
        let status = response.await?.status().as_u16();
        connection.abort();
        anyhow::Ok(status)
    };
    tokio::time::timeout(Duration::from_secs(20), exchange)
        .await
        .context("neither answered nor refused")?
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    if !have("mtls: another CA", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("foreign-ca").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    let stranger = mesh.pod(PodSpec::new("stranger").plain()).unwrap();
    answers(&pod);
    let roots = Roots::from_file(&mesh.state_dir().join("ca/root-cert.pem")).unwrap();
    let send = |own: Option<WorkloadCertificate>| {
        let (address, roots) = (server.pod.at(8080), roots.clone());
        stranger
            .namespace
            .block_on(|| ask(address, own, roots))
            .unwrap()
    };

    // The same name of the same trust domain, signed by a root of their own.
    let folder = mesh.folder().join("another-ca");
    std::fs::create_dir(&folder).unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let id = SpiffeId::new(&domain, "default", "client").unwrap();
    let now = SystemTime::now();
    let mut another = CertificateAuthority::open(&folder, &domain, now).unwrap();
    let foreign = another
        .workload_certificate(&id, Duration::from_secs(3600), now)
        .unwrap();
    let seen = server.origin.controls.seen();
    for (what, own) in [("a foreign", Some(foreign)), ("no", None)] {
        let error = send(own).expect_err(&format!("{what} certificate was let in"));
        let error = format!("{error:#}");
        assert!(!error.contains("neither answered"), "{what}: {error}");
    }
    assert_eq!(
        server.origin.controls.seen(),
        seen,
        "it reached the application"
    );

    // That nothing but the issuer was wrong: the same request with the client's own certificate.
    let own = std::fs::read_to_string(pod.state_dir().join("identity.pem")).unwrap();
    let own = WorkloadCertificate::from_pem(&own, &own).unwrap();
    assert_eq!(own.id(), &id);
    assert_eq!(send(Some(own)).unwrap(), 200);
}

/// Echoes what one client after the other says within TLS, until the thread's runtime goes.
async fn echo_in_tls(
    listener: tokio::net::TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Somebody may only have knocked.
        if let Ok(stream) = acceptor.accept(stream).await {
            let (mut read, mut write) = tokio::io::split(stream);
            drop(tokio::io::copy(&mut read, &mut write).await);
        }
    }
}

#[test]
fn tls_of_the_applications_own_passes_through() {
    if !have("mtls: pass-through", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("tls-through").unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let ports = [("tls", 443, 8443)];
    mesh.apply("vault", &service("default", "vault", "10.96.0.30", &ports))
        .unwrap();
    let server = mesh.pod(PodSpec::new("vault").port("tls", 8443)).unwrap();
    // Of an authority that only the two applications know.
    let folder = mesh.folder().join("applications");
    std::fs::create_dir(&folder).unwrap();
    let domain = TrustDomain::new("applications.test").unwrap();
    let id = SpiffeId::new(&domain, "safe", "vault").unwrap();
    let now = SystemTime::now();
    let mut authority = CertificateAuthority::open(&folder, &domain, now).unwrap();
    let own = authority
        .workload_certificate(&id, Duration::from_secs(3600), now)
        .unwrap();
    let roots = authority.roots().clone();
    let acceptor = server_config(&own, &roots, &[], ClientAuth::None).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let application = server.namespace.clone();
    let application = std::thread::spawn(move || {
        application.block_on(|| async {
            let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
            tokio::select! {
                ended = echo_in_tls(listener, acceptor.into()) => ended,
                _ = stopped => Ok(()),
            }
        })
    });
    let _server = server.sidecar().unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();

    // STRICT at the server lets only mesh peers in: this is TLS within mTLS.
    let said = vec![b'x'; 100_000];
    let expected = ServerIdentity::AnyOf(vec![id]);
    let config = client_config(None, &roots, expected, &[]).unwrap();
    let exchange = async |said: Vec<u8>| {
        let stream = tokio::net::TcpStream::connect("10.96.0.30:443").await?;
        let name = "vault.default.svc.cluster.local".try_into()?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await?;
        let (mut read, mut write) = tokio::io::split(stream);
        let mut heard = vec![0; said.len()];
        let send = async {
            write.write_all(&said).await?;
            write.flush().await
        };
        let (sent, got) = tokio::join!(send, read.read_exact(&mut heard));
        sent?;
        got?;
        anyhow::ensure!(heard == said, "it came back changed");
        Ok(())
    };
    wait::until("TLS is spoken", Duration::from_secs(30), || {
        pod.namespace.block_on(|| async {
            tokio::time::timeout(Duration::from_secs(10), exchange(said.clone())).await?
        })?
    })
    .unwrap();
    drop(stop);
    application.join().unwrap().unwrap().unwrap();
}

#[test]
fn a_service_half_in_the_mesh_loses_nothing() {
    if !have("mtls: half meshed", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("half").unwrap();
    http_server(&mesh).unwrap();
    let _meshed = backend(&mesh, "version-a").unwrap();
    let spec = PodSpec::new("version-b")
        .account("http-server")
        .label("app", "http-server")
        .port("http", 8080)
        .plain();
    let plain = mesh.pod(spec).unwrap();
    let _origin = plain.http(8080).unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    wait::until("both endpoints are used", Duration::from_secs(15), || {
        let report = pod.load(Plan {
            requests: Some(20),
            ..Plan::new(VIP.parse()?, HOST)
        })?;
        anyhow::ensure!(report.by_backend().len() == 2, "{report}");
        Ok(())
    })
    .unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        let plan = Plan {
            protocol,
            concurrency: 4,
            requests: Some(1_000),
            ..Plan::new(VIP.parse().unwrap(), HOST)
        };
        let report = pod.load(plan).unwrap();
        assert_eq!(report.failed(), 0, "{protocol:?}: {report}");
        assert_eq!(report.by_backend().len(), 2, "{protocol:?}: {report}");
    }
}

#[test]
fn a_server_of_another_identity_is_refused_by_the_client() {
    if !have("mtls: wrong identity", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("identity").unwrap();
    http_server(&mesh).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    // The registry now says that this address belongs to someone else; its certificate still says who it is.
    let other = server.pod.spec.clone().account("somebody-else");
    mesh.apply("pod-default-version-a", &other.yaml(&server.pod.namespace))
        .unwrap();
    wait::until(
        "the wrong identity is refused",
        Duration::from_secs(10),
        || {
            let answer = pod.get(VIP, HOST, "/")?;
            anyhow::ensure!(answer.status == 503, "{} {}", answer.status, answer.body);
            Ok(())
        },
    )
    .unwrap();
}

#[test]
fn short_lived_certificates_and_tokens_lose_nothing() {
    if !have("mtls: renewal", &[Need::Namespaces]) {
        return;
    }
    let options = ControlOptions {
        args: vec!["--certificate-ttl=10s".into()],
    };
    let mesh = Mesh::start_with("renewal", options).unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let spec = PodSpec::new("version-a")
        .account("http-server")
        .label("app", "http-server")
        .port("http", 8080);
    let server = mesh.pod(spec).unwrap();
    let _origin = server.http(8080).unwrap();
    let short = || SidecarOptions {
        token_ttl: "5s".into(),
        ..SidecarOptions::default()
    };
    let _server = server.sidecar_with(short()).unwrap();
    let pod = mesh.pod(PodSpec::new("client")).unwrap();
    let _client = pod.sidecar_with(short()).unwrap();
    answers(&pod);
    let load = pod.start_load(Plan {
        concurrency: 4,
        rate: Some(100.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    let tokens = std::thread::scope(|scope| {
        let renew = scope.spawn(|| {
            for _ in 0..20 {
                server.write_token("5s")?;
                pod.write_token("5s")?;
                std::thread::sleep(Duration::from_secs(3));
            }
            anyhow::Ok(())
        });
        renew.join().unwrap()
    });
    tokens.unwrap();
    let report = load.finish().unwrap();
    assert!(report.total() > 4_000, "{report}");
    assert_eq!(report.failed(), 0, "{report}");
}

#[test]
fn a_rotation_of_the_root_loses_nothing() {
    if !have("mtls: rotation", &[Need::Namespaces]) {
        return;
    }
    // A rotation lasts until the last certificate of the old root has expired.
    let options = ControlOptions {
        args: vec!["--certificate-ttl=15s".into()],
    };
    let mesh = Mesh::start_with("rotation", options).unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let before = std::fs::read_to_string(mesh.state_dir().join("ca/root-cert.pem")).unwrap();
    let load = pod.start_load(Plan {
        concurrency: 4,
        rate: Some(200.0),
        ..Plan::new(VIP.parse().unwrap(), HOST)
    });
    mesh.rotate_ca(Duration::from_secs(120)).unwrap();
    let now = std::fs::read_to_string(mesh.state_dir().join("ca/root-cert.pem")).unwrap();
    assert_ne!(now, before, "the root is still the old one");
    load.run_for(Duration::from_secs(5));
    let report = load.finish().unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    answers(&pod);
    drop((server, sidecar));
}
