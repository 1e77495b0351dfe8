//! Paths in the form that policies match, and those that are refused.

use proptest::prelude::*;

use super::*;

fn strict(path: &str) -> Result<String, Ambiguous> {
    canonical(path, Strictness::Unambiguous).map(Cow::into_owned)
}

fn relaxed(path: &str) -> String {
    canonical(path, Strictness::Base).unwrap().into_owned()
}

#[test]
fn refuses_what_servers_read_in_two_ways() {
    for (path, reason) in [
        ("/a%2Fb", Ambiguous::EncodedSlash),
        ("/a%2fb", Ambiguous::EncodedSlash),
        ("/a\\b", Ambiguous::Backslash),
        ("/a%5Cb", Ambiguous::Backslash),
        ("/a%5cb", Ambiguous::Backslash),
        ("/a%00", Ambiguous::Control),
        ("/a\0", Ambiguous::Control),
        ("/a%0d%0a", Ambiguous::Control),
        ("/a;b", Ambiguous::Semicolon),
        ("/a;", Ambiguous::Semicolon),
        ("/..;/a", Ambiguous::Semicolon),
        ("/a%3Bb", Ambiguous::Semicolon),
        ("//a", Ambiguous::EmptySegment),
        ("/a//b", Ambiguous::EmptySegment),
        ("/a//", Ambiguous::EmptySegment),
        ("/a%", Ambiguous::PercentEncoding),
        ("/a%2", Ambiguous::PercentEncoding),
        ("/a%zz", Ambiguous::PercentEncoding),
        ("/a%+1", Ambiguous::PercentEncoding),
        ("/%252e%252e/a", Ambiguous::PercentEncoding),
        ("/a%25%32%66b", Ambiguous::PercentEncoding),
        ("a", Ambiguous::NotAbsolute),
    ] {
        assert_eq!(strict(path), Err(reason), "{path}");
    }
}

#[test]
fn one_resource_has_one_spelling() {
    for path in [
        "/foo",
        "/%66oo",
        "/%66%6f%6F",
        "/./foo",
        "/x/../foo",
        "/x/%2e%2E/foo",
        "/%2e/foo",
        "/../foo",
        "/../../foo",
    ] {
        assert_eq!(strict(path).as_deref(), Ok("/foo"), "{path}");
        assert_eq!(relaxed(path), "/foo", "{path}");
    }
    for path in ["/caf\u{e9}", "/caf%c3%a9", "/caf%C3%A9"] {
        assert_eq!(strict(path).as_deref(), Ok("/caf%C3%A9"), "{path}");
    }
    assert_eq!(strict("/a%3ab%40c").as_deref(), Ok("/a:b@c"));
    assert_eq!(strict("/100%25").as_deref(), Ok("/100%25"));
    assert_eq!(strict("/a%20b").as_deref(), Ok("/a%20b"));
}

#[test]
fn a_trailing_slash_and_case_are_another_path() {
    assert_eq!(strict("/foo/").as_deref(), Ok("/foo/"));
    assert_eq!(strict("/foo/.").as_deref(), Ok("/foo/"));
    assert_eq!(strict("/foo/bar/..").as_deref(), Ok("/foo/"));
    assert_eq!(strict("/FOO").as_deref(), Ok("/FOO"));
}

#[test]
fn the_query_is_left_alone() {
    assert_eq!(
        strict("/foo?a=//b;c%2F\\..").as_deref(),
        Ok("/foo?a=//b;c%2F\\..")
    );
    assert_eq!(strict("/%66oo?a=%66").as_deref(), Ok("/foo?a=%66"));
    assert_eq!(strict("/foo%3Fbar").as_deref(), Ok("/foo%3Fbar"));
}

#[test]
fn base_changes_only_what_istio_changes() {
    assert_eq!(relaxed("/a\\b"), "/a/b");
    assert_eq!(relaxed("/a\\..\\b"), "/b");
    assert_eq!(relaxed("/a//b"), "/a//b");
    assert_eq!(relaxed("/a%2fb"), "/a%2fb");
    assert_eq!(relaxed("/a%3ab"), "/a%3ab");
    assert_eq!(relaxed("/a;b"), "/a;b");
    assert_eq!(relaxed("/a%"), "/a%");
    assert_eq!(relaxed("*"), "*");
    assert_eq!(relaxed("/.."), "/");
    assert_eq!(relaxed("/."), "/");
}

#[test]
fn hidden_files_are_not_dot_segments() {
    assert_eq!(strict("/.well-known/x").as_deref(), Ok("/.well-known/x"));
    assert_eq!(strict("/...").as_deref(), Ok("/..."));
    assert_eq!(strict("/a/..b").as_deref(), Ok("/a/..b"));
}

#[test]
fn rewrites_a_uri_in_every_form() {
    let mut uri: Uri = "http://cart:80/x/../foo?q".parse().unwrap();
    canonicalize(&mut uri, Strictness::Unambiguous).unwrap();
    assert_eq!(uri, "http://cart:80/foo?q");
    let mut connect: Uri = "cart:80".parse().unwrap();
    canonicalize(&mut connect, Strictness::Unambiguous).unwrap();
    assert_eq!(connect, "cart:80");
    let mut star: Uri = "*".parse().unwrap();
    canonicalize(&mut star, Strictness::Unambiguous).unwrap();
    assert_eq!(star.path(), "*");
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point(path in "/[a-z%/.2eEfF5cC;:\\\\ é]{0,24}") {
        for strictness in [Strictness::Base, Strictness::Unambiguous] {
            if let Ok(once) = canonical(&path, strictness) {
                let twice = canonical(&once, strictness);
                // BASE decodes only once, so `%252e` may still be reduced; the strict form never is.
                if strictness == Strictness::Unambiguous {
                    prop_assert_eq!(twice.as_deref(), Ok(&*once));
                }
                prop_assert!(!once.split('?').next().unwrap_or_default().split('/').any(|s| s == "." || s == ".."));
            }
        }
    }

    #[test]
    fn any_encoding_of_a_path_is_that_path(path in "(/[a-zA-Z0-9._~:@=+-]{1,5}){1,4}", mask in any::<u32>()) {
        let encoded: String = path.chars().enumerate().map(|(i, c)| {
            if c != '/' && mask >> (i % 32) & 1 == 1 { format!("%{:02x}", c as u32) } else { c.to_string() }
        }).collect();
        prop_assert_eq!(strict(&encoded), strict(&path));
    }
}
