//! TLS in both directions (Envoy `extensions.transport_sockets.tls.v3`).

/// Where a certificate comes from. Three kinds of client, three dialects (contract section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// Tasuki: `tls_certificate_provider_instance { instance_name: "workload" }`; gRPC: the name its bootstrap gives.
    ProviderInstance(String),
    /// Envoy: SDS over the same ADS stream.
    Sds(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub certificate: CertificateSource,
    /// `None`: clients are not verified.
    pub trust: Option<CertificateSource>,
    /// A client without a certificate is refused.
    pub require_client_certificate: bool,
    /// Offered in order.
    pub alpn: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `None`: no client certificate is shown (`SIMPLE`).
    pub certificate: Option<CertificateSource>,
    /// `None`: the system's roots.
    pub trust: Option<CertificateSource>,
    /// URI SANs of which the server must show one, when the endpoint itself does not say. Empty: any in the trust domain.
    pub server_identities: Vec<String>,
    /// DNS SANs of which the server must show one (`subjectAltNames` of SIMPLE TLS).
    pub server_names: Vec<String>,
    pub sni: Option<String>,
    pub alpn: Vec<String>,
}
