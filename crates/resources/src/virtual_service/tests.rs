//! VirtualServices as users write them.

use std::time::Duration;

use super::{
    GatewayRef, HttpAction, RedirectPath, RedirectPort, RetryOn, StringMatch, ValueMatch,
    VirtualService,
};
use crate::{ExportTo, Host, NamespacedName, Object, parse_documents};

fn read(spec: &str) -> VirtualService {
    let text = format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec:\n{spec}"
    );
    let document = parse_documents("t.yaml", &text).remove(0);
    match document.object {
        Some(Object::VirtualService(vs)) => vs,
        other => panic!("{other:?}: {:?}", document.problems),
    }
}

fn problems(spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec:\n{spec}"
    );
    parse_documents("", &text)
        .iter()
        .flat_map(|d| &d.problems)
        .map(ToString::to_string)
        .collect()
}

#[test]
fn weights_and_subsets() {
    let vs = read(
        "  hosts: [http-server, HTTP.Example.COM., \"*.example.com\"]\n  http:\n  - name: split\n    timeout: 1.5s\n    route:\n    - {destination: {host: http-server, subset: version-a, port: {number: 8080}}, weight: 70}\n    - {destination: {host: http-server.other.svc.cluster.local, subset: version-b}, weight: 30}\n",
    );
    assert_eq!(
        vs.hosts,
        [
            Host::Exact("http-server.shop.svc.cluster.local".into()),
            Host::Exact("http.example.com".into()),
            Host::Suffix(".example.com".into())
        ]
    );
    assert_eq!(vs.gateways, [GatewayRef::Mesh]);
    assert_eq!(vs.export_to, ExportTo::Everywhere);
    let rule = &vs.http[0];
    assert_eq!(
        (rule.name.as_deref(), rule.timeout),
        (Some("split"), Some(Duration::from_millis(1500)))
    );
    let HttpAction::Forward(forward) = &rule.action else {
        panic!()
    };
    let [a, b] = forward.destinations.as_slice() else {
        panic!()
    };
    assert_eq!(
        (a.host.as_str(), a.subset.as_deref(), a.port, a.weight),
        (
            "http-server.shop.svc.cluster.local",
            Some("version-a"),
            Some(8080),
            70
        )
    );
    assert_eq!(
        (b.host.as_str(), b.port, b.weight),
        ("http-server.other.svc.cluster.local", None, 30)
    );
}

#[test]
fn matches_of_every_sort() {
    let vs = read(
        "  hosts: [cart]\n  gateways: [edge, other/edge, mesh, old.legacy.svc.cluster.local]\n  exportTo: [\".\", pay]\n  http:\n  - match:\n    - uri: {regex: \"/cart/[0-9]+\"}\n      ignoreUriCase: true\n      scheme: {exact: https}\n      method: {exact: GET}\n      authority: {prefix: cart}\n      headers: {X-User: {exact: tester}, x-any: {}, x-null: }\n      withoutHeaders: {x-bot: {regex: \".*\"}}\n      queryParams: {Page: {exact: \"1\"}, all: {}}\n      port: 8080\n      gateways: [mesh]\n      sourceLabels: {app: web}\n      sourceNamespace: front\n    - uri: {prefix: /}\n    route: [{destination: {host: cart}}]\n",
    );
    let m = &vs.http[0].matches[0];
    assert_eq!(m.uri, Some(StringMatch::Regex("/cart/[0-9]+".into())));
    assert_eq!(
        m.headers,
        [
            (
                "x-user".to_owned(),
                ValueMatch::String(StringMatch::Exact("tester".into()))
            ),
            ("x-any".to_owned(), ValueMatch::Present),
            ("x-null".to_owned(), ValueMatch::Present)
        ]
    );
    assert_eq!(m.query[0].0, "Page");
    assert_eq!(
        (m.port, m.source_namespace.as_deref(), m.ignore_uri_case),
        (Some(8080), Some("front"), true)
    );
    assert!(!m.is_catch_all() && vs.http[0].matches[1].is_catch_all());
    let gateway = |ns: &str, name: &str| GatewayRef::Gateway(NamespacedName::new(ns, name));
    assert_eq!(
        vs.gateways,
        [
            gateway("shop", "edge"),
            gateway("other", "edge"),
            GatewayRef::Mesh,
            gateway("legacy", "old")
        ]
    );
    assert!(
        vs.export_to.includes("shop")
            && vs.export_to.includes("pay")
            && !vs.export_to.includes("front")
    );
}

#[test]
fn retries() {
    let retries = |text: &str| {
        read(&format!("  hosts: [cart]\n  http:\n  - retries: {text}\n    route: [{{destination: {{host: cart}}}}]\n")).http[0].retries.clone().unwrap()
    };
    let all = retries(
        "{attempts: 3, perTryTimeout: 2s, retryOn: \"5xx, reset,503,unavailable,429\", backoff: 10ms, retryIgnorePreviousHosts: false}",
    );
    assert_eq!(
        all.on,
        Some(vec![
            RetryOn::Http5xx,
            RetryOn::Reset,
            RetryOn::RetriableStatusCodes,
            RetryOn::GrpcUnavailable
        ])
    );
    assert_eq!(all.status_codes, [503, 429]);
    assert_eq!(
        (
            all.attempts,
            all.per_try_timeout,
            all.backoff,
            all.avoid_previous_hosts
        ),
        (
            3,
            Some(Duration::from_secs(2)),
            Some(Duration::from_millis(10)),
            false
        )
    );
    let off = retries("{attempts: 0}");
    assert_eq!(
        (off.attempts, off.on, off.avoid_previous_hosts),
        (0, None, true)
    );
}

#[test]
fn headers_and_rewrites() {
    let vs = read(
        "  hosts: [cart]\n  http:\n  - headers:\n      request: {set: {Host: other.example, X-A: \"1\"}, add: {x-b: \"2\"}, remove: [X-C]}\n      response: {set: {server: hidden}}\n    rewrite: {uri: /v2, authority: \"cart.example:8080\"}\n    route:\n    - destination: {host: cart}\n      headers: {request: {add: {x-d: \"\"}}}\n",
    );
    let rule = &vs.http[0];
    assert_eq!(
        rule.headers.request.set,
        [
            (":authority".to_owned(), "other.example".to_owned()),
            ("x-a".to_owned(), "1".to_owned())
        ]
    );
    assert_eq!(rule.headers.request.remove, ["x-c"]);
    assert_eq!(rule.headers.response.set[0].0, "server");
    let HttpAction::Forward(forward) = &rule.action else {
        panic!()
    };
    assert_eq!(forward.rewrite.uri.as_deref(), Some("/v2"));
    assert_eq!(
        forward.rewrite.authority.as_deref(),
        Some("cart.example:8080")
    );
    assert_eq!(
        forward.destinations[0].headers.request.add,
        [("x-d".to_owned(), String::new())]
    );
}

#[test]
fn redirects_and_direct_responses() {
    let vs = read(
        "  hosts: [cart]\n  http:\n  - match: [{uri: {exact: /a}}]\n    redirect: {uri: /b, authority: new.example, scheme: https, derivePort: FROM_PROTOCOL_DEFAULT, redirectCode: 308}\n  - match: [{uri: {prefix: /c}}]\n    redirect: {prefixRewrite: /d, port: 8443}\n  - directResponse: {status: 418, body: {string: teapot}}\n",
    );
    let HttpAction::Redirect(a) = &vs.http[0].action else {
        panic!()
    };
    assert_eq!(
        (a.status, a.port, &a.path),
        (
            308,
            Some(RedirectPort::FromScheme),
            &Some(RedirectPath::Full("/b".into()))
        )
    );
    let HttpAction::Redirect(b) = &vs.http[1].action else {
        panic!()
    };
    assert_eq!(
        (b.status, b.port, &b.path),
        (
            301,
            Some(RedirectPort::Number(8443)),
            &Some(RedirectPath::Prefix("/d".into()))
        )
    );
    let HttpAction::Direct(c) = &vs.http[2].action else {
        panic!()
    };
    assert_eq!((c.status, c.body.as_slice()), (418, b"teapot".as_slice()));
    let vs =
        read("  hosts: [cart]\n  http:\n  - directResponse: {status: 200, body: {bytes: aGk=}}\n");
    assert!(matches!(&vs.http[0].action, HttpAction::Direct(d) if d.body == b"hi"));
}

#[test]
fn every_mistake_is_named_at_once() {
    let found = problems(
        "  hosts: [cart]\n  http:\n  - timeout: 5\n    fault: {}\n    route:\n    - destination: {hots: cart}\n      weight: -3\n",
    );
    let fields = [
        "spec.http[0].timeout",
        "route[0].destination.host: is missing",
        "route[0].destination.hots: unknown field; did you mean host?",
        "route[0].weight",
        "spec.http[0].fault: not honoured yet",
    ];
    for field in fields {
        assert!(
            found.iter().any(|line| line.contains(field)),
            "{field} in {found:#?}"
        );
    }
    assert_eq!(found.len(), fields.len(), "{found:#?}");
}

#[test]
fn rules_behind_a_catch_all_are_warned_of() {
    let found = problems(
        "  hosts: [cart]\n  http:\n  - route: [{destination: {host: cart}}]\n  - match: [{uri: {exact: /a}}]\n    route: [{destination: {host: cart}}]\n",
    );
    assert_eq!(
        found,
        [
            "warning: VirtualService shop/cart: spec.http[1]: cannot be reached: rule 0 matches everything; move the general rule to the end"
        ]
    );
}

#[test]
fn the_authority_of_one_destination_among_several_is_refused() {
    let text = |destinations: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x}}\nspec: {{hosts: [a], http: [{{route: [{destinations}]}}]}}\n"
        )
    };
    let one = "{destination: {host: b}, weight: 1, headers: {request: {set: {host: c.example}}}}";
    let problems = |destinations: &str| {
        let document = parse_documents("", &text(destinations)).remove(0);
        document.problems
    };
    assert_eq!(problems(one), []);
    let several = problems(&format!("{one}, {{destination: {{host: d}}, weight: 1}}"));
    assert_eq!(several.len(), 1, "{several:?}");
    assert_eq!(several[0].field, "spec.http[0].route[0]");
    assert!(several[0].reason.starts_with("not honoured yet"));
}
