//! `trafficPolicy` and its parts. `None` is "not said"; the defaults are those of semantics section 2 and belong to the reader.

use std::collections::BTreeMap;
use std::time::Duration;

/// A traffic policy: settings, and those that replace them on single ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    pub settings: PolicySettings,
    /// By the service's port; such settings replace, they do not inherit.
    pub ports: BTreeMap<u16, PolicySettings>,
}

impl TrafficPolicy {
    /// The settings of a port, and whether they are the port's own.
    pub fn for_port(&self, port: u16) -> (&PolicySettings, bool) {
        match self.ports.get(&port) {
            Some(own) => (own, true),
            None => (&self.settings, false),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySettings {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<TlsSettings>,
    /// Not settable per port.
    pub retry_budget: Option<RetryBudget>,
}

impl PolicySettings {
    /// These settings laid over `base`. With `whole`, the groups that a port can set replace those of `base` even
    /// where they are not set (Istio's `mergeTrafficPolicy`).
    pub fn over(&self, base: &PolicySettings, whole: bool) -> PolicySettings {
        fn pick<T: Clone>(own: &Option<T>, base: &Option<T>, whole: bool) -> Option<T> {
            if own.is_some() || whole {
                own.clone()
            } else {
                base.clone()
            }
        }
        PolicySettings {
            load_balancer: pick(&self.load_balancer, &base.load_balancer, whole),
            connection_pool: pick(&self.connection_pool, &base.connection_pool, whole),
            outlier_detection: pick(&self.outlier_detection, &base.outlier_detection, whole),
            tls: pick(&self.tls, &base.tls, whole),
            // Whoever knows the whole rule decides.
            retry_budget: self.retry_budget.or(base.retry_budget),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    RoundRobin,
    /// Also what `UNSPECIFIED` and the old `LEAST_CONN` mean.
    #[default]
    LeastRequest,
    Random,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    pub tcp: TcpPool,
    pub http: HttpPool,
}

impl ConnectionPool {
    /// These settings, and those of `base` where they say nothing.
    pub fn over(&self, base: &ConnectionPool) -> ConnectionPool {
        let (tcp, http) = (&self.tcp, &self.http);
        // The two exclude each other, so they are said together.
        let protocol = if http.h2_upgrade == H2Upgrade::Default && !http.use_client_protocol {
            &base.http
        } else {
            http
        };
        ConnectionPool {
            tcp: TcpPool {
                max_connections: tcp.max_connections.or(base.tcp.max_connections),
                connect_timeout: tcp.connect_timeout.or(base.tcp.connect_timeout),
                idle_timeout: tcp.idle_timeout.or(base.tcp.idle_timeout),
                keepalive: tcp.keepalive.or(base.tcp.keepalive),
            },
            http: HttpPool {
                max_pending_requests: http.max_pending_requests.or(base.http.max_pending_requests),
                max_requests: http.max_requests.or(base.http.max_requests),
                max_retries: http.max_retries.or(base.http.max_retries),
                max_requests_per_connection: http
                    .max_requests_per_connection
                    .or(base.http.max_requests_per_connection),
                max_concurrent_streams: http
                    .max_concurrent_streams
                    .or(base.http.max_concurrent_streams),
                idle_timeout: http.idle_timeout.or(base.http.idle_timeout),
                h2_upgrade: protocol.h2_upgrade,
                use_client_protocol: protocol.use_client_protocol,
            },
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpPool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Option<Duration>,
    /// Zero: never.
    pub idle_timeout: Option<Duration>,
    pub keepalive: Option<TcpKeepalive>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPool {
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    pub max_retries: Option<u32>,
    /// 0: no limit.
    pub max_requests_per_connection: Option<u32>,
    pub max_concurrent_streams: Option<u32>,
    pub idle_timeout: Option<Duration>,
    pub h2_upgrade: H2Upgrade,
    /// Speak upstream what the client spoke; not together with an upgrade.
    pub use_client_protocol: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum H2Upgrade {
    #[default]
    Default,
    Upgrade,
    DoNotUpgrade,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 0: off; `None`: 5.
    pub consecutive_5xx: Option<u32>,
    /// 0: off; `None`: off.
    pub consecutive_gateway_errors: Option<u32>,
    /// `None`: 5; used only with `split_local_origin`.
    pub consecutive_local_origin: Option<u32>,
    pub split_local_origin: bool,
    /// `None`: 10 s.
    pub interval: Option<Duration>,
    /// `None`: 30 s.
    pub base_ejection: Option<Duration>,
    /// 0 to 100; `None`: 10.
    pub max_ejection_percent: Option<u32>,
    /// 0 to 100; `None`: 0, never panic.
    pub min_health_percent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// 0.0 to 100.0; 20 where the user says nothing.
    pub percent: f64,
    /// 3 where the user says nothing.
    pub min_concurrent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: TlsMode,
    pub sni: Option<String>,
    /// Names of which the server's certificate must carry one; only with [`TlsMode::Simple`] and [`TlsMode::IstioMutual`].
    pub subject_alt_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Plaintext, even to meshed endpoints.
    Disable,
    /// TLS without a client certificate, checked against the system's roots.
    Simple,
    /// Mesh mTLS, whatever the endpoint says of itself.
    IstioMutual,
}
