//! Conditions of a route: path, headers, query parameters, a share of the traffic.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};
use http::request;
use regex::Regex;
use tasuki_xds::model::matching::{HeaderMatch, Pattern, QueryMatch, StringMatch, ValueMatch};
use tasuki_xds::model::route::{PathMatch, RouteMatch};

use crate::balance;

/// Everything that must hold for a route.
#[derive(Debug)]
pub struct RouteMatcher {
    path: PathMatcher,
    headers: Vec<HeaderMatcher>,
    query: Vec<(String, ValueMatcher)>,
    fraction_per_million: Option<u32>,
    /// Checked by the table, once for all routes.
    pub grpc: bool,
}

#[derive(Debug)]
enum PathMatcher {
    Any,
    Prefix(String, Case),
    Segments(String, Case),
    Exact(String, Case),
    Regex(Regex),
    /// A pattern that does not compile: the codec refuses these, so only a bug leads here, and it must not open a route.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Kept,
    Ignored,
}

/// A compiled header condition.
#[derive(Debug)]
pub struct HeaderMatcher {
    name: Subject,
    value: ValueMatcher,
    invert: bool,
    missing_as_empty: bool,
}

#[derive(Debug)]
enum Subject {
    Method,
    Authority,
    Scheme,
    Path,
    Header(HeaderName),
    /// Not a header name: absent from every request.
    Impossible,
}

/// A compiled value condition.
#[derive(Debug)]
pub enum ValueMatcher {
    Present,
    String(StringMatcher),
}

/// A compiled string condition.
#[derive(Debug)]
pub enum StringMatcher {
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Regex(Regex),
    Never,
}

/// RE2 patterns match the whole value.
pub fn anchored(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

impl StringMatcher {
    pub fn compile(model: &StringMatch) -> Self {
        let ignore = model.ignore_case;
        match &model.pattern {
            Pattern::Exact(text) => Self::Exact(text.clone(), ignore),
            Pattern::Prefix(text) => Self::Prefix(text.clone(), ignore),
            Pattern::Suffix(text) => Self::Suffix(text.clone(), ignore),
            Pattern::Contains(text) if ignore => Self::Contains(text.to_ascii_lowercase(), ignore),
            Pattern::Contains(text) => Self::Contains(text.clone(), ignore),
            Pattern::Regex(pattern) => anchored(pattern).map_or(Self::Never, Self::Regex),
        }
    }

    pub fn matches(&self, value: &str) -> bool {
        let same = |a: &str, b: &str, ignore: bool| {
            if ignore {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        match self {
            Self::Exact(text, ignore) => same(value, text, *ignore),
            Self::Prefix(text, ignore) => value
                .get(..text.len())
                .is_some_and(|start| same(start, text, *ignore)),
            Self::Suffix(text, ignore) => value
                .len()
                .checked_sub(text.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|end| same(end, text, *ignore)),
            Self::Contains(text, true) => value.to_ascii_lowercase().contains(text.as_str()),
            Self::Contains(text, false) => value.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(value),
            Self::Never => false,
        }
    }
}

impl ValueMatcher {
    pub fn compile(model: &ValueMatch) -> Self {
        match model {
            ValueMatch::Present => Self::Present,
            ValueMatch::String(string) => Self::String(StringMatcher::compile(string)),
        }
    }

    /// `None` is an absent value.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Present, value) => value.is_some(),
            (Self::String(string), Some(value)) => string.matches(value),
            (Self::String(_), None) => false,
        }
    }
}

impl HeaderMatcher {
    pub fn compile(model: &HeaderMatch) -> Self {
        let name = match model.name.as_str() {
            ":method" => Subject::Method,
            ":authority" | "host" => Subject::Authority,
            ":scheme" => Subject::Scheme,
            ":path" => Subject::Path,
            name => {
                HeaderName::from_bytes(name.as_bytes()).map_or(Subject::Impossible, Subject::Header)
            }
        };
        Self {
            name,
            value: ValueMatcher::compile(&model.value),
            invert: model.invert,
            missing_as_empty: model.missing_as_empty,
        }
    }

    pub fn matches(&self, request: &request::Parts, authority: &str) -> bool {
        let value = match &self.name {
            Subject::Method => Some(Cow::Borrowed(request.method.as_str())),
            Subject::Authority => Some(Cow::Borrowed(authority)),
            Subject::Scheme => request.uri.scheme_str().map(Cow::Borrowed),
            Subject::Path => request
                .uri
                .path_and_query()
                .map(|path| Cow::Borrowed(path.as_str())),
            Subject::Header(name) => joined(&request.headers, name),
            Subject::Impossible => None,
        };
        let value = match value {
            None if self.missing_as_empty => Some(Cow::Borrowed("")),
            // A missing header never matches a value condition, not even an inverted one (Envoy).
            None if matches!(self.value, ValueMatcher::String(_)) => return false,
            value => value,
        };
        self.value.matches(value.as_deref()) != self.invert
    }
}

/// All values of a header, joined by commas as Envoy does. Bytes that are not UTF-8 are replaced: no pattern can name them.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first);
    };
    let mut all = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        all.push(',');
        all.push_str(&value);
    }
    Some(all.into())
}

impl PathMatcher {
    fn compile(path: &PathMatch, ignore_case: bool) -> Self {
        let case = if ignore_case {
            Case::Ignored
        } else {
            Case::Kept
        };
        match path {
            PathMatch::Prefix(prefix) if prefix == "/" || prefix.is_empty() => Self::Any,
            PathMatch::Prefix(prefix) => Self::Prefix(prefix.clone(), case),
            PathMatch::Segments(prefix) if prefix == "/" || prefix.is_empty() => Self::Any,
            PathMatch::Segments(prefix) => {
                Self::Segments(prefix.trim_end_matches('/').to_owned(), case)
            }
            PathMatch::Exact(exact) => Self::Exact(exact.clone(), case),
            PathMatch::Regex(pattern) => anchored(pattern).map_or(Self::Never, Self::Regex),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix, case) => case.starts_with(path, prefix),
            Self::Segments(prefix, case) => {
                case.starts_with(path, prefix)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Exact(exact, Case::Kept) => path == exact,
            Self::Exact(exact, Case::Ignored) => path.eq_ignore_ascii_case(exact),
            Self::Regex(regex) => regex.is_match(path),
            Self::Never => false,
        }
    }
}

impl Case {
    fn starts_with(self, path: &str, prefix: &str) -> bool {
        match (self, path.as_bytes().get(..prefix.len())) {
            (Self::Kept, Some(start)) => start == prefix.as_bytes(),
            (Self::Ignored, Some(start)) => start.eq_ignore_ascii_case(prefix.as_bytes()),
            (_, None) => false,
        }
    }
}

impl RouteMatcher {
    pub(super) fn compile(model: &RouteMatch) -> Self {
        let query = |query: &QueryMatch| (query.name.clone(), ValueMatcher::compile(&query.value));
        Self {
            path: PathMatcher::compile(&model.path, model.ignore_path_case),
            headers: model.headers.iter().map(HeaderMatcher::compile).collect(),
            query: model.query.iter().map(query).collect(),
            fraction_per_million: model.fraction_per_million,
            grpc: model.grpc,
        }
    }

    pub(super) fn matches(&self, request: &request::Parts, authority: &str) -> bool {
        self.path.matches(request.uri.path())
            && self
                .headers
                .iter()
                .all(|header| header.matches(request, authority))
            && self
                .query
                .iter()
                .all(|(name, value)| value.matches(parameter(request.uri.query(), name)))
            && self
                .fraction_per_million
                .is_none_or(|share| balance::random() % 1_000_000 < u64::from(share))
    }
}

/// The first value of a query parameter, as it stands in the URI (Envoy does not decode either).
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
