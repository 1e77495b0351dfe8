//! Two replicas over real TLS on loopback. A replica's clients know of a departure when its test says so.

use std::time::SystemTime;

use tasuki_identity::{CsrPem, PodRecord, TrustDomain, WorkloadCertificate, key_and_csr};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Server;

use super::super::tests::{pod, without_cart_v1};
use super::super::{OTHER_REPLICAS, RETURNING};
use super::*;
use crate::ads::Clients;
use crate::auth::incoming::{self, Gate};
use crate::ca::server_tls::ServerTls;
use crate::limits::{Bound, Refused};
use crate::snapshot::tests::{SHOP, mesh};

const DAY: Duration = Duration::from_secs(86_400);
/// Between two looks at what will come.
const SOON: Duration = Duration::from_millis(10);

struct Replica {
    departures: Arc<Departures>,
    address: SocketAddr,
    /// Its server has one of its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

fn authority() -> (TempDir, Authority) {
    let dir = TempDir::new().unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let authority = Authority::open(dir.path(), &domain, DAY).unwrap();
    (dir, authority)
}

async fn replica(name: &str, authority: &Authority) -> Replica {
    let departures = Arc::new(Departures {
        started: Instant::now() - RETURNING,
        ..Departures::default()
    });
    let service = Replicas::new(departures.clone(), name, authority).unwrap();
    let tls = ServerTls::new(authority.clone(), &[]).unwrap().config();
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let serving = runtime.spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (all, each_peer) = (16, 16);
        let refused = Refused::new(&prometheus::Registry::new()).unwrap();
        let gate = Gate::new(Bound { all, each_peer }, refused);
        let connections = incoming::tls(listener, gate, tls);
        let server = Server::builder().add_service(service.into_server());
        tokio::spawn(server.serve_with_incoming(connections));
        address
    });
    let address = serving.await.unwrap();
    tokio::spawn(Asking::new(departures.clone(), name, authority).run());
    Replica {
        departures,
        address,
        runtime: Some(runtime),
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end();
    }
}

impl Replica {
    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// `cart-v1` leaves, and nobody who cannot be asked will be taken to know it.
    fn sees_it_leave(&self, replicas: &[&Replica]) {
        let departures = &self.departures;
        departures.follow(Some(&mesh(&[SHOP])), &mesh(&[&without_cart_v1()]), 2);
        departures.declare(replicas.iter().map(|replica| replica.address).collect());
        departures
            .lock()
            .get_mut(&pod("cart-v1"))
            .unwrap()
            .others_know += DAY;
    }

    fn clients_know(&self) {
        self.departures.look(&Clients::new());
    }

    fn has_told(&self) -> bool {
        self.departures.of(&pod("cart-v1")).acknowledged
    }
}

#[tokio::test]
async fn a_departure_is_known_when_every_replica_says_so() {
    let (_dir, authority) = authority();
    let (a, mut b) = (
        replica("a", &authority).await,
        replica("b", &authority).await,
    );
    for replica in [&a, &b] {
        replica.sees_it_leave(&[&a, &b]);
    }
    tokio::spawn(a.departures.clone().run(Arc::new(Clients::new())));
    let mut settled = a.departures.settled_changes();
    settled.wait_for(|count| *count > 0).await.unwrap();
    // Each has been heard, and `b` of itself.
    while !a.departures.others().hears(b.address) || !b.departures.others().hears(a.address) {
        sleep(SOON).await;
    }
    assert!(!a.has_told(), "clients of the other do not know it yet");
    let mut told = a.departures.told();
    b.clients_know();
    told.changed().await.unwrap();
    assert!(a.has_told());

    // It goes, and its clients are somewhere for a while.
    b.end();
    let known = |now: Instant| a.departures.others().know("", now, now);
    while a.departures.others().hears(b.address) {
        sleep(SOON).await;
    }
    assert!(!known(Instant::now()) && known(Instant::now() + RETURNING));
}

#[tokio::test]
async fn clients_of_a_replica_that_does_not_answer_are_given_time() {
    let (_dir, authority) = authority();
    let (a, mut b) = (
        replica("a", &authority).await,
        replica("b", &authority).await,
    );
    b.end();
    a.sees_it_leave(&[&a, &b]);
    a.clients_know();
    assert!(!a.has_told());
    let guessed = a.departures.lock()[&pod("cart-v1")].others_know;
    assert!(guessed > Instant::now() + DAY && guessed < Instant::now() + DAY + OTHER_REPLICAS);
    assert!(a.departures.others().know("", guessed, guessed));
}

#[tokio::test]
async fn nobody_but_the_control_plane_is_told() {
    let (_dir, authority) = authority();
    let replica = replica("a", &authority).await;
    let control = server_tls::identity(authority.trust_domain()).unwrap();
    let cart = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    let (key, csr): (_, CsrPem) = key_and_csr(&control).unwrap();
    let record = PodRecord::new("cart-1", "u-1").unwrap();
    let issued = authority.sign(csr.as_str(), &control, Some(&record), None);
    let of_a_pod = WorkloadCertificate::from_pem(&issued.unwrap().chain_pem(), key.as_str());
    let own = authority.server_certificate(&control, &[]).unwrap();
    assert!(own.not_after() > SystemTime::now());
    for (certificate, code) in [
        (None, Code::PermissionDenied),
        (
            Some(authority.workload_certificate(&cart).unwrap()),
            Code::PermissionDenied,
        ),
        (Some(of_a_pod.unwrap()), Code::PermissionDenied),
        (Some(own), Code::Ok),
    ] {
        let expected = ServerIdentity::AnyOf(vec![control.clone()]);
        let roots = authority.roots();
        let config = client_config(certificate.as_ref(), &roots, expected, &[b"h2"]).unwrap();
        let channel = channel(replica.address, config).await.unwrap();
        let answer = DeparturesClient::new(channel)
            .settled(SettledRequest {})
            .await;
        assert_eq!(
            answer.map_or_else(|status| status.code(), |_| Code::Ok),
            code
        );
    }
}
