//! Attackers at the two doors that strangers can knock at, a sidecar's inbound listener and a gateway: each attack is
//! bounded in count and time, memory stays where it was, and a well-behaved client beside it loses nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tasuki_e2e::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, UNKNOWN, WINDOW_UPDATE, frame, literal, literal_path,
};
use tasuki_e2e::gateway::Gateway;
use tasuki_e2e::{Backend, HOST, VIP, backend, client, http_server};
use tasuki_testkit::client::connect;
use tasuki_testkit::load::{Plan, Protocol};
use tasuki_testkit::mesh::{Mesh, PodSpec, RunningPod, Sidecar};
use tasuki_testkit::process::Process;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

const PUBLIC_HOST: &str = "shop.example.com";
const PUBLIC: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: public, namespace: default}
spec:
  hosts: [shop.example.com]
  gateways: [gateway]
  http:
  - route: [{destination: {host: http-server}}]
";

/// What an attack may cost in resident memory.
const MEMORY: u64 = 64 << 20;
/// No attack goes on for longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(60);
/// A flood that is not cut off ends after this long.
const FLOOD: Duration = Duration::from_secs(15);

/// Two victims, an attacker outside the mesh, and clients that mean well.
struct Scene {
    attacker: RunningPod,
    customer: RunningPod,
    member: RunningPod,
    gateway: Gateway,
    server: Backend,
    _member_sidecar: Sidecar,
    _mesh: Mesh,
}

/// A door, who stands behind it, and how those who mean well come through it.
struct Door<'a> {
    name: &'static str,
    address: SocketAddr,
    proxy: &'a Process,
    friend: &'a RunningPod,
    visit: Plan,
}

impl Scene {
    fn new(name: &str) -> Self {
        let mesh = Mesh::start(name).unwrap();
        http_server(&mesh).unwrap();
        mesh.apply("public", PUBLIC).unwrap();
        let server = backend(&mesh, "version-a").unwrap();
        let gateway = Gateway::start(&mesh, "gateway").unwrap();
        let (member, member_sidecar) = client(&mesh, "member", "default").unwrap();
        let customer = mesh.pod(PodSpec::new("customer").plain()).unwrap();
        let attacker = mesh.pod(PodSpec::new("attacker").plain()).unwrap();
        let scene = Self {
            attacker,
            customer,
            member,
            gateway,
            server,
            _member_sidecar: member_sidecar,
            _mesh: mesh,
        };
        for door in scene.doors() {
            wait::until("the door is open", Duration::from_secs(20), || {
                let target = door.visit.target.to_string();
                let answer = door.friend.get(&target, &door.visit.authority, "/")?;
                anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
                Ok(())
            })
            .unwrap();
        }
        scene
    }

    fn doors(&self) -> [Door<'_>; 2] {
        let visit = |target, authority| Plan {
            concurrency: 4,
            rate: Some(100.0),
            protocol: Protocol::Http2,
            ..Plan::new(target, authority)
        };
        let gateway = self.gateway.pod.at(80);
        [
            Door {
                name: "inbound",
                address: self.server.pod.at(8080),
                proxy: &self.server.sidecar.process,
                friend: &self.member,
                visit: visit(VIP.parse().unwrap(), HOST),
            },
            Door {
                name: "gateway",
                address: gateway,
                proxy: &self.gateway.process,
                friend: &self.customer,
                visit: visit(gateway, PUBLIC_HOST),
            },
        ]
    }

    /// Attacks each door while a friend visits it.
    fn withstand(&self, attack: impl Fn(&RunningPod, &Door<'_>)) {
        self.withstand_within(MEMORY, attack);
    }

    /// The same, for an attack that may cost so many bytes.
    fn withstand_within(&self, memory: u64, attack: impl Fn(&RunningPod, &Door<'_>)) {
        for door in self.doors() {
            let before = door.proxy.resident().unwrap();
            let visits = door.friend.start_load(door.visit.clone());
            attack(&self.attacker, &door);
            let during = visits.finish().unwrap();
            let after = door.friend.load(Plan {
                requests: Some(20),
                ..door.visit.clone()
            });
            let grown = door.proxy.resident().unwrap().saturating_sub(before);
            assert_eq!(during.failed(), 0, "{}: {during}", door.name);
            let after = after.unwrap();
            assert_eq!(after.succeeded(), 20, "{}: {after}", door.name);
            assert!(grown < memory, "{}: grew by {grown} bytes", door.name);
        }
    }
}

#[test]
fn slow_loris_is_cut_off() {
    if !have("hostile: slow-loris", &[Need::Namespaces]) {
        return;
    }
    const CONNECTIONS: usize = 500;
    Scene::new("hostileloris").withstand(|attacker, door| {
        let mut slow: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut stream = connect(&attacker.namespace, door.address).unwrap();
                stream
                    .write_all(b"GET / HTTP/1.1\r\nhost: shop.example.com\r\nx: ")
                    .unwrap();
                stream.set_nonblocking(true).unwrap();
                stream
            })
            .collect();
        let started = Instant::now();
        while !slow.is_empty() && started.elapsed() < LIMIT {
            slow.retain_mut(|stream| stream.write(b"x").is_ok() && is_open(stream));
            // The pace of the attack.
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(
            slow.is_empty(),
            "{}: {} of {CONNECTIONS} still open after {LIMIT:?}",
            door.name,
            slow.len()
        );
    });
}

/// Whether the peer has not closed; what it says is thrown away.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut scrap = [0; 1_024];
    loop {
        match stream.read(&mut scrap) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn floods_of_resets_are_cut_off() {
    if !have("hostile: rapid reset", &[Need::Namespaces]) {
        return;
    }
    Scene::new("hostilereset").withstand(|attacker, door| {
        let round = |round: u32| -> Vec<u8> {
            (0..100)
                .flat_map(|index| {
                    let stream = (round * 100 + index) * 2 + 1;
                    let cancel = 8_u32.to_be_bytes();
                    [
                        frame(HEADERS, END_STREAM | END_HEADERS, stream, GET),
                        frame(RST_STREAM, 0, stream, &cancel),
                    ]
                    .concat()
                })
                .collect()
        };
        let flood = Flood::new(attacker, door).run(2_000, round);
        assert!(flood.is_cut_off(), "{}: {flood:?}", door.name);
    });
}

#[test]
fn floods_of_continuations_are_cut_off() {
    if !have("hostile: continuations", &[Need::Namespaces]) {
        return;
    }
    Scene::new("hostilecont").withstand(|attacker, door| {
        // Small pieces, so that frames are counted rather than bytes, then large ones.
        for (size, rounds) in [(0, 100_000), (10, 100_000), (8_000, 5_000)] {
            let value = vec![b'x'; size];
            let field = literal(b"a", &value);
            let piece = if size == 0 { &[][..] } else { &field };
            let flood = Flood::new(attacker, door).run(rounds, |round| match round {
                0 => frame(HEADERS, END_STREAM, 1, GET),
                _ => frame(CONTINUATION, 0, 1, piece).repeat(10),
            });
            assert!(flood.is_cut_off(), "{}, {size}: {flood:?}", door.name);
        }
    });
}

#[test]
fn floods_of_control_frames_cost_nobody_else_anything() {
    if !have("hostile: control frames", &[Need::Namespaces]) {
        return;
    }
    let kinds = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PING, ACK, 0, &[1; 8]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 15]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(UNKNOWN, 0, 0, &[]),
    ];
    Scene::new("hostilecontrol").withstand(|attacker, door| {
        let logged = door.proxy.log().len();
        for one in &kinds {
            // Answers are read, so that nothing holds the flood up; then not: the proxy must stop to read, not store them.
            Flood::new(attacker, door)
                .reading()
                .run(200, |_| one.repeat(1_000));
            Flood::new(attacker, door).run(200, |_| one.repeat(1_000));
        }
        let logged = door.proxy.log().len() - logged;
        assert!(logged < 1 << 20, "{}: {logged} bytes logged", door.name);
    });
}

#[test]
fn floods_of_empty_data_are_cut_off() {
    if !have("hostile: empty data", &[Need::Namespaces]) {
        return;
    }
    Scene::new("hostileempty").withstand(|attacker, door| {
        let flood = Flood::new(attacker, door).run(2_000, |round| match round {
            0 => frame(HEADERS, END_HEADERS, 1, POST),
            _ => frame(DATA, 0, 1, &[]).repeat(100),
        });
        assert!(flood.is_cut_off(), "{}: {flood:?}", door.name);
    });
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_stalled_cost_little() {
    if !have("hostile: stalled streams", &[Need::Namespaces]) {
        return;
    }
    const CONNECTIONS: usize = 10;
    // Streams that are allowed on each, with what may be under way on a stream.
    let windows = (CONNECTIONS * 100 * 64) << 10;
    Scene::new("hostilestall").withstand_within(MEMORY + windows as u64, |attacker, door| {
        let large = [GET_METHOD, &literal_path(b"/bytes/10000000")].concat();
        // A window of nothing: no response can be sent.
        let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        for _ in 0..3 {
            let connections: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let mut flood = Flood::new(attacker, door);
                    flood.write(&no_window);
                    flood.run(10, |round| {
                        let stream = |index| (round * 100 + index) * 2 + 1;
                        let flags = END_STREAM | END_HEADERS;
                        (0..100)
                            .flat_map(|index| frame(HEADERS, flags, stream(index), &large))
                            .collect()
                    })
                })
                .collect();
            // Held until all are open, then closed all at once.
            drop(connections);
        }
    });
}

/// `:method: GET`, `:scheme: http`, `:authority: shop.example.com` (RFC 7541 appendix A).
const GET_METHOD: &[u8] = b"\x82\x86\x41\x10shop.example.com";
/// The same with `:path: /`.
const GET: &[u8] = b"\x82\x86\x41\x10shop.example.com\x84";
/// The same with `:method: POST`.
const POST: &[u8] = b"\x83\x86\x41\x10shop.example.com\x84";

/// One connection that speaks HTTP/2 and does not read.
#[derive(Debug)]
struct Flood {
    stream: TcpStream,
    sent: usize,
    failed: Option<ErrorKind>,
}

impl Flood {
    /// Connects and greets.
    fn new(attacker: &RunningPod, door: &Door<'_>) -> Self {
        let stream = connect(&attacker.namespace, door.address).unwrap();
        // Who is not read from for so long is held up.
        stream
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut flood = Self {
            stream,
            sent: 0,
            failed: None,
        };
        flood.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        flood.write(&frame(SETTINGS, 0, 0, &[]));
        flood
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        match self.stream.write_all(bytes) {
            Ok(()) => self.sent += bytes.len(),
            Err(error) => self.failed = Some(error.kind()),
        }
    }

    /// Reads what comes and throws it away.
    fn reading(self) -> Self {
        let mut answers = self.stream.try_clone().unwrap();
        // Ends with the connection.
        std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        self
    }

    /// Sends rounds of frames until the last, or until it cannot.
    fn run(mut self, rounds: u32, bytes: impl Fn(u32) -> Vec<u8>) -> Self {
        let started = Instant::now();
        for round in 0..rounds {
            self.write(&bytes(round));
            if self.failed.is_some() || started.elapsed() > FLOOD {
                break;
            }
        }
        self
    }

    /// The proxy closed the connection, before or after the last round was in the socket's buffer.
    fn is_cut_off(&self) -> bool {
        match self.failed {
            Some(kind) => !matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
            None => {
                let mut stream = &self.stream;
                // Ends with the connection, or fails after the time that `connect` allows.
                std::io::copy(&mut stream, &mut std::io::sink())
                    .err()
                    .is_none_or(|error| error.kind() == ErrorKind::ConnectionReset)
            }
        }
    }
}
