//! What is to be checked: `--probes`, parsed once at start.
//!
//! One JSON object; a key is `CONTAINER/KIND`, a value Kubernetes' own handler with the probe's `timeoutSeconds`. A value
//! that cannot be performed is a check that always fails, as it would at the kubelet's: a sidecar that did not start for it
//! would take the traffic away too.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

/// Of a probe that does not say (Kubernetes' default).
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Of a hook: Kubernetes gives it none but the Pod's grace period, so this only bounds what is kept.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest that is taken for meant.
const LONGEST_TIMEOUT: u64 = 3600;

/// What a check is for: the last segment of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Readiness,
    Liveness,
    Startup,
    PostStart,
    PreStop,
}

/// The checks of a Pod, by container and kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes(Arc<BTreeMap<(String, Kind), Declared>>);

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    pub check: Check,
    pub timeout: Duration,
}

/// How the application is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    Http(HttpGet),
    /// It listens.
    Tcp {
        host: Option<String>,
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        port: u16,
        service: String,
    },
    /// It always fails; why.
    Impossible(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpGet {
    pub scheme: Scheme,
    /// Instead of the Pod's own address.
    pub host: Option<String>,
    pub port: u16,
    pub path: PathAndQuery,
    /// Without `Host`.
    pub headers: HeaderMap,
    /// `Host` of the declared headers.
    pub authority: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    /// The certificate is not verified, as the kubelet does not: it cannot know the names in it.
    Https,
}

impl Kind {
    /// The segment of the path that names it.
    pub fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "readiness" => Kind::Readiness,
            "liveness" => Kind::Liveness,
            "startup" => Kind::Startup,
            "poststart" => Kind::PostStart,
            "prestop" => Kind::PreStop,
            _ => return None,
        })
    }

    /// A hook does something; a probe only asks.
    pub fn is_hook(self) -> bool {
        match self {
            Kind::PostStart | Kind::PreStop => true,
            Kind::Readiness | Kind::Liveness | Kind::Startup => false,
        }
    }
}

impl Probes {
    /// No checks at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&(String, Kind), &Declared)> {
        self.0.iter()
    }
}

impl FromStr for Probes {
    type Err = String;

    fn from_str(text: &str) -> Result<Probes, String> {
        if text.trim().is_empty() {
            return Ok(Probes::default());
        }
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|error| {
                format!("{error}; right would be a JSON object from CONTAINER/KIND to its handler")
            })?;
        let mut checks = BTreeMap::new();
        for (key, value) in object {
            let (container, kind) = key_of(&key)?;
            let declared = serde_json::from_value::<Written>(value)
                .map_err(|error| error.to_string())
                .and_then(|written| written.declared(kind));
            let impossible = |reason| Declared {
                check: Check::Impossible(format!("key {key:?}: {reason}")),
                timeout: PROBE_TIMEOUT,
            };
            checks.insert((container, kind), declared.unwrap_or_else(impossible));
        }
        Ok(Probes(Arc::new(checks)))
    }
}

fn key_of(key: &str) -> Result<(String, Kind), String> {
    key.split_once('/')
        .filter(|(container, _)| !container.is_empty())
        .and_then(|(container, kind)| Some((container.to_owned(), Kind::parse(kind)?)))
        .ok_or_else(|| {
            format!(
                "key {key:?} is not CONTAINER/readiness, liveness, startup, poststart or prestop"
            )
        })
}

/// As it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHttp {
    path: Option<String>,
    port: u16,
    host: Option<String>,
    scheme: Option<String>,
    http_headers: Option<Vec<WrittenHeader>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHeader {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    port: u16,
    host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    port: u16,
    service: Option<String>,
}

impl Written {
    fn declared(self, kind: Kind) -> Result<Declared, String> {
        let timeout = match self.timeout_seconds {
            None if kind.is_hook() => HOOK_TIMEOUT,
            None => PROBE_TIMEOUT,
            Some(seconds) if (1..=LONGEST_TIMEOUT).contains(&seconds) => {
                Duration::from_secs(seconds)
            }
            Some(_) => return Err(format!("timeoutSeconds: not 1 to {LONGEST_TIMEOUT}")),
        };
        let check = match (self.http_get, self.tcp_socket, self.grpc) {
            (Some(http), None, None) => Check::Http(http.parse()?),
            (None, Some(_), None) | (None, None, Some(_)) if kind.is_hook() => {
                return Err("a hook is httpGet".to_owned());
            }
            (None, Some(tcp), None) => Check::Tcp {
                host: named(tcp.host),
                port: usable("tcpSocket", tcp.port)?,
            },
            (None, None, Some(grpc)) => Check::Grpc {
                port: usable("grpc", grpc.port)?,
                service: grpc.service.unwrap_or_default(),
            },
            _ => return Err("needs exactly one of httpGet, tcpSocket and grpc".to_owned()),
        };
        Ok(Declared { check, timeout })
    }
}

impl WrittenHttp {
    fn parse(self) -> Result<HttpGet, String> {
        let scheme = match self.scheme.as_deref() {
            None | Some("" | "HTTP") => Scheme::Http,
            Some("HTTPS") => Scheme::Https,
            Some(other) => {
                return Err(format!(
                    "httpGet.scheme: {other:?} is neither HTTP nor HTTPS"
                ));
            }
        };
        let mut headers = HeaderMap::new();
        let mut authority = None;
        for (index, header) in self
            .http_headers
            .unwrap_or_default()
            .into_iter()
            .enumerate()
        {
            let wrong = |what| format!("httpGet.httpHeaders[{index}].{what}");
            let name: HeaderName = header.name.parse().map_err(|_| wrong("name: no header"))?;
            // Kubernetes takes any text, which the kubelet sends as the UTF-8 that it is.
            let value = HeaderValue::from_bytes(header.value.as_bytes())
                .map_err(|_| wrong("value: not what a header can have"))?;
            if name == HOST {
                authority = Some(value);
            } else if ![CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&name) {
                // Those frame a body, of which there is none: the kubelet's client leaves them out as well.
                headers.append(name, value);
            }
        }
        Ok(HttpGet {
            scheme,
            host: named(self.host),
            port: usable("httpGet", self.port)?,
            path: target(self.path.as_deref().unwrap_or("/"))
                .ok_or("httpGet.path: not the path of a URL")?,
            headers,
            authority,
        })
    }
}

fn named(host: Option<String>) -> Option<String> {
    host.filter(|host| !host.is_empty())
}

fn usable(handler: &str, port: u16) -> Result<u16, String> {
    if port == 0 {
        return Err(format!("{handler}.port: not 1 to 65535"));
    }
    Ok(port)
}

/// The kubelet takes any text for a path and escapes what a URL cannot have.
fn target(path: &str) -> Option<PathAndQuery> {
    let mut escaped = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        escaped.push('/');
    }
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    for byte in path.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            0x21..=0x7e => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped.parse().ok()
}

#[cfg(test)]
mod tests;
