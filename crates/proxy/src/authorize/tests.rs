//! Policies against requests and connections.

use http::Request;
use tasuki_xds::model::matching::{HeaderMatch, Pattern, StringMatch, ValueMatch};
use tasuki_xds::model::rbac::{Cidr, Permission, Policy, Principal, RbacAction};

use super::*;

fn exact(s: &str) -> StringMatch {
    StringMatch {
        pattern: Pattern::Exact(s.into()),
        ignore_case: false,
    }
}

fn prefix(s: &str) -> StringMatch {
    StringMatch {
        pattern: Pattern::Prefix(s.into()),
        ignore_case: false,
    }
}

fn method(m: &str) -> Permission {
    header(":method", m)
}

fn header(name: &str, value: &str) -> Permission {
    Permission::Header(HeaderMatch {
        name: name.into(),
        value: ValueMatch::String(exact(value)),
        invert: false,
        missing_as_empty: false,
    })
}

fn namespace(ns: &str) -> Principal {
    Principal::Authenticated(Some(StringMatch {
        pattern: Pattern::Regex(format!(".*/ns/{ns}/.*")),
        ignore_case: false,
    }))
}

fn policy(name: &str, permissions: Vec<Permission>, principals: Vec<Principal>) -> Policy {
    Policy {
        name: name.into(),
        permissions,
        principals,
    }
}

fn authorizer(filters: Vec<(RbacAction, Vec<Policy>)>) -> Authorizer {
    let filters: Vec<Rbac> = filters
        .into_iter()
        .map(|(action, policies)| Rbac { action, policies })
        .collect();
    Authorizer::compile(&filters).unwrap()
}

fn source(identity: Option<&str>) -> Source<'_> {
    Source {
        identity,
        address: "10.0.0.7".parse().unwrap(),
        destination: "10.0.0.9:8080".parse().unwrap(),
        server_name: None,
    }
}

const B: Option<&str> = Some("spiffe://cluster.local/ns/service-b/sa/default");
const C: Option<&str> = Some("spiffe://cluster.local/ns/service-c/sa/default");

/// What the application would receive, `Err` with the status otherwise.
fn outcome(
    authorizer: &Authorizer,
    identity: Option<&str>,
    method: &str,
    path: &str,
) -> Result<String, u16> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "server")
        .body(())
        .map_err(|_| 400_u16)?;
    let (mut parts, ()) = request.into_parts();
    authorizer
        .admit(&source(identity), &mut parts)
        .map_err(|error| error.status().as_u16())?;
    Ok(parts.uri.path().to_owned())
}

fn seeds() -> Authorizer {
    let allow = |name: &str, path: &str, ns: &str| {
        policy(
            name,
            vec![Permission::All(vec![
                method("GET"),
                Permission::Path(exact(path)),
            ])],
            vec![namespace(ns)],
        )
    };
    authorizer(vec![(
        RbacAction::Allow,
        vec![
            allow("foo", "/foo", "service-b"),
            allow("bar", "/bar", "service-c"),
        ],
    )])
}

#[test]
fn the_seeds_case() {
    let seeds = seeds();
    for (identity, method, path, allowed) in [
        (B, "GET", "/foo", true),
        (B, "GET", "/bar", false),
        (B, "POST", "/foo", false),
        (C, "GET", "/bar", true),
        (C, "GET", "/foo", false),
        (None, "GET", "/foo", false),
        (None, "GET", "/bar", false),
    ] {
        assert_eq!(
            outcome(&seeds, identity, method, path).is_ok(),
            allowed,
            "{identity:?} {method} {path}"
        );
    }
}

/// Spellings of `/foo` that some server takes for `/foo`, and of other paths that look like it.
const VARIANTS: &[&str] = &[
    "/foo/",
    "/foo//",
    "//foo",
    "/foo/.",
    "/./foo",
    "/x/../foo",
    "/foo/..",
    "/foo/../foo",
    "/foo/../bar",
    "/%66oo",
    "/%66%6F%6F",
    "/f%6fo",
    "/foo%2F",
    "/foo%2f",
    "/%2ffoo",
    "/x%2f..%2ffoo",
    "/foo%00",
    "/foo%20",
    "/foo;",
    "/foo;x=1",
    "/;/foo",
    "/foo%3B",
    "/..;/foo",
    "/foo\\",
    "\\foo",
    "/\\foo",
    "/%5cfoo",
    "/foo%5c..%5cbar",
    "/x\\..\\foo",
    "/FOO",
    "/Foo",
    "/foo?x",
    "/foo?/../bar",
    "/foo#x",
    "/foo%3f",
    "/foo%23",
    "/%2e/foo",
    "/%2e%2e/foo",
    "/x/%2e%2e/foo",
    "/x/.%2e/foo",
    "/%252e%252e/foo",
    "/%2566oo",
    "/foo%",
    "/foo%f",
    "/foo%zz",
    "/foo%0a",
    "/foo%09",
    "/bar/../foo",
    "/bar/..%2ffoo",
    "/foo.",
    "/foo..",
    "/.foo",
    "/foo/bar",
    "/foobar",
    "/fo",
    "*",
    "/bar/..;/foo",
];

/// Every reading that some server is known to have of a path.
fn readings(path: &str) -> Vec<String> {
    let decode = |s: &str| {
        let mut out = Vec::new();
        let bytes = s.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match s
                .get(at + 1..at + 3)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            {
                Some(byte) if bytes[at] == b'%' => {
                    out.push(byte);
                    at += 3;
                }
                _ => {
                    out.push(bytes[at]);
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let fold = |s: &str| {
        let mut kept: Vec<&str> = Vec::new();
        for segment in s.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    kept.pop();
                }
                other => kept.push(other),
            }
        }
        format!("/{}", kept.join("/"))
    };
    let without_parameters = |s: &str| {
        s.split('/')
            .map(|p| p.split(';').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("/")
    };
    let mut all = vec![path.to_owned(), decode(path), decode(&decode(path))];
    all.extend(all.clone().iter().map(|p| p.replace('\\', "/")));
    all.extend(all.clone().iter().map(|p| without_parameters(p)));
    all.extend(
        all.clone()
            .iter()
            .map(|p| p.split('\0').next().unwrap_or_default().to_owned()),
    );
    all.extend(all.clone().iter().map(|p| fold(p)));
    all
}

#[test]
fn variants_open_nothing_under_allow() {
    let seeds = seeds();
    for path in VARIANTS {
        if let Ok(sent) = outcome(&seeds, B, "GET", path) {
            assert_eq!(sent, "/foo", "{path} was let through as something else");
        }
        // Whoever may only see /bar does not see /foo, however it is spelt.
        if let Ok(sent) = outcome(&seeds, C, "GET", path) {
            assert_eq!(sent, "/bar", "{path}");
            assert!(
                readings(&sent).iter().all(|r| r == "/bar"),
                "{path} reads as /foo"
            );
        }
    }
}

#[test]
fn variants_open_nothing_under_deny() {
    let deny = authorizer(vec![(
        RbacAction::Deny,
        vec![policy(
            "no-foo",
            vec![Permission::Path(exact("/foo"))],
            vec![Principal::Any],
        )],
    )]);
    assert_eq!(outcome(&deny, None, "GET", "/foo"), Err(403));
    assert_eq!(outcome(&deny, None, "GET", "/bar"), Ok("/bar".into()));
    for path in VARIANTS {
        if let Ok(sent) = outcome(&deny, None, "GET", path) {
            // A trailing slash is a different path by definition; everything else that reads as /foo is closed.
            let foo = readings(&sent).iter().any(|r| r == "/foo");
            assert!(!foo || sent == "/foo/", "{path} went through as {sent}");
        }
    }
}

#[test]
fn variants_open_nothing_under_a_denied_prefix() {
    let deny = authorizer(vec![(
        RbacAction::Deny,
        vec![policy(
            "no-foo",
            vec![Permission::Path(prefix("/foo"))],
            vec![Principal::Any],
        )],
    )]);
    for path in VARIANTS {
        if let Ok(sent) = outcome(&deny, None, "GET", path) {
            assert!(
                !readings(&sent).iter().any(|r| r.starts_with("/foo")),
                "{path} went through as {sent}"
            );
        }
    }
}

#[test]
fn a_policy_written_in_another_spelling_still_matches() {
    for spelt in ["/caf\u{e9}", "/caf%c3%a9", "/caf%C3%A9"] {
        let deny = authorizer(vec![(
            RbacAction::Deny,
            vec![policy(
                "p",
                vec![Permission::Path(exact(spelt))],
                vec![Principal::Any],
            )],
        )]);
        for path in ["/caf%c3%a9", "/caf%C3%A9", "/c%61f%c3%A9"] {
            assert_eq!(
                outcome(&deny, None, "GET", path),
                Err(403),
                "{spelt} {path}"
            );
        }
    }
}

#[test]
fn without_path_policies_nothing_is_refused() {
    let by_method = authorizer(vec![(
        RbacAction::Allow,
        vec![policy("get", vec![method("GET")], vec![Principal::Any])],
    )]);
    assert_eq!(
        outcome(&by_method, None, "GET", "/a%2Fb;c//d"),
        Ok("/a%2Fb;c//d".into())
    );
    assert_eq!(outcome(&by_method, None, "GET", "/a/../b"), Ok("/b".into()));
}

#[test]
fn deny_beats_allow_and_log_changes_nothing() {
    let any = || vec![policy("any", vec![Permission::Any], vec![Principal::Any])];
    let foo = || {
        vec![policy(
            "foo",
            vec![Permission::Path(exact("/foo"))],
            vec![Principal::Any],
        )]
    };
    let both = authorizer(vec![
        (RbacAction::Log, any()),
        (RbacAction::Deny, foo()),
        (RbacAction::Allow, any()),
    ]);
    assert_eq!(outcome(&both, None, "GET", "/foo"), Err(403));
    assert_eq!(outcome(&both, None, "GET", "/bar"), Ok("/bar".into()));
    let audited = authorizer(vec![(RbacAction::Log, foo())]);
    assert_eq!(outcome(&audited, None, "GET", "/foo"), Ok("/foo".into()));
    assert!(!audited.mentions_paths());
}

#[test]
fn no_policy_allows_and_an_empty_allow_denies() {
    assert!(outcome(&Authorizer::default(), None, "GET", "/").is_ok());
    let nothing = authorizer(vec![(RbacAction::Allow, vec![])]);
    assert_eq!(outcome(&nothing, B, "GET", "/"), Err(403));
    let never = authorizer(vec![(
        RbacAction::Allow,
        vec![policy("p", vec![], vec![Principal::Any])],
    )]);
    assert_eq!(outcome(&never, B, "GET", "/"), Err(403));
}

#[test]
fn says_which_policy_denied() {
    let any = || {
        vec![policy(
            "ns[a]-policy[b]-rule[0]",
            vec![Permission::Any],
            vec![Principal::Any],
        )]
    };
    let (parts, ()) = Request::new(()).into_parts();
    let denied = authorizer(vec![(RbacAction::Deny, any())])
        .check_http(&source(None), &parts)
        .unwrap_err();
    assert_eq!(
        denied.to_string(),
        "rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[0]]"
    );
    let unmatched = authorizer(vec![(RbacAction::Allow, vec![])])
        .check_http(&source(None), &parts)
        .unwrap_err();
    assert_eq!(
        unmatched.to_string(),
        "rbac_access_denied_matched_policy[none]"
    );
}

#[test]
fn principals_and_addresses() {
    let check = |principal: Principal, identity| {
        authorizer(vec![(
            RbacAction::Allow,
            vec![policy("p", vec![Permission::Any], vec![principal])],
        )])
        .check_tcp(&source(identity))
        .is_ok()
    };
    assert!(check(Principal::Authenticated(None), B));
    assert!(!check(Principal::Authenticated(None), None));
    assert!(check(Principal::Not(Box::new(namespace("service-c"))), B));
    // A negated identity matches whoever shows none, as in Envoy; STRICT is what keeps them out.
    assert!(check(
        Principal::Not(Box::new(namespace("service-c"))),
        None
    ));
    let net = |address: &str, prefix_len| {
        Principal::DirectIp(Cidr {
            address: address.parse().unwrap(),
            prefix_len,
        })
    };
    assert!(check(net("10.0.0.0", 8), None));
    assert!(check(net("0.0.0.0", 0), None));
    assert!(!check(net("10.0.0.8", 32), None));
    assert!(!check(net("::", 0), None));
}

#[test]
fn regexes_match_the_whole_value() {
    let regex = |r: &str| {
        Permission::Path(StringMatch {
            pattern: Pattern::Regex(r.into()),
            ignore_case: false,
        })
    };
    let allow = authorizer(vec![(
        RbacAction::Allow,
        vec![policy("p", vec![regex("/foo|/bar")], vec![Principal::Any])],
    )]);
    assert!(outcome(&allow, None, "GET", "/foo").is_ok());
    assert_eq!(outcome(&allow, None, "GET", "/foo/bar"), Err(403));
    assert_eq!(outcome(&allow, None, "GET", "/x/bar"), Err(403));
    let broken = Rbac {
        action: RbacAction::Allow,
        policies: vec![policy("p", vec![regex("(")], vec![Principal::Any])],
    };
    assert!(Authorizer::compile(&[broken]).is_err());
}

#[test]
fn a_second_header_value_does_not_hide() {
    let allow = authorizer(vec![(
        RbacAction::Allow,
        vec![policy(
            "p",
            vec![header("x-role", "reader")],
            vec![Principal::Any],
        )],
    )]);
    let check = |values: &[&str]| {
        let request = values
            .iter()
            .fold(Request::builder(), |r, v| r.header("x-role", *v))
            .body(())
            .unwrap();
        allow
            .check_http(&source(None), &request.into_parts().0)
            .is_ok()
    };
    assert!(check(&["reader"]));
    assert!(!check(&[]));
    assert!(!check(&["reader", "admin"]));
    assert!(!check(&["admin", "reader"]));
}

#[test]
fn hosts_ignore_case_and_come_from_either_place() {
    let host = Permission::Header(HeaderMatch {
        name: ":authority".into(),
        value: ValueMatch::String(StringMatch {
            pattern: Pattern::Exact("Cart.Shop".into()),
            ignore_case: true,
        }),
        invert: false,
        missing_as_empty: false,
    });
    let allow = authorizer(vec![(
        RbacAction::Allow,
        vec![policy("p", vec![host], vec![Principal::Any])],
    )]);
    let check = |request: http::request::Builder| {
        allow
            .check_http(&source(None), &request.body(()).unwrap().into_parts().0)
            .is_ok()
    };
    assert!(check(Request::builder().uri("http://CART.shop/")));
    assert!(check(
        Request::builder().uri("/").header("host", "cart.SHOP")
    ));
    assert!(!check(
        Request::builder().uri("/").header("host", "cart.shop:8080")
    ));
}

#[test]
fn raw_connections_take_requests_at_their_worst() {
    let http_only = || {
        policy(
            "p",
            vec![Permission::All(vec![
                Permission::Path(exact("/foo")),
                Permission::DestinationPort(8080),
            ])],
            vec![Principal::Any],
        )
    };
    let negated = || {
        policy(
            "p",
            vec![Permission::Not(Box::new(Permission::Path(exact("/foo"))))],
            vec![Principal::Any],
        )
    };
    for policy in [http_only(), negated()] {
        assert!(
            authorizer(vec![(RbacAction::Allow, vec![policy.clone()])])
                .check_tcp(&source(B))
                .is_err()
        );
        assert!(
            authorizer(vec![(RbacAction::Deny, vec![policy])])
                .check_tcp(&source(B))
                .is_err()
        );
    }
    let other_port = policy(
        "p",
        vec![Permission::All(vec![
            method("GET"),
            Permission::DestinationPort(9090),
        ])],
        vec![Principal::Any],
    );
    assert!(
        authorizer(vec![(RbacAction::Deny, vec![other_port])])
            .check_tcp(&source(B))
            .is_ok()
    );
}

#[test]
fn sni_and_destination() {
    let name = |n: &str| Permission::ServerName(exact(n));
    let allow = authorizer(vec![(
        RbacAction::Allow,
        vec![policy("p", vec![name("cart.shop")], vec![Principal::Any])],
    )]);
    assert!(allow.check_tcp(&source(B)).is_err());
    assert!(
        allow
            .check_tcp(&Source {
                server_name: Some("cart.shop"),
                ..source(B)
            })
            .is_ok()
    );
    let to = Permission::DestinationIp(Cidr {
        address: "10.0.0.0".parse().unwrap(),
        prefix_len: 24,
    });
    assert!(
        authorizer(vec![(
            RbacAction::Allow,
            vec![policy("p", vec![to], vec![Principal::Any])]
        )])
        .check_tcp(&source(None))
        .is_ok()
    );
}
