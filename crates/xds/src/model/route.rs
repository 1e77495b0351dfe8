//! Routes (Envoy `config.route.v3.RouteConfiguration`). First match wins, in list order.

use std::time::Duration;

use super::matching::{HeaderMatch, QueryMatch};

#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfiguration {
    pub name: String,
    pub virtual_hosts: Vec<VirtualHost>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    pub name: String,
    /// Exact (`cart:8080`), `*.suffix`, `prefix.*` or `*`; searched in that order, longest first. Lower case.
    pub domains: Vec<String>,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The user's name for it or a generated one; appears in logs and metrics.
    pub name: String,
    pub matches: RouteMatch,
    pub action: RouteAction,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatch,
    /// ASCII case of the path is ignored; exact and prefix only.
    pub ignore_path_case: bool,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Out of one million requests, how many may match (Envoy `runtime_fraction`, gRFC A28); `None` is all.
    pub fraction_per_million: Option<u32>,
    /// Only requests whose content type is `application/grpc[+...]` (Envoy `grpc`).
    pub grpc: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Plain string prefix: `/foo` matches `/foobar`.
    Prefix(String),
    /// Segment-wise prefix without trailing slash: `/foo` matches `/foo` and `/foo/x`, not `/foobar`.
    Segments(String),
    Exact(String),
    /// Whole path, RE2.
    Regex(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum RouteAction {
    Forward(Forward),
    Redirect(Redirect),
    Direct(DirectResponse),
    /// No cluster: for gRPC servers' route tables (`non_forwarding_action`).
    NonForwarding,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// One of these by weight, per request. Never empty.
    pub clusters: Vec<WeightedCluster>,
    /// From the request's end to the response's, retries included; `None` is no limit. On the wire 0 s.
    pub timeout: Option<Duration>,
    /// How far `grpc-timeout` is believed: `None` not at all, 0 without limit (Envoy `max_stream_duration.grpc_timeout_header_max`).
    /// Counts from the request's arrival, beside `timeout`.
    pub grpc_timeout_max: Option<Duration>,
    /// `None`: the client's own safe default (semantics section 8). `Some` with 0 retries: never.
    pub retry: Option<RetryPolicy>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WeightedCluster {
    pub name: String,
    /// Share of the sum; 0 gets nothing when there are several.
    pub weight: u32,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// Replaces the matched prefix; the whole path for an exact match (Envoy `prefix_rewrite`).
    Prefix(String),
    /// Replaces what the RE2 pattern matches; `\1` refers to a group (Envoy `regex_rewrite`).
    Regex {
        pattern: String,
        substitution: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub on: Vec<RetryOn>,
    /// Retries after the first try.
    pub retries: u32,
    /// `None`: the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Status codes for [`RetryOn::RetriableStatusCodes`].
    pub status_codes: Vec<u16>,
    /// First back-off; Envoy's default is 25 ms.
    pub backoff_base: Duration,
    /// Largest back-off; Envoy's default is ten times the base.
    pub backoff_max: Duration,
    /// Prefer an endpoint that has not been tried (Envoy `previous_hosts`, 5 selections).
    pub avoid_previous_hosts: bool,
}

/// Conditions of Envoy's `retry_on` and `x-envoy-retry-grpc-on`, by their names there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    Http5xx,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    EnvoyRatelimited,
    Retriable4xx,
    RefusedStream,
    RetriableStatusCodes,
    Http3PostConnectFailure,
    GrpcCancelled,
    GrpcDeadlineExceeded,
    GrpcInternal,
    GrpcResourceExhausted,
    GrpcUnavailable,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RedirectPath {
    Full(String),
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Applied in order: remove, then set or append.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderMutations {
    /// Lower case names.
    pub remove: Vec<String>,
    pub add: Vec<HeaderAdd>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeaderAdd {
    /// Lower case, or `:authority`.
    pub name: String,
    pub value: String,
    pub append: AppendAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendAction {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

impl RouteConfiguration {
    /// These routes, whatever the host.
    pub fn of_any_host(name: &str, routes: Vec<Route>) -> Self {
        let host = VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
        };
        Self {
            name: name.to_owned(),
            virtual_hosts: vec![host],
        }
    }
}

impl Route {
    /// A route that leaves the headers as they are.
    pub fn new(name: &str, matches: RouteMatch, action: RouteAction) -> Self {
        Self {
            name: name.to_owned(),
            matches,
            action,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        }
    }
}

impl RouteMatch {
    /// The path alone decides.
    pub fn path(path: PathMatch) -> Self {
        Self {
            path,
            ignore_path_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            fraction_per_million: None,
            grpc: false,
        }
    }

    /// Every request.
    pub fn all() -> Self {
        Self::path(PathMatch::Prefix("/".to_owned()))
    }
}

impl Forward {
    /// To these as they are: no timeout, the client's own retries, nothing rewritten.
    pub fn to(clusters: Vec<WeightedCluster>) -> Self {
        Self {
            clusters,
            timeout: None,
            grpc_timeout_max: None,
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
        }
    }
}

impl WeightedCluster {
    /// A share that leaves the headers as they are.
    pub fn new(name: &str, weight: u32) -> Self {
        Self {
            name: name.to_owned(),
            weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        }
    }
}
