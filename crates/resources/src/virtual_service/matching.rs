//! Conditions of an HTTP rule.

use std::collections::BTreeMap;

use super::GatewayRef;

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
