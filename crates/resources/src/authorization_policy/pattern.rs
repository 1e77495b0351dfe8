//! The patterns of AuthorizationPolicy values.

/// A value: exact, `abc*`, `*abc`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// `*`: anything but empty.
    Present,
}

/// A path: a value, or a template with `{*}` (one segment) and `{**}` (zero or more segments, last operator).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Text(Pattern),
    /// Known to be well formed.
    Template(String),
}

impl Pattern {
    /// A star at the beginning wins over one at the end, as in Istio; any other star is a plain character.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Pattern::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Pattern::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Pattern::Prefix(prefix.to_owned())
        } else {
            Pattern::Exact(text.to_owned())
        }
    }

    pub fn matches(&self, value: &str) -> bool {
        match self {
            Pattern::Exact(text) => value == text,
            Pattern::Prefix(prefix) => value.starts_with(prefix),
            Pattern::Suffix(suffix) => value.ends_with(suffix),
            Pattern::Present => !value.is_empty(),
        }
    }
}

const ONE: &str = "{*}";
const ANY: &str = "{**}";

impl PathPattern {
    /// Reads a path by Istio's rules for templates; the error says which one is broken.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let is_template = text.contains(ONE) || text.contains(ANY);
        let mut any_seen = false;
        for segment in text.trim_matches('/').split('/') {
            match segment {
                ONE | ANY if any_seen => return Err("{**} must be the last operator"),
                ONE => {}
                ANY => any_seen = true,
                _ if segment.contains(['{', '}']) => {
                    return Err("only {*} and {**} as whole segments may have braces");
                }
                _ if is_template && segment.contains('*') => {
                    return Err("a template may not contain * outside {*} and {**}");
                }
                _ => {}
            }
        }
        if !is_template {
            return Ok(PathPattern::Text(Pattern::parse(text)));
        }
        if !text.starts_with('/') {
            return Err("a template begins with /");
        }
        Ok(PathPattern::Template(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{PathPattern, Pattern};

    #[test]
    fn values_have_stars_at_their_ends() {
        assert_eq!(Pattern::parse("*"), Pattern::Present);
        assert_eq!(Pattern::parse("a*"), Pattern::Prefix("a".into()));
        assert_eq!(Pattern::parse("*a"), Pattern::Suffix("a".into()));
        assert_eq!(Pattern::parse("*a*"), Pattern::Suffix("a*".into()));
        assert_eq!(Pattern::parse("a*b"), Pattern::Exact("a*b".into()));
        assert!(Pattern::parse("*").matches("x") && !Pattern::parse("*").matches(""));
        assert!(Pattern::parse("ab*").matches("abc") && !Pattern::parse("ab*").matches("a"));
    }

    #[test]
    fn templates_follow_istios_rules() {
        for text in [
            "/{*}",
            "/{**}",
            "/a/{*}/b/{**}",
            "/{**}/path/template",
            "/{*}/{*}/{**}/x",
        ] {
            assert_eq!(
                PathPattern::parse(text),
                Ok(PathPattern::Template(text.into())),
                "{text}"
            );
        }
        for text in [
            "/{**}/{*}",
            "/{**}/{**}",
            "/a{*}",
            "/{*}b",
            "/{a}",
            "/{*}/b*",
            "/*/{*}",
            "/{***}",
            "a/{*}",
            "/x{",
            "/{**}a",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            PathPattern::parse("/a*"),
            Ok(PathPattern::Text(Pattern::Prefix("/a".into())))
        );
    }
}
