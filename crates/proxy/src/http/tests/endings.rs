//! Requests that end before their answer does: timeouts, clients that leave, drains.

use super::*;

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
                            count(&ended.held);
                            while let Ok(1..) = io.read(&mut [0; 64]).await {}
                            count(&ended.ended);
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
                reaches(&seen.held, 1).await;
                drop(io);
                reaches(&seen.ended, 1).await;
            }
        });
    }
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
