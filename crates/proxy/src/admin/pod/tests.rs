//! 15021 over a real socket: hooks are the kubelet's alone, probes anybody's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tasuki_runtime::admin::serve_with;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::application::Application;
use crate::drain::Drain;
use crate::loop_guard::LoopGuard;
use crate::settings::UnknownPolicy;
use crate::state::State;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An application that counts its calls.
async fn application() -> (u16, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (called, calls) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = called.send(());
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        }
    });
    (port, calls)
}

/// The port of a sidecar with a postStart, a readiness probe and the preStop that waits.
async fn serving(application_port: u16, hook_key: Option<HookKey>) -> (SocketAddr, Drain) {
    let get = format!(r#"{{"httpGet":{{"port":{application_port}}}}}"#);
    let probes = format!(r#"{{"cart/poststart":{get},"cart/readiness":{get}}}"#);
    let application = Application::new(HERE, LoopGuard::default());
    let prober = Prober::new(Some(application), &probes.parse().unwrap());
    let (state, _demands) = State::new(UnknownPolicy::Refuse);
    let drain = Drain::new();
    let leave = Leave {
        state,
        drain: drain.clone(),
        limit: Duration::from_millis(1),
        minimum: Duration::ZERO,
    };
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = routes(Routes::new(), &prober, &leave, hook_key);
    tokio::spawn(serve_with(listener, routes, LIMITS, std::future::pending()));
    (address, drain)
}

/// The status of an answer.
async fn get(address: SocketAddr, path: &str, key: Option<&str>) -> String {
    let key = key.map_or(String::new(), |key| format!("tasuki-hook-key: {key}\r\n"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{key}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_hook_without_its_key_does_nothing() {
    let key = HookKey::random();
    let (port, mut calls) = application().await;
    let (address, drain) = serving(port, Some(key)).await;
    let wrong = HookKey::random().digits();
    for path in ["/app/cart/poststart", "/app/cart/prestop", "/app/x/prestop"] {
        for presented in [None, Some(""), Some("0"), Some(wrong.as_str())] {
            assert_eq!(get(address, path, presented).await, "404", "{path}");
        }
    }
    assert!(calls.try_recv().is_err(), "the application was called");
    assert!(!drain.watch().is_draining());
    let right = key.digits();
    let right = Some(right.as_str());
    assert_eq!(get(address, "/app/cart/poststart", right).await, "200");
    assert!(calls.try_recv().is_ok());
    assert_eq!(get(address, "/app/cart/prestop", right).await, "200");
    assert!(
        drain.watch().is_draining(),
        "nobody says that the pod stays"
    );
}

#[tokio::test]
async fn probes_need_no_key() {
    let (port, mut calls) = application().await;
    let (address, _) = serving(port, None).await;
    assert_eq!(get(address, "/app/cart/readiness", None).await, "200");
    assert!(calls.try_recv().is_ok());
    assert_eq!(get(address, "/app/cart/liveness", None).await, "404");
    let digits = HookKey::random().digits();
    let hook = get(address, "/app/cart/poststart", Some(&digits)).await;
    assert_eq!(hook, "404", "no key, no hooks");
}
