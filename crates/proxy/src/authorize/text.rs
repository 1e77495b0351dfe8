//! String and header conditions of policies.

use std::borrow::Cow;

use http::header::{HOST, HeaderMap, HeaderName};
use http::request::Parts;
use regex::Regex;
use tasuki_xds::model::matching::{HeaderMatch, Pattern, StringMatch, ValueMatch};

/// A compiled [`StringMatch`].
#[derive(Debug)]
pub(super) struct Text {
    pattern: Compiled,
    ignore_case: bool,
}

#[derive(Debug)]
enum Compiled {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
}

impl Text {
    pub fn compile(text: &StringMatch) -> Result<Self, String> {
        let fold = |s: &String| {
            if text.ignore_case {
                s.to_ascii_lowercase()
            } else {
                s.clone()
            }
        };
        let pattern = match &text.pattern {
            Pattern::Exact(s) => Compiled::Exact(fold(s)),
            Pattern::Prefix(s) => Compiled::Prefix(fold(s)),
            Pattern::Suffix(s) => Compiled::Suffix(fold(s)),
            Pattern::Contains(s) => Compiled::Contains(fold(s)),
            // RE2 matches the whole value.
            Pattern::Regex(s) => {
                Compiled::Regex(Regex::new(&format!("^(?:{s})$")).map_err(|e| e.to_string())?)
            }
        };
        Ok(Self {
            pattern,
            ignore_case: text.ignore_case,
        })
    }

    pub fn matches(&self, value: &str) -> bool {
        let value = if self.ignore_case && value.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(value.to_ascii_lowercase())
        } else {
            Cow::Borrowed(value)
        };
        match &self.pattern {
            Compiled::Exact(s) => *value == **s,
            Compiled::Prefix(s) => value.starts_with(s),
            Compiled::Suffix(s) => value.ends_with(s),
            Compiled::Contains(s) => value.contains(s),
            Compiled::Regex(regex) => regex.is_match(&value),
        }
    }
}

/// A compiled [`HeaderMatch`].
#[derive(Debug)]
pub(super) struct HeaderCondition {
    name: Name,
    /// `None`: it must be present.
    value: Option<Text>,
    invert: bool,
    missing_as_empty: bool,
}

#[derive(Debug)]
enum Name {
    Method,
    Authority,
    Scheme,
    /// With its query, as Envoy has it.
    Path,
    Header(HeaderName),
}

impl HeaderCondition {
    pub fn compile(header: &HeaderMatch) -> Result<Self, String> {
        let name = match header.name.as_str() {
            ":method" => Name::Method,
            ":authority" | "host" => Name::Authority,
            ":scheme" => Name::Scheme,
            ":path" => Name::Path,
            other => Name::Header(
                other
                    .parse()
                    .map_err(|_| format!("header name `{other}`"))?,
            ),
        };
        let value = match &header.value {
            ValueMatch::Present => None,
            ValueMatch::String(text) => Some(Text::compile(text)?),
        };
        Ok(Self {
            name,
            value,
            invert: header.invert,
            missing_as_empty: header.missing_as_empty,
        })
    }

    pub fn is_path(&self) -> bool {
        matches!(self.name, Name::Path)
    }

    pub fn holds(&self, request: &Parts) -> bool {
        let found = self.find(request);
        let matched = match (&self.value, found) {
            (None, found) => found.is_some(),
            (Some(text), Some(value)) => text.matches(&value),
            (Some(text), None) if self.missing_as_empty => text.matches(""),
            // Envoy: an absent header fails the match, inverted or not.
            (Some(_), None) => return false,
        };
        matched != self.invert
    }

    fn find<'a>(&self, request: &'a Parts) -> Option<Cow<'a, str>> {
        match &self.name {
            Name::Method => Some(Cow::Borrowed(request.method.as_str())),
            Name::Authority => authority(request).map(Cow::Borrowed),
            Name::Scheme => request.uri.scheme_str().map(Cow::Borrowed),
            Name::Path => request
                .uri
                .path_and_query()
                .map(|p| Cow::Borrowed(p.as_str())),
            Name::Header(name) => joined(&request.headers, name),
        }
    }
}

/// `:authority`, or `Host` where there is none.
fn authority(request: &Parts) -> Option<&str> {
    match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers.get(HOST).and_then(|v| v.to_str().ok()),
    }
}

/// All values of a header, joined by commas as Envoy does, so that a second value cannot hide behind the first.
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    let rest = values.map(|v| String::from_utf8_lossy(v.as_bytes()));
    Some(rest.fold(first, |all, value| Cow::Owned(format!("{all},{value}"))))
}
