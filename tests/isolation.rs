//! What a peer, or the application itself, can reach that it should not: the proxy's own ports,
//! ports that an application bound to loopback, ways around STRICT, loops, and a scan of the world.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use tasuki_e2e::{HOST, VIP, answers, backend, client, http_server, mtls_mode};
use tasuki_testkit::client::{Ask, connect};
use tasuki_testkit::mesh::{ControlOptions, Mesh, PodSpec};
use tasuki_testkit::namespace::Namespace;
use tasuki_testkit::origin::{Kind, Origin};
use tasuki_testkit::require::{Need, have};

/// What comes back when something is sent there; an error or nothing means refused.
fn probe(from: &Namespace, target: SocketAddr) -> String {
    let exchange = || {
        let mut stream = connect(from, target)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(
            format!("GET /config_dump HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    exchange().unwrap_or_default()
}

fn refused(answer: &str) -> bool {
    !answer.contains(" 200 ") && !answer.contains("secret")
}

#[test]
fn a_peer_reaches_neither_the_proxys_ports_nor_loopback_ports() {
    if !have("isolation: ports", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("isolation").unwrap();
    http_server(&mesh).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let stranger = mesh.pod(PodSpec::new("stranger").plain()).unwrap();
    let private = Origin::start(
        &server.pod.namespace,
        "secret",
        ([127, 0, 0, 1], 7777).into(),
        Kind::Http,
    )
    .unwrap();
    for port in [15000, 15001, 15006, 7777] {
        for from in [&stranger.namespace, &pod.namespace] {
            let answer = probe(from, server.pod.at(port));
            assert!(refused(&answer), "port {port}: {answer}");
        }
    }
    assert_eq!(private.controls.seen(), 0);
    let own = server.pod.get(VIP, HOST, "/").unwrap();
    assert_eq!(
        own.status, 200,
        "the application calls its own Service: {}",
        own.body
    );
}

#[test]
fn link_local_ipv6_does_not_get_around_strict() {
    if !have("isolation: link-local", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("linklocal").unwrap();
    http_server(&mesh).unwrap();
    mesh.apply("mode", &mtls_mode("STRICT")).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let any6 = SocketAddr::from(([0u16; 8], 8081));
    let _six = Origin::start(&server.pod.namespace, "secret", any6, Kind::Http).unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let stranger = mesh.pod(PodSpec::new("stranger").plain()).unwrap();
    let link = server
        .pod
        .namespace
        .command(
            "ip",
            &[
                "-6", "-o", "address", "show", "dev", "eth0", "scope", "link",
            ],
        )
        .unwrap();
    let address = link
        .split_whitespace()
        .find(|word| word.starts_with("fe80"))
        .unwrap();
    let address = address.split('/').next().unwrap().parse().unwrap();
    let scope = interface_index(&stranger.namespace).unwrap();
    for port in [8080, 8081] {
        let target = SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope));
        let answer = probe_briefly(&stranger.namespace, target);
        assert!(
            refused(&answer),
            "port {port} over link-local IPv6: {answer}"
        );
    }
}

/// The scope id of `eth0`, which is private to each namespace.
fn interface_index(namespace: &Namespace) -> anyhow::Result<u32> {
    let line = namespace.command("ip", &["-o", "link", "show", "eth0"])?;
    Ok(line.split(':').next().unwrap_or_default().trim().parse()?)
}

/// Like [`probe`], for packets that are dropped without an answer.
fn probe_briefly(from: &Namespace, target: SocketAddr) -> String {
    let connected =
        from.run(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2)));
    match connected {
        Ok(Ok(_)) => probe(from, target),
        _ => String::new(),
    }
}

#[test]
fn a_service_entry_for_the_proxys_own_ports_loops_nowhere() {
    if !have("isolation: loops", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("loops").unwrap();
    http_server(&mesh).unwrap();
    let _server = backend(&mesh, "version-a").unwrap();
    let pod = mesh.pod(PodSpec::new("client")).unwrap();
    let sidecar = pod.sidecar().unwrap();
    answers(&pod);
    for (name, ip, port) in [
        ("out", "127.0.0.1", 15001),
        ("in", "127.0.0.1", 15006),
        ("admin", "127.0.0.1", 15000),
        ("self", &pod.namespace.ip.to_string(), 15001),
    ] {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: loop-{name}, namespace: default}}\nspec:\n  hosts: [{name}.example.com]\n  addresses: [240.0.0.9]\n  resolution: STATIC\n  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {port}}}]\n  endpoints: [{{address: {ip}}}]\n"
        );
        mesh.apply("loop", &yaml).unwrap();
        std::thread::sleep(Duration::from_millis(1_500));
        let answer = pod.send(Ask::get(
            "240.0.0.9:80".parse().unwrap(),
            &format!("{name}.example.com"),
            "/config_dump",
        ));
        if let Ok(answer) = answer {
            assert!(
                answer.status >= 400,
                "{name}: {} {}",
                answer.status,
                answer.body
            );
        }
        assert!(sidecar.process.is_running());
    }
    answers(&pod);
}

#[test]
fn a_scan_of_twenty_thousand_addresses_stays_calm() {
    if !have("isolation: scan", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("scan").unwrap();
    http_server(&mesh).unwrap();
    let _server = backend(&mesh, "version-a").unwrap();
    let (pod, sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    let (before, control_before) = (
        sidecar.process.resident().unwrap(),
        mesh.control_resident().unwrap(),
    );
    let scanning = pod.namespace.spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(200));
            let mut scans = tokio::task::JoinSet::new();
            for host in 0..20_000u32 {
                let permit = std::sync::Arc::clone(&permits).acquire_owned().await?;
                scans.spawn(async move {
                    let [_, _, high, low] = host.to_be_bytes();
                    let target = SocketAddr::from(([10, 200, high, low], 80));
                    let _ = tokio::time::timeout(
                        Duration::from_secs(2),
                        tokio::net::TcpStream::connect(target),
                    )
                    .await;
                    drop(permit);
                });
            }
            while scans.join_next().await.is_some() {}
            anyhow::Ok(())
        })
    });
    scanning.join().unwrap().unwrap().unwrap();
    answers(&pod);
    let (after, control_after) = (
        sidecar.process.resident().unwrap(),
        mesh.control_resident().unwrap(),
    );
    let mib = |bytes: u64| bytes >> 20;
    assert!(
        mib(after.saturating_sub(before)) < 32,
        "the proxy grew from {} to {} MiB",
        mib(before),
        mib(after)
    );
    assert!(
        mib(control_after.saturating_sub(control_before)) < 16,
        "the control plane grew from {} to {} MiB",
        mib(control_before),
        mib(control_after)
    );
}

#[test]
fn unknown_destinations_pass_through_or_are_refused_as_told() {
    if !have("isolation: unknown", &[Need::Namespaces]) {
        return;
    }
    for (policy, open) in [("allow-any", true), ("registry-only", false)] {
        let options = ControlOptions {
            args: vec![format!("--outbound-traffic-policy={policy}")],
        };
        let mesh = Mesh::start_with(policy, options).unwrap();
        let outside = mesh.network.outsider("outside", 20).unwrap();
        let _origin =
            Origin::start(&outside, "outside", ([0, 0, 0, 0], 80).into(), Kind::Http).unwrap();
        let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
        let answer = pod.get("203.0.113.20:80", "unknown.example.com", "/");
        let reached = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        assert_eq!(reached, open, "{policy}: {answer:?}");
    }
    let mesh = Mesh::start("disconnected").unwrap();
    let outside = mesh.network.outsider("outside", 20).unwrap();
    let _origin =
        Origin::start(&outside, "outside", ([0, 0, 0, 0], 80).into(), Kind::Http).unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    mesh.kill_control();
    let answer = pod.get("203.0.113.20:80", "unknown.example.com", "/");
    assert!(
        !answer.is_ok_and(|answer| answer.status == 200),
        "a name never seen is refused while the control plane is away"
    );
}

#[test]
fn a_pod_address_leads_to_that_pod() {
    if !have("isolation: pod address", &[Need::Namespaces]) {
        return;
    }
    let mesh = Mesh::start("podip").unwrap();
    http_server(&mesh).unwrap();
    let a = backend(&mesh, "version-a").unwrap();
    let _b = backend(&mesh, "version-b").unwrap();
    let (pod, _sidecar) = client(&mesh, "client", "default").unwrap();
    answers(&pod);
    for _ in 0..20 {
        let answer = pod
            .get(
                &a.pod.at(8080).to_string(),
                &a.pod.at(8080).to_string(),
                "/",
            )
            .unwrap();
        assert_eq!(
            (answer.status, answer.header("x-backend")),
            (200, "version-a"),
            "{answer:?}"
        );
        assert!(
            answer.body.contains("ns/default/sa/client"),
            "with mutual TLS: {}",
            answer.body
        );
    }
    // Nobody listens there: that must fail, not hang.
    assert!(refused(&probe(&pod.namespace, a.pod.at(9))));
}
