//! Namespaces on the real kernel; skipped, with a line, where they cannot be made.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{Network, unavailable};
use crate::require::{Need, have};

#[test]
fn pods_reach_each_other_and_service_addresses_fail_at_once() {
    if !have("namespaces", &[Need::Namespaces]) {
        return;
    }
    let network = Network::new().unwrap();
    let (a, b) = (network.pod("a").unwrap(), network.pod("b").unwrap());
    let outside = network.outsider("outside", 10).unwrap();
    for (server, address) in [
        (&b, b.ip.to_string()),
        (&b, format!("[{}]", b.ip6)),
        (&outside, outside.ip.to_string()),
    ] {
        let listener = server
            .run(|| TcpListener::bind(format!("{address}:0")))
            .unwrap()
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let echo =
            std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
        let mut stream = a
            .run(|| TcpStream::connect(format!("{address}:{port}")))
            .unwrap()
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        echo.join().unwrap();
        assert_eq!(text, "hello");
    }
    let refused = a
        .run(|| TcpStream::connect("10.96.0.1:80"))
        .unwrap()
        .unwrap_err();
    assert!(
        refused.raw_os_error().is_some(),
        "an answer of the network, not a timeout: {refused}"
    );
}

#[test]
fn nothing_is_left_behind() {
    if unavailable().is_some() {
        return;
    }
    let network = Network::new().unwrap();
    let pod = network.pod("gone").unwrap();
    let path = format!("/run/netns/{}", pod.name());
    assert!(std::path::Path::new(&path).exists());
    drop(network);
    assert!(!std::path::Path::new(&path).exists());
}
