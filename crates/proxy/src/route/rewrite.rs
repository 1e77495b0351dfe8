//! Path rewriting (Envoy `prefix_rewrite`, `regex_rewrite`). The query string is kept.

use http::uri::PathAndQuery;
use regex::Regex;
use tasuki_xds::model::route::{PathMatch, PathRewrite as Model};

/// A compiled rewrite.
#[derive(Debug)]
pub enum PathRewrite {
    /// Replaces this many bytes of the path (`None`: all of it).
    Prefix { matched: Option<usize>, by: String },
    Regex {
        pattern: Regex,
        substitution: String,
    },
    /// A pattern that does not compile; the codec refuses these.
    Keep,
}

impl PathRewrite {
    pub(super) fn compile(model: &Model, path: &PathMatch) -> Self {
        match model {
            Model::Prefix(by) => Self::Prefix {
                matched: matched_length(path),
                by: by.clone(),
            },
            Model::Regex {
                pattern,
                substitution,
            } => Regex::new(pattern).map_or(Self::Keep, |pattern| Self::Regex {
                pattern,
                substitution: substitution_of(substitution),
            }),
        }
    }

    /// The path and query to send; `None` when nothing changes or the result is no path.
    pub fn apply(&self, uri: &http::Uri) -> Option<PathAndQuery> {
        let path = match self {
            Self::Prefix { matched, by } => {
                let rest = matched
                    .and_then(|length| uri.path().get(length..))
                    .unwrap_or("");
                format!("{by}{rest}")
            }
            Self::Regex {
                pattern,
                substitution,
            } => pattern
                .replace_all(uri.path(), substitution.as_str())
                .into_owned(),
            Self::Keep => return None,
        };
        with_query(path, uri.query())
    }
}

/// How much of the path a match consumed; `None` for the whole path.
pub(super) fn matched_length(path: &PathMatch) -> Option<usize> {
    match path {
        PathMatch::Prefix(prefix) => Some(prefix.len()),
        PathMatch::Segments(prefix) => Some(prefix.trim_end_matches('/').len()),
        PathMatch::Exact(_) | PathMatch::Regex(_) => None,
    }
}

pub(super) fn with_query(mut path: String, query: Option<&str>) -> Option<PathAndQuery> {
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)).ok()
}

/// RE2's `\1` in the spelling of the `regex` crate.
fn substitution_of(re2: &str) -> String {
    let mut out = String::with_capacity(re2.len() + 4);
    let mut chars = re2.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}
