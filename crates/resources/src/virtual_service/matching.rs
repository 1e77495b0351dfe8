//! Conditions of an HTTP rule.

use std::collections::BTreeMap;

use super::{GatewayRef, read_gateways};
use crate::fields::{Value, header_name, is_dns_label, label_map, regex_problem};

/// All of these must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    pub name: Option<String>,
    pub uri: Option<StringMatch>,
    /// Exact and prefix matches of the path ignore ASCII case.
    pub ignore_uri_case: bool,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    /// Lower-case names.
    pub headers: Vec<(String, ValueMatch)>,
    /// None of these may match; a missing header counts as an empty one, except for [`ValueMatch::Present`].
    pub without_headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    /// The port that was called.
    pub port: Option<u16>,
    /// Overrides the gateways of the VirtualService; empty: those.
    pub gateways: Vec<GatewayRef>,
    /// Labels that the calling workload must carry (sidecars only).
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload (sidecars only).
    pub source_namespace: Option<String>,
}

impl HttpMatch {
    /// Whether requests of every shape match (who asks and on which port aside): nothing after it can be reached.
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.uri {
            None => true,
            Some(StringMatch::Prefix(p)) => p == "/" || p.is_empty(),
            Some(StringMatch::Regex(r)) => r == ".*" || r == "/.*",
            Some(StringMatch::Exact(_)) => false,
        };
        any_path
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.without_headers.is_empty()
            && self.query.is_empty()
    }
}

/// How a string is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    /// RE2 syntax, against the whole value; known to compile.
    Regex(String),
}

/// How the value of a header or query parameter is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// `{}`: it must be there, whatever its value.
    Present,
    String(StringMatch),
}

pub(super) fn read(value: &Value<'_>) -> Option<HttpMatch> {
    let fields = value.fields()?;
    fields.not_honoured(&["statPrefix"]);
    let string = |name| fields.get(name).and_then(|v| read_string(&v));
    let read = HttpMatch {
        name: fields
            .get("name")
            .and_then(|v| v.string().map(str::to_owned)),
        uri: string("uri"),
        ignore_uri_case: fields
            .get("ignoreUriCase")
            .and_then(|v| v.boolean())
            .unwrap_or(false),
        scheme: string("scheme"),
        method: string("method"),
        authority: string("authority"),
        headers: fields
            .get("headers")
            .map(|v| read_headers(&v))
            .unwrap_or_default(),
        without_headers: fields
            .get("withoutHeaders")
            .map(|v| read_headers(&v))
            .unwrap_or_default(),
        query: fields
            .get("queryParams")
            .map(|v| read_values(&v))
            .unwrap_or_default(),
        port: fields.get("port").and_then(|v| v.port()),
        gateways: fields
            .get("gateways")
            .map(|v| read_gateways(&v))
            .unwrap_or_default(),
        source_labels: fields
            .get("sourceLabels")
            .map(|v| label_map(&v))
            .unwrap_or_default(),
        source_namespace: fields.get("sourceNamespace").and_then(|v| {
            let text = v.text()?;
            if !is_dns_label(text) {
                v.error(format!("{text:?} is not a namespace"), "");
            }
            Some(text.to_owned())
        }),
    };
    fields.finish();
    Some(read)
}

/// Keys that Istio ignores in `headers`, since requests have fields of their own for them.
const PSEUDO: [&str; 4] = ["uri", "scheme", "method", "authority"];

fn read_headers(value: &Value<'_>) -> Vec<(String, ValueMatch)> {
    let mut headers: Vec<(String, ValueMatch)> = Vec::new();
    for (name, item) in value.entries() {
        if PSEUDO.contains(&name) {
            item.warn(
                format!("{name} is not a header and is ignored"),
                format!("write {name} beside headers"),
            );
            continue;
        }
        if name.starts_with("@request.auth") {
            item.not_honoured("JWT claims");
            continue;
        }
        let (Some(name), Some(matches)) = (header_name(&item, name), read_value(&item)) else {
            continue;
        };
        if headers.iter().any(|(other, _)| *other == name) {
            item.error(
                format!("header {name} is given twice"),
                "case does not matter in names",
            );
        }
        headers.push((name, matches));
    }
    headers
}

fn read_values(value: &Value<'_>) -> Vec<(String, ValueMatch)> {
    value
        .entries()
        .iter()
        .filter_map(|(name, item)| Some(((*name).to_owned(), read_value(item)?)))
        .collect()
}

fn read_value(value: &Value<'_>) -> Option<ValueMatch> {
    if value.node.tree == crate::node::Tree::Null || value.fields()?.is_empty() {
        return Some(ValueMatch::Present);
    }
    read_string(value).map(ValueMatch::String)
}

/// One of `exact`, `prefix` and `regex`.
fn read_string(value: &Value<'_>) -> Option<StringMatch> {
    let fields = value.fields()?;
    let (exact, prefix, regex) = (
        fields.get("exact"),
        fields.get("prefix"),
        fields.get("regex"),
    );
    let set = [&exact, &prefix, &regex].into_iter().flatten().count();
    if set != 1 {
        let reason = if set == 0 {
            "says nothing to match"
        } else {
            "only one of exact, prefix and regex can be set"
        };
        value.error(reason, "write exact, prefix or regex");
    }
    fields.finish();
    if let Some(exact) = exact {
        return exact
            .string()
            .map(|text| StringMatch::Exact(text.to_owned()));
    }
    if let Some(prefix) = prefix {
        return prefix
            .text()
            .map(|text| StringMatch::Prefix(text.to_owned()));
    }
    let regex = regex?;
    let pattern = regex.string()?;
    if let Some(problem) = regex_problem(pattern) {
        regex.error(problem, "");
        return None;
    }
    Some(StringMatch::Regex(pattern.to_owned()))
}
