//! Endpoints that cannot be connected to get nothing, cost nobody a request, and come back.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::{JoinHandle, spawn_local};

use super::support::Running;
use super::*;
use crate::identity::Identity;

const NO_RETRIES: RetryBudget = RetryBudget {
    percent: 0.0,
    min_concurrent: 0,
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Those of a server and of its client.
fn identities() -> (Arc<Identity>, Arc<Identity>) {
    let mut domain = Domain::new();
    let client = "spiffe://cluster.local/ns/shop/sa/client";
    (domain.identity(WEB), domain.identity(client))
}

/// An address where nobody listens.
async fn dead() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn no_request_is_lost_to_endpoints_that_are_gone() {
    for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
        local(async {
            let origin = match protocol {
                HttpProtocol::Http2 => Origin::h2(|request| Answer::ok(&request.body)).await,
                _ => Origin::h1(|request| Answer::ok(&request.body)).await,
            };
            let hop = Hop::to(&origin)
                .and_address(dead().await)
                .and_address(dead().await)
                .protocol(protocol)
                .cluster(|cluster| cluster.retry_budget = Some(NO_RETRIES))
                .start()
                .await;
            // Many at once: those that meet a dead one together have no budget to share either.
            let many = (0..20).map(async |_| {
                let mut client = hop.h2().await;
                for _ in 0..5 {
                    let answered = client.send(post("/", "x")).await.unwrap();
                    assert_eq!(answered.status, StatusCode::OK);
                }
            });
            join_all(many).await;
            assert_eq!(origin.requests(), 100);
        });
    }
}

#[test]
fn each_is_met_by_one_request_and_no_more() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(b"")).await;
        let hop = Hop::to(&origin)
            .and_address(dead().await)
            .and_address(dead().await)
            .protocol(HttpProtocol::Http1)
            .retry(RetryPolicy {
                retries: 0,
                ..retry_policy(&[])
            })
            .start()
            .await;
        let mut client = hop.h2().await;
        let mut failed = 0;
        // Long enough for several pauses to pass.
        for _ in 0..100 {
            let answered = client.send(get("/")).await.unwrap();
            failed += u32::from(answered.status != StatusCode::OK);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(failed, 2);
    });
}

#[test]
fn the_last_one_is_used_whatever_is_known_of_it() {
    local(async {
        let address = dead().await;
        let hop = Hop::to_address(address)
            .and_address(dead().await)
            .protocol(HttpProtocol::Http1)
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..3 {
            let answered = client.send(get("/")).await.unwrap();
            assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
            let said = String::from_utf8_lossy(&answered.body).into_owned();
            assert!(said.contains("connect"), "{said}");
        }
        // Both are out and in their pauses; a request finds at once that one is there again.
        let _other = answering(address).await;
        let answered = client.send(get("/")).await.unwrap();
        assert_eq!(answered.status, StatusCode::OK);
    });
}

#[test]
fn one_that_listens_again_is_used_again() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(b"first")).await;
        let address = dead().await;
        let hop = Hop::to(&origin)
            .and_address(address)
            .protocol(HttpProtocol::Http1)
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..20 {
            let answered = client.send(get("/")).await.unwrap();
            assert_eq!(&answered.body[..], b"first");
        }
        let _second = answering(address).await;
        loop {
            let answered = client.send(get("/")).await.unwrap();
            assert_eq!(answered.status, StatusCode::OK);
            if &answered.body[..] == b"second" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// A second peer, and a client's sidecar that has both.
async fn beside_another(
    first: &Origin,
    web: &Arc<Identity>,
    client: &Arc<Identity>,
) -> (Origin, Running) {
    let second = Origin::mesh(web, |_| Answer::ok(b"")).await;
    let hop = Hop::to(first).and(&second).mesh(client, &[WEB]);
    (second, hop.start().await)
}

#[test]
fn a_peer_that_leaves_gets_nothing_new() {
    local(async {
        let (web, client) = identities();
        let first = Origin::mesh(&web, |_| Answer::ok(b"")).await;
        let (second, hop) = beside_another(&first, &web, &client).await;
        let mut client = hop.h2().await;
        first.goaway_after(3);
        for _ in 0..60 {
            let answered = client.send(get("/")).await.unwrap();
            assert_eq!(answered.status, StatusCode::OK);
        }
        assert_eq!((first.requests(), first.connections()), (3, 1));
        assert_eq!(second.requests(), 57);
    });
}

#[test]
fn a_peer_that_leaves_gets_nothing_new_while_an_old_stream_goes_on() {
    local(async {
        let (web, client) = identities();
        let answer = |request: Asked| match request.number {
            0 => Answer::endless(16),
            _ => Answer::ok(b""),
        };
        let first = Origin::mesh(&web, answer).await;
        let (second, hop) = beside_another(&first, &web, &client).await;
        let mut client = hop.h2().await;
        first.goaway_after(2);
        let (stream, _) = client.start(get("/").map(drop), true).await;
        let mut stream = stream.await.unwrap().into_body();
        for _ in 0..40 {
            let answered = client.send(get("/")).await.unwrap();
            assert_eq!(answered.status, StatusCode::OK);
        }
        // One may find out by itself, and is served where it is.
        assert!(first.connections() <= 2, "{}", first.connections());
        assert!(first.requests() <= 4, "{}", first.requests());
        assert!(second.requests() >= 37);
        assert!(!stream.data().await.unwrap().unwrap().is_empty());
    });
}

#[test]
fn an_application_that_is_not_there_can_be_ejected() {
    local(async {
        let (web, client) = identities();
        let beside = meshed_at(&web, dead().await).await;
        let hop = Hop::to_address(beside.address())
            .mesh(&client, &[WEB])
            .cluster(|cluster| {
                cluster.outliers = Some(OutlierDetection {
                    // As many as one request has tries.
                    consecutive_5xx: 3,
                    consecutive_gateway_errors: 0,
                    consecutive_local_origin: 0,
                    split_local_origin: true,
                    interval: Duration::from_secs(10),
                    base_ejection: Duration::from_secs(30),
                    max_ejection: Duration::from_secs(300),
                    max_ejection_percent: 100,
                });
            })
            .start()
            .await;
        let mut client = hop.h2().await;
        let answered = client.send(get("/")).await.unwrap();
        assert_eq!(answered.status, StatusCode::SERVICE_UNAVAILABLE);
        let said = String::from_utf8_lossy(&answered.body).into_owned();
        assert!(said.contains("application"), "{said}");
        let answered = client.send(get("/")).await.unwrap();
        let said = String::from_utf8_lossy(&answered.body).into_owned();
        assert!(said.contains("no healthy upstream"), "{said}");
    });
}

#[test]
fn an_application_that_is_not_there_is_left_to_the_caller() {
    local(async {
        let (web, client) = identities();
        let beside = meshed_at(&web, dead().await).await;
        let other = Origin::mesh(&web, |_| Answer::ok(b"other")).await;
        let hop = Hop::to_address(beside.address())
            .and(&other)
            .mesh(&client, &[WEB])
            .cluster(|cluster| cluster.retry_budget = Some(NO_RETRIES))
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..10 {
            let answered = client.send(post("/", "x")).await.unwrap();
            assert_eq!(answered.status, StatusCode::OK);
            assert_eq!(&answered.body[..], b"other");
        }
    });
}

/// A server at `address` that says `second` to each connection.
async fn answering(address: SocketAddr) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    spawn_local(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            spawn_local(async move {
                // One that is only looked at says nothing.
                let mut said = [0; 1_024];
                while let Ok(1..) = io.read(&mut said).await {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond";
                    io.write_all(answer).await.unwrap();
                }
            });
        }
    })
}
