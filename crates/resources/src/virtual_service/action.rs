//! What becomes of a request that matched: forwarded, redirected, or answered at once.

use super::headers::Headers;

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
