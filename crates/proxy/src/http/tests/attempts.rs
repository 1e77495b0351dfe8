//! Which failures are repeated, how often, and what the last one becomes.

use super::*;

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
