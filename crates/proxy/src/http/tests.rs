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

use crate::drain::Drain;

mod reset;
mod support;

pub use support::cluster;
use support::{
    Answer, Domain, Hop, Origin, beside, call, get, local, meshed, post, read_until, retry_policy,
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
fn framing_attacks_and_bad_hosts_are_refused() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(b"smuggled")).await;
        let hop = Hop::to(&origin).start().await;
        for head in [
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        ] {
            let mut io = hop.tcp().await;
            io.write_all(head.as_bytes()).await.unwrap();
            let answer = read_until(&mut io, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
        }
        let mut request = get("/");
        request
            .headers_mut()
            .insert("host", "other".parse().unwrap());
        assert_eq!(
            hop.h2().await.send(request).await.unwrap().status,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(origin.requests(), 0);
    });
}

#[test]
fn refused_streams_are_repeated_and_executed_once() {
    local(async {
        let origin = Origin::h2(|request| match request.number {
            0 => Answer::reset(h2::Reason::REFUSED_STREAM),
            _ => Answer::ok(&request.body),
        })
        .await;
        let hop = Hop::to(&origin).start().await;
        let response = hop.h2().await.send(post("/pay", "once")).await.unwrap();
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::OK, &b"once"[..])
        );
        assert_eq!(origin.requests(), 2);
    });
}

#[test]
fn what_may_have_been_processed_is_not_repeated() {
    local(async {
        let origin = Origin::h2(|_| Answer::reset(h2::Reason::INTERNAL_ERROR)).await;
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        assert_eq!(
            client.send(post("/pay", "once")).await.unwrap().status,
            StatusCode::BAD_GATEWAY
        );
        assert_eq!(origin.requests(), 1);
        assert_eq!(
            client.send(get("/read")).await.unwrap().status,
            StatusCode::BAD_GATEWAY
        );
        assert_eq!(origin.requests(), 4, "a GET has three tries");
    });
}

#[test]
fn a_policy_is_obeyed_and_bodies_are_replayed() {
    local(async {
        let origin = Origin::h2(|request| match request.number {
            0 | 1 => Answer::status(503),
            _ => Answer::ok(&request.body),
        })
        .await;
        let policy = RetryPolicy {
            retries: 3,
            ..retry_policy(&[RetryOn::Http5xx])
        };
        let hop = Hop::to(&origin).retry(policy).start().await;
        let response = hop.h2().await.send(post("/", "again")).await.unwrap();
        assert_eq!(
            (response.status, &response.body[..]),
            (StatusCode::OK, &b"again"[..])
        );
        assert_eq!(origin.requests(), 3);
    });
}

#[test]
fn a_try_that_was_given_up_takes_nothing_of_the_body() {
    local(async {
        let connections = Cell::new(0);
        // Refuses on the first connection before it has read the body, and answers early on the second.
        let origin = Origin::raw(move |mut io: TcpStream| {
            connections.set(connections.get() + 1);
            let first = connections.get() == 1;
            async move {
                read_until(&mut io, "\r\n\r\n").await;
                if first {
                    let refusal = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
                    io.write_all(refusal).await.unwrap();
                    while let Ok(1..) = io.read(&mut [0; 64]).await {}
                    return;
                }
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                io.write_all(head).await.unwrap();
                let body = read_until(&mut io, "0\r\n\r\n").await;
                assert!(body.contains("the rest"), "{body}");
                io.write_all(b"2\r\nok\r\n0\r\n\r\n").await.unwrap();
            }
        })
        .await;
        let hop = Hop::to(&origin)
            .protocol(HttpProtocol::Http1)
            .retry(retry_policy(&[RetryOn::Http5xx]))
            .start()
            .await;
        let mut client = hop.h2().await;
        let (response, mut send) = client.start(post("/", "").map(drop), false).await;
        send.send_data(Bytes::from_static(b"the beginning, "), false)
            .unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        send.send_data(Bytes::from_static(b"the rest"), true)
            .unwrap();
        let mut body = response.into_body();
        assert_eq!(&body.data().await.unwrap().unwrap()[..], b"ok");
    });
}

#[test]
fn the_budget_bounds_retries() {
    local(async {
        let origin = Origin::h2(|_| Answer::status(503)).await;
        let policy = RetryPolicy {
            retries: 3,
            ..retry_policy(&[RetryOn::Http5xx])
        };
        let none = RetryBudget {
            percent: 0.0,
            min_concurrent: 0,
        };
        let hop = Hop::to(&origin)
            .retry(policy)
            .cluster(|cluster| cluster.retry_budget = Some(none))
            .start()
            .await;
        assert_eq!(
            hop.h2().await.send(get("/")).await.unwrap().status,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(origin.requests(), 1);
    });
}

#[test]
fn grpc_statuses_are_repeated_and_failures_speak_grpc() {
    local(async {
        let origin = Origin::h2(|request| match request.number {
            0 => Answer::status(200).header("grpc-status", "14"),
            _ => Answer::ok(b"").trailer("grpc-status", "0"),
        })
        .await;
        let hop = Hop::to(&origin)
            .retry(retry_policy(&[RetryOn::GrpcUnavailable]))
            .start()
            .await;
        let mut request = post("/pkg.Service/Method", "x");
        request
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        let response = hop.h2().await.send(request).await.unwrap();
        assert_eq!(response.trailers.unwrap()["grpc-status"], "0");
        let silent = Origin::h2(|_| Answer::never()).await;
        let hop = Hop::to(&silent)
            .timeout(Duration::from_millis(50))
            .start()
            .await;
        let mut request = post("/pkg.Service/Method", "x");
        request
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        let response = hop.h2().await.send(request).await.unwrap();
        assert_eq!(
            (response.status, &response.headers["grpc-status"]),
            (StatusCode::OK, &http::HeaderValue::from(4))
        );
    });
}

#[test]
fn the_route_timeout_is_504_and_cancels_the_upstream() {
    local(async {
        let origin = Origin::h2(|_| Answer::never()).await;
        let hop = Hop::to(&origin)
            .timeout(Duration::from_millis(50))
            .start()
            .await;
        let response = hop.h2().await.send(get("/")).await.unwrap();
        assert_eq!(response.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(
            response.headers["x-tasuki-reason"],
            "upstream_response_timeout"
        );
        origin.cancelled().await;
    });
}

#[test]
fn a_client_that_cancels_resets_the_upstream() {
    local(async {
        let origin = Origin::h2(|_| Answer::never()).await;
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        let (response, _) = client.start(get("/"), true).await;
        origin.reached(1).await;
        drop(response);
        origin.cancelled().await;
    });
}

#[test]
fn an_http1_client_that_leaves_cancels_the_upstream() {
    for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
        local(async move {
            let seen = Rc::new(Narrow::default());
            let ended = seen.clone();
            let origin = match protocol {
                HttpProtocol::Http2 => Origin::h2(|_| Answer::never()).await,
                _ => {
                    Origin::raw(move |mut io: TcpStream| {
                        let ended = ended.clone();
                        async move {
                            read_until(&mut io, "\r\n\r\n").await;
                            ended.held.set(1);
                            while let Ok(1..) = io.read(&mut [0; 64]).await {}
                            ended.ended.set(1);
                        }
                    })
                    .await
                }
            };
            let hop = Hop::to(&origin).protocol(protocol).start().await;
            let mut io = hop.tcp().await;
            io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            if protocol == HttpProtocol::Http2 {
                origin.reached(1).await;
                drop(io);
                origin.cancelled().await;
            } else {
                seen.until(|seen| seen.held.get() == 1).await;
                drop(io);
                seen.until(|seen| seen.ended.get() == 1).await;
            }
        });
    }
}

#[test]
fn connections_that_fail_are_503_uf() {
    local(async {
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let hop = Hop::to_address(closed).start().await;
        let response = hop.h2().await.send(get("/")).await.unwrap();
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            response.headers["x-tasuki-reason"]
                .to_str()
                .unwrap()
                .starts_with("connection_failure")
        );
    });
}

#[test]
fn overflow_is_refused_at_once() {
    local(async {
        let origin = Origin::h1(|_| Answer::never()).await;
        let limits = Limits {
            max_connections: 1,
            max_pending_requests: 1,
            ..Limits::default()
        };
        let hop = Hop::to(&origin)
            .protocol(HttpProtocol::Http1)
            .cluster(|cluster| cluster.limits = limits)
            .start()
            .await;
        let mut client = hop.h2().await;
        let _first = client.start(get("/1"), true).await;
        origin.reached(1).await;
        let _second = client.start(get("/2"), true).await;
        let response = client.send(get("/3")).await.unwrap();
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            response.headers["x-tasuki-reason"],
            "overflow{max_pending_requests}"
        );
    });
}

#[test]
fn an_endpoint_that_lets_requests_time_out_is_ejected() {
    local(async {
        let origin = Origin::h2(|_| Answer::never()).await;
        let outliers = OutlierDetection {
            consecutive_5xx: 2,
            consecutive_gateway_errors: 0,
            consecutive_local_origin: 0,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(300),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
        };
        let hop = Hop::to(&origin)
            .timeout(Duration::from_millis(20))
            .cluster(|cluster| cluster.outliers = Some(outliers.clone()))
            .start()
            .await;
        let mut client = hop.h2().await;
        let mut reasons = Vec::new();
        for request in [get("/"), post("/", "x"), get("/")] {
            let response = client.send(request).await.unwrap();
            reasons.push(response.headers["x-tasuki-reason"].clone());
        }
        let timed_out = "upstream_response_timeout";
        assert_eq!(reasons, [timed_out, timed_out, "no_healthy_upstream"]);
        // A client whose own deadline comes while it still sends: not the endpoint's fault.
        let hop = Hop::to(&origin)
            .believe_grpc_timeout()
            .cluster(|cluster| cluster.outliers = Some(outliers))
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..3 {
            let (response, _send) = client.start(call("20m").map(drop), false).await;
            let response = response.await.unwrap();
            assert_eq!(response.headers()["x-tasuki-reason"], timed_out);
        }
    });
}

#[test]
fn a_stream_of_messages_is_not_cut_by_the_routes_timeout() {
    local(async {
        let origin = Origin::h2_echo().await;
        let hop = Hop::to(&origin)
            .timeout(Duration::from_millis(20))
            .retry(RetryPolicy {
                per_try_timeout: Some(Duration::from_millis(10)),
                ..retry_policy(&[RetryOn::Http5xx])
            })
            .start()
            .await;
        let mut client = hop.h2().await;
        let (response, mut send) = client.start(post("/", "").map(drop), false).await;
        let mut body = response.await.unwrap().into_body();
        // As long as it likes, while it has something to say.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(25)).await;
            send.send_data(Bytes::from_static(b"message"), false)
                .unwrap();
            assert_eq!(&body.data().await.unwrap().unwrap()[..], b"message");
        }
    });
}

#[test]
fn the_routes_timeout_starts_when_the_request_has_been_sent() {
    for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
        local(async move {
            // Answers nobody who has sent everything.
            let origin = Origin::raw(|mut io: TcpStream| async move {
                let mut scrap = [0; 1_024];
                while let Ok(1..) = io.read(&mut scrap).await {}
            })
            .await;
            let hop = Hop::to(&origin)
                .protocol(protocol)
                .timeout(Duration::from_millis(20))
                .start()
                .await;
            let mut client = hop.h2().await;
            let (mut response, mut send) = client.start(post("/", "").map(drop), false).await;
            for _ in 0..3 {
                send.send_data(Bytes::from_static(b"slow"), false).unwrap();
                let early = tokio::time::timeout(Duration::from_millis(25), &mut response).await;
                assert!(early.is_err(), "{early:?}");
            }
            send.send_data(Bytes::new(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        });
    }
}

#[test]
fn five_5xx_eject_an_endpoint() {
    local(async {
        let bad = Origin::h2(|_| Answer::status(500)).await;
        let good = Origin::h2(|_| Answer::ok(b"")).await;
        let outliers = OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_origin: 0,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(300),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
        };
        let hop = Hop::to(&bad)
            .and(&good)
            .cluster(|cluster| cluster.outliers = Some(outliers))
            .start()
            .await;
        let mut client = hop.h2().await;
        for _ in 0..100 {
            client.send(get("/")).await.unwrap();
        }
        assert_eq!(bad.requests(), 5);
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

#[test]
fn goaway_loses_nothing() {
    local(async {
        let origin = Origin::h2(|_| Answer::ok(b"")).await;
        origin.goaway_after(10);
        let hop = Hop::to(&origin).start().await;
        let mut client = hop.h2().await;
        for _ in 0..100 {
            assert_eq!(
                client.send(post("/", "x")).await.unwrap().status,
                StatusCode::OK
            );
        }
        assert!(origin.connections() > 5);
    });
}

/// What [`narrow_h2`] has seen.
#[derive(Default)]
struct Narrow {
    /// Requests for `/never`.
    held: Cell<usize>,
    /// Connections that ended.
    ended: Cell<usize>,
}

impl Narrow {
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .expect("happens");
    }
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
                    seen.held.set(seen.held.get() + 1);
                } else {
                    drop(respond.send_response(http::Response::new(()), true));
                }
            }
            seen.ended.set(seen.ended.get() + 1);
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
            seen.until(|seen| seen.held.get() == round * 4).await;
            given_up.iter().for_each(tokio::task::JoinHandle::abort);
            for answer in waiting {
                let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
                assert_eq!(answer.expect("was woken").unwrap(), StatusCode::OK);
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
        seen.until(|seen| seen.ended.get() == 3).await;
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
                ended.ended.set(1);
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
        seen.until(|seen| seen.ended.get() == 1).await;
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
fn upgrades_become_tunnels() {
    local(async {
        let origin = Origin::raw(|mut io: TcpStream| async move {
            let head = read_until(&mut io, "\r\n\r\n").await;
            assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
            io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..length]).await.unwrap();
            }
        })
        .await;
        let hop = Hop::to(&origin).start().await;
        let mut io = hop.tcp().await;
        io.write_all(
            b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        for _ in 0..3 {
            io.write_all(b"ping!").await.unwrap();
            let mut echo = [0; 5];
            io.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"ping!");
        }
    });
}

#[test]
fn upgrades_cross_http2_as_extended_connect() {
    local(async {
        let app = Origin::raw(|mut io: TcpStream| async move {
            read_until(&mut io, "\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..length]).await.unwrap();
            }
        })
        .await;
        let far = Hop::to(&app).protocol(HttpProtocol::Http1).start().await;
        let near = Hop::to_address(far.address())
            .protocol(HttpProtocol::Http2)
            .start()
            .await;
        let mut io = near.tcp().await;
        io.write_all(
            b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
        let head = read_until(&mut io, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        io.write_all(b"ping!").await.unwrap();
        let mut echo = [0; 5];
        io.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping!");
    });
}

#[test]
fn an_upgrade_that_is_refused_or_ignored_is_an_ordinary_answer() {
    for status in ["403 Forbidden", "200 OK"] {
        local(async move {
            let app = Origin::raw(move |mut io: TcpStream| async move {
                for _ in 0..2 {
                    read_until(&mut io, "\r\n\r\n").await;
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\nno page");
                    io.write_all(answer.as_bytes()).await.unwrap();
                }
            })
            .await;
            let near_application = Hop::to(&app).protocol(HttpProtocol::Http1).start().await;
            let mut domain = Domain::new();
            let ids = [domain.identity(STOREFRONT), domain.identity(CART)];
            let across = Hop::to_address(meshed(&ids[1], &app).await.address())
                .mesh(&ids[0], &[CART])
                .start()
                .await;
            for hop in [near_application, across] {
                let mut io = hop.tcp().await;
                for _ in 0..2 {
                    let ask = b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
                    io.write_all(ask).await.unwrap();
                    let answer = read_until(&mut io, "no page").await;
                    let expected = format!("HTTP/1.1 {status}");
                    assert!(answer.starts_with(&expected), "{status}: {answer}");
                }
            }
        });
    }
}

#[test]
fn a_body_waits_for_the_upstreams_100() {
    local(async {
        let origin = Origin::raw(|mut io: TcpStream| async move {
            let head = read_until(&mut io, "\r\n\r\n").await;
            assert!(head.contains("100-continue"), "{head}");
            assert!(
                head.ends_with("\r\n\r\n"),
                "the body came before the 100: {head}"
            );
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .unwrap();
            read_until(&mut io, "body").await;
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        })
        .await;
        let hop = Hop::to(&origin).start().await;
        let mut io = hop.tcp().await;
        io.write_all(
            b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        )
        .await
        .unwrap();
        let answer = read_until(&mut io, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
        io.write_all(b"body").await.unwrap();
        read_until(&mut io, "ok").await;
    });
}

#[test]
fn interim_responses_cross_http2() {
    local(async {
        let origin = Origin::h2(|_| Answer::ok(b"").early_hints()).await;
        let hop = Hop::to(&origin).start().await;
        let response = hop.h2().await.send(get("/")).await.unwrap();
        assert_eq!(response.interim, [StatusCode::from_u16(103).unwrap()]);
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
fn mesh_peers_are_spoken_to_in_http2_over_mutual_tls() {
    local(async {
        let mut domain = Domain::new();
        let origin = Origin::mesh(&domain.identity(CART), |request| {
            assert!(
                request.headers["x-tasuki-peer"]
                    .to_str()
                    .unwrap()
                    .starts_with("caller;")
            );
            let orig = request.headers["x-tasuki-orig-proto"].to_str().unwrap();
            Answer::ok(orig.as_bytes())
        })
        .await;
        let hop = Hop::to(&origin)
            .mesh(&domain.identity(STOREFRONT), &[CART])
            .start()
            .await;
        assert_eq!(
            &hop.h2().await.send(get("/")).await.unwrap().body[..],
            b"HTTP/2"
        );
        let mut io = hop.tcp().await;
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-tasuki-peer: liar\r\n\r\n")
            .await
            .unwrap();
        let answer = read_until(&mut io, "8\r\nHTTP/1.1\r\n").await;
        assert!(!answer.contains("absolute"), "{answer}");
        io.write_all(b"GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut io, "HTTP/1.1; absolute").await;
        assert_eq!(origin.connections(), 1);
    });
}

#[test]
fn a_peer_with_the_wrong_identity_is_refused() {
    local(async {
        let mut domain = Domain::new();
        let origin = Origin::mesh(&domain.identity(CART), |_| Answer::ok(b"wrong")).await;
        let caller = domain.identity(STOREFRONT);
        let hop = Hop::to(&origin).mesh(&caller, &[STOREFRONT]).start().await;
        let response = hop.h2().await.send(post("/", "secret")).await.unwrap();
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        let reason = response.headers["x-tasuki-reason"].to_str().unwrap();
        assert!(reason.starts_with("tls_failure"), "{reason}");
        let stranger = Domain::new().identity(STOREFRONT);
        let hop = Hop::to(&origin).mesh(&stranger, &[CART]).start().await;
        let response = hop.h2().await.send(post("/", "secret")).await.unwrap();
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(origin.requests(), 0);
    });
}

#[test]
fn an_application_that_closes_idle_connections_loses_nothing_that_is_safe_to_repeat() {
    local(async {
        let posts = Rc::new(Cell::new(0));
        let seen = posts.clone();
        // Answers once on each connection, then closes it under the next request.
        let application = Origin::raw(move |mut io: TcpStream| {
            let seen = seen.clone();
            async move {
                for number in 0..2 {
                    let head = read_until(&mut io, "\r\n\r\n").await;
                    seen.set(seen.get() + usize::from(head.starts_with("POST")));
                    if number == 0 {
                        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .await
                            .unwrap();
                    }
                }
            }
        })
        .await;
        let mut io = beside(&application, vec![]).await.tcp().await;
        for _ in 0..3 {
            io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            let answer = read_until(&mut io, "\r\n\r\nok").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        io.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let answer = read_until(&mut io, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(posts.get(), 1);
    });
}

#[test]
fn policies_do_not_see_what_only_the_mesh_may_say() {
    local(async {
        let application = Origin::h1(|_| Answer::ok(b"in")).await;
        let with_header = |name: &str| Rbac {
            action: RbacAction::Allow,
            policies: vec![Policy {
                name: "with-header".into(),
                permissions: vec![Permission::Any],
                principals: vec![Principal::Header(HeaderMatch {
                    name: name.into(),
                    value: ValueMatch::Present,
                    invert: false,
                    missing_as_empty: false,
                })],
            }],
        };
        for (name, status) in [
            ("x-forwarded-client-cert", StatusCode::FORBIDDEN),
            ("x-tasuki-peer", StatusCode::FORBIDDEN),
            ("x-other", StatusCode::OK),
        ] {
            let hop = beside(&application, vec![with_header(name)]).await;
            let mut io = hop.tcp().await;
            io.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{name}: URI=me\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let answer = read_until(&mut io, "\r\n\r\n").await;
            let expected = format!("HTTP/1.1 {}", status.as_u16());
            assert!(answer.starts_with(&expected), "{name}: {answer}");
        }
    });
}

#[test]
fn an_application_that_says_goaway_loses_nothing() {
    local(async {
        let application = Origin::h2(|request| Answer::ok(&request.body)).await;
        application.goaway_after(10);
        let mut client = beside(&application, vec![]).await.h2().await;
        for _ in 0..100 {
            let response = client.send(post("/pay", "once")).await.unwrap();
            assert_eq!(
                (response.status, &response.body[..]),
                (StatusCode::OK, &b"once"[..])
            );
        }
        assert!(application.connections() > 5);
    });
}

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

#[test]
fn a_request_gets_an_id_at_its_first_hop_and_keeps_the_one_it_has() {
    local(async {
        let origin = Origin::h2(|request| {
            let id = request.headers.get("x-request-id").map(|id| id.as_bytes());
            Answer::ok(id.unwrap_or_default())
        })
        .await;
        let mut client = Hop::to(&origin).start().await.h2().await;
        let made = client.send(get("/")).await.unwrap().body;
        assert_eq!(made.len(), 36);
        assert_ne!(client.send(get("/")).await.unwrap().body, made);
        let mut request = get("/");
        request
            .headers_mut()
            .insert("x-request-id", "mine".parse().unwrap());
        assert_eq!(client.send(request).await.unwrap().body, b"mine");
        // Inbound, where a request without one did not come from the mesh.
        let mut client = beside(&origin, Vec::new()).await.h2().await;
        assert_eq!(client.send(get("/")).await.unwrap().body, b"");
    });
}

/// Too much for the kernel, little enough for the HTTP libraries to take at once.
const ANSWER: usize = 200 * 1024;

/// Starts the drain, which must not end while the client reads nothing.
async fn drains_not(drain: &Drain) {
    drain.start();
    let ended = drain.finished(Duration::from_secs(60));
    let ended = tokio::time::timeout(Duration::from_millis(1_500), ended).await;
    assert!(ended.is_err(), "the answer was given up");
}

#[test]
fn a_drain_waits_for_an_http1_client_that_reads_slowly() {
    local(async {
        let origin = Origin::h1(|_| Answer::ok(&[b'x'; ANSWER])).await;
        let hop = Hop::to(&origin).narrow().start().await;
        let mut io = hop.narrow_tcp().await;
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        origin.reached(1).await;
        drains_not(&hop.drain).await;
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() > ANSWER, "{}", answer.len());
        assert_eq!(hop.drain.finished(Duration::from_secs(60)).await, 0);
    });
}

#[test]
fn a_drain_waits_for_an_http2_client_that_reads_slowly() {
    local(async {
        let origin = Origin::h2(|_| Answer::ok(&[b'x'; ANSWER])).await;
        let hop = Hop::to(&origin).narrow().start().await;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 20);
        let io = hop.narrow_tcp().await;
        let (mut send, mut connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
        let (response, _) = send.send_request(get("/").map(drop), true).unwrap();
        tokio::select! {
            ended = &mut connection => panic!("{ended:?}"),
            () = origin.reached(1) => {}
        }
        // Nobody reads the connection meanwhile.
        drains_not(&hop.drain).await;
        tokio::task::spawn_local(async move { drop(connection.await) });
        let mut body = response.await.unwrap().into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            length += data.unwrap().len();
        }
        assert_eq!(length, ANSWER);
        assert_eq!(hop.drain.finished(Duration::from_secs(60)).await, 0);
    });
}
