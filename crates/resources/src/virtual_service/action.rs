//! What becomes of a request that matched: forwarded, redirected, or answered at once.

use base64::Engine as _;

use super::headers::{self, Headers};
use crate::fields::{Fields, Value, host, is_dns_label};
use crate::host::Host;

#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction {
    Forward(Forward),
    Redirect(Redirect),
    Direct(DirectResponse),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Never empty. A single one takes everything, whatever its weight.
    pub destinations: Vec<WeightedDestination>,
    pub rewrite: Rewrite,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WeightedDestination {
    /// Fully qualified, lower case.
    pub host: String,
    pub subset: Option<String>,
    /// `None`: the port of the service, where it has one; otherwise the port that was called.
    pub port: Option<u16>,
    /// Share of the sum over the rule; 0 gets nothing when there are several.
    pub weight: u32,
    pub headers: Headers,
}

/// What the upstream sees instead of what the client wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path where the match was not a prefix.
    pub uri: Option<String>,
    pub authority: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<String>,
    pub authority: Option<String>,
    pub port: Option<RedirectPort>,
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    Number(u16),
    /// 80 for http, 443 for https.
    FromScheme,
    /// The port of the request.
    FromRequest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// `uri`: the whole path.
    Full(String),
    /// `prefixRewrite`: replaces the matched prefix.
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    pub body: Vec<u8>,
}

/// `route`, `redirect` or `directResponse` of a rule; `None` after a report.
pub(super) fn read(rule: &Fields<'_>) -> Option<HttpAction> {
    let (route, redirect, direct) = (
        rule.get("route"),
        rule.get("redirect"),
        rule.get("directResponse"),
    );
    let rewrite = rule.get("rewrite");
    let set: Vec<_> = [
        ("route", &route),
        ("redirect", &redirect),
        ("directResponse", &direct),
    ]
    .into_iter()
    .filter(|(_, value)| value.is_some())
    .map(|(name, _)| name)
    .collect();
    if set.len() > 1 {
        rule.value.error(
            format!("has both {} and {}", set[0], set[1]),
            "one rule does one of these",
        );
    }
    if let Some(rewrite) = rewrite.as_ref().filter(|_| route.is_none()) {
        rewrite.error("is for rules with a route only", "");
    }
    let rewrite = rewrite.map(|v| read_rewrite(&v)).unwrap_or_default();
    match (route, redirect, direct) {
        (Some(route), ..) => {
            let destinations = read_route(&route);
            (!destinations.is_empty()).then_some(HttpAction::Forward(Forward {
                destinations,
                rewrite,
            }))
        }
        (None, Some(redirect), _) => read_redirect(&redirect).map(HttpAction::Redirect),
        (None, None, Some(direct)) => read_direct(&direct).map(HttpAction::Direct),
        (None, None, None) if rule.has("delegate") => None,
        (None, None, None) => {
            rule.value.error(
                "has no route, redirect or directResponse",
                "say what becomes of the request",
            );
            None
        }
    }
}

fn read_route(value: &Value<'_>) -> Vec<WeightedDestination> {
    let items = value.list();
    if items.is_empty() {
        value.error("is empty", "name at least one destination");
    }
    let destinations: Vec<_> = items.iter().filter_map(read_weighted).collect();
    // Two hosts for one route is more than a route can say; it must not be lost in silence.
    for (item, destination) in items.iter().zip(&destinations) {
        let mut set = destination.headers.request.set.iter();
        let several = items.len() > 1 && destinations.len() == items.len();
        if several && set.any(|(name, _)| name == ":authority") {
            item.not_honoured("the authority of one destination among several");
        }
    }
    let total: u64 = destinations.iter().map(|d| u64::from(d.weight)).sum();
    if destinations.len() == items.len() && items.len() > 1 && total == 0 {
        value.error(
            "total destination weight = 0",
            "give weights, usually ones that add up to 100",
        );
    }
    if total > u64::from(u32::MAX) {
        value.error("the weights add up to more than 4294967295", "");
    }
    destinations
}

fn read_weighted(value: &Value<'_>) -> Option<WeightedDestination> {
    let fields = value.fields()?;
    let weight = fields.get("weight").map(|v| v.i32_positive());
    let headers = fields
        .get("headers")
        .map(|v| headers::read(&v))
        .unwrap_or_default();
    let destination = fields
        .require("destination")
        .and_then(|v| read_destination(&v));
    fields.finish();
    let (host, subset, port) = destination?;
    Some(WeightedDestination {
        host,
        subset,
        port,
        weight: weight.flatten().unwrap_or(0),
        headers,
    })
}

fn read_destination(value: &Value<'_>) -> Option<(String, Option<String>, Option<u16>)> {
    let fields = value.fields()?;
    let target =
        fields
            .require("host")
            .and_then(|v| match host(&v, Some(&value.report.namespace))? {
                Host::Exact(name) => Some(name),
                Host::Suffix(_) => {
                    v.error("a destination cannot be a wildcard", "name one host");
                    None
                }
            });
    let subset = fields
        .get("subset")
        .filter(|v| v.node.as_str() != Some(""))
        .and_then(|v| {
            let text = v.text()?;
            if !is_dns_label(text) {
                v.error(
                    format!("{text:?} is not a subset name"),
                    "write lower-case letters, digits and dashes",
                );
            }
            Some(text.to_owned())
        });
    let port = fields.get("port").and_then(|v| {
        let port = v.fields()?;
        let number = port.require("number").and_then(|v| v.port());
        port.finish();
        number
    });
    fields.finish();
    Some((target?, subset, port))
}

fn read_rewrite(value: &Value<'_>) -> Rewrite {
    let Some(fields) = value.fields() else {
        return Rewrite::default();
    };
    fields.not_honoured(&["uriRegexRewrite"]);
    if fields.count(&["uri", "authority", "uriRegexRewrite"]) == 0 {
        value.error("must say uri or authority", "");
    }
    let rewrite = Rewrite {
        uri: fields.get("uri").and_then(|v| path(&v)),
        authority: fields.get("authority").and_then(|v| authority(&v)),
    };
    fields.finish();
    rewrite
}

/// What can stand in a path.
fn path(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        value.error(
            "has a space or a control character",
            "write it percent-encoded",
        );
        return None;
    }
    Some(text.to_owned())
}

fn authority(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.parse::<http::uri::Authority>().is_err() || text.contains('@') {
        value.error(format!("{text:?} is not a host with an optional port"), "");
        return None;
    }
    Some(text.to_owned())
}

fn read_redirect(value: &Value<'_>) -> Option<Redirect> {
    let fields = value.fields()?;
    if fields.is_empty() {
        value.error(
            "changes nothing",
            "say uri, prefixRewrite, authority, scheme or port",
        );
    }
    if fields.count(&["uri", "prefixRewrite"]) > 1 {
        value.error(
            "has both uri and prefixRewrite",
            "one redirect does one of these",
        );
    }
    if fields.count(&["port", "derivePort"]) > 1 {
        value.error(
            "has both port and derivePort",
            "one redirect does one of these",
        );
    }
    let derived = fields.get("derivePort").and_then(|v| {
        v.choice(&[
            ("FROM_PROTOCOL_DEFAULT", RedirectPort::FromScheme),
            ("FROM_REQUEST_PORT", RedirectPort::FromRequest),
        ])
    });
    let number = fields
        .get("port")
        .and_then(|v| v.port())
        .map(RedirectPort::Number);
    let status = fields.get("redirectCode").and_then(|v| redirect_status(&v));
    let scheme = fields.get("scheme").and_then(|v| {
        let text = v.text()?;
        if !["http", "https"].contains(&text) {
            v.error(format!("unknown scheme {text:?}"), "write http or https");
        }
        Some(text.to_owned())
    });
    let authority = fields.get("authority").and_then(|v| authority(&v));
    let full = fields
        .get("uri")
        .and_then(|v| path(&v))
        .map(RedirectPath::Full);
    let prefix = fields
        .get("prefixRewrite")
        .and_then(|v| path(&v))
        .map(RedirectPath::Prefix);
    fields.finish();
    Some(Redirect {
        scheme,
        authority,
        port: number.or(derived),
        path: full.or(prefix),
        status: status.unwrap_or(301),
    })
}

fn redirect_status(value: &Value<'_>) -> Option<u16> {
    let code = value.u32()?;
    let known = [301, 302, 303, 307, 308]
        .into_iter()
        .find(|c| u32::from(*c) == code);
    if known.is_none() {
        value.error(
            format!("{code} does not redirect"),
            "write 301, 302, 303, 307 or 308",
        );
    }
    known
}

/// Largest body of a direct response; Istio's bound.
const MAX_BODY: usize = 1 << 20;

fn read_direct(value: &Value<'_>) -> Option<DirectResponse> {
    let fields = value.fields()?;
    let status = fields
        .require("status")
        .and_then(|v| v.integer(200, 599))
        .and_then(|n| u16::try_from(n).ok());
    let body = fields
        .get("body")
        .map(|v| read_body(&v))
        .unwrap_or_default();
    fields.finish();
    Some(DirectResponse {
        status: status?,
        body,
    })
}

fn read_body(value: &Value<'_>) -> Vec<u8> {
    let Some(fields) = value.fields() else {
        return Vec::new();
    };
    if fields.count(&["string", "bytes"]) > 1 {
        value.error("has both string and bytes", "");
    }
    let text = fields
        .get("string")
        .and_then(|v| v.string().map(|s| s.as_bytes().to_vec()));
    let bytes = fields.get("bytes").and_then(|v| {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(v.string()?)
            .ok();
        if decoded.is_none() {
            v.error("is not base64", "");
        }
        decoded
    });
    fields.finish();
    let body = text.or(bytes).unwrap_or_default();
    if body.len() > MAX_BODY {
        value.error(format!("has {} bytes", body.len()), "at most 1 MiB is sent");
    }
    body
}
