//! Header hygiene at the edges: framing attacks are refused, hop-by-hop headers end here, nobody outside speaks for the
//! mesh, and a host has one spelling.

use std::str::FromStr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version, request};

use crate::error::Error;

pub mod present;

use self::present::{Line, Present};

/// Names of headers of our own.
pub const ORIG_PROTO: HeaderName = HeaderName::from_static("x-tasuki-orig-proto");
pub const PEER: HeaderName = HeaderName::from_static("x-tasuki-peer");
/// In a mesh peer's answer to an extended CONNECT: it is an ordinary answer, although its status is 2xx.
pub const UPGRADE_IGNORED: HeaderName = HeaderName::from_static("x-tasuki-upgrade-ignored");
pub const REASON: HeaderName = HeaderName::from_static("x-tasuki-reason");
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Headers that only mesh peers may send, and only to each other.
const MESH_PREFIX: &str = "x-tasuki-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What an HTTP/1 request was before it crossed the mesh as HTTP/2 (`x-tasuki-orig-proto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrigProto {
    pub version: Version,
    /// The target was `http://host/path`, not `/path`.
    pub absolute: bool,
}

impl OrigProto {
    /// `HTTP/1.1`, `HTTP/1.0; absolute`, `HTTP/2`.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match (self.version, self.absolute) {
            (Version::HTTP_10, false) => "HTTP/1.0",
            (Version::HTTP_10, true) => "HTTP/1.0; absolute",
            (Version::HTTP_2, _) => "HTTP/2",
            (_, false) => "HTTP/1.1",
            (_, true) => "HTTP/1.1; absolute",
        })
    }

    /// What a mesh peer said; `None` for anything else.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let (version, absolute) = match value.as_bytes() {
            b"HTTP/1.0" => (Version::HTTP_10, false),
            b"HTTP/1.0; absolute" => (Version::HTTP_10, true),
            b"HTTP/1.1" => (Version::HTTP_11, false),
            b"HTTP/1.1; absolute" => (Version::HTTP_11, true),
            b"HTTP/2" => (Version::HTTP_2, false),
            _ => return None,
        };
        Some(Self { version, absolute })
    }
}

/// Whether the request is gRPC by its content type (`application/grpc`, `+...` and parameters included).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// `grpc-status` of trailers, or of the headers of a trailers-only response.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The longest `grpc-timeout` a client asks for.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<std::time::Duration> {
    let value = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    // gRPC over HTTP/2: at most 8 digits.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    let duration = match unit {
        "H" => std::time::Duration::from_secs(amount * 3_600),
        "M" => std::time::Duration::from_secs(amount * 60),
        "S" => std::time::Duration::from_secs(amount),
        "m" => std::time::Duration::from_millis(amount),
        "u" => std::time::Duration::from_micros(amount),
        "n" => std::time::Duration::from_nanos(amount),
        _ => return None,
    };
    Some(duration)
}

/// `grpc-timeout` for what is left: milliseconds, or microseconds when it is very little.
pub fn grpc_timeout_value(left: std::time::Duration) -> HeaderValue {
    let millis = left.as_millis();
    let text = match millis {
        0..100 => format!("{}u", left.as_micros().max(1)),
        100..100_000_000 => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("1m"))
}

/// What is checked of every request before anything looks at it. The request leaves with its authority in the URI
/// (HTTP/2's way) and `host` removed.
///
/// # Errors
/// [`Error::BadRequest`] for what two parsers could read in two ways.
pub fn admit(request: &mut request::Parts, present: Present) -> Result<(), Error> {
    framing(request, present)?;
    authority(request, present)?;
    if request.uri.path_and_query().is_none() && request.method != Method::CONNECT {
        return Err(Error::BadRequest("no path"));
    }
    Ok(())
}

/// RFC 9112 section 6: one framing, or none.
fn framing(request: &request::Parts, present: Present) -> Result<(), Error> {
    let headers = &request.headers;
    let has_encoding = present.has(Line::TransferEncoding);
    if request.version == Version::HTTP_2 {
        // RFC 9113 section 8.2.2: connection-specific fields make a request malformed.
        let te_ok = !present.has(Line::Te)
            || headers
                .get_all(header::TE)
                .iter()
                .all(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
        if has_encoding || present.has(Line::Connection) || present.has(Line::Upgrade) || !te_ok {
            return Err(Error::BadRequest("connection-specific header"));
        }
    } else if has_encoding {
        if present.has(Line::ContentLength) {
            return Err(Error::BadRequest(
                "both content-length and transfer-encoding",
            ));
        }
        if request.version == Version::HTTP_10 {
            return Err(Error::BadRequest("transfer-encoding in HTTP/1.0"));
        }
        let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let only = (encodings.next(), encodings.next());
        if !matches!(only, (Some(value), None) if value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        {
            return Err(Error::BadRequest("unknown transfer-encoding"));
        }
    }
    if !present.has(Line::ContentLength) {
        return Ok(());
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        let digits = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.any(|other| other != first) {
            return Err(Error::BadRequest("content-length"));
        }
    }
    Ok(())
}

/// Brings the authority into the URI; `:authority` and Host must agree.
fn authority(request: &mut request::Parts, present: Present) -> Result<(), Error> {
    let host = if !present.has(Line::Host) {
        None
    } else {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(host.clone()),
            (Some(_), Some(_)) => return Err(Error::BadRequest("more than one host")),
        }
    };
    let in_uri = request.uri.authority().is_some();
    if request
        .uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(Error::BadRequest("userinfo in authority"));
    }
    let Some(host) = host else {
        // HTTP/1.0 may come without; HTTP/1.1 and HTTP/2 must say (RFC 9112 section 3.2).
        return if in_uri
            || request.version == Version::HTTP_10
            || request.version == Version::HTTP_2
        {
            Ok(())
        } else {
            Err(Error::BadRequest("no host"))
        };
    };
    if let Some(authority) = request.uri.authority() {
        let http1_absolute = request.version != Version::HTTP_2;
        // RFC 9112 section 3.2.2: absolute form wins over Host; but two names are one too many for a proxy that routes.
        if !authority
            .as_str()
            .as_bytes()
            .eq_ignore_ascii_case(host.as_bytes())
        {
            return Err(Error::BadRequest(if http1_absolute {
                "host differs from target"
            } else {
                "host differs from :authority"
            }));
        }
        request.headers.remove(header::HOST);
        return Ok(());
    }
    request.headers.remove(header::HOST);
    if host.is_empty() {
        return Ok(());
    }
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Error::BadRequest("host"))?;
    if authority.as_str().contains('@') {
        return Err(Error::BadRequest("userinfo in host"));
    }
    set_authority(&mut request.uri, authority);
    Ok(())
}

/// Puts `authority` into `uri`.
pub fn set_authority(uri: &mut Uri, authority: Authority) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.authority = Some(authority);
    if parts.path_and_query.is_some() {
        parts.scheme.get_or_insert(Scheme::HTTP);
    }
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Puts another path and query into `uri`.
pub fn set_path(uri: &mut Uri, path: PathAndQuery) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(path);
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Removes what concerns one connection only (RFC 9110 section 7.6.1), `te: trailers` excepted.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // `remove` would hand out the first of several lines only.
    let connection: Vec<HeaderValue> = headers
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect();
    headers.remove(header::CONNECTION);
    for name in connection
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
    {
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
            headers.remove(name);
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
    ] {
        headers.remove(name);
    }
    if headers
        .get(header::TE)
        .is_some_and(|te| te.as_bytes() != b"trailers")
    {
        let trailers = headers.get_all(header::TE).iter().any(|te| {
            te.as_bytes()
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Removes every `x-tasuki-*`: only verified mesh peers may speak for the mesh.
pub fn strip_mesh(headers: &mut HeaderMap) {
    remove_if(headers, is_mesh);
}

/// Removes from trailers what nobody may say there: what concerns one connection or frames and routes a message (RFC 9110 section
/// 6.5.1), and what only the mesh says, which it says in heads.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    if trailers.contains_key(header::CONNECTION) {
        strip_hop_by_hop(trailers);
    }
    remove_if(trailers, |name| {
        is_mesh(name)
            || matches!(
                name.as_str(),
                "connection"
                    | "content-length"
                    | "host"
                    | "keep-alive"
                    | "proxy-authenticate"
                    | "proxy-connection"
                    | "te"
                    | "trailer"
                    | "transfer-encoding"
                    | "upgrade"
                    | "x-forwarded-client-cert"
            )
    });
}

fn is_mesh(name: &HeaderName) -> bool {
    name.as_str().starts_with(MESH_PREFIX)
}

/// One look over the names that are there, of which hardly ever one is meant; nothing is set aside until then.
fn remove_if(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&is_meant) {
        let names: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_meant(name))
            .cloned()
            .collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// The protocol that an HTTP/1 client asks to switch to, if the request is a proper upgrade.
pub fn upgrade(request: &request::Parts) -> Option<String> {
    let token = request.headers.get(header::UPGRADE)?.to_str().ok()?;
    let listed = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
    // h2c upgrades are an offer that a proxy may ignore (RFC 9110 section 7.8).
    (listed && request.version == Version::HTTP_11 && !token.eq_ignore_ascii_case("h2c"))
        .then(|| token.to_owned())
}

/// The host in canonical spelling: lower case, no trailing dot, explicit port.
pub fn canonical_host(authority: &str, default_port: u16) -> String {
    let (host, port) = split_port(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut canonical = host.to_ascii_lowercase();
    canonical.push(':');
    let mut buffer = itoa::Buffer::new();
    canonical.push_str(buffer.format(port.unwrap_or(default_port)));
    canonical
}

/// Host and port of an authority; brackets of IPv6 stay on the host.
pub fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            u16::from_str(port).map_or((authority, None), |port| (host, Some(port)))
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests;
