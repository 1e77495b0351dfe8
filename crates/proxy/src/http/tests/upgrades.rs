//! Upgrades over HTTP/1 and as extended CONNECT; 100 and other 1xx.

use super::*;

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
