//! Names with rules of their own: DNS labels, hosts, headers, labels, regexes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Value;
use crate::host::{Host, expand_host};

/// RFC 1123 label, lower case: what names Kubernetes namespaces, subsets and the like.
pub fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

/// RFC 1123 subdomain, lower case: what names most Kubernetes objects.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A host name's label: as DNS has it, plus the underscore of SRV names.
fn is_host_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// A host: a name, an IP address, or a wildcard whose star comes first (`*`, `*.example.com`, `*-x.example.com`).
/// Short names are expanded in `namespace` where one is given. Reports and returns `None` when it is none.
pub fn host(value: &Value<'_>, namespace: Option<&str>) -> Option<Host> {
    let text = value.text()?;
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let name = match lower.strip_prefix('*') {
        Some(suffix) => {
            let rest = suffix.strip_prefix(['.', '-']).unwrap_or(suffix);
            let well_formed =
                suffix.is_empty() || (rest.split('.').all(is_host_label) && lower.len() <= 255);
            if !well_formed {
                value.error(
                    format!("{text:?} is not a host"),
                    "write a name, *.suffix or *",
                );
                return None;
            }
            return Some(Host::Suffix(suffix.to_owned()));
        }
        None => lower,
    };
    if name.parse::<IpAddr>().is_ok() {
        return Some(Host::Exact(name));
    }
    if name.len() > 255 || !name.split('.').all(is_host_label) {
        let expected = if name.contains(':') {
            "leave out scheme and port"
        } else {
            "write a DNS name, an IP address or *.suffix"
        };
        value.error(format!("{text:?} is not a host"), expected);
        return None;
    }
    Some(Host::Exact(match namespace {
        Some(namespace) => expand_host(&name, namespace),
        None => name,
    }))
}

/// A header's name in lower case, or `None` with a report.
pub fn header_name(value: &Value<'_>, name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
        value.error(format!("{name:?} is not a header name"), "");
        return None;
    }
    Some(lower)
}

/// `IANA_SVC_NAME` and DNS labels, in which port names are written.
pub fn port_name(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let well_formed = text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !well_formed {
        value.error(
            format!("{text:?} is not a port name"),
            "write letters, digits and dashes",
        );
        return None;
    }
    Some(text.to_owned())
}

/// A selector's labels: no wildcards, no empty names, values of at most 63 characters.
pub fn label_map(value: &Value<'_>) -> BTreeMap<String, String> {
    let labels = value.string_map();
    for (name, content) in &labels {
        if name.is_empty() {
            value.error("a label's name is empty", "");
        } else if name.contains('*') || content.contains('*') {
            value.error(
                format!("{name}: wildcard is not supported in selector"),
                "write the label's value in full",
            );
        } else if content.len() > 63 {
            value.error(
                format!("{name}: a label's value has at most 63 characters"),
                "",
            );
        }
    }
    labels
}

/// Longest regex that Istio takes.
const MAX_REGEX: usize = 1024;

/// Why a regex cannot be used; `None` when it can.
pub fn regex_problem(pattern: &str) -> Option<String> {
    if pattern.is_empty() {
        return Some("an empty regex".to_owned());
    }
    if pattern.len() > MAX_REGEX {
        return Some(format!("a regex has at most {MAX_REGEX} characters"));
    }
    let error = regex::Regex::new(pattern).err()?;
    let text = error.to_string();
    // The crate draws the pattern over several lines; its last line is the reason.
    let reason = text.lines().last().unwrap_or_default();
    Some(format!(
        "not a valid RE2 regex: {}",
        reason.strip_prefix("error: ").unwrap_or(reason)
    ))
}
