//! Which chain of a port a connection takes.

use tasuki_xds::model::listener::{DeclaredProtocol, TcpProxy};
use tasuki_xds::model::rbac::{Permission, Policy, Rbac, RbacAction};
use tasuki_xds::model::route::{HeaderMutations, RouteConfiguration, WeightedCluster};
use tasuki_xds::model::tls::CertificateSource;

use super::*;
use crate::detect::ClientHello;

fn mutual(alpn: &str) -> ServerTls {
    let workload = || CertificateSource::ProviderInstance("workload".into());
    ServerTls {
        certificate: workload(),
        trust: Some(workload()),
        require_client_certificate: true,
        alpn: vec![alpn.into()],
    }
}

fn chain(
    name: &str,
    port: Option<u16>,
    transport: Transport,
    alpn: &[&str],
    http: bool,
) -> FilterChain {
    let tls = (transport == Transport::Tls && !alpn.is_empty()).then(|| mutual(alpn[0]));
    let cluster = WeightedCluster {
        name: format!("inbound|{}||", port.unwrap_or(0)),
        weight: 1,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    };
    let filter = if http {
        Filter::Http(HttpConnection {
            stat_prefix: name.into(),
            routes: RouteSource::Inline(RouteConfiguration {
                name: name.into(),
                virtual_hosts: vec![],
            }),
            rbac: vec![],
            forward_client_cert: ForwardClientCert::SanitizeSet,
        })
    } else {
        Filter::Tcp(TcpProxy {
            stat_prefix: name.into(),
            clusters: vec![cluster],
            rbac: vec![],
            idle_timeout: None,
        })
    };
    let matches = ChainMatch {
        destination_port: port,
        transport,
        alpn: alpn.iter().map(|a| (*a).into()).collect(),
        server_names: vec![],
    };
    FilterChain {
        name: name.into(),
        matches,
        tls,
        filter,
    }
}

fn inbound(chains: Vec<FilterChain>, default_chain: Option<FilterChain>) -> Inbound {
    let listener = Listener {
        name: "inbound".into(),
        address: None,
        protocol: DeclaredProtocol::Auto,
        workload: None,
        api: None,
        chains,
        default_chain,
    };
    Inbound::compile(&listener, &|_| None, None).unwrap()
}

/// Port 80 is STRICT, 81 PERMISSIVE and undeclared, 82 PERMISSIVE and declared HTTP; all others as 81.
fn example() -> Inbound {
    use Transport::{Plaintext, Tls};
    let permissive = |port: Option<u16>| {
        vec![
            chain("mtls-http", port, Tls, &["tasuki-h2"], true),
            chain("mtls-tcp", port, Tls, &["tasuki-tcp"], false),
            chain("app-tls", port, Tls, &[], false),
            chain("plain-http", port, Plaintext, &["http/1.1", "h2c"], true),
            chain("plain-tcp", port, Plaintext, &[], false),
        ]
    };
    let mut chains = vec![
        chain("mtls-http", Some(80), Tls, &["tasuki-h2"], true),
        chain("mtls-tcp", Some(80), Tls, &["tasuki-tcp"], false),
        chain("mtls-grpc", Some(80), Tls, &["h2"], true),
        chain("mtls-http", Some(82), Tls, &["tasuki-h2"], true),
        chain("plain-http", Some(82), Plaintext, &[], true),
    ];
    chains.extend(permissive(Some(81)));
    chains.extend(permissive(None));
    inbound(chains, None)
}

fn tls(alpn: &[&str]) -> Spoken {
    Spoken::Tls(ClientHello {
        server_name: None,
        alpn: alpn.iter().map(|a| a.as_bytes().to_vec()).collect(),
    })
}

fn name(inbound: &Inbound, port: u16, spoken: &Spoken) -> Option<String> {
    inbound.select(port, spoken).map(|chain| chain.name.clone())
}

#[test]
fn strict_takes_mesh_tls_and_grpcs_own() {
    let inbound = example();
    for (spoken, expected) in [
        (tls(&["tasuki-h2"]), Some("mtls-http")),
        (tls(&["tasuki-tcp"]), Some("mtls-tcp")),
        (tls(&["h2"]), Some("mtls-grpc")),
        (tls(&["http/1.1"]), None),
        (tls(&[]), None),
        (Spoken::Http1, None),
        (Spoken::Http2, None),
        (Spoken::Raw, None),
    ] {
        assert_eq!(
            name(&inbound, 80, &spoken).as_deref(),
            expected,
            "{spoken:?}"
        );
    }
    assert!(!inbound.ask(80).server_first);
}

#[test]
fn permissive_decides_by_the_client_hello_alone() {
    let inbound = example();
    for port in [81, 9999] {
        for (spoken, expected) in [
            (tls(&["tasuki-h2"]), "mtls-http"),
            (tls(&["tasuki-tcp"]), "mtls-tcp"),
            (tls(&["h2"]), "app-tls"),
            (tls(&[]), "app-tls"),
            (Spoken::Http1, "plain-http"),
            (Spoken::Http2, "plain-http"),
            (Spoken::Raw, "plain-tcp"),
        ] {
            assert_eq!(
                name(&inbound, port, &spoken).as_deref(),
                Some(expected),
                "{port} {spoken:?}"
            );
        }
        assert_eq!(
            inbound.ask(port),
            Ask {
                expect: Expect {
                    tls: true,
                    http: true
                },
                server_first: true
            }
        );
    }
}

#[test]
fn a_port_declared_http_is_never_taken_for_bytes() {
    let inbound = example();
    assert_eq!(
        inbound.ask(82),
        Ask {
            expect: Expect {
                tls: true,
                http: true
            },
            server_first: false
        }
    );
    assert_eq!(
        name(&inbound, 82, &Spoken::Raw).as_deref(),
        Some("plain-http")
    );
    assert_eq!(name(&inbound, 82, &tls(&["h2"])), None);
}

#[test]
fn a_declared_port_never_falls_back() {
    use Transport::{Any, Tls};
    let open = chain("default", None, Any, &[], false);
    let inbound = inbound(
        vec![chain("mtls-http", Some(80), Tls, &["tasuki-h2"], true)],
        Some(open),
    );
    assert_eq!(name(&inbound, 80, &Spoken::Http1), None);
    assert_eq!(
        name(&inbound, 81, &Spoken::Http1).as_deref(),
        Some("default")
    );
}

#[test]
fn the_longest_server_name_wins() {
    let named = |name: &str, patterns: &[&str]| {
        let mut chain = chain(name, None, Transport::Tls, &[], false);
        chain.matches.server_names = patterns.iter().map(|p| (*p).into()).collect();
        chain
    };
    let inbound = inbound(
        vec![
            named("any", &[]),
            named("wide", &["*.example.com"]),
            named("narrow", &["*.a.example.com"]),
            named("exact", &["x.a.example.com"]),
        ],
        None,
    );
    let hello = |server_name: &str| {
        Spoken::Tls(ClientHello {
            server_name: Some(server_name.into()),
            alpn: vec![],
        })
    };
    assert_eq!(
        name(&inbound, 1, &hello("x.a.example.com")).as_deref(),
        Some("exact")
    );
    assert_eq!(
        name(&inbound, 1, &hello("y.a.example.com")).as_deref(),
        Some("narrow")
    );
    assert_eq!(
        name(&inbound, 1, &hello("y.b.example.com")).as_deref(),
        Some("wide")
    );
    assert_eq!(
        name(&inbound, 1, &hello("example.com")).as_deref(),
        Some("any")
    );
}

#[test]
fn applications_are_dialled_from_the_sidecars_own_address() {
    let inbound = example();
    let chain = inbound.select(80, &tls(&["tasuki-tcp"])).unwrap();
    assert_eq!(&*chain.cluster_name, "inbound|80||");
    assert_eq!(
        chain.cluster.config.discovery,
        Discovery::OriginalDestination {
            bind: Some("127.0.0.6".parse().unwrap())
        }
    );
}

#[test]
fn broken_policies_refuse_the_listener() {
    let mut chain = chain("x", None, Transport::Any, &[], false);
    let Filter::Tcp(tcp) = &mut chain.filter else {
        panic!("not TCP")
    };
    let policy = Policy {
        name: "p".into(),
        permissions: vec![Permission::PathTemplate("no slash".into())],
        principals: vec![],
    };
    tcp.rbac = vec![Rbac {
        action: RbacAction::Allow,
        policies: vec![policy],
    }];
    let listener = Listener {
        name: "inbound".into(),
        address: None,
        protocol: DeclaredProtocol::Auto,
        workload: None,
        api: None,
        chains: vec![chain],
        default_chain: None,
    };
    assert!(Inbound::compile(&listener, &|_| None, None).is_err());
}
