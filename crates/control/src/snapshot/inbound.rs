//! The listener `inbound` of a sidecar: for each port of its workload, who may connect how.
//!
//! Chains of a port, most specific first; ports that nobody declared have the same chains without a port:
//!
//! | mode | TLS `tasuki-h2` | TLS `tasuki-tcp` | TLS `h2` | plaintext HTTP | other bytes |
//! |---|---|---|---|---|---|
//! | STRICT | HTTP | TCP | HTTP | closed | closed |
//! | PERMISSIVE | HTTP | TCP | as bytes | HTTP | TCP |
//! | DISABLE | as bytes | as bytes | as bytes | HTTP | TCP |
//!
//! "Plaintext HTTP" of an undeclared port is a chain with the ALPN names `http/1.1` and `h2c`, which is
//! how Envoy's HTTP inspector reports what it saw; a port declared HTTP has no other plaintext chain, a
//! port declared TCP has only that of bytes.

use tasuki_xds::model::Listener;
use tasuki_xds::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, ForwardClientCert, HttpConnection,
    RouteSource, TcpProxy, Transport,
};
use tasuki_xds::model::rbac::Rbac;
use tasuki_xds::model::tls::{CertificateSource, ServerTls};

use super::outbound::{catch_all, only};
use super::{inbound_cluster_name, rbac};
use crate::mesh::Mesh;
use crate::mesh::protocol::{may_be_http, may_be_tcp};
use crate::mesh::workloads::Workload;
use tasuki_resources::peer_authentication::MtlsMode;

/// ALPN of HTTP between mesh peers, always framed as HTTP/2.
pub const ALPN_HTTP: &str = "tasuki-h2";
/// ALPN of plain bytes between mesh peers.
pub const ALPN_TCP: &str = "tasuki-tcp";
/// What gRPC's own mTLS offers.
const ALPN_GRPC: &str = "h2";

/// The listener for the sidecar of `workload`.
pub fn listener(mesh: &Mesh, workload: &Workload) -> Listener {
    let policies = mesh
        .authorization
        .of_workload(&workload.id.namespace, &workload.labels);
    let filters = Filters {
        http: rbac::http(&policies, mesh),
        tcp: rbac::tcp(&policies, mesh),
    };
    let mut chains = Vec::new();
    for (port, protocol) in mesh.workload_ports(workload) {
        let mode =
            mesh.peer_authentication
                .mode(&workload.id.namespace, &workload.labels, Some(port));
        filters.port(&mut chains, Some(port), protocol, mode);
    }
    let mode = mesh
        .peer_authentication
        .mode(&workload.id.namespace, &workload.labels, None);
    filters.port(&mut chains, None, DeclaredProtocol::Auto, mode);
    Listener {
        name: "inbound".to_owned(),
        address: None,
        protocol: DeclaredProtocol::Auto,
        workload: Some(workload.reference.clone()),
        api: None,
        chains,
        default_chain: None,
    }
}

/// Authorization of a workload, in both forms.
struct Filters {
    http: Vec<Rbac>,
    tcp: Vec<Rbac>,
}

impl Filters {
    fn port(
        &self,
        chains: &mut Vec<FilterChain>,
        port: Option<u16>,
        protocol: DeclaredProtocol,
        mode: MtlsMode,
    ) {
        let mut add = |kind: &str, transport, alpn: &[&str], tls: Option<ServerTls>, http: bool| {
            let cluster = inbound_cluster_name(port.unwrap_or(0));
            chains.push(FilterChain {
                name: match port {
                    Some(port) => format!("{port}-{kind}"),
                    None => kind.to_owned(),
                },
                matches: ChainMatch {
                    destination_port: port,
                    transport,
                    alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
                    server_names: Vec::new(),
                },
                tls,
                filter: if http {
                    self.http_filter(cluster)
                } else {
                    self.tcp_filter(cluster)
                },
            });
        };
        if mode != MtlsMode::Disable {
            add(
                "mtls-http",
                Transport::Tls,
                &[ALPN_HTTP],
                Some(mutual(&[ALPN_HTTP])),
                true,
            );
            add(
                "mtls-tcp",
                Transport::Tls,
                &[ALPN_TCP],
                Some(mutual(&[ALPN_TCP])),
                false,
            );
        }
        if mode == MtlsMode::Strict {
            if may_be_http(protocol) {
                add(
                    "mtls-grpc",
                    Transport::Tls,
                    &[ALPN_GRPC],
                    Some(mutual(&[ALPN_GRPC])),
                    true,
                );
            }
            return;
        }
        add("app-tls", Transport::Tls, &[], None, false);
        match (may_be_http(protocol), may_be_tcp(protocol)) {
            (true, true) => {
                add(
                    "plain-http",
                    Transport::Plaintext,
                    &["http/1.1", "h2c"],
                    None,
                    true,
                );
                add("plain-tcp", Transport::Plaintext, &[], None, false);
            }
            (http, _) => add(
                if http { "plain-http" } else { "plain-tcp" },
                Transport::Plaintext,
                &[],
                None,
                http,
            ),
        }
    }

    fn http_filter(&self, cluster: String) -> Filter {
        Filter::Http(HttpConnection {
            stat_prefix: cluster.clone(),
            routes: RouteSource::Inline(catch_all(&cluster, &cluster)),
            rbac: self.http.clone(),
            forward_client_cert: ForwardClientCert::SanitizeSet,
        })
    }

    fn tcp_filter(&self, cluster: String) -> Filter {
        Filter::Tcp(TcpProxy {
            clusters: vec![only(&cluster)],
            stat_prefix: cluster,
            rbac: self.tcp.clone(),
            idle_timeout: None,
        })
    }
}

/// Mesh TLS: our certificate, and one of the client's that our roots signed.
fn mutual(alpn: &[&str]) -> ServerTls {
    let workload = || CertificateSource::ProviderInstance("workload".to_owned());
    ServerTls {
        certificate: workload(),
        trust: Some(workload()),
        require_client_certificate: true,
        alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
    }
}
