//! Arbitrary model values, within what the wire can say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

use crate::model::cluster::{
    Balance, Cluster, Discovery, HttpProtocol, Limits, OutlierDetection, RetryBudget, ServiceRef,
    TcpKeepalive, TlsMatch,
};
use crate::model::endpoint::{ClusterLoadAssignment, Endpoint, Health, Locality, WorkloadRef};
use crate::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, ForwardClientCert, HttpConnection, Listener,
    RouteSource, TcpProxy, Transport,
};
use crate::model::matching::{HeaderMatch, Pattern, QueryMatch, StringMatch, ValueMatch};
use crate::model::proxy_settings::{AccessLog, ProxySettings};
use crate::model::rbac::{Cidr, Permission, Policy, Principal, Rbac, RbacAction};
use crate::model::route::{
    AppendAction, DirectResponse, Forward, HeaderAdd, HeaderMutations, PathMatch, PathRewrite,
    Redirect, RedirectPath, RetryOn, RetryPolicy, Route, RouteAction, RouteConfiguration,
    RouteMatch, VirtualHost, WeightedCluster,
};
use crate::model::tls::{CertificateSource, ClientTls, ServerTls};
use crate::model::{Departure, Resource, TrustBundle};

fn word() -> BoxedStrategy<String> {
    "[a-z][a-z0-9|.-]{0,11}".boxed()
}

fn maybe_word() -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), word()].boxed()
}

fn header_name() -> BoxedStrategy<String> {
    "[a-z][a-z0-9-]{0,11}".boxed()
}

fn address() -> BoxedStrategy<SocketAddr> {
    (any::<IpAddr>(), 1..=u16::MAX)
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
        .boxed()
}

/// The wire has nanoseconds; whole milliseconds keep failures readable.
fn time() -> BoxedStrategy<Duration> {
    (1..10_000_000u64).prop_map(Duration::from_millis).boxed()
}

fn seconds() -> BoxedStrategy<Duration> {
    (0..u64::from(u32::MAX))
        .prop_map(Duration::from_secs)
        .boxed()
}

pub fn resource() -> BoxedStrategy<Resource> {
    prop_oneof![
        trust(),
        departure(),
        proxy_settings(),
        cluster(),
        endpoints(),
        listener(),
        routes().prop_map(Resource::Route)
    ]
    .boxed()
}

fn trust() -> BoxedStrategy<Resource> {
    let der = vec(any::<u8>(), 0..20).prop_map(|mut rest| {
        rest.insert(0, 0x30);
        rest
    });
    (word(), vec(der, 1..4))
        .prop_map(|(name, roots)| Resource::TrustBundle(TrustBundle { name, roots }))
        .boxed()
}

fn departure() -> BoxedStrategy<Resource> {
    (word(), any::<bool>(), any::<bool>())
        .prop_map(|(name, deleting, acknowledged)| {
            Resource::Departure(Departure {
                name,
                deleting,
                acknowledged: deleting && acknowledged,
            })
        })
        .boxed()
}

fn proxy_settings() -> BoxedStrategy<Resource> {
    let access_log = prop_oneof![
        Just(None),
        Just(Some(AccessLog::Off)),
        Just(Some(AccessLog::Errors)),
        Just(Some(AccessLog::All)),
    ];
    (word(), access_log)
        .prop_map(|(name, access_log)| Resource::ProxySettings(ProxySettings { name, access_log }))
        .boxed()
}

fn endpoints() -> BoxedStrategy<Resource> {
    let health = prop_oneof![
        Just(Health::Healthy),
        Just(Health::Draining),
        Just(Health::Unhealthy)
    ];
    let endpoint = (
        address(),
        1..1000u32,
        health,
        option::of(word()),
        vec(word(), 0..3),
        workload(),
    );
    let endpoint = endpoint.prop_map(
        |(address, weight, health, tls_mode, identities, workload)| Endpoint {
            address,
            weight,
            health,
            tls_mode,
            identities,
            workload,
        },
    );
    let weight = option::of(1..=u32::MAX);
    let locality = (
        maybe_word(),
        maybe_word(),
        maybe_word(),
        0..=128u32,
        weight,
        vec(endpoint, 0..4),
    );
    let locality =
        locality.prop_map(
            |(region, zone, subzone, priority, weight, endpoints)| Locality {
                region,
                zone,
                subzone,
                priority,
                weight,
                endpoints,
            },
        );
    (word(), vec(locality, 0..3))
        .prop_map(|(cluster, localities)| {
            Resource::Endpoint(ClusterLoadAssignment {
                cluster,
                localities,
            })
        })
        .boxed()
}

fn workload() -> BoxedStrategy<WorkloadRef> {
    let named = (maybe_word(), maybe_word(), maybe_word(), maybe_word());
    (
        named,
        maybe_word(),
        maybe_word(),
        maybe_word(),
        maybe_word(),
    )
        .prop_map(
            |(
                (name, namespace, service_account, app),
                version,
                canonical_service,
                canonical_revision,
                cluster,
            )| {
                WorkloadRef {
                    name,
                    namespace,
                    service_account,
                    app,
                    version,
                    canonical_service,
                    canonical_revision,
                    cluster,
                }
            },
        )
        .boxed()
}

fn source() -> BoxedStrategy<CertificateSource> {
    prop_oneof![
        word().prop_map(CertificateSource::ProviderInstance),
        word().prop_map(CertificateSource::Sds)
    ]
    .boxed()
}

fn client_tls() -> BoxedStrategy<ClientTls> {
    let sources = (option::of(source()), option::of(source()));
    (
        sources,
        vec(word(), 0..3),
        vec(word(), 0..3),
        option::of(word()),
        vec(word(), 0..3),
    )
        .prop_map(
            |((certificate, trust), server_identities, server_names, sni, alpn)| ClientTls {
                certificate,
                trust,
                server_identities,
                server_names,
                sni,
                alpn,
            },
        )
        .boxed()
}

fn server_tls() -> BoxedStrategy<ServerTls> {
    (
        source(),
        option::of(source()),
        any::<bool>(),
        vec(word(), 0..3),
    )
        .prop_map(|(certificate, trust, require, alpn)| ServerTls {
            certificate,
            require_client_certificate: require && trust.is_some(),
            trust,
            alpn,
        })
        .boxed()
}

fn discovery() -> BoxedStrategy<Discovery> {
    let hosts = vec((word(), 1..=u16::MAX), 0..3);
    prop_oneof![
        option::of(word()).prop_map(|service_name| Discovery::Eds { service_name }),
        (hosts, time()).prop_map(|(hosts, refresh)| Discovery::Dns { hosts, refresh }),
        vec(address(), 0..3).prop_map(Discovery::Static),
        option::of(any::<IpAddr>()).prop_map(|bind| Discovery::OriginalDestination { bind }),
    ]
    .boxed()
}

fn limits() -> BoxedStrategy<Limits> {
    let counts = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (counts, any::<u32>(), 1..=i32::MAX as u32)
        .prop_map(
            |((connections, pending, requests, retries), per_connection, streams)| Limits {
                max_connections: connections,
                max_pending_requests: pending,
                max_requests: requests,
                max_retries: retries,
                max_requests_per_connection: per_connection,
                max_concurrent_streams: streams,
            },
        )
        .boxed()
}

fn outliers() -> BoxedStrategy<OutlierDetection> {
    let counts = (any::<u32>(), any::<u32>(), any::<u32>());
    (counts, any::<bool>(), time(), time(), time(), 0..=100u32)
        .prop_map(
            |(
                counts,
                split_local_origin,
                interval,
                base_ejection,
                max_ejection,
                max_ejection_percent,
            )| {
                OutlierDetection {
                    consecutive_5xx: counts.0,
                    consecutive_gateway_errors: counts.1,
                    consecutive_local_origin: counts.2,
                    split_local_origin,
                    interval,
                    base_ejection,
                    max_ejection,
                    max_ejection_percent,
                }
            },
        )
        .boxed()
}

pub fn cluster() -> BoxedStrategy<Resource> {
    let balance = prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::Random),
        (2..=10u32).prop_map(|choices| Balance::LeastRequest { choices })
    ];
    let tls =
        (word(), option::of(word()), option::of(client_tls())).prop_map(|(name, tls_mode, tls)| {
            TlsMatch {
                name,
                tls_mode,
                tls,
            }
        });
    let http = prop_oneof![
        Just(HttpProtocol::Http1),
        Just(HttpProtocol::Http2),
        Just(HttpProtocol::Downstream)
    ];
    let service = (word(), word(), word()).prop_map(|(host, name, namespace)| ServiceRef {
        host,
        name,
        namespace,
    });
    let budget = (0.0..=100.0f64, any::<u32>()).prop_map(|(percent, min_concurrent)| RetryBudget {
        percent,
        min_concurrent,
    });
    let keepalive = (
        option::of(any::<u32>()),
        option::of(seconds()),
        option::of(seconds()),
    )
        .prop_map(|(probes, time, interval)| TcpKeepalive {
            probes,
            time,
            interval,
        });
    let first = (
        word(),
        discovery(),
        time(),
        balance,
        limits(),
        option::of(budget),
    );
    let second = (option::of(outliers()), vec(tls, 0..3), http, 0..=100u32);
    let third = (
        option::of(service),
        option::of(keepalive),
        option::of(time()),
    );
    (first, second, third)
        .prop_map(|(first, second, third)| {
            let (name, discovery, connect_timeout, balance, limits, retry_budget) = first;
            let (outliers, tls, http, panic_percent) = second;
            let (service, keepalive, idle_timeout) = third;
            // The connection has chosen the endpoint: there is nothing to balance.
            let original = matches!(discovery, Discovery::OriginalDestination { .. });
            let balance = if original { Balance::Random } else { balance };
            Resource::Cluster(Cluster {
                name,
                discovery,
                connect_timeout,
                balance,
                limits,
                retry_budget,
                outliers,
                tls,
                http,
                panic_percent,
                service,
                keepalive,
                idle_timeout,
            })
        })
        .boxed()
}

fn string_match() -> BoxedStrategy<StringMatch> {
    let text = "[ -~]{1,8}";
    let pattern = prop_oneof![
        "[ -~]{0,8}".prop_map(Pattern::Exact),
        text.prop_map(Pattern::Prefix),
        text.prop_map(Pattern::Suffix),
        text.prop_map(Pattern::Contains),
        "a[a-z.]{1,4}[*+]?".prop_map(Pattern::Regex),
    ];
    (pattern, any::<bool>())
        .prop_map(|(pattern, ignore)| {
            // Envoy leaves a regex case-sensitive.
            let ignore_case = ignore && !matches!(pattern, Pattern::Regex(_));
            StringMatch {
                pattern,
                ignore_case,
            }
        })
        .boxed()
}

fn value_match() -> BoxedStrategy<ValueMatch> {
    prop_oneof![
        Just(ValueMatch::Present),
        string_match().prop_map(ValueMatch::String)
    ]
    .boxed()
}

fn header_match() -> BoxedStrategy<HeaderMatch> {
    let name = prop_oneof![
        header_name(),
        Just(":method".to_owned()),
        Just(":authority".to_owned())
    ];
    (name, value_match(), any::<bool>(), any::<bool>())
        .prop_map(|(name, value, invert, missing_as_empty)| HeaderMatch {
            name,
            value,
            invert,
            missing_as_empty,
        })
        .boxed()
}

fn mutations() -> BoxedStrategy<HeaderMutations> {
    let append = prop_oneof![
        Just(AppendAction::AppendIfExistsOrAdd),
        Just(AppendAction::AddIfAbsent),
        Just(AppendAction::OverwriteIfExistsOrAdd),
        Just(AppendAction::OverwriteIfExists)
    ];
    let add = (header_name(), "[!-~]{0,8}", append).prop_map(|(name, value, append)| HeaderAdd {
        name,
        value,
        append,
    });
    (vec(header_name(), 0..3), vec(add, 0..3))
        .prop_map(|(remove, add)| HeaderMutations { remove, add })
        .boxed()
}

fn weighted() -> BoxedStrategy<Vec<WeightedCluster>> {
    let one = (word(), 0..1000u32, mutations(), mutations()).prop_map(
        |(name, weight, request_headers, response_headers)| WeightedCluster {
            name,
            weight,
            request_headers,
            response_headers,
        },
    );
    vec(one, 1..4)
        .prop_map(|mut clusters| {
            clusters[0].weight += 1;
            clusters
        })
        .boxed()
}

fn retry() -> BoxedStrategy<RetryPolicy> {
    let on = proptest::sample::subsequence(
        vec![
            RetryOn::Http5xx,
            RetryOn::Reset,
            RetryOn::RetriableStatusCodes,
            RetryOn::GrpcUnavailable,
        ],
        0..4,
    );
    (
        on,
        any::<u32>(),
        option::of(time()),
        vec(100..600u16, 0..3),
        time(),
        time(),
        any::<bool>(),
    )
        .prop_map(
            |(on, retries, per_try_timeout, status_codes, base, more, avoid_previous_hosts)| {
                RetryPolicy {
                    on,
                    retries,
                    per_try_timeout,
                    status_codes,
                    backoff_base: base,
                    backoff_max: base + more,
                    avoid_previous_hosts,
                }
            },
        )
        .boxed()
}

fn action() -> BoxedStrategy<RouteAction> {
    let rewrite = prop_oneof![
        "/[a-z]{0,5}".prop_map(PathRewrite::Prefix),
        ("[a-z]{1,5}", "[a-z]{0,5}").prop_map(|(pattern, substitution)| PathRewrite::Regex {
            pattern,
            substitution
        })
    ];
    let host = "[a-z]{1,8}(:80)?";
    let times = (
        option::of(time()),
        option::of(prop_oneof![Just(Duration::ZERO), time()]),
    );
    let forward = (
        weighted(),
        times,
        option::of(retry()),
        option::of(rewrite),
        option::of(host),
    )
        .prop_map(
            |(clusters, (timeout, grpc_timeout_max), retry, path_rewrite, host_rewrite)| {
                RouteAction::Forward(Forward {
                    clusters,
                    timeout,
                    grpc_timeout_max,
                    retry,
                    path_rewrite,
                    host_rewrite,
                })
            },
        );
    let path = prop_oneof![
        "/[a-z]{0,5}".prop_map(RedirectPath::Full),
        "/[a-z]{0,5}".prop_map(RedirectPath::Prefix)
    ];
    let status = proptest::sample::select(vec![301u16, 302, 303, 307, 308]);
    let redirect = (
        option::of(word()),
        option::of(word()),
        option::of(1..=u16::MAX),
        option::of(path),
        status,
        any::<bool>(),
    )
        .prop_map(|(scheme, host, port, path, status, strip_query)| {
            RouteAction::Redirect(Redirect {
                scheme,
                host,
                port,
                path,
                status,
                strip_query,
            })
        });
    let direct = (200..600u16, vec(any::<u8>(), 0..9))
        .prop_map(|(status, body)| RouteAction::Direct(DirectResponse { status, body }));
    prop_oneof![4 => forward, 1 => redirect, 1 => direct, 1 => Just(RouteAction::NonForwarding)]
        .boxed()
}

fn route_match() -> BoxedStrategy<RouteMatch> {
    let path = prop_oneof![
        "/[a-z]{0,5}".prop_map(PathMatch::Prefix),
        "/[a-z]{1,5}".prop_map(PathMatch::Segments),
        "/[a-z]{0,5}".prop_map(PathMatch::Exact),
        "/[a-z.]{0,5}".prop_map(PathMatch::Regex),
    ];
    let query = (word(), value_match()).prop_map(|(name, value)| QueryMatch { name, value });
    let fraction = option::of(0..=1_000_000u32);
    (
        path,
        any::<bool>(),
        vec(header_match(), 0..3),
        vec(query, 0..3),
        fraction,
        any::<bool>(),
    )
        .prop_map(
            |(path, ignore, headers, query, fraction_per_million, grpc)| RouteMatch {
                ignore_path_case: ignore && !matches!(path, PathMatch::Regex(_)),
                path,
                headers,
                query,
                fraction_per_million,
                grpc,
            },
        )
        .boxed()
}

fn routes() -> BoxedStrategy<RouteConfiguration> {
    let route = (word(), route_match(), action(), mutations(), mutations()).prop_map(
        |(name, matches, action, request_headers, response_headers)| Route {
            name,
            matches,
            action,
            request_headers,
            response_headers,
        },
    );
    let host = vec(route, 0..3);
    (word(), vec(host, 0..3))
        .prop_map(|(name, hosts)| {
            let virtual_hosts = hosts
                .into_iter()
                .enumerate()
                .map(|(i, routes)| VirtualHost {
                    name: format!("v{i}"),
                    domains: vec![format!("h{i}:80"), format!("*.h{i}")],
                    routes,
                });
            RouteConfiguration {
                name,
                virtual_hosts: virtual_hosts.collect(),
            }
        })
        .boxed()
}

fn cidr() -> BoxedStrategy<Cidr> {
    (any::<IpAddr>(), 0..=32u8)
        .prop_map(|(address, prefix_len)| Cidr {
            address,
            prefix_len,
        })
        .boxed()
}

fn permission() -> BoxedStrategy<Permission> {
    let leaf = prop_oneof![
        Just(Permission::Any),
        header_match().prop_map(Permission::Header),
        string_match().prop_map(Permission::Path),
        Just(Permission::PathTemplate("/a/{*}/b/{**}".to_owned())),
        any::<u16>().prop_map(Permission::DestinationPort),
        cidr().prop_map(Permission::DestinationIp),
        string_match().prop_map(Permission::ServerName),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Permission::All),
            vec(inner.clone(), 1..3).prop_map(Permission::OneOf),
            inner.prop_map(|p| Permission::Not(Box::new(p))),
        ]
    })
    .boxed()
}

fn principal() -> BoxedStrategy<Principal> {
    let leaf = prop_oneof![
        Just(Principal::Any),
        option::of(string_match()).prop_map(Principal::Authenticated),
        cidr().prop_map(Principal::DirectIp),
        header_match().prop_map(Principal::Header),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Principal::All),
            vec(inner.clone(), 1..3).prop_map(Principal::OneOf),
            inner.prop_map(|p| Principal::Not(Box::new(p))),
        ]
    })
    .boxed()
}

fn rbac() -> BoxedStrategy<Rbac> {
    let action = prop_oneof![
        Just(RbacAction::Allow),
        Just(RbacAction::Deny),
        Just(RbacAction::Log)
    ];
    let policy = (vec(permission(), 1..3), vec(principal(), 1..3));
    (action, vec(policy, 0..3))
        .prop_map(|(action, policies)| {
            let policies =
                policies
                    .into_iter()
                    .enumerate()
                    .map(|(i, (permissions, principals))| Policy {
                        name: format!("ns[a]-policy[b]-rule[{i}]"),
                        permissions,
                        principals,
                    });
            Rbac {
                action,
                policies: policies.collect(),
            }
        })
        .boxed()
}

fn http() -> BoxedStrategy<HttpConnection> {
    let source = prop_oneof![
        word().prop_map(RouteSource::Rds),
        routes().prop_map(RouteSource::Inline)
    ];
    let forward = prop_oneof![
        Just(ForwardClientCert::Sanitize),
        Just(ForwardClientCert::SanitizeSet)
    ];
    (maybe_word(), source, vec(rbac(), 0..3), forward)
        .prop_map(
            |(stat_prefix, routes, rbac, forward_client_cert)| HttpConnection {
                stat_prefix,
                routes,
                rbac,
                forward_client_cert,
            },
        )
        .boxed()
}

fn tcp() -> BoxedStrategy<TcpProxy> {
    (
        maybe_word(),
        weighted(),
        vec(rbac(), 0..3),
        option::of(time()),
    )
        .prop_map(|(stat_prefix, mut clusters, rbac, idle_timeout)| {
            for cluster in &mut clusters {
                cluster.request_headers = HeaderMutations::default();
                cluster.response_headers = HeaderMutations::default();
            }
            TcpProxy {
                stat_prefix,
                clusters,
                rbac,
                idle_timeout,
            }
        })
        .boxed()
}

fn chain() -> BoxedStrategy<FilterChain> {
    let transport = prop_oneof![
        Just(Transport::Any),
        Just(Transport::Plaintext),
        Just(Transport::Tls)
    ];
    let matches = (
        option::of(any::<u16>()),
        transport,
        vec(word(), 0..3),
        vec(word(), 0..3),
    )
        .prop_map(
            |(destination_port, transport, alpn, server_names)| ChainMatch {
                destination_port,
                transport,
                alpn,
                server_names,
            },
        );
    let filter = prop_oneof![http().prop_map(Filter::Http), tcp().prop_map(Filter::Tcp)];
    (maybe_word(), matches, option::of(server_tls()), filter)
        .prop_map(|(name, matches, tls, filter)| FilterChain {
            name,
            matches,
            tls,
            filter,
        })
        .boxed()
}

pub fn listener() -> BoxedStrategy<Resource> {
    let protocol = proptest::sample::select(vec![
        DeclaredProtocol::Auto,
        DeclaredProtocol::Http,
        DeclaredProtocol::Http2,
        DeclaredProtocol::Grpc,
        DeclaredProtocol::Tcp,
        DeclaredProtocol::Tls,
    ]);
    let who = (
        word(),
        option::of(address()),
        protocol,
        option::of(workload()),
    );
    (
        who,
        option::of(http()),
        vec(chain(), 0..3),
        option::of(chain()),
    )
        .prop_map(
            |((name, address, protocol, workload), api, chains, default_chain)| {
                Resource::Listener(Listener {
                    name,
                    address,
                    protocol,
                    workload,
                    api,
                    chains,
                    default_chain,
                })
            },
        )
        .boxed()
}
