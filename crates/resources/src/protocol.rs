//! What a port is declared to speak.

/// By `appProtocol`, else by the port's name, else by well-known number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortProtocol {
    /// Nothing declared: the proxy detects.
    #[default]
    Auto,
    Http,
    Http2,
    Grpc,
    Tcp,
    /// TLS of the application's own (`https`, `tls`): routed by SNI, never terminated.
    Tls,
}

impl PortProtocol {
    pub fn is_http(self) -> bool {
        matches!(
            self,
            PortProtocol::Http | PortProtocol::Http2 | PortProtocol::Grpc
        )
    }

    /// Reads a protocol's name as Istio does, ignoring case; `None` when it names none.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "tcp" | "mongo" | "redis" | "mysql" => Self::Tcp,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            _ => return None,
        })
    }
}

/// Ports whose servers usually speak first or are never HTTP: SMTP, DNS, MySQL, MongoDB (Istio's list).
const TCP_BY_NUMBER: [u16; 4] = [25, 53, 3306, 27017];

/// What a service's port is declared to speak.
pub fn declared_protocol(app_protocol: Option<&str>, port_name: &str, port: u16) -> PortProtocol {
    // An `appProtocol` that says nothing to us still keeps the name from being asked, as in Istio.
    let name = app_protocol.unwrap_or(port_name);
    if let Some(protocol) = PortProtocol::parse(name) {
        return protocol;
    }
    // `http-web`; `grpc-web-x` starts with `grpc` as well.
    let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
    match PortProtocol::parse(prefix) {
        Some(protocol) => protocol,
        None if TCP_BY_NUMBER.contains(&port) => PortProtocol::Tcp,
        None => PortProtocol::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::{PortProtocol, declared_protocol};

    #[test]
    fn app_protocol_then_name_then_number() {
        for (app, name, port, expected) in [
            (None, "http", 1, PortProtocol::Http),
            (None, "http2-x", 1, PortProtocol::Http2),
            (None, "grpc-web-x", 1, PortProtocol::Grpc),
            (None, "https", 1, PortProtocol::Tls),
            (None, "HTTP-web", 1, PortProtocol::Http),
            (None, "httpx", 1, PortProtocol::Auto),
            (None, "", 3306, PortProtocol::Tcp),
            (None, "web", 8080, PortProtocol::Auto),
            (Some("kubernetes.io/h2c"), "http", 1, PortProtocol::Http2),
            (Some("kubernetes.io/ws"), "", 1, PortProtocol::Http),
            (Some("tcp"), "http", 1, PortProtocol::Tcp),
            (Some("example.com/own"), "http", 1, PortProtocol::Auto),
        ] {
            assert_eq!(
                declared_protocol(app, name, port),
                expected,
                "{app:?} {name} {port}"
            );
        }
    }
}
