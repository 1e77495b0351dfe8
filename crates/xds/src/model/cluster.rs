//! Clusters: a set of endpoints and how to use it (Envoy `config.cluster.v3.Cluster`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::tls::ClientTls;

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// `outbound|8080|v1|cart.shop.svc.cluster.local`, `inbound|8080||`, `PassthroughCluster`, `BlackHoleCluster`.
    pub name: String,
    pub discovery: Discovery,
    pub connect_timeout: Duration,
    pub balance: Balance,
    pub limits: Limits,
    /// Per-try budget of retries; `None` is Tasuki's default of 20 %, at least 3.
    pub retry_budget: Option<RetryBudget>,
    pub outliers: Option<OutlierDetection>,
    /// In order; the first whose label matches the endpoint's `tls_mode` wins; none: plaintext
    /// (Envoy `transport_socket_matches`).
    pub tls: Vec<TlsMatch>,
    pub http: HttpProtocol,
    /// Below this share of usable endpoints all are used (Envoy `healthy_panic_threshold`), in percent. 0: never.
    pub panic_percent: u32,
    /// What metrics say of the destination; `filter_metadata["istio"].services`.
    pub service: Option<ServiceRef>,
    pub keepalive: Option<TcpKeepalive>,
    pub idle_timeout: Option<Duration>,
}

/// Istio's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    /// A cluster of which nothing is said but where its endpoints are: plaintext, no limits, Istio's defaults.
    pub fn new(name: &str, discovery: Discovery) -> Self {
        Self {
            name: name.to_owned(),
            discovery,
            connect_timeout: CONNECT_TIMEOUT,
            balance: Balance::default(),
            limits: Limits::default(),
            retry_budget: None,
            outliers: None,
            tls: Vec::new(),
            http: HttpProtocol::default(),
            panic_percent: 0,
            service: None,
            keepalive: None,
            idle_timeout: None,
        }
    }

    /// The same with an assignment of its own name.
    pub fn eds(name: &str) -> Self {
        Self::new(name, Discovery::Eds { service_name: None })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// EDS; the assignment is named like the cluster unless `service_name` says otherwise.
    Eds { service_name: Option<String> },
    /// A name that the proxy resolves itself, host and port (Envoy `STRICT_DNS`).
    Dns {
        hosts: Vec<(String, u16)>,
        refresh: Duration,
    },
    /// Fixed addresses.
    Static(Vec<SocketAddr>),
    /// The connection's own original destination; `bind` is the source address (127.0.0.6 inbound).
    OriginalDestination { bind: Option<IpAddr> },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// Power of two choices unless told otherwise (Envoy `choice_count`, 2..=10).
    LeastRequest {
        choices: u32,
    },
    #[default]
    Random,
}

/// Circuit breakers and pool limits (Envoy `circuit_breakers` at default priority). `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// 0: no limit.
    pub max_requests_per_connection: u32,
    pub max_concurrent_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
            max_requests_per_connection: 0,
            max_concurrent_streams: i32::MAX as u32,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Share of active requests that may be retries, in percent: 0.0 to 100.0.
    pub percent: f64,
    pub min_concurrent: u32,
}

/// Envoy `outlier_detection`, the consecutive kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 0: off.
    pub consecutive_5xx: u32,
    /// 0: off.
    pub consecutive_gateway_errors: u32,
    /// Failures that happened before any answer; only when `split_local_origin`.
    pub consecutive_local_origin: u32,
    pub split_local_origin: bool,
    pub interval: Duration,
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// At least one endpoint may always be ejected.
    pub max_ejection_percent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMatch {
    pub name: String,
    /// Value of the endpoint's `tlsMode`; `None` matches every endpoint.
    pub tls_mode: Option<String>,
    /// `None`: plaintext (`raw_buffer`).
    pub tls: Option<ClientTls>,
}

/// What is spoken to endpoints that are not mesh peers (mesh peers always get HTTP/2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpProtocol {
    Http1,
    Http2,
    /// As the downstream request came in (Envoy `use_downstream_protocol_config`).
    #[default]
    Downstream,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceRef {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}
