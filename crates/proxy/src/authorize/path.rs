//! The one form of a path that policies match and the application receives (semantics section 8).
//!
//! Servers differ in what they take for the same path. Where no policy mentions paths, Istio's BASE
//! normalisation applies: dot segments are resolved, a backslash is a slash, needless percent-encoding is
//! removed. Where one does, what servers are known to read in two ways is refused, and the rest is decoded
//! and encoded anew, so that one resource has one spelling. A trailing slash and the case of letters make a
//! different path.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use tasuki_xds::model::matching::{Pattern, StringMatch};

/// How ambiguous paths are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Istio's BASE normalisation; nothing is refused.
    Base,
    /// A policy mentions paths: what is ambiguous is refused.
    Unambiguous,
}

/// Why a path is ambiguous: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    EncodedSlash,
    Backslash,
    Control,
    Semicolon,
    EmptySegment,
    PercentEncoding,
    NotAbsolute,
}

impl Ambiguous {
    /// In words, for the client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::EncodedSlash => "encoded slash in path",
            Self::Backslash => "backslash in path",
            Self::Control => "control character in path",
            Self::Semicolon => "semicolon in path",
            Self::EmptySegment => "empty segment in path",
            Self::PercentEncoding => "ambiguous percent-encoding in path",
            Self::NotAbsolute => "path is not absolute",
        }
    }
}

/// `path_and_query` with its path in canonical form. The query is left as it is.
pub fn canonical(path_and_query: &str, strictness: Strictness) -> Result<Cow<'_, str>, Ambiguous> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if is_plain(path) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    let mut clean = match strictness {
        Strictness::Base => base(path),
        Strictness::Unambiguous => unambiguous(path)?,
    };
    if !clean.starts_with('/') {
        // `*` of OPTIONS, or nothing at all.
        return match strictness {
            Strictness::Base => Ok(Cow::Borrowed(path_and_query)),
            Strictness::Unambiguous if clean == "*" => Ok(Cow::Borrowed(path_and_query)),
            Strictness::Unambiguous => Err(Ambiguous::NotAbsolute),
        };
    }
    clean = without_dot_segments(&clean);
    clean.push_str(query);
    Ok(Cow::Owned(clean))
}

/// Rewrites `uri`'s path to its canonical form. A CONNECT target without a path is left alone.
pub fn canonicalize(uri: &mut Uri, strictness: Strictness) -> Result<(), Ambiguous> {
    let Some(original) = uri.path_and_query() else {
        return Ok(());
    };
    let Cow::Owned(clean) = canonical(original.as_str(), strictness)? else {
        return Ok(());
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(clean).map_err(|_| Ambiguous::PercentEncoding)?);
    *uri = Uri::from_parts(parts).map_err(|_| Ambiguous::PercentEncoding)?;
    Ok(())
}

/// A policy's pattern in the form in which paths are matched. A regex is left to its author.
pub fn canonical_pattern(text: &StringMatch) -> StringMatch {
    let pattern = match &text.pattern {
        Pattern::Exact(s) => Pattern::Exact(canonical_literal(s)),
        Pattern::Prefix(s) => Pattern::Prefix(canonical_literal(s)),
        Pattern::Suffix(s) => Pattern::Suffix(canonical_literal(s)),
        Pattern::Contains(s) => Pattern::Contains(canonical_literal(s)),
        Pattern::Regex(s) => Pattern::Regex(s.clone()),
    };
    StringMatch {
        pattern,
        ignore_case: text.ignore_case,
    }
}

/// Literal text of a pattern, decoded and encoded anew.
pub(super) fn canonical_literal(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], escaped(bytes, at)) {
            // What requests never have in this form is kept, so that it never matches anything else.
            (b'%', Some(byte)) => {
                encode(byte, &mut out);
                at += 3;
            }
            (byte, _) => {
                encode(byte, &mut out);
                at += 1;
            }
        }
    }
    out
}

/// Most paths are in canonical form already: only slashes and unreserved characters, no empty or dot segments.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/')
        && bytes.iter().all(|&b| b == b'/' || is_segment_byte(b))
        && bytes.windows(2).all(|pair| pair != b"//" && pair != b"/.")
}

/// Istio's BASE: backslash to slash, needless encoding removed; everything else stays.
fn base(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], escaped(bytes, at)) {
            (b'%', Some(byte)) if is_unreserved(byte) => {
                out.push(byte);
                at += 3;
            }
            (b'\\', _) => {
                out.push(b'/');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    // Only ASCII was exchanged for ASCII, so what was UTF-8 still is.
    String::from_utf8(out).unwrap_or_else(|_| path.to_owned())
}

/// Decodes and encodes anew, refusing what servers read in two ways.
fn unambiguous(path: &str) -> Result<String, Ambiguous> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (byte, length) = match bytes[at] {
            b'%' => (escaped(bytes, at).ok_or(Ambiguous::PercentEncoding)?, 3),
            byte => (byte, 1),
        };
        match byte {
            b'/' if length == 3 => return Err(Ambiguous::EncodedSlash),
            b'/' if out.ends_with('/') => return Err(Ambiguous::EmptySegment),
            b'\\' => return Err(Ambiguous::Backslash),
            b';' => return Err(Ambiguous::Semicolon),
            0..=0x1f | 0x7f => return Err(Ambiguous::Control),
            // `%252e`: a server that decodes twice would see another path.
            b'%' if decodes_again(bytes, at + length) => return Err(Ambiguous::PercentEncoding),
            _ => encode(byte, &mut out),
        }
        at += length;
    }
    Ok(out)
}

/// Whether the two bytes at `at` would be an escape after a literal percent sign, encoded themselves or not.
fn decodes_again(bytes: &[u8], at: usize) -> bool {
    let digit = |at: usize| match bytes.get(at) {
        Some(b'%') => escaped(bytes, at).map(|byte| (byte, at + 3)),
        Some(&byte) => Some((byte, at + 1)),
        None => None,
    };
    let Some((first, next)) = digit(at) else {
        return false;
    };
    let Some((second, _)) = digit(next) else {
        return false;
    };
    first.is_ascii_hexdigit() && second.is_ascii_hexdigit()
}

/// RFC 3986 section 5.2.4, on an absolute path.
pub(crate) fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            other => {
                kept.push(other);
                continue;
            }
        }
        // `/a/..` and `/a/.` name a folder.
        if last {
            kept.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

/// The byte that `%XX` at `at` stands for.
fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    let &[percent, high, low] = bytes.get(at..at + 3)? else {
        return None;
    };
    if percent != b'%' {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn encode(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if byte == b'/' || is_segment_byte(byte) {
        out.push(char::from(byte));
    } else {
        out.push('%');
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands unencoded in a segment: RFC 3986's `pchar` without `;`, which some servers cut at.
fn is_segment_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

#[cfg(test)]
mod tests;
