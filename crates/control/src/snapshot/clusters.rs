//! Clusters: how a client reaches a service's port, one of its subsets, a pod, or its own application.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tasuki_resources::destination_rule::{
    ConnectionPool, H2Upgrade, LoadBalancer, OutlierDetection,
};
use tasuki_xds::codec::Dialect;
use tasuki_xds::model::Cluster;
use tasuki_xds::model::cluster::{
    self, Balance, Discovery, HttpProtocol, Limits, RetryBudget, ServiceRef, TcpKeepalive,
};
use tasuki_xds::model::listener::DeclaredProtocol;

use super::tls::{self, Incapable};
use super::viewer::Viewer;
use super::{BLACK_HOLE, Name, PASSTHROUGH, divided};
use crate::mesh::Join;
use crate::mesh::services::{Backends, Service};
use crate::mesh::workloads::Workload;

/// Istio's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The application is on the same machine, but may be starting.
const INBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Istio's default for idle connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Envoy's cap of ejection times.
const MAX_EJECTION: Duration = Duration::from_secs(300);
/// Never the loopback address, so that ports bound to it stay private (contract section 5).
const INBOUND_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));

/// The cluster of this name as `viewer` sees it.
pub fn cluster(viewer: &Viewer<'_>, name: &str) -> Option<Cluster> {
    match Name::parse(name)? {
        Name::Passthrough => Some(plain(
            PASSTHROUGH,
            Discovery::OriginalDestination { bind: None },
        )),
        Name::BlackHole => Some(plain(BLACK_HOLE, Discovery::Static(Vec::new()))),
        Name::Inbound { port } => {
            let workload = viewer.workload()?;
            let protocol = viewer.mesh.workload_port(workload, port);
            let discovery = Discovery::OriginalDestination {
                bind: Some(INBOUND_SOURCE),
            };
            Some(Cluster {
                http: http_protocol(protocol, None),
                connect_timeout: INBOUND_CONNECT_TIMEOUT,
                service: service_of(viewer, workload, port),
                ..plain(name, discovery)
            })
        }
        Name::Pod { address, port } => {
            let workload = viewer.mesh.workloads.at(address)?;
            let protocol = viewer.mesh.workload_port(workload, port);
            Some(Cluster {
                tls: tls::of_pod(viewer, workload),
                http: http_protocol(protocol, None),
                ..plain(name, Discovery::Eds { service_name: None })
            })
        }
        Name::Outbound { port, subset, host } => {
            outbound(viewer, name, port, subset, host).and_then(Result::ok)
        }
        Name::Plain { port, subset, host } => {
            divided::meshed_share(viewer, port, subset, host)?;
            let whole = outbound(viewer, name, port, subset, host)?.ok()?;
            Some(Cluster {
                tls: Vec::new(),
                ..whole
            })
        }
    }
}

/// Why a cluster that exists is not given to `viewer`, in a sentence.
pub fn withheld(viewer: &Viewer<'_>, name: &str) -> Option<String> {
    let Name::Outbound { port, subset, host } = Name::parse(name)? else {
        return None;
    };
    let Incapable(reason) = outbound(viewer, name, port, subset, host)?.err()?;
    let service = viewer.mesh.services.exact(host, viewer.namespace())?;
    let rules = &viewer.mesh.destination_rules;
    let rule = rules.find(host, &service.namespace, viewer.namespace())?;
    Some(format!(
        "withheld: DestinationRule {} asks for TLS; {reason}",
        rule.meta.name
    ))
}

fn outbound(
    viewer: &Viewer<'_>,
    name: &str,
    port: u16,
    subset: &str,
    host: &str,
) -> Option<Result<Cluster, Incapable>> {
    let service = viewer.mesh.services.exact(host, viewer.namespace())?;
    let declared = service.port(port)?;
    let rule = viewer
        .mesh
        .destination_rules
        .find(host, &service.namespace, viewer.namespace());
    if !subset.is_empty() {
        rule?.subset(subset)?;
    }
    let wanted = (!subset.is_empty()).then_some(subset);
    let policy = rule
        .map(|rule| rule.effective(wanted, port))
        .unwrap_or_default();
    let settings = &viewer.mesh.settings;
    let pool = settings.connection_pool(policy.connection_pool.as_ref());
    let tls = tls::of_service(
        viewer,
        service,
        port,
        wanted,
        policy.tls.as_ref(),
        declared.protocol,
    );
    Some(tls.map(|tls| {
        Cluster {
            connect_timeout: pool.tcp.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            balance: balance(policy.load_balancer),
            limits: limits(&pool),
            retry_budget: policy
                .retry_budget
                .or(settings.retry_budget())
                .map(|budget| RetryBudget {
                    percent: budget.percent,
                    min_concurrent: budget.min_concurrent,
                }),
            outliers: policy.outlier_detection.as_ref().map(outliers),
            panic_percent: policy
                .outlier_detection
                .as_ref()
                .and_then(|o| o.min_health_percent)
                .unwrap_or(0),
            tls,
            http: http_protocol(declared.protocol, Some(&pool)),
            service: Some(service.reference()),
            keepalive: keepalive(&pool),
            idle_timeout: idle_timeout(&pool),
            ..plain(name, discovery(service, port))
        }
    }))
}

/// The service that leads to a workload's port, for its metrics; the first by name if there are several.
fn service_of(viewer: &Viewer<'_>, workload: &Workload, port: u16) -> Option<ServiceRef> {
    let leads = |address: IpAddr, join: &Join| {
        let address = SocketAddr::new(address, port);
        join.all_backends().any(|b| b.endpoint.address == address)
    };
    let addresses = workload.addresses.iter();
    let services = addresses.flat_map(|address| {
        let serving = viewer.mesh.serving(*address);
        serving.filter(|(_, join)| leads(*address, join))
    });
    services
        .map(|(service, _)| service)
        .filter(|service| service.namespace == workload.id.namespace)
        .min_by(|a, b| a.host.cmp(&b.host))
        .map(|service| service.reference())
}

fn discovery(service: &Service, port: u16) -> Discovery {
    match &service.backends {
        Backends::Known(_) => Discovery::Eds { service_name: None },
        Backends::Dns { hosts, refresh } => {
            let hosts = hosts.get(&port).cloned().unwrap_or_default();
            // Addresses need no resolver.
            let fixed: Option<Vec<SocketAddr>> = hosts
                .iter()
                .map(|(host, port)| host.parse().ok().map(|ip| SocketAddr::new(ip, *port)))
                .collect();
            match fixed {
                Some(addresses) if !addresses.is_empty() => Discovery::Static(addresses),
                _ => Discovery::Dns {
                    hosts,
                    refresh: *refresh,
                },
            }
        }
    }
}

/// Defaults everywhere, plaintext.
fn plain(name: &str, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.to_owned(),
        // With one possible endpoint there is nothing to balance; on the wire it says so.
        balance: match discovery {
            Discovery::OriginalDestination { .. } => Balance::Random,
            Discovery::Eds { .. } | Discovery::Dns { .. } | Discovery::Static(_) => balance(None),
        },
        discovery,
        connect_timeout: CONNECT_TIMEOUT,
        limits: Limits::default(),
        retry_budget: None,
        outliers: None,
        tls: Vec::new(),
        http: HttpProtocol::Downstream,
        panic_percent: 0,
        service: None,
        keepalive: None,
        idle_timeout: Some(IDLE_TIMEOUT),
    }
}

fn balance(balancer: Option<LoadBalancer>) -> Balance {
    match balancer.unwrap_or_default() {
        LoadBalancer::RoundRobin => Balance::RoundRobin,
        LoadBalancer::LeastRequest => Balance::LeastRequest { choices: 2 },
        LoadBalancer::Random => Balance::Random,
    }
}

fn limits(pool: &ConnectionPool) -> Limits {
    let default = Limits::default();
    Limits {
        max_connections: pool.tcp.max_connections.unwrap_or(default.max_connections),
        max_pending_requests: pool
            .http
            .max_pending_requests
            .unwrap_or(default.max_pending_requests),
        max_requests: pool.http.max_requests.unwrap_or(default.max_requests),
        max_retries: pool.http.max_retries.unwrap_or(default.max_retries),
        max_requests_per_connection: pool
            .http
            .max_requests_per_connection
            .unwrap_or(default.max_requests_per_connection),
        max_concurrent_streams: pool
            .http
            .max_concurrent_streams
            .unwrap_or(default.max_concurrent_streams),
    }
}

fn outliers(detection: &OutlierDetection) -> cluster::OutlierDetection {
    let base_ejection = detection.base_ejection.unwrap_or(Duration::from_secs(30));
    cluster::OutlierDetection {
        consecutive_5xx: detection.consecutive_5xx.unwrap_or(5),
        consecutive_gateway_errors: detection.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_origin: detection.consecutive_local_origin.unwrap_or(5),
        split_local_origin: detection.split_local_origin,
        interval: detection.interval.unwrap_or(Duration::from_secs(10)),
        base_ejection,
        max_ejection: MAX_EJECTION.max(base_ejection),
        max_ejection_percent: detection.max_ejection_percent.unwrap_or(10),
    }
}

/// What endpoints that are not mesh peers are spoken to in.
pub fn http_protocol(declared: DeclaredProtocol, pool: Option<&ConnectionPool>) -> HttpProtocol {
    let http = pool.map(|pool| &pool.http);
    if http.is_some_and(|http| http.use_client_protocol) {
        return HttpProtocol::Downstream;
    }
    match (
        declared,
        http.map(|http| http.h2_upgrade).unwrap_or_default(),
    ) {
        (DeclaredProtocol::Http2 | DeclaredProtocol::Grpc, _) => HttpProtocol::Http2,
        (DeclaredProtocol::Http | DeclaredProtocol::Auto, H2Upgrade::Upgrade) => {
            HttpProtocol::Http2
        }
        (DeclaredProtocol::Http, _) => HttpProtocol::Http1,
        (DeclaredProtocol::Auto | DeclaredProtocol::Tcp | DeclaredProtocol::Tls, _) => {
            HttpProtocol::Downstream
        }
    }
}

fn keepalive(pool: &ConnectionPool) -> Option<TcpKeepalive> {
    pool.tcp.keepalive.map(|k| TcpKeepalive {
        probes: k.probes,
        time: k.time,
        interval: k.interval,
    })
}

/// Zero is never.
fn idle_timeout(pool: &ConnectionPool) -> Option<Duration> {
    match pool.http.idle_timeout.or(pool.tcp.idle_timeout) {
        Some(Duration::ZERO) => None,
        Some(time) => Some(time),
        None => Some(IDLE_TIMEOUT),
    }
}

/// Whether the client's dialect has TLS at all.
pub fn speaks_tls(dialect: &Dialect) -> bool {
    match dialect {
        Dialect::Tasuki => true,
        Dialect::Envoy { secrets } => *secrets,
        Dialect::Grpc { provider } => provider.is_some(),
    }
}
