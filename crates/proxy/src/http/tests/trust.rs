//! Who is believed what, and who is spoken to at all.

use super::*;

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
