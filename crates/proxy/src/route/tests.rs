//! Which route a request takes, and what it changes.

use http::{Request, Version};
use tasuki_xds::model::RouteConfiguration;
use tasuki_xds::model::matching::{HeaderMatch, Pattern, QueryMatch, StringMatch, ValueMatch};
use tasuki_xds::model::route::{
    DirectResponse, PathMatch, PathRewrite as RewriteModel, Redirect as RedirectModel,
    RedirectPath, Route as RouteModel, RouteAction, RouteMatch, VirtualHost as HostModel,
};

use super::*;

fn matches(path: PathMatch) -> RouteMatch {
    RouteMatch::path(path)
}

fn route(name: &str, matches: RouteMatch) -> RouteModel {
    let answer = DirectResponse {
        status: 200,
        body: vec![],
    };
    RouteModel::new(name, matches, RouteAction::Direct(answer))
}

fn table(hosts: Vec<(&[&str], Vec<RouteModel>)>) -> RouteTable {
    let virtual_hosts = hosts
        .into_iter()
        .map(|(domains, routes)| HostModel {
            name: domains[0].into(),
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            routes,
        })
        .collect();
    RouteTable::compile(
        &RouteConfiguration {
            name: "t".into(),
            virtual_hosts,
        },
        &|_| None,
    )
}

fn parts(method: &str, path: &str, headers: &[(&'static str, &'static str)]) -> request::Parts {
    let mut builder = Request::builder()
        .version(Version::HTTP_2)
        .method(method)
        .uri(format!("http://a{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn finds(
    matcher: RouteMatch,
    method: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> bool {
    table(vec![(&["*"], vec![route("r", matcher)])])
        .find(&parts(method, path, headers), "a")
        .is_some()
}

fn string(pattern: Pattern) -> ValueMatch {
    ValueMatch::String(StringMatch {
        pattern,
        ignore_case: false,
    })
}

fn header(name: &str, value: ValueMatch) -> RouteMatch {
    let header = HeaderMatch {
        name: name.into(),
        value,
        invert: false,
        missing_as_empty: false,
    };
    RouteMatch {
        headers: vec![header],
        ..matches(PathMatch::Prefix("/".into()))
    }
}

#[test]
fn domains_in_order_of_precision() {
    let all = || vec![route("r", matches(PathMatch::Prefix("/".into())))];
    let table = table(vec![
        (&["*"], all()),
        (&["*.example.com"], all()),
        (&["*.shop.example.com"], all()),
        (&["cart.shop.example.com", "cart:8080"], all()),
        (&["cart.*"], all()),
    ]);
    let name = |authority: &str| {
        table
            .host(authority)
            .map(|host| host.name.to_string())
            .unwrap()
    };
    assert_eq!(name("CART.shop.example.com"), "cart.shop.example.com");
    assert_eq!(name("cart:8080"), "cart.shop.example.com");
    assert_eq!(name("x.shop.example.com"), "*.shop.example.com");
    assert_eq!(name("x.example.com"), "*.example.com");
    assert_eq!(name("cart.local"), "cart.*");
    assert_eq!(name("example.com"), "*");
    assert!(table.knows_host("cart:8080"));
    assert!(!table.knows_host("other"));
}

#[test]
fn paths() {
    let prefix = || matches(PathMatch::Prefix("/foo".into()));
    assert!(finds(prefix(), "GET", "/foobar?x=/", &[]));
    assert!(!finds(prefix(), "GET", "/fo", &[]));
    let segments = || matches(PathMatch::Segments("/foo".into()));
    assert!(finds(segments(), "GET", "/foo", &[]));
    assert!(finds(segments(), "GET", "/foo?x", &[]));
    assert!(finds(segments(), "GET", "/foo/x", &[]));
    assert!(!finds(segments(), "GET", "/foobar", &[]));
    let exact = || matches(PathMatch::Exact("/foo".into()));
    assert!(finds(exact(), "GET", "/foo?q=1", &[]));
    assert!(!finds(exact(), "GET", "/foo/", &[]));
    assert!(!finds(exact(), "GET", "/Foo", &[]));
    assert!(finds(
        RouteMatch {
            ignore_path_case: true,
            ..exact()
        },
        "GET",
        "/FOO",
        &[]
    ));
    assert!(finds(
        RouteMatch {
            ignore_path_case: true,
            ..prefix()
        },
        "GET",
        "/FOObar",
        &[]
    ));
    let regex = || matches(PathMatch::Regex("/v[0-9]+|/w".into()));
    assert!(finds(regex(), "GET", "/v12", &[]));
    assert!(!finds(regex(), "GET", "/v12/x", &[]));
    assert!(!finds(regex(), "GET", "/x/w", &[]));
}

#[test]
fn headers_of_every_kind() {
    let with = |value| finds(header("x-user", value), "GET", "/", &[("x-user", "alice")]);
    assert!(with(ValueMatch::Present));
    assert!(with(string(Pattern::Exact("alice".into()))));
    assert!(with(string(Pattern::Prefix("al".into()))));
    assert!(with(string(Pattern::Suffix("ce".into()))));
    assert!(with(string(Pattern::Contains("lic".into()))));
    assert!(with(string(Pattern::Regex("a.*e".into()))));
    assert!(!with(string(Pattern::Regex("a".into()))));
    assert!(!with(string(Pattern::Exact("ALICE".into()))));
    let ignoring = StringMatch {
        pattern: Pattern::Exact("ALICE".into()),
        ignore_case: true,
    };
    assert!(with(ValueMatch::String(ignoring)));
    assert!(finds(
        header(":method", string(Pattern::Exact("POST".into()))),
        "POST",
        "/",
        &[]
    ));
    assert!(finds(
        header(":authority", string(Pattern::Exact("a".into()))),
        "GET",
        "/",
        &[]
    ));
    assert!(finds(
        header(":scheme", string(Pattern::Exact("http".into()))),
        "GET",
        "/",
        &[]
    ));
    let twice = [("x-user", "a"), ("x-user", "b")];
    assert!(finds(
        header("x-user", string(Pattern::Exact("a,b".into()))),
        "GET",
        "/",
        &twice
    ));
}

#[test]
fn absent_and_inverted_headers() {
    let inverted = |value, missing_as_empty| {
        let header = HeaderMatch {
            name: "x-user".into(),
            value,
            invert: true,
            missing_as_empty,
        };
        RouteMatch {
            headers: vec![header],
            ..matches(PathMatch::Prefix("/".into()))
        }
    };
    let alice = || string(Pattern::Exact("alice".into()));
    assert!(!finds(
        inverted(alice(), true),
        "GET",
        "/",
        &[("x-user", "alice")]
    ));
    assert!(finds(inverted(alice(), true), "GET", "/", &[]));
    assert!(!finds(inverted(alice(), false), "GET", "/", &[]));
    assert!(finds(inverted(ValueMatch::Present, false), "GET", "/", &[]));
    assert!(!finds(header("x-user", alice()), "GET", "/", &[]));
}

#[test]
fn query_and_share_and_grpc() {
    let query = |value| RouteMatch {
        query: vec![QueryMatch {
            name: "v".into(),
            value,
        }],
        ..matches(PathMatch::Prefix("/".into()))
    };
    assert!(finds(query(ValueMatch::Present), "GET", "/?a=1&v", &[]));
    assert!(finds(
        query(string(Pattern::Exact("2".into()))),
        "GET",
        "/?v=2",
        &[]
    ));
    assert!(!finds(
        query(string(Pattern::Exact("2".into()))),
        "GET",
        "/?w=2",
        &[]
    ));
    assert!(!finds(query(ValueMatch::Present), "GET", "/", &[]));
    let share = |n| RouteMatch {
        fraction_per_million: Some(n),
        ..matches(PathMatch::Prefix("/".into()))
    };
    assert!(finds(share(1_000_000), "GET", "/", &[]));
    assert!(!finds(share(0), "GET", "/", &[]));
    let grpc = || RouteMatch {
        grpc: true,
        ..matches(PathMatch::Prefix("/".into()))
    };
    assert!(finds(
        grpc(),
        "POST",
        "/",
        &[("content-type", "application/grpc+proto")]
    ));
    assert!(!finds(
        grpc(),
        "POST",
        "/",
        &[("content-type", "application/json")]
    ));
}

#[test]
fn the_first_match_wins() {
    let table = table(vec![(
        &["*"],
        vec![
            route(
                "ab",
                header("x-user", string(Pattern::Exact("alice".into()))),
            ),
            route("rest", matches(PathMatch::Prefix("/".into()))),
        ],
    )]);
    let name = |headers: &[(&'static str, &'static str)]| {
        table
            .find(&parts("GET", "/", headers), "a")
            .unwrap()
            .name
            .to_string()
    };
    assert_eq!(name(&[("x-user", "alice")]), "ab");
    assert_eq!(name(&[]), "rest");
}

#[test]
fn rewrites() {
    let apply = |model, path: PathMatch, uri: &str| {
        PathRewrite::compile(&model, &path)
            .apply(&uri.parse().unwrap())
            .unwrap()
            .to_string()
    };
    let prefix = |by: &str| RewriteModel::Prefix(by.into());
    assert_eq!(
        apply(
            prefix("/b/"),
            PathMatch::Prefix("/a/".into()),
            "http://h/a/x?q=1"
        ),
        "/b/x?q=1"
    );
    assert_eq!(
        apply(prefix("/b"), PathMatch::Exact("/a".into()), "http://h/a"),
        "/b"
    );
    assert_eq!(
        apply(
            prefix("/b"),
            PathMatch::Segments("/a".into()),
            "http://h/a/x"
        ),
        "/b/x"
    );
    let regex = RewriteModel::Regex {
        pattern: "/(.+)/(.+)".into(),
        substitution: r"/\2/\1$".into(),
    };
    assert_eq!(
        apply(regex, PathMatch::Prefix("/".into()), "http://h/x/y"),
        "/y/x$"
    );
}

#[test]
fn redirects() {
    let model = RedirectModel {
        scheme: None,
        host: None,
        port: None,
        path: None,
        status: 301,
        strip_query: false,
    };
    let location = |model: RedirectModel, authority: &str| {
        Redirect::compile(&model, &PathMatch::Prefix("/a".into())).location(
            &"http://h/a/x?q".parse().unwrap(),
            "http",
            authority,
        )
    };
    assert_eq!(location(model.clone(), "h:8080"), "http://h:8080/a/x?q");
    assert_eq!(
        location(
            RedirectModel {
                scheme: Some("https".into()),
                ..model.clone()
            },
            "h:80"
        ),
        "https://h/a/x?q"
    );
    assert_eq!(
        location(
            RedirectModel {
                host: Some("o".into()),
                ..model.clone()
            },
            "h:8080"
        ),
        "http://o/a/x?q"
    );
    assert_eq!(
        location(
            RedirectModel {
                port: Some(8443),
                ..model.clone()
            },
            "h"
        ),
        "http://h:8443/a/x?q"
    );
    let full = Some(RedirectPath::Full("/new".into()));
    assert_eq!(
        location(
            RedirectModel {
                path: full,
                strip_query: true,
                ..model.clone()
            },
            "h"
        ),
        "http://h/new"
    );
    let prefix = Some(RedirectPath::Prefix("/b".into()));
    assert_eq!(
        location(
            RedirectModel {
                path: prefix,
                ..model
            },
            "h"
        ),
        "http://h/b/x?q"
    );
}
