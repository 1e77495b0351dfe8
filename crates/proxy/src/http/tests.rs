//! The engine over real sockets: a client, the proxy's own code as an explicit outbound listener, an origin.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tasuki_xds::model::cluster::{HttpProtocol, Limits, OutlierDetection, RetryBudget};
use tasuki_xds::model::matching::{HeaderMatch, ValueMatch};
use tasuki_xds::model::rbac::{Permission, Policy, Principal, Rbac, RbacAction};
use tasuki_xds::model::route::{RetryOn, RetryPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::drain::Drain;

mod attempts;
mod endings;
mod reach;
mod reset;
mod support;
mod trust;
mod upgrades;

pub use support::cluster;
use support::{
    Answer, Asked, Domain, Hop, Origin, beside, call, get, local, meshed, meshed_at, post,
    read_until, retry_policy,
};

/// The size of what `start` returns, without calling it.
fn size<A, B, C, D, F>(_start: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_is_small() {
    let idle = size(super::serve::<crate::stream::Stream>);
    assert!(idle <= 1_536, "{idle}");
}

#[test]
fn a_request_is_small() {
    let request = size(crate::request::run);
    assert!(request <= 6 * 1024, "{request}");
}

#[test]
fn http2_carries_headers_bodies_and_trailers() {
    local(async {
        let origin = Origin::h2(|request| {
            assert_eq!(request.headers["x-kept"], "1");
            assert!(!request.headers.contains_key("x-forwarded-client-cert"));
            assert!(!request.headers.contains_key("x-tasuki-peer"));
            assert_eq!(request.trailers.as_ref().unwrap()["x-end"], "t");
            Answer::ok(&request.body)
                .trailer("grpc-status", "0")
                .trailer("x-tasuki-reason", "a lie")
        })
        .await;
        let hop = Hop::to(&origin).start().await;
        let mut request = post("/echo", "hello");
        for (name, value) in [
            ("x-kept", "1"),
            ("x-forwarded-client-cert", "By=me"),
            ("x-tasuki-peer", "me"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let mut client = hop.h2().await;
        let response = client
            .send_with_trailers(request, "x-end", "t")
            .await
            .unwrap();
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::OK, &b"hello"[..])
        );
        let trailers = response.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers.len(), 1);
    });
}

#[test]
fn one_connection_carries_many_streams() {
    local(async {
        let origin = Origin::h2(|_| Answer::ok(b"x")).await;
        let hop = Hop::to(&origin).start().await;
        let client = hop.h2().await;
        let requests = (0..300).map(|i| {
            let mut client = client.clone();
            tokio::task::spawn_local(async move {
                client.send(get(&format!("/{i}"))).await.unwrap().status
            })
        });
        for answer in requests.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap(), StatusCode::OK);
        }
        // 100 streams are assumed to be welcome before the peer has said so.
        assert!(origin.connections() <= 3, "{}", origin.connections());
    });
}

#[test]
fn http1_is_kept_alive_on_both_sides() {
    local(async {
        let origin = Origin::h1(|request| Answer::ok(&request.body)).await;
        let hop = Hop::to(&origin).start().await;
        let mut io = hop.tcp().await;
        for _ in 0..5 {
            io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello")
                .await
                .unwrap();
            let answer = read_until(&mut io, "hello").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        }
        io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await.unwrap();
        read_until(&mut io, "abc").await;
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn versions_are_translated() {
    local(async {
        let origin = Origin::h2(|request| {
            assert_eq!(request.authority.as_deref(), Some("a"));
            Answer::ok(&request.body)
        })
        .await;
        let hop = Hop::to(&origin).protocol(HttpProtocol::Http2).start().await;
        let mut io = hop.tcp().await;
        io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\nconnection: x-hop\r\nx-hop: 1\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        read_until(&mut io, "hi").await;
        let origin = Origin::h1(|request| {
            assert_eq!(request.headers["host"], "a");
            assert_eq!(request.headers["cookie"], "a=1; b=2");
            Answer::ok(&request.body)
        })
        .await;
        let hop = Hop::to(&origin).protocol(HttpProtocol::Http1).start().await;
        let mut request = post("/", "hi");
        request
            .headers_mut()
            .append("cookie", "a=1".parse().unwrap());
        request
            .headers_mut()
            .append("cookie", "b=2".parse().unwrap());
        assert_eq!(&hop.h2().await.send(request).await.unwrap().body[..], b"hi");
    });
}

#[test]
fn a_slow_reader_slows_its_writer() {
    local(async {
        let origin = Origin::h2(|_| Answer::endless(16 * 1024)).await;
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        let (response, _) = client.start(get("/"), true).await;
        let stalled = response.await.unwrap();
        origin.stalled().await;
        // The client's window, the proxy's two windows and what the sockets hold; no more.
        assert!(origin.sent() < 4 * 1024 * 1024, "{}", origin.sent());
        drop(stalled);
    });
}

#[test]
fn a_stalled_stream_of_tiny_messages_leaves_others_alone() {
    local(async {
        let origin = Origin::h2(|request| match request.path.as_str() {
            "/stalled" => Answer::endless(20),
            _ => Answer::ok(b"fine"),
        })
        .await;
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        let (response, _) = client.start(get("/stalled"), true).await;
        let stalled = response.await.unwrap();
        for _ in 0..200 {
            assert_eq!(&client.send(get("/")).await.unwrap().body[..], b"fine");
        }
        origin.stalled().await;
        assert_eq!(&client.send(get("/")).await.unwrap().body[..], b"fine");
        assert_eq!(origin.connections(), 1);
        drop(stalled);
    });
}

/// What [`narrow_h2`] has seen.
#[derive(Default)]
struct Narrow {
    /// Requests for `/never`.
    held: watch::Sender<usize>,
    /// Connections that ended.
    ended: watch::Sender<usize>,
}

/// One more.
fn count(counter: &watch::Sender<usize>) {
    counter.send_modify(|count| *count += 1);
}

/// Waits until `counter` says so.
async fn reaches(counter: &watch::Sender<usize>, count: usize) {
    let mut counter = counter.subscribe();
    counter.wait_for(|now| *now == count).await.unwrap();
}

/// An HTTP/2 origin that takes `streams` at a time and answers what is not `/never`.
async fn narrow_h2(streams: u32, seen: Rc<Narrow>) -> Origin {
    Origin::raw(move |io| {
        let seen = seen.clone();
        async move {
            let mut server = h2::server::Builder::new()
                .max_concurrent_streams(streams)
                .handshake::<_, Bytes>(io)
                .await
                .unwrap();
            let mut kept = Vec::new();
            while let Some(Ok((request, mut respond))) = server.accept().await {
                if request.uri().path() == "/never" {
                    kept.push((request, respond));
                    count(&seen.held);
                } else {
                    drop(respond.send_response(http::Response::new(()), true));
                }
            }
            count(&seen.ended);
        }
    })
    .await
}

#[test]
fn streams_that_are_given_up_make_room_for_all_who_wait() {
    local(async {
        let seen = Rc::new(Narrow::default());
        let origin = narrow_h2(4, seen.clone()).await;
        let hop = Hop::to(&origin)
            .cluster(|cluster| cluster.limits.max_connections = 1)
            .start()
            .await;
        let client = hop.h2().await;
        let ask = |path: &'static str| {
            let mut client = client.clone();
            tokio::task::spawn_local(async move { client.send(get(path)).await.unwrap().status })
        };
        // The connection knows the origin's limit now.
        assert_eq!(ask("/").await.unwrap(), StatusCode::OK);
        for round in 1..=20 {
            let given_up: Vec<_> = (0..4).map(|_| ask("/never")).collect();
            let waiting: Vec<_> = (0..8).map(|_| ask("/")).collect();
            reaches(&seen.held, round * 4).await;
            given_up.iter().for_each(tokio::task::JoinHandle::abort);
            for answer in waiting {
                assert_eq!(answer.await.unwrap(), StatusCode::OK);
            }
        }
    });
}

#[test]
fn a_connection_that_is_used_up_ends() {
    local(async {
        let seen = Rc::new(Narrow::default());
        let origin = narrow_h2(100, seen.clone()).await;
        let hop = Hop::to(&origin)
            .cluster(|cluster| cluster.limits.max_requests_per_connection = 2)
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..6 {
            assert_eq!(client.send(get("/")).await.unwrap().status, StatusCode::OK);
        }
        assert_eq!(origin.connections(), 3);
        // Every connection ends with its second request.
        reaches(&seen.ended, 3).await;
    });
}

#[test]
fn an_idle_http1_connection_is_closed_in_time() {
    local(async {
        let seen = Rc::new(Narrow::default());
        let ended = seen.clone();
        let origin = Origin::raw(move |mut io: TcpStream| {
            let ended = ended.clone();
            async move {
                read_until(&mut io, "\r\n\r\n").await;
                io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
                count(&ended.ended);
            }
        })
        .await;
        let hop = Hop::to(&origin)
            .cluster(|cluster| cluster.idle_timeout = Some(Duration::from_millis(20)))
            .start()
            .await;
        let mut io = hop.tcp().await;
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut io, "\r\n\r\nok").await;
        // Although nobody asks for anything more.
        reaches(&seen.ended, 1).await;
    });
}

#[test]
fn an_answer_before_the_requests_end_does_not_hold_up_others() {
    local(async {
        let origin = Origin::raw(|mut io: TcpStream| async move {
            loop {
                let head = read_until(&mut io, "\r\n\r\n").await;
                if head.starts_with("closed") {
                    return;
                }
                io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                if head.starts_with("POST") && !head.contains("0\r\n\r\n") {
                    read_until(&mut io, "0\r\n\r\n").await;
                }
            }
        })
        .await;
        let hop = Hop::to(&origin).protocol(HttpProtocol::Http1).start().await;
        let mut client = hop.h2().await;
        let (response, mut send) = client.start(post("/", "").map(drop), false).await;
        let early = response.await.unwrap();
        assert_eq!(client.send(get("/")).await.unwrap().body, b"ok");
        assert_eq!(origin.connections(), 2);
        let mut body = early.into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"ok");
        send.send_data(Bytes::from_static(b"late"), true).unwrap();
        for _ in 0..3 {
            assert_eq!(client.send(get("/")).await.unwrap().body, b"ok");
        }
        assert_eq!(origin.connections(), 2);
    });
}

#[test]
fn head_and_http10_have_no_body_to_wait_for() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(b"body")).await;
        let hop = Hop::to(&origin).start().await;
        let mut io = hop.tcp().await;
        io.write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.contains("content-length: 4"), "{head}");
        let mut io = hop.tcp().await;
        io.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert!(
            answer.ends_with(b"body"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    });
}

#[test]
fn the_upload_goes_on_beside_the_response() {
    local(async {
        let origin = Origin::h2_echo().await;
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://a/")
            .body(())
            .unwrap();
        let (response, mut send) = client.start(request, false).await;
        let mut body = response.await.unwrap().into_body();
        for i in 0..10_u8 {
            send.send_data(Bytes::from(vec![i; 100]), false).unwrap();
            let mut seen = 0;
            while seen < 100 {
                let data = body.data().await.unwrap().unwrap();
                assert!(data.iter().all(|b| *b == i));
                seen += data.len();
            }
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(
            body.data()
                .await
                .is_none_or(|data| data.unwrap().is_empty())
        );
    });
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const STOREFRONT: &str = "spiffe://cluster.local/ns/shop/sa/storefront";

#[test]
fn an_early_answer_over_http1_is_readable_while_the_client_still_sends() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(b"")).await;
        let hop = Hop::to(&origin).start().await;
        let big = "x".repeat(200 * 1024);
        for (head, status) in [
            (
                format!("GET / HTTP/1.1\r\nhost: a\r\nx-big: {big}\r\n\r\n"),
                "431",
            ),
            (
                format!(
                    "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n{big}"
                ),
                "400",
            ),
            (format!("G\0T / HTTP/1.1\r\nhost: a\r\n\r\n{big}"), "400"),
        ] {
            let mut io = hop.tcp().await;
            io.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            io.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{status}: {answer}"
            );
        }
        assert_eq!(origin.requests(), 0);
    });
}
