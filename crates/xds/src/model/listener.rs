//! Listeners: what becomes of a connection (Envoy `config.listener.v3.Listener`).

use std::net::SocketAddr;
use std::time::Duration;

use super::endpoint::WorkloadRef;
use super::rbac::Rbac;
use super::route::{RouteConfiguration, WeightedCluster};
use super::tls::ServerTls;

/// A listener. Tasuki sidecars ask for `inbound`, `passthrough`, `IP:PORT` and `HOST:PORT`; gateways and
/// Envoy get listeners that have an address; gRPC clients get one whose `api` is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// The socket to bind; only gateways and Envoy.
    pub address: Option<SocketAddr>,
    /// How the port was declared. Travels as `filter_metadata["tasuki"].protocol`.
    pub protocol: DeclaredProtocol,
    /// The workload that asked; only in `inbound`. `filter_metadata["tasuki"].workload`, so that a proxy can say who it is.
    pub workload: Option<WorkloadRef>,
    /// `api_listener`: what an HTTP connection does. On-demand listeners have it unless the port is declared TCP or TLS.
    pub api: Option<HttpConnection>,
    /// Filter chains in order; the most specific match wins as in Envoy (destination port, server names, transport, ALPN).
    pub chains: Vec<FilterChain>,
    /// Taken when no chain matches.
    pub default_chain: Option<FilterChain>,
}

impl Listener {
    /// One that nothing is bound to and that does nothing yet.
    pub fn new(name: &str, protocol: DeclaredProtocol) -> Self {
        Self {
            name: name.to_owned(),
            address: None,
            protocol,
            workload: None,
            api: None,
            chains: Vec::new(),
            default_chain: None,
        }
    }
}

/// What the user declared a port to speak (`appProtocol`, then the port's name, then the port's number).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeclaredProtocol {
    /// Nothing declared: detect.
    #[default]
    Auto,
    Http,
    Http2,
    Grpc,
    Tcp,
    /// TLS of the application's own: routed by SNI, never terminated.
    Tls,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FilterChain {
    pub name: String,
    pub matches: ChainMatch,
    /// TLS is terminated here.
    pub tls: Option<ServerTls>,
    pub filter: Filter,
}

/// Conditions of a chain; an empty list or `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    pub transport: Transport,
    pub alpn: Vec<String>,
    /// Lower case; `*.example.com` matches any deeper name.
    pub server_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    #[default]
    Any,
    /// `raw_buffer`.
    Plaintext,
    /// `tls`, by the ClientHello.
    Tls,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    Http(HttpConnection),
    Tcp(TcpProxy),
}

/// HTTP on a connection (Envoy `HttpConnectionManager`).
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConnection {
    pub stat_prefix: String,
    pub routes: RouteSource,
    /// RBAC filters in order: AUDIT (`LOG`), then DENY, then ALLOW; each must pass.
    pub rbac: Vec<Rbac>,
    /// How the verified peer reaches the application in `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardClientCert {
    /// Strip what the client sent.
    #[default]
    Sanitize,
    /// Replace it with exactly one element made from the verified certificate.
    SanitizeSet,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    Inline(RouteConfiguration),
    /// Name of a RouteConfiguration, fetched over the same stream.
    Rds(String),
}

/// Bytes in both directions (Envoy `TcpProxy`, behind network RBAC filters).
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProxy {
    pub stat_prefix: String,
    /// One of these by weight, per connection. Never empty.
    pub clusters: Vec<WeightedCluster>,
    pub rbac: Vec<Rbac>,
    /// Closed after this long without a byte either way; `None` is Envoy's default of 1 h.
    pub idle_timeout: Option<Duration>,
}
