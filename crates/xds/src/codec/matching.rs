//! String, header and query matchers (`type.matcher.v3.StringMatcher`, `config.route.v3.HeaderMatcher`).

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use super::field::{Fault, Read, Within, required};
use crate::model::matching::{HeaderMatch, Pattern, QueryMatch, StringMatch, ValueMatch};

/// Compiled size of one regex; RE2's default program limit in Envoy is of this order.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Refuses a pattern that cannot be compiled.
pub(super) fn check_regex(regex: &str) -> Read<()> {
    regex::RegexBuilder::new(&format!("^(?:{regex})$"))
        .size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map(drop)
        .map_err(|error| Fault::new("regex", error.to_string().replace('\n', " ")))
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.to_owned(),
        engine_type: None,
    }
}

pub(super) fn read_regex(matcher: RegexMatcher) -> Read<String> {
    // The engine is always RE2; its deprecated program size limit is replaced by our own.
    let RegexMatcher {
        regex,
        engine_type: _,
    } = matcher;
    check_regex(&regex)?;
    Ok(regex)
}

pub(super) fn string(of: &StringMatch) -> StringMatcher {
    let StringMatch {
        pattern,
        ignore_case,
    } = of;
    let (match_pattern, ignore_case) = match pattern {
        Pattern::Exact(text) => (MatchPattern::Exact(text.clone()), *ignore_case),
        // Envoy requires a character here; an empty affix matches everything.
        Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text)
            if text.is_empty() =>
        {
            (MatchPattern::SafeRegex(regex(".*")), false)
        }
        Pattern::Prefix(text) => (MatchPattern::Prefix(text.clone()), *ignore_case),
        Pattern::Suffix(text) => (MatchPattern::Suffix(text.clone()), *ignore_case),
        Pattern::Contains(text) => (MatchPattern::Contains(text.clone()), *ignore_case),
        Pattern::Regex(pattern) => (MatchPattern::SafeRegex(regex(pattern)), false),
    };
    StringMatcher {
        ignore_case,
        match_pattern: Some(match_pattern),
    }
}

pub(super) fn read_string(matcher: StringMatcher) -> Read<StringMatch> {
    let StringMatcher {
        ignore_case,
        match_pattern,
    } = matcher;
    let pattern = match required("match_pattern", match_pattern)? {
        MatchPattern::Exact(text) => Pattern::Exact(text),
        MatchPattern::Prefix(text) => Pattern::Prefix(non_empty("prefix", text)?),
        MatchPattern::Suffix(text) => Pattern::Suffix(non_empty("suffix", text)?),
        MatchPattern::Contains(text) => Pattern::Contains(non_empty("contains", text)?),
        MatchPattern::SafeRegex(_) if ignore_case => {
            return Err(Fault::new("ignore_case", "not honoured with a regex"));
        }
        MatchPattern::SafeRegex(matcher) => {
            Pattern::Regex(read_regex(matcher).within("safe_regex")?)
        }
        MatchPattern::Custom(_) => return Err(Fault::not_honoured("custom")),
    };
    Ok(StringMatch {
        pattern,
        ignore_case,
    })
}

fn non_empty(field: &str, text: String) -> Read<String> {
    if text.is_empty() {
        Err(Fault::new(field, "empty"))
    } else {
        Ok(text)
    }
}

pub(super) fn header(of: &HeaderMatch) -> pb::HeaderMatcher {
    let HeaderMatch {
        name,
        value,
        invert,
        missing_as_empty,
    } = of;
    let specifier = match value {
        ValueMatch::Present => HeaderMatchSpecifier::PresentMatch(true),
        ValueMatch::String(matcher) => HeaderMatchSpecifier::StringMatch(string(matcher)),
    };
    pb::HeaderMatcher {
        name: name.clone(),
        invert_match: *invert,
        treat_missing_header_as_empty: *missing_as_empty,
        header_match_specifier: Some(specifier),
    }
}

#[allow(
    deprecated,
    reason = "a foreign control plane may still send the older forms of a string match"
)]
pub(super) fn read_header(matcher: pb::HeaderMatcher) -> Read<HeaderMatch> {
    let pb::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = matcher;
    let name = header_name(name)?;
    let plain = |pattern| {
        ValueMatch::String(StringMatch {
            pattern,
            ignore_case: false,
        })
    };
    let mut invert = invert_match;
    let value = match header_match_specifier {
        None => ValueMatch::Present,
        Some(HeaderMatchSpecifier::PresentMatch(present)) => {
            invert ^= !present;
            ValueMatch::Present
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            ValueMatch::String(read_string(matcher).within("string_match")?)
        }
        Some(HeaderMatchSpecifier::ExactMatch(text)) => plain(Pattern::Exact(text)),
        Some(HeaderMatchSpecifier::SafeRegexMatch(matcher)) => plain(Pattern::Regex(
            read_regex(matcher).within("safe_regex_match")?,
        )),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => {
            plain(Pattern::Prefix(non_empty("prefix_match", text)?))
        }
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => {
            plain(Pattern::Suffix(non_empty("suffix_match", text)?))
        }
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
            plain(Pattern::Contains(non_empty("contains_match", text)?))
        }
        Some(HeaderMatchSpecifier::RangeMatch(_)) => {
            return Err(Fault::not_honoured("range_match"));
        }
    };
    Ok(HeaderMatch {
        name,
        value,
        invert,
        missing_as_empty: treat_missing_header_as_empty,
    })
}

/// A header name as the model has it: lower case, pseudo headers allowed.
pub(super) fn header_name(name: String) -> Read<String> {
    let name = name.to_ascii_lowercase();
    let token = name.strip_prefix(':').unwrap_or(&name);
    if http::HeaderName::from_bytes(token.as_bytes()).is_err() {
        return Err(Fault::new("name", format!("`{name}` is not a header name")));
    }
    Ok(name)
}

pub(super) fn query(of: &QueryMatch) -> pb::QueryParameterMatcher {
    let QueryMatch { name, value } = of;
    let specifier = match value {
        ValueMatch::Present => QueryParameterMatchSpecifier::PresentMatch(true),
        ValueMatch::String(matcher) => QueryParameterMatchSpecifier::StringMatch(string(matcher)),
    };
    pb::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(specifier),
    }
}

pub(super) fn read_query(matcher: pb::QueryParameterMatcher) -> Read<QueryMatch> {
    let pb::QueryParameterMatcher {
        name,
        query_parameter_match_specifier,
    } = matcher;
    let name = non_empty("name", name)?;
    let value = match query_parameter_match_specifier {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => ValueMatch::Present,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(Fault::new("present_match", "`false` is not honoured"));
        }
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            ValueMatch::String(read_string(matcher).within("string_match")?)
        }
    };
    Ok(QueryMatch { name, value })
}
