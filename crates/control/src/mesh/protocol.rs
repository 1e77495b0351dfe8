//! What a port speaks, as the planes say it, and what follows from it.

use tasuki_resources::PortProtocol;
use tasuki_xds::model::listener::DeclaredProtocol;

/// The resource's word in the model's words.
pub fn declared(protocol: PortProtocol) -> DeclaredProtocol {
    match protocol {
        PortProtocol::Auto => DeclaredProtocol::Auto,
        PortProtocol::Http => DeclaredProtocol::Http,
        PortProtocol::Http2 => DeclaredProtocol::Http2,
        PortProtocol::Grpc => DeclaredProtocol::Grpc,
        PortProtocol::Tcp => DeclaredProtocol::Tcp,
        PortProtocol::Tls => DeclaredProtocol::Tls,
    }
}

/// Whether an HTTP filter makes sense at all.
pub fn may_be_http(protocol: DeclaredProtocol) -> bool {
    match protocol {
        DeclaredProtocol::Auto
        | DeclaredProtocol::Http
        | DeclaredProtocol::Http2
        | DeclaredProtocol::Grpc => true,
        DeclaredProtocol::Tcp | DeclaredProtocol::Tls => false,
    }
}

/// Whether bytes that are not HTTP may be expected.
pub fn may_be_tcp(protocol: DeclaredProtocol) -> bool {
    match protocol {
        DeclaredProtocol::Auto | DeclaredProtocol::Tcp | DeclaredProtocol::Tls => true,
        DeclaredProtocol::Http | DeclaredProtocol::Http2 | DeclaredProtocol::Grpc => false,
    }
}
