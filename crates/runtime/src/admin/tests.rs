//! The admin server over a real socket: methods, Host, unknown paths.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::HOST;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

fn routes() -> Routes {
    Routes::new()
        .get_locally("/secret", |_| async {
            Response::text(StatusCode::OK, "secret\n")
        })
        .get("/much", |_| async {
            Response::text(StatusCode::OK, vec![b'x'; 64 << 20])
        })
        .get("/ready", |_| async {
            Response::text(StatusCode::OK, "ready\n")
        })
        .get("/below/", |request: Request| async move {
            if request.path.ends_with("/nothing") {
                return Response::hang_up();
            }
            Response::text(StatusCode::OK, request.path)
        })
        .post("/echo", |request: Request| async move {
            Response::text(StatusCode::OK, request.body)
        })
}

fn refusal(
    routes: &Routes,
    method: Method,
    path: &str,
    headers: &[(http::HeaderName, &str)],
) -> Option<u16> {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
        .collect();
    routes
        .find(&method, path, &headers, STRANGER)
        .err()
        .map(|response| response.status.as_u16())
}

#[test]
fn a_post_needs_a_local_host_and_no_origin() {
    let post = |headers: &[_]| refusal(&routes(), Method::POST, "/echo", headers);
    for host in [
        "localhost:15000",
        "127.0.0.1:15000",
        "127.0.0.1",
        "[::1]:15000",
        "10.1.2.3:15000",
    ] {
        assert_eq!(post(&[(HOST, host)]), None, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example:15000",
        "",
        "127.0.0.1.nip.io",
    ] {
        assert_eq!(post(&[(HOST, host)]), Some(403), "{host}");
    }
    assert_eq!(post(&[]), Some(403));
    assert_eq!(
        post(&[(HOST, "localhost"), (ORIGIN, "http://evil.example")]),
        Some(403)
    );
}

#[test]
fn methods_and_paths() {
    let host = &[(HOST, "evil.example")];
    assert_eq!(refusal(&routes(), Method::GET, "/ready", host), None);
    assert_eq!(refusal(&routes(), Method::HEAD, "/ready", host), None);
    assert_eq!(
        refusal(&routes().guard_reads(), Method::GET, "/ready", host),
        Some(403)
    );
    assert_eq!(refusal(&routes(), Method::POST, "/ready", host), Some(405));
    assert_eq!(refusal(&routes(), Method::GET, "/echo", host), Some(405));
    assert_eq!(refusal(&routes(), Method::GET, "/nothing", host), Some(404));
    assert_eq!(refusal(&routes(), Method::GET, "/below/a/b", host), None);
    assert_eq!(refusal(&routes(), Method::GET, "/below", host), Some(404));
}

async fn exchange(request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        body_bytes: 16,
        ..Limits::default()
    };
    let server = tokio::spawn(serve_with(
        listener,
        routes(),
        limits,
        std::future::pending(),
    ));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn real_requests() {
    let ready = exchange("GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"),
        "{ready}"
    );
    let head = exchange("HEAD /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post = |body: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert!(exchange(&post("hello")).await.ends_with("hello"));
    assert!(
        exchange(&post(&"x".repeat(17)))
            .await
            .starts_with("HTTP/1.1 413")
    );
}

#[tokio::test]
async fn no_answer_is_an_answer_too() {
    let told = exchange("GET /below/it HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(told.ends_with("\r\n\r\n/below/it"), "{told}");
    assert_eq!(
        exchange("GET /below/nothing HTTP/1.1\r\nhost: a\r\n\r\n").await,
        ""
    );
}

#[test]
fn what_is_for_this_machine_only() {
    let find = |host: &str, client: &str| {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        let found = routes().find(&Method::GET, "/secret", &headers, client.parse().unwrap());
        found.err().map(|response| response.status.as_u16())
    };
    assert_eq!(find("localhost:15014", "127.0.0.1"), None);
    assert_eq!(find("localhost", "::1"), None);
    assert_eq!(find("10.1.2.3:15014", "10.1.2.4"), Some(403));
    assert_eq!(find("localhost:15014", "10.1.2.4"), Some(403));
    assert_eq!(find("evil.example", "127.0.0.1"), Some(403));
}

/// A server with these bounds.
async fn serving(limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let never = std::future::pending();
    tokio::spawn(serve_with(listener, routes(), limits, never));
    address
}

/// A connection from another address of this machine.
async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn is_ready(mut stream: TcpStream) -> bool {
    let request = b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn the_kubelet_gets_in_whoever_holds_the_places() {
    let limits = Limits {
        connections: 8,
        per_address: 4,
        ..Limits::default()
    };
    let address = serving(limits).await;
    let mut strangers = Vec::new();
    for number in 0..64 {
        strangers.push(from([127, 0, 1, number % 5], address).await);
        let probe = is_ready(from([127, 0, 2, 1], address).await).await;
        assert!(probe, "{number}");
    }
    for greedy in 0..64 {
        strangers.push(from([127, 0, 2, 1], address).await);
        let probe = is_ready(from([127, 0, 2, 1], address).await).await;
        assert!(probe, "{greedy}: from the address of greedy ones, too");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_the_answer_is_left() {
    let address = serving(Limits::default()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET /much HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    // Virtual time runs while nothing is read; then what the kernel holds is all there is.
    tokio::time::sleep(Duration::from_secs(41)).await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    assert!(answer.len() < 64 << 20, "all {} bytes", answer.len());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed() {
    // The half-sent head never ends; virtual time runs to the header timeout.
    let answer = exchange("GET /ready HTTP/1.1\r\n").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
}
