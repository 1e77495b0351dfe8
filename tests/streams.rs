//! Connections that are big, long, slow, silent, many or hostile.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tasuki_e2e::frames::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, frame};
use tasuki_e2e::{HOST, VIP, backend, client, http_server};
use tasuki_testkit::client::{Ask, connect};
use tasuki_testkit::load::Plan;
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, Sidecar, service};
use tasuki_testkit::origin::Kind;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

struct Scene {
    client: RunningPod,
    sidecar: Sidecar,
    server: tasuki_e2e::Backend,
    mesh: Mesh,
}

fn scene(name: &str) -> Scene {
    let mesh = Mesh::start(name).unwrap();
    http_server(&mesh).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (client, sidecar) = client(&mesh, "client", "default").unwrap();
    wait::until("the service answers", Duration::from_secs(15), || {
        let answer = client.get(VIP, HOST, "/")?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();
    Scene {
        client,
        sidecar,
        server,
        mesh,
    }
}

fn vip() -> SocketAddr {
    VIP.parse().unwrap()
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    if !have("streams: websocket", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("websocket");
    let mut stream = connect(&scene.client.namespace, vip()).unwrap();
    let head = format!(
        "GET /socket HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("upgrade: websocket"),
        "{answer}"
    );
    for round in 0..100u32 {
        let message = vec![round as u8; 1000];
        stream.write_all(&message).unwrap();
        let mut back = vec![0; 1000];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, message);
    }
}

#[test]
fn a_gibibyte_up_and_down_does_not_fill_memory() {
    if !have("streams: gibibyte", &[Need::Namespaces]) {
        return;
    }
    const GIB: u64 = 1 << 30;
    let scene = scene("gibibyte");
    let resident = || {
        [&scene.sidecar, &scene.server.sidecar].map(|sidecar| sidecar.process.resident().unwrap())
    };
    let before = resident();
    let bounded = |what: &str| {
        for ((before, after), side) in before.iter().zip(resident()).zip(["client", "server"]) {
            assert!(
                after.saturating_sub(*before) < 32 << 20,
                "{what}, {side}'s proxy: grew from {before} to {after} bytes"
            );
        }
    };
    let mut stream = connect(&scene.client.namespace, vip()).unwrap();
    stream
        .write_all(
            format!("GET /bytes/{GIB} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .unwrap();
    let mut buffer = vec![0; 1 << 18];
    let mut got = 0u64;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => got += n as u64,
            // A signal, for example of a child that ended.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("after {got} bytes: {error}"),
        }
    }
    assert!(got >= GIB, "{got} bytes down");
    bounded("down");
    let mut stream = connect(&scene.client.namespace, vip()).unwrap();
    stream.write_all(format!("POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {GIB}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    for _ in 0..GIB / buffer.len() as u64 {
        stream.write_all(&buffer).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(&GIB.to_string()), "{answer}");
    bounded("up");
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    if !have("streams: server first", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("serverfirst").unwrap();
    // One port declared, one that has to be found out.
    mesh.apply(
        "mail",
        &service(
            "default",
            "mail",
            "10.96.0.50",
            &[("tcp-mail", 25, 2525), ("mail", 26, 2626)],
        ),
    )
    .unwrap();
    let server = mesh
        .pod(
            PodSpec::new("mail")
                .port("tcp-mail", 2525)
                .port("mail", 2626),
        )
        .unwrap();
    let _first = server.origin(2525, Kind::ServerFirst).unwrap();
    let _second = server.origin(2626, Kind::ServerFirst).unwrap();
    let _server = server.sidecar().unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    for port in [25, 26] {
        wait::until("the greeting arrives", Duration::from_secs(15), || {
            let mut stream = connect(&pod.namespace, format!("10.96.0.50:{port}").parse()?)?;
            let mut greeting = [0; 10];
            stream.read_exact(&mut greeting)?;
            anyhow::ensure!(&greeting == b"220 mail\r\n", "{greeting:?}");
            stream.write_all(b"and back")?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut rest = String::new();
            stream.read_to_string(&mut rest)?;
            anyhow::ensure!(rest == "and back", "half-close: {rest:?}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("port {port}: {error:#}"));
    }
}

#[test]
fn a_client_silent_for_five_seconds_is_still_subject_to_a_path_policy() {
    if !have("streams: silent client", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("silent");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: closed, namespace: default}\nspec:\n  selector: {matchLabels: {app: http-server}}\n  action: DENY\n  rules: [{to: [{operation: {paths: [\"/closed\"]}}]}]\n";
    scene.mesh.apply("closed", policy).unwrap();
    wait::until("the policy applies", Duration::from_secs(10), || {
        let answer = scene.client.get(VIP, HOST, "/closed")?;
        anyhow::ensure!(answer.status == 403, "{}", answer.status);
        Ok(())
    })
    .unwrap();
    for (path, expected) in [("/closed", "403"), ("/open", "200")] {
        let mut stream = connect(&scene.client.namespace, vip()).unwrap();
        std::thread::sleep(Duration::from_secs(5));
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{path}: {answer}"
        );
    }
}

#[test]
fn a_header_block_of_seventy_kilobytes_is_refused() {
    if !have("streams: big header", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("headers");
    let big = "x".repeat(70 * 1024);
    let seen = scene.server.origin.controls.seen();
    let mut stream = connect(&scene.client.namespace, vip()).unwrap();
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nx-big: {big}\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(
        scene.server.origin.controls.seen(),
        seen,
        "it reached the application"
    );
    let ask = Ask::get(vip(), HOST, "/")
        .protocol(tasuki_testkit::load::Protocol::Http2)
        .header("x-big", &big);
    match scene.client.send(ask) {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(error) => assert!(
            format!("{error:#}").contains("stream"),
            "only this stream may suffer: {error:#}"
        ),
    }
    assert_eq!(scene.client.get(VIP, HOST, "/").unwrap().status, 200);
}

#[test]
fn slow_clients_do_not_keep_others_from_being_served() {
    if !have("streams: slow-loris", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("loris");
    let before = scene.sidecar.process.resident().unwrap();
    let mut slow: Vec<_> = (0..500)
        .map(|_| connect(&scene.client.namespace, vip()).unwrap())
        .collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: half").unwrap();
    }
    let report = scene
        .client
        .load(Plan {
            concurrency: 8,
            requests: Some(2_000),
            ..Plan::new(vip(), HOST)
        })
        .unwrap();
    assert_eq!(report.failed(), 0, "{report}");
    let grown = scene
        .sidecar
        .process
        .resident()
        .unwrap()
        .saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for 500 slow clients");
}

#[test]
fn floods_of_resets_pings_and_continuations_are_bounded() {
    if !have("streams: floods", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("floods");
    for (name, flood) in [
        ("rapid reset", rapid_reset as fn(u32) -> Vec<u8>),
        ("ping", pings),
        ("continuation", continuations),
    ] {
        let mut stream = connect(&scene.client.namespace, vip()).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .unwrap();
        let before = scene.sidecar.process.resident().unwrap();
        let started = Instant::now();
        let mut round = 0;
        while started.elapsed() < Duration::from_secs(3) && stream.write_all(&flood(round)).is_ok()
        {
            round += 1;
        }
        let answer = scene.client.get(VIP, HOST, "/").unwrap();
        assert_eq!(answer.status, 200, "others are served during {name}");
        let grown = scene
            .sidecar
            .process
            .resident()
            .unwrap()
            .saturating_sub(before);
        assert!(
            grown < 32 << 20,
            "{name}: {grown} bytes after {round} rounds"
        );
    }
    drop(scene.mesh);
}

/// GET / by indexed fields: `:method: GET`, `:scheme: http`, `:path: /`, `:authority: x`.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'];

fn rapid_reset(round: u32) -> Vec<u8> {
    (0..100)
        .flat_map(|index| {
            let stream = (round * 100 + index) * 2 + 1;
            [
                frame(HEADERS, END_STREAM | END_HEADERS, stream, GET),
                frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat()
        })
        .collect()
}

fn pings(_: u32) -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8]).repeat(500)
}

fn continuations(round: u32) -> Vec<u8> {
    let piece = [&[0x00, 0x01, b'a', 0x7f, 0x80, 0x01][..], &[b'b'; 255]].concat();
    match round {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &piece).repeat(20),
    }
}

#[test]
fn thousands_of_idle_connections_are_held() {
    if !have("streams: idle connections", &[Need::Namespaces]) {
        return;
    }
    const CONNECTIONS: usize = 10_000;
    // Both for the clients here, beside what other test threads open, and for the proxy, which
    // inherits it and keeps a quarter for itself.
    tasuki_testkit::process::allow_open_files(2 * CONNECTIONS as u64).unwrap();
    let scene = scene("idle");
    let streams: Vec<_> = scene
        .client
        .namespace
        .run(|| {
            (0..CONNECTIONS)
                .map(|_| std::net::TcpStream::connect(vip()))
                .collect::<Result<Vec<_>, _>>()
        })
        .unwrap()
        .unwrap();
    let report = scene
        .client
        .load(Plan {
            concurrency: 8,
            requests: Some(1_000),
            ..Plan::new(vip(), HOST)
        })
        .unwrap();
    assert_eq!(
        report.failed(),
        0,
        "beside {} idle connections: {report}",
        streams.len()
    );
    let resident = scene.sidecar.process.resident().unwrap() >> 20;
    assert!(
        resident < 400,
        "{resident} MiB for {} idle connections",
        streams.len()
    );
}
