//! Istio's path templates: `{*}` is one segment, `{**}` is zero or more (Envoy `uri_template`).

use regex::Regex;

/// A compiled template.
#[derive(Debug)]
pub(super) struct Template(Regex);

impl Template {
    /// `{**}` is the last operator, each operator is a whole segment, and a raw `*` is not mixed in.
    pub fn compile(template: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("path template `{template}`: {why}"));
        if !template.starts_with('/') {
            return wrong("does not start with `/`");
        }
        let mut pattern = String::from("^");
        let mut last = false;
        for segment in template.split('/').skip(1) {
            pattern.push('/');
            match segment {
                "{*}" | "{**}" if last => return wrong("`{**}` must be the last operator"),
                "{*}" => pattern.push_str("[^/]+"),
                "{**}" => {
                    last = true;
                    pattern.push_str(".*");
                }
                literal if literal.contains(['*', '{', '}']) => {
                    return wrong("operators are `{*}` and `{**}`, each a whole segment");
                }
                literal => {
                    pattern.push_str(&regex::escape(&super::path::canonical_literal(literal)))
                }
            }
        }
        pattern.push('$');
        Regex::new(&pattern).map(Self).map_err(|e| e.to_string())
    }

    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, path: &str) -> bool {
        Template::compile(template).unwrap().matches(path)
    }

    #[test]
    fn one_segment() {
        assert!(matches("/foo/{*}/baz", "/foo/bar/baz"));
        assert!(!matches("/foo/{*}/baz", "/foo/bar/x/baz"));
        assert!(!matches("/foo/{*}", "/foo/"));
        assert!(!matches("/foo/{*}", "/foo"));
    }

    #[test]
    fn any_number_of_segments() {
        for path in ["/foo/", "/foo/bar", "/foo/bar/baz.txt"] {
            assert!(matches("/foo/{**}", path), "{path}");
        }
        assert!(!matches("/foo/{**}", "/foo"));
        assert!(!matches("/foo/{**}", "/foobar/x"));
        assert!(matches("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz/x"));
        assert!(matches("/foo/{**}/", "/foo/bar/"));
        assert!(!matches("/foo/{**}/", "/foo/bar"));
    }

    #[test]
    fn literals_are_literal() {
        assert!(matches("/a.b/{*}", "/a.b/c"));
        assert!(!matches("/a.b/{*}", "/axb/c"));
    }

    #[test]
    fn refuses_what_istio_refuses() {
        for template in [
            "/{**}/foo/{*}",
            "/foo/*/{*}",
            "/foo{*}",
            "/{x}",
            "foo/{*}",
            "/{**}/{**}",
        ] {
            assert!(Template::compile(template).is_err(), "{template}");
        }
    }
}
