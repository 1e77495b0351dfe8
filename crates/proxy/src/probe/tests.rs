//! Probes of every kind against applications on real sockets, right and wrong ones.

use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::loop_guard::LoopGuard;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn prober(json: &str) -> Prober {
    let application = Application::new(HERE, LoopGuard::default());
    Prober::new(Some(application), &json.parse().unwrap())
}

/// Answers each connection's first bytes with `answer`, and gives what it read.
async fn application(answer: &'static str) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..read]);
                let _ = told.send(format!("{} {text}", peer.ip()));
                let answer = answer.replace("PORT", &port.to_string());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (port, heard)
}

async fn http(answer: &'static str) -> Outcome {
    let (port, _heard) = application(answer).await;
    let json = format!(r#"{{"app/readiness":{{"httpGet":{{"port":{port},"path":"/r"}}}}}}"#);
    prober(&json).ask("app", Kind::Readiness).await.unwrap()
}

async fn unused_port() -> u16 {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn an_http_probe_is_as_the_kubelet_would_make_it() {
    let (port, mut heard) = application("HTTP/1.1 204 No Content\r\n\r\n").await;
    let json = format!(
        r#"{{"app/liveness":{{"httpGet":{{"port":{port},"path":"/l?x","httpHeaders":[{{"name":"Host","value":"shop"}}]}}}}}}"#
    );
    let outcome = prober(&json).ask("app", Kind::Liveness).await;
    assert_eq!(outcome, Some(Outcome::Success));
    let request = heard.recv().await.unwrap().to_lowercase();
    assert!(
        request.starts_with("127.0.0.6 get /l?x http/1.1\r\n"),
        "{request}"
    );
    for header in [
        "\r\nhost: shop\r\n",
        "\r\nuser-agent: kube-probe/",
        "\r\nconnection: close\r\n",
    ] {
        assert!(request.contains(header), "{request}");
    }
}

#[tokio::test]
async fn statuses_are_told_and_bodies_are_not() {
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            StatusCode::OK,
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\n\r\n",
            StatusCode::OK,
        ),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", StatusCode::OK),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            StatusCode::NOT_FOUND,
        ),
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 6\r\nx-secret: 1\r\n\r\nsecret",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        // Broken off, and no HTTP.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        ("SSH-2.0-OpenSSH\r\n", StatusCode::SERVICE_UNAVAILABLE),
        // To itself, for ever.
        (
            "HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:PORT/r\r\ncontent-length: 0\r\n\r\n",
            StatusCode::SERVICE_UNAVAILABLE,
        ),
    ] {
        let outcome = http(answer).await;
        assert_eq!(outcome.status(), expected, "{answer:?}: {outcome}");
        assert!(!outcome.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_tcp_probe_fails_when_nobody_listens() {
    let (port, _heard) = application("").await;
    let closed = unused_port().await;
    for (port, expected) in [
        (port, Outcome::Success),
        (closed, Outcome::Failed(Failure::NoConnection)),
    ] {
        let json = format!(r#"{{"app/startup":{{"tcpSocket":{{"port":{port}}}}}}}"#);
        let outcome = prober(&json).ask("app", Kind::Startup).await;
        assert_eq!(outcome, Some(expected));
    }
}

#[tokio::test]
async fn a_silent_application_fails_in_time() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let json = format!(r#"{{"app/readiness":{{"httpGet":{{"port":{port}}},"timeoutSeconds":1}}}}"#);
    let outcome = prober(&json).ask("app", Kind::Readiness).await;
    assert_eq!(outcome, Some(Outcome::Failed(Failure::Timeout)));
}

#[tokio::test]
async fn our_own_listeners_and_loopback_are_not_the_application() {
    let (port, _heard) = application("HTTP/1.1 200 OK\r\n\r\n").await;
    let guard = LoopGuard::new(vec![port], Vec::new());
    let json = format!(r#"{{"app/readiness":{{"tcpSocket":{{"port":{port}}}}}}}"#);
    let own = Prober::new(Some(Application::new(HERE, guard)), &json.parse().unwrap());
    let refused = Some(Outcome::Failed(Failure::NotTheApplication));
    assert_eq!(own.ask("app", Kind::Readiness).await, refused);
    let json =
        format!(r#"{{"app/readiness":{{"tcpSocket":{{"port":{port},"host":"localhost"}}}}}}"#);
    assert_eq!(prober(&json).ask("app", Kind::Readiness).await, refused);
}

#[tokio::test]
async fn a_hook_has_succeeded_when_it_was_answered() {
    for (answer, expected) in [
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            Outcome::Success,
        ),
        ("nonsense", Outcome::Failed(Failure::Broken)),
    ] {
        let (port, _heard) = application(answer).await;
        let json = format!(r#"{{"app/prestop":{{"httpGet":{{"port":{port}}}}}}}"#);
        assert_eq!(
            prober(&json).ask("app", Kind::PreStop).await,
            Some(expected)
        );
    }
}

#[tokio::test]
async fn what_is_not_declared_is_not_made_up() {
    let (port, _heard) = application("").await;
    let prober = prober(&format!(
        r#"{{"app/startup":{{"tcpSocket":{{"port":{port}}}}}}}"#
    ));
    assert_eq!(prober.ask("app", Kind::Liveness).await, None);
    assert_eq!(prober.ask("other", Kind::Startup).await, None);
}

mod over_http2;
