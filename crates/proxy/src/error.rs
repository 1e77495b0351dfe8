//! Why a request failed: one closed enum. Status, gRPC status, Envoy response flag, reason and retry class are
//! exhaustive matches, so a new failure cannot be added without deciding what each reader of it sees.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

/// A failure of one request or connection, with who caused it in its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request breaks HTTP or one of our limits on it.
    BadRequest(&'static str),
    /// The header block is larger than allowed.
    HeadersTooLarge,
    /// The client went away or reset its stream.
    DownstreamClosed,
    /// The client broke its framing while the body was being read.
    DownstreamProtocol,
    /// No virtual host or route matches.
    NoRoute,
    /// The route names a cluster that does not exist (anymore).
    NoCluster(String),
    /// The control plane is away and the destination was never seen.
    Disconnected,
    /// Registry-only, and the destination is in no registry.
    BlackHole,
    /// The cluster has no endpoint to use.
    NoHealthyUpstream,
    /// A circuit breaker or pool limit is reached.
    Overflow(&'static str),
    /// The leg would reach the proxy itself.
    Loop,
    /// A name of the cluster could not be resolved.
    DnsFailed,
    /// TCP connect failed.
    ConnectFailed(String),
    /// TCP connect or the handshakes on it took too long.
    ConnectTimeout,
    /// TLS towards the upstream failed, its identity included.
    TlsFailed(String),
    /// The peer's sidecar could not connect to its application.
    ApplicationAway,
    /// The upstream refused the stream unprocessed (`REFUSED_STREAM`, GOAWAY with a lower last-stream-id), or the
    /// request was never written.
    Refused(Refusal),
    /// The upstream reset the stream before any response header.
    ResetBeforeHeaders(u32),
    /// The connection ended before any response header, after the request was at least partly written.
    ClosedBeforeHeaders,
    /// The upstream reset the stream inside the response.
    ResetInResponse(u32),
    /// The connection ended inside the response.
    ClosedInResponse,
    /// The upstream broke HTTP.
    UpstreamProtocol(&'static str),
    /// The route's timeout, all attempts included.
    RouteTimeout,
    /// One attempt took too long.
    PerTryTimeout,
    /// Nothing moved in either direction for too long.
    StreamIdle,
    /// An RBAC policy denied it; the policy's name, or `none` when no ALLOW policy matched.
    Denied(String),
    /// A rate or concurrency limit of the workload itself.
    Limited(&'static str),
    /// The connection must come over TLS, or from a peer of the mesh.
    IdentityRequired,
    /// The method or feature is not offered.
    NotImplemented(&'static str),
}

/// Who refused what was not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The application, this one request (`REFUSED_STREAM`).
    Stream,
    /// The connection was at its end: a GOAWAY, or closed before the request was written.
    Connection(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "REFUSED_STREAM",
            Self::Connection(why) => why,
        })
    }
}

/// Envoy's response flags, as its access log prints them, and our own `LOOP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    None,
    DownstreamTermination,
    DownstreamProtocolError,
    NoRoute,
    NoCluster,
    NoHealthyUpstream,
    UpstreamOverflow,
    UpstreamConnectionFailure,
    UpstreamTermination,
    UpstreamRemoteReset,
    UpstreamProtocolError,
    UpstreamTimeout,
    RetryLimitExceeded,
    DnsFailed,
    StreamIdleTimeout,
    RateLimited,
    Loop,
}

impl Flag {
    /// Envoy's abbreviation; `-` for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::DownstreamTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamProtocolError => "UPE",
            Self::UpstreamTimeout => "UT",
            Self::RetryLimitExceeded => "URX",
            Self::DnsFailed => "DF",
            Self::StreamIdleTimeout => "SI",
            Self::RateLimited => "RL",
            Self::Loop => "LOOP",
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known about how far a failed attempt got. Decides whether a retry can repeat an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// Not the upstream's failure, or nothing another attempt would change.
    Never,
    /// No connection to the application: certainly not processed.
    ConnectFailure,
    /// Certainly not processed, on an open connection.
    Refused,
    /// Reset or closed before any response header: may have been processed.
    Reset,
    /// No answer in time: may have been processed.
    PerTryTimeout,
}

/// gRPC status codes (grpc/statuscodes.md) that the proxy itself answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GrpcStatus {
    Cancelled = 1,
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Error {
    /// The HTTP status of the local answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::DownstreamProtocol => StatusCode::BAD_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::DownstreamClosed => CLIENT_CLOSED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BlackHole
            | Self::ResetBeforeHeaders(_)
            | Self::UpstreamProtocol(_)
            | Self::ResetInResponse(_)
            | Self::ClosedInResponse => StatusCode::BAD_GATEWAY,
            Self::NoCluster(_)
            | Self::Disconnected
            | Self::NoHealthyUpstream
            | Self::Overflow(_)
            | Self::Loop
            | Self::DnsFailed
            | Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsFailed(_)
            | Self::ApplicationAway
            | Self::Refused(_)
            | Self::ClosedBeforeHeaders => StatusCode::SERVICE_UNAVAILABLE,
            Self::RouteTimeout | Self::PerTryTimeout | Self::StreamIdle => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Denied(_) | Self::IdentityRequired => StatusCode::FORBIDDEN,
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The gRPC status of the local answer: Envoy's mapping of the HTTP status, but a timeout is a deadline.
    pub fn grpc_status(&self) -> GrpcStatus {
        match self {
            Self::BadRequest(_) | Self::DownstreamProtocol | Self::HeadersTooLarge => {
                GrpcStatus::Internal
            }
            Self::DownstreamClosed => GrpcStatus::Cancelled,
            Self::NoRoute | Self::NotImplemented(_) => GrpcStatus::Unimplemented,
            Self::Denied(_) | Self::IdentityRequired => GrpcStatus::PermissionDenied,
            Self::RouteTimeout | Self::PerTryTimeout | Self::StreamIdle => {
                GrpcStatus::DeadlineExceeded
            }
            Self::NoCluster(_)
            | Self::Disconnected
            | Self::BlackHole
            | Self::NoHealthyUpstream
            | Self::Overflow(_)
            | Self::Loop
            | Self::DnsFailed
            | Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsFailed(_)
            | Self::ApplicationAway
            | Self::Refused(_)
            | Self::ResetBeforeHeaders(_)
            | Self::ClosedBeforeHeaders
            | Self::ResetInResponse(_)
            | Self::ClosedInResponse
            | Self::UpstreamProtocol(_)
            | Self::Limited(_) => GrpcStatus::Unavailable,
        }
    }

    /// Envoy's response flag.
    pub fn flag(&self) -> Flag {
        match self {
            Self::BadRequest(_) | Self::HeadersTooLarge | Self::DownstreamProtocol => {
                Flag::DownstreamProtocolError
            }
            Self::DownstreamClosed => Flag::DownstreamTermination,
            Self::StreamIdle => Flag::StreamIdleTimeout,
            Self::NoRoute | Self::BlackHole => Flag::NoRoute,
            Self::NoCluster(_) | Self::Disconnected => Flag::NoCluster,
            Self::NoHealthyUpstream => Flag::NoHealthyUpstream,
            Self::Overflow(_) => Flag::UpstreamOverflow,
            Self::Loop => Flag::Loop,
            Self::DnsFailed => Flag::DnsFailed,
            Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsFailed(_)
            | Self::ApplicationAway => Flag::UpstreamConnectionFailure,
            Self::Refused(_) | Self::ResetBeforeHeaders(_) | Self::ResetInResponse(_) => {
                Flag::UpstreamRemoteReset
            }
            Self::ClosedBeforeHeaders | Self::ClosedInResponse => Flag::UpstreamTermination,
            Self::UpstreamProtocol(_) => Flag::UpstreamProtocolError,
            Self::RouteTimeout | Self::PerTryTimeout => Flag::UpstreamTimeout,
            Self::Limited(_) => Flag::RateLimited,
            Self::Denied(_) | Self::IdentityRequired | Self::NotImplemented(_) => Flag::None,
        }
    }

    /// One word (Envoy's response code details where it has one), then what is specific to this case.
    pub fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::BadRequest(why) => format!("bad_request{{{why}}}").into(),
            Self::HeadersTooLarge => "request_headers_too_large".into(),
            Self::DownstreamClosed => "downstream_remote_disconnect".into(),
            Self::DownstreamProtocol => "downstream_protocol_error".into(),
            Self::NoRoute => "route_not_found".into(),
            Self::NoCluster(name) => format!("cluster_not_found{{{name}}}").into(),
            Self::Disconnected => "NC".into(),
            Self::BlackHole => "BlackHole".into(),
            Self::NoHealthyUpstream => "no_healthy_upstream".into(),
            Self::Overflow(what) => format!("overflow{{{what}}}").into(),
            Self::Loop => "loop".into(),
            Self::DnsFailed => "dns_resolution_failed".into(),
            Self::ConnectFailed(why) => format!("connection_failure{{{why}}}").into(),
            Self::ConnectTimeout => "connection_timeout".into(),
            Self::TlsFailed(why) => format!("tls_failure{{{why}}}").into(),
            Self::ApplicationAway => "connection_failure{application}".into(),
            Self::Refused(why) => format!("refused{{{why}}}").into(),
            Self::ResetBeforeHeaders(code) => {
                format!("upstream_reset_before_response_started{{{code}}}").into()
            }
            Self::ClosedBeforeHeaders => {
                "upstream_reset_before_response_started{connection_termination}".into()
            }
            Self::ResetInResponse(code) => {
                format!("upstream_reset_after_response_started{{{code}}}").into()
            }
            Self::ClosedInResponse => {
                "upstream_reset_after_response_started{connection_termination}".into()
            }
            Self::UpstreamProtocol(why) => format!("upstream_protocol_error{{{why}}}").into(),
            Self::RouteTimeout => "upstream_response_timeout".into(),
            Self::PerTryTimeout => "upstream_per_try_timeout".into(),
            Self::StreamIdle => "stream_idle_timeout".into(),
            Self::Denied(policy) => format!("rbac_access_denied_matched_policy[{policy}]").into(),
            Self::Limited(what) => format!("limited{{{what}}}").into(),
            Self::IdentityRequired => "identity_required".into(),
            Self::NotImplemented(what) => format!("not_implemented{{{what}}}").into(),
        }
    }

    /// The body of the local answer, and `grpc-message`. Says nothing that helps an attacker.
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            Self::Denied(_) => "RBAC: access denied".into(),
            Self::IdentityRequired => "a mesh identity is required".into(),
            Self::BadRequest(why) => (*why).into(),
            Self::HeadersTooLarge => "request headers too large".into(),
            Self::DownstreamClosed => "client closed request".into(),
            Self::DownstreamProtocol => "malformed request body".into(),
            Self::NoRoute => "no route".into(),
            Self::NoCluster(_) => "no such cluster".into(),
            Self::Disconnected => "destination not known yet".into(),
            Self::BlackHole => "destination not in the registry".into(),
            Self::NoHealthyUpstream => "no healthy upstream".into(),
            Self::Overflow(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: overflow"
                    .into()
            }
            Self::Loop => "refusing to call the proxy itself".into(),
            Self::DnsFailed => "upstream name could not be resolved".into(),
            Self::ConnectFailed(_) => "upstream connection failure".into(),
            Self::ConnectTimeout => "upstream connection timeout".into(),
            Self::TlsFailed(_) => "upstream TLS failure".into(),
            Self::ApplicationAway => "upstream application is not listening".into(),
            Self::Refused(_) => "upstream refused the stream".into(),
            Self::ResetBeforeHeaders(_) | Self::ResetInResponse(_) => {
                "upstream reset the stream".into()
            }
            Self::ClosedBeforeHeaders | Self::ClosedInResponse => {
                "upstream closed the connection".into()
            }
            Self::UpstreamProtocol(_) => "upstream broke its protocol".into(),
            Self::RouteTimeout | Self::PerTryTimeout => "upstream request timeout".into(),
            Self::StreamIdle => "stream timeout".into(),
            Self::Limited(_) => "rate limited".into(),
            Self::NotImplemented(what) => (*what).into(),
        }
    }

    /// Whether certainly no application has looked at the request: there was no connection for it, or none any more.
    pub fn found_nobody(&self) -> bool {
        match self {
            Self::Refused(refusal) => *refusal != Refusal::Stream,
            _ => self.retry_class() == RetryClass::ConnectFailure,
        }
    }

    /// How far the attempt got, for the decision to retry.
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::TlsFailed(_)
            | Self::ApplicationAway => RetryClass::ConnectFailure,
            Self::Refused(_) => RetryClass::Refused,
            Self::ResetBeforeHeaders(_) | Self::ClosedBeforeHeaders | Self::UpstreamProtocol(_) => {
                RetryClass::Reset
            }
            Self::PerTryTimeout => RetryClass::PerTryTimeout,
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::DownstreamClosed
            | Self::DownstreamProtocol
            | Self::NoRoute
            | Self::NoCluster(_)
            | Self::Disconnected
            | Self::BlackHole
            | Self::NoHealthyUpstream
            | Self::Overflow(_)
            | Self::Loop
            | Self::DnsFailed
            | Self::ResetInResponse(_)
            | Self::ClosedInResponse
            | Self::RouteTimeout
            | Self::StreamIdle
            | Self::Denied(_)
            | Self::Limited(_)
            | Self::IdentityRequired
            | Self::NotImplemented(_) => RetryClass::Never,
        }
    }
}

/// nginx's 499; never sent, only recorded.
const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason())
    }
}

impl std::error::Error for Error {}
