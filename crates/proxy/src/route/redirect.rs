//! Redirects (Envoy `RedirectAction`).

use http::{StatusCode, Uri};
use tasuki_xds::model::route::{PathMatch, Redirect as Model, RedirectPath};

use super::rewrite::matched_length;
use crate::headers::split_port;

/// A compiled redirect.
#[derive(Debug)]
pub struct Redirect {
    model: Model,
    matched: Option<usize>,
    pub status: StatusCode,
}

impl Redirect {
    pub(super) fn compile(model: &Model, path: &PathMatch) -> Self {
        Self {
            model: model.clone(),
            matched: matched_length(path),
            status: StatusCode::from_u16(model.status).unwrap_or(StatusCode::MOVED_PERMANENTLY),
        }
    }

    /// The `location` for a request that came with `scheme` to `authority`.
    pub fn location(&self, uri: &Uri, scheme: &str, authority: &str) -> String {
        let new_scheme = self.model.scheme.as_deref().unwrap_or(scheme);
        let mut location = format!("{new_scheme}://");
        let (own_host, own_port) = split_port(authority);
        location.push_str(self.model.host.as_deref().unwrap_or(own_host));
        let default = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let port = match (self.model.port, &self.model.host) {
            (Some(port), _) => Some(port),
            // The port of the old scheme means nothing under the new one.
            (None, None) => {
                own_port.filter(|port| new_scheme == scheme || *port != default(scheme))
            }
            (None, Some(_)) => None,
        };
        // A port that was asked for is left out where it is the scheme's own, as the Gateway API wants.
        if let Some(port) = port
            && (self.model.port.is_none() || port != default(new_scheme))
        {
            location.push(':');
            location.push_str(itoa::Buffer::new().format(port));
        }
        let query = uri.query().filter(|_| !self.model.strip_query);
        let mut keeps_query = true;
        match &self.model.path {
            None => location.push_str(uri.path()),
            Some(RedirectPath::Full(path)) => {
                location.push_str(path);
                // A path with a query of its own replaces the request's (Envoy).
                keeps_query = !path.contains('?');
            }
            Some(RedirectPath::Prefix(prefix)) => {
                location.push_str(prefix);
                location.push_str(
                    self.matched
                        .and_then(|length| uri.path().get(length..))
                        .unwrap_or(""),
                );
            }
        }
        if let Some(query) = query.filter(|_| keeps_query) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}
