//! VirtualServices as routes.

use std::time::Duration;

use tasuki_xds::model::matching::{Pattern, ValueMatch};
use tasuki_xds::model::route::*;

use super::*;

const HOST: &str = "cart.shop.svc.cluster.local";

fn vs(namespace: &str, name: &str, spec: &str) -> String {
    let indented = spec.trim_matches('\n').replace('\n', "\n  ");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {indented}\n"
    )
}

const SUBSETS: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"#;

fn routes_of(mesh: &Arc<Mesh>, namespace: &str, name: &str) -> Vec<Route> {
    let client = As::sidecar(mesh, namespace, name);
    client
        .table(&format!("{HOST}:8080"))
        .virtual_hosts
        .remove(0)
        .routes
}

fn targets(route: &Route) -> Vec<(String, u32)> {
    match &route.action {
        RouteAction::Forward(forward) => forward
            .clusters
            .iter()
            .map(|c| (c.name.clone(), c.weight))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_rules_a_host_is_routed_to_itself() {
    let mesh = good_mesh(&[SHOP]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    let table = client.table(&format!("{HOST}:8080"));
    assert_eq!(table.name, format!("{HOST}:8080"));
    let host = &table.virtual_hosts[0];
    for domain in [
        "cart",
        "cart:8080",
        "cart.shop",
        "cart.shop.svc:8080",
        HOST,
        "10.96.0.10",
        "10.96.0.10:8080",
    ] {
        assert!(
            host.domains.iter().any(|d| d == domain),
            "{domain}: {:?}",
            host.domains
        );
    }
    assert_eq!(
        targets(&host.routes[0]),
        [(format!("outbound|8080||{HOST}"), 1)]
    );
    assert_eq!(forward(&host.routes[0]).retry, None);
    assert_eq!(forward(&host.routes[0]).timeout, None);
    let far = As::sidecar(&mesh, "elsewhere", "other").table(&format!("{HOST}:8080"));
    assert!(!far.virtual_hosts[0].domains.iter().any(|d| d == "cart"));
    assert!(!client.has(ResourceType::Route, &format!("{HOST}:1")));
}

#[test]
fn weights_and_an_earlier_header_rule() {
    let rules = vs(
        "shop",
        "cart",
        r#"
hosts: [cart]
http:
- name: ab
  match: [{headers: {x-user: {exact: tester}}, uri: {prefix: /a}}]
  route: [{destination: {host: cart, subset: v2}}]
- route:
  - {destination: {host: cart, subset: v1}, weight: 70}
  - {destination: {host: cart, subset: v2}, weight: 30}
- match: [{uri: {exact: /never}}]
  route: [{destination: {host: cart}}]
"#,
    );
    let mesh = good_mesh(&[SHOP, SUBSETS, &rules]);
    let routes = routes_of(&mesh, "shop", "storefront");
    assert_eq!(
        routes.len(),
        2,
        "what stands behind a catch-all is left out"
    );
    assert_eq!(routes[0].name, "ab");
    assert_eq!(
        targets(&routes[0]),
        [(format!("outbound|8080|v2|{HOST}"), 1)]
    );
    assert_eq!(routes[0].matches.path, PathMatch::Prefix("/a".into()));
    assert_eq!(routes[0].matches.headers[0].name, "x-user");
    let weights = [
        (format!("outbound|8080|v1|{HOST}"), 70),
        (format!("outbound|8080|v2|{HOST}"), 30),
    ];
    assert_eq!(targets(&routes[1]), weights);
}

#[test]
fn a_weight_of_zero_gets_nothing() {
    let rules = vs(
        "shop",
        "cart",
        r#"
hosts: [cart]
http:
- route:
  - {destination: {host: cart, subset: v1}, weight: 0}
  - {destination: {host: cart, subset: v2}, weight: 100}
"#,
    );
    let mesh = good_mesh(&[SHOP, SUBSETS, &rules]);
    assert_eq!(
        targets(&routes_of(&mesh, "shop", "storefront")[0]),
        [(format!("outbound|8080|v2|{HOST}"), 100)]
    );
}

#[test]
fn every_condition_is_translated() {
    let rules = vs(
        "shop",
        "cart",
        r#"
hosts: [cart]
http:
- match:
  - name: all
    uri: {regex: "/x/[0-9]+"}
    scheme: {exact: http}
    method: {exact: POST}
    authority: {prefix: cart}
    headers: {x-a: {}, x-b: {regex: "b+"}}
    withoutHeaders: {x-c: {exact: "1"}, x-d: {}}
    queryParams: {q: {exact: "1"}}
    port: 8080
  - {uri: {exact: /Y}, ignoreUriCase: true}
  - {uri: {exact: /other-port}, port: 9999}
  - {uri: {exact: /labels}, sourceLabels: {app: storefront}}
  - {uri: {exact: /other-labels}, sourceLabels: {app: nobody}}
  - {uri: {exact: /ns}, sourceNamespace: shop}
  - {uri: {exact: /other-ns}, sourceNamespace: elsewhere}
  - {uri: {exact: /gateway}, gateways: [shop/edge]}
  route: [{destination: {host: cart}}]
"#,
    );
    let mesh = good_mesh(&[SHOP, &rules]);
    let routes = routes_of(&mesh, "shop", "storefront");
    let paths: Vec<_> = routes
        .iter()
        .map(|route| route.matches.path.clone())
        .collect();
    let expected = [
        PathMatch::Regex("/x/[0-9]+".into()),
        PathMatch::Exact("/Y".into()),
        PathMatch::Exact("/labels".into()),
        PathMatch::Exact("/ns".into()),
    ];
    assert_eq!(paths, expected);
    let all = &routes[0].matches;
    let header = |name: &str| all.headers.iter().find(|h| h.name == name).unwrap();
    for name in [":scheme", ":method", ":authority", "x-a", "x-b"] {
        assert!(!header(name).invert, "{name}");
    }
    assert_eq!(header("x-a").value, ValueMatch::Present);
    assert!(
        matches!(&header("x-b").value, ValueMatch::String(m) if m.pattern == Pattern::Regex("b+".into()))
    );
    assert!(header("x-c").invert && header("x-c").missing_as_empty);
    assert!(header("x-d").invert && !header("x-d").missing_as_empty);
    assert_eq!(all.query[0].name, "q");
    assert!(routes[1].matches.ignore_path_case && !all.ignore_path_case);
}

#[test]
fn timeouts_retries_headers_and_rewrites() {
    let rules = vs(
        "shop",
        "cart",
        r#"
hosts: [cart]
http:
- match: [{uri: {prefix: /old}}]
  rewrite: {uri: /new, authority: inner.example.com}
  timeout: 2s
  retries: {attempts: 3, perTryTimeout: 500ms, retryOn: "5xx,reset,429"}
  headers:
    request: {set: {x-set: a}, add: {x-add: b}, remove: [x-gone]}
    response: {add: {x-back: c}}
  route: [{destination: {host: cart, port: {number: 7000}}, headers: {request: {set: {x-dest: d}}}}]
- match: [{uri: {prefix: /never-again}}]
  retries: {attempts: 0}
  route: [{destination: {host: cart}}]
- match: [{uri: {prefix: /moved}}]
  redirect: {uri: /there, authority: example.org, redirectCode: 308, scheme: https}
- match: [{uri: {prefix: /fixed}}]
  directResponse: {status: 418, body: {string: teapot}}
"#,
    );
    let mesh = good_mesh(&[SHOP, &rules]);
    let routes = routes_of(&mesh, "shop", "storefront");
    let first = forward(&routes[0]);
    assert_eq!(first.timeout, Some(Duration::from_secs(2)));
    assert_eq!(first.grpc_timeout_max, Some(Duration::ZERO));
    assert_eq!(first.path_rewrite, Some(PathRewrite::Prefix("/new".into())));
    assert_eq!(first.host_rewrite.as_deref(), Some("inner.example.com"));
    assert_eq!(first.clusters[0].name, format!("outbound|7000||{HOST}"));
    assert_eq!(first.clusters[0].request_headers.add[0].name, "x-dest");
    let retry = first.retry.as_ref().unwrap();
    assert_eq!(
        (retry.retries, retry.per_try_timeout),
        (3, Some(Duration::from_millis(500)))
    );
    assert_eq!(retry.status_codes, [429]);
    assert!(
        retry.on.contains(&RetryOn::Http5xx) && retry.on.contains(&RetryOn::RetriableStatusCodes)
    );
    let headers = &routes[0].request_headers;
    assert_eq!(headers.remove, ["x-gone"]);
    assert_eq!(headers.add[0].append, AppendAction::OverwriteIfExistsOrAdd);
    assert_eq!(headers.add[1].append, AppendAction::AppendIfExistsOrAdd);
    assert_eq!(routes[0].response_headers.add[0].name, "x-back");
    assert_eq!(forward(&routes[1]).retry.as_ref().unwrap().retries, 0);
    let RouteAction::Redirect(redirect) = &routes[2].action else {
        panic!()
    };
    assert_eq!(
        (redirect.status, redirect.scheme.as_deref()),
        (308, Some("https"))
    );
    assert_eq!(redirect.path, Some(RedirectPath::Full("/there".into())));
    let RouteAction::Direct(direct) = &routes[3].action else {
        panic!()
    };
    assert_eq!(
        (direct.status, direct.body.as_slice()),
        (418, &b"teapot"[..])
    );
}

#[test]
fn a_rule_that_names_nobody_is_withheld_and_reported() {
    let rules = vs(
        "shop",
        "cart",
        r#"
hosts: [cart]
http:
- match: [{uri: {prefix: /lost}}]
  route: [{destination: {host: nobody}}]
- route: [{destination: {host: cart}}]
"#,
    );
    let mesh = mesh(&[SHOP, &rules]);
    assert_eq!(routes_of(&mesh, "shop", "storefront").len(), 1);
    let problem = mesh
        .problems
        .iter()
        .find(|p| p.reason.contains("withheld"))
        .unwrap();
    assert_eq!(problem.object.as_deref(), Some("VirtualService shop/cart"));
    assert_eq!(problem.field, "spec.http[0].route[0].destination.host");
    assert_eq!(problem.file, "1.yaml");
}

#[test]
fn producer_and_consumer() {
    let to = |namespace: &str, name: &str, subset: &str| {
        let spec = format!(
            "hosts: [{HOST}]\nhttp:\n- route: [{{destination: {{host: {HOST}, subset: {subset}}}}}]"
        );
        vs(namespace, name, &spec)
    };
    let (producer, consumer) = (to("shop", "cart", "v1"), to("elsewhere", "mine", "v2"));
    let mesh = good_mesh(&[SHOP, SUBSETS, &producer, &consumer]);
    assert!(
        targets(&routes_of(&mesh, "shop", "storefront")[0])[0]
            .0
            .contains("|v1|")
    );
    assert!(
        targets(&routes_of(&mesh, "elsewhere", "other")[0])[0]
            .0
            .contains("|v2|")
    );
    let consumer_only = good_mesh(&[SHOP, SUBSETS, &consumer]);
    let routes = routes_of(&consumer_only, "shop", "storefront");
    assert_eq!(
        routes[0].name, "default",
        "nobody takes over a foreign host"
    );
}

#[test]
fn what_is_not_exported_is_not_seen() {
    let private = vs(
        "shop",
        "cart",
        "hosts: [cart]\nexportTo: [\".\"]\nhttp:\n- name: private\n  route: [{destination: {host: cart}}]",
    );
    let mesh = good_mesh(&[SHOP, &private]);
    assert_eq!(routes_of(&mesh, "shop", "storefront")[0].name, "private");
    assert_eq!(routes_of(&mesh, "elsewhere", "other")[0].name, "default");
}

#[test]
fn rules_of_one_namespace_merge_with_catch_alls_last() {
    let rule = |name: &str, created: &str, rules: &str| {
        let text = vs("shop", name, &format!("hosts: [cart]\nhttp:\n{rules}"));
        text.replace(
            "namespace: shop}",
            &format!("namespace: shop, creationTimestamp: \"{created}\"}}"),
        )
    };
    let route = "route: [{destination: {host: cart}}]";
    let young = rule(
        "a-young",
        "2026-02-01T00:00:00Z",
        &format!(
            "- name: young\n  match: [{{uri: {{prefix: /y}}}}]\n  {route}\n- name: young-all\n  {route}"
        ),
    );
    let old = rule(
        "z-old",
        "2026-01-01T00:00:00Z",
        &format!(
            "- name: old\n  match: [{{uri: {{prefix: /o}}}}]\n  {route}\n- name: old-all\n  {route}"
        ),
    );
    let mesh = good_mesh(&[SHOP, &young, &old]);
    let names: Vec<_> = routes_of(&mesh, "shop", "storefront")
        .into_iter()
        .map(|r| r.name)
        .collect();
    assert_eq!(names, ["old", "young", "old-all"]);
    assert!(
        mesh.problems
            .iter()
            .any(|p| p.reason.contains("also routed"))
    );
}

#[test]
fn a_host_that_only_rules_know() {
    let virtual_host = vs(
        "shop",
        "made-up",
        "hosts: [api.example.com]\nhttp:\n- name: made-up\n  route: [{destination: {host: cart, port: {number: 8080}}}]",
    );
    let mesh = good_mesh(&[SHOP, &virtual_host]);
    let client = As::sidecar(&mesh, "elsewhere", "other");
    let listener = client.listener("api.example.com:80").unwrap();
    assert!(listener.api.is_some() && listener.default_chain.is_none());
    let table = client.table("api.example.com:80");
    assert_eq!(
        table.virtual_hosts[0].domains,
        ["api.example.com", "api.example.com:80"]
    );
    assert_eq!(
        targets(&table.virtual_hosts[0].routes[0])[0].0,
        format!("outbound|8080||{HOST}")
    );
}

#[test]
fn rules_for_another_port_leave_this_one_alone() {
    let elsewhere = vs(
        "shop",
        "cart",
        "hosts: [cart]\nhttp:\n- name: any-port\n  match: [{port: 7000}]\n  route: [{destination: {host: cart, port: {number: 7000}}}]",
    );
    let consumer = vs(
        "elsewhere",
        "mine",
        &format!(
            "hosts: [{HOST}]\nhttp:\n- name: mine\n  match: [{{sourceLabels: {{app: nobody}}}}]\n  route: [{{destination: {{host: {HOST}}}}}]"
        ),
    );
    let unknown = vs(
        "shop",
        "api",
        "hosts: [api.example.com]\nhttp:\n- match: [{port: 80}]\n  route: [{destination: {host: cart, port: {number: 8080}}}]",
    );
    let mesh = good_mesh(&[SHOP, &elsewhere, &consumer, &unknown]);
    assert_eq!(routes_of(&mesh, "shop", "storefront")[0].name, "default");
    assert_eq!(routes_of(&mesh, "elsewhere", "other")[0].name, "default");
    let far = As::sidecar(&mesh, "elsewhere", "other");
    let mut table = far.table(&format!("{HOST}:7000"));
    let routes = table.virtual_hosts.remove(0).routes;
    assert_eq!(
        routes[0].name, "any-port",
        "a consumer's rule for others replaces nothing"
    );
    assert!(far.listener("api.example.com:80").is_some());
    assert!(far.listener("api.example.com:9090").is_none());
}

#[test]
fn hosts_below_a_wildcard_have_rules_of_their_own() {
    let entry = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partners, namespace: shop}
spec:
  hosts: ["*.partner.example"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.7}]
"#;
    let rule = vs(
        "shop",
        "a",
        "hosts: [a.partner.example]\nhttp:\n- name: special\n  timeout: 1s\n  route: [{destination: {host: a.partner.example}}]",
    );
    let mesh = good_mesh(&[SHOP, entry, &rule]);
    let client = As::sidecar(&mesh, "shop", "storefront");
    for (host, route) in [
        ("a.partner.example", "special"),
        ("b.partner.example", "default"),
    ] {
        let listener = client.listener(&format!("{host}:80")).unwrap();
        assert_eq!(
            listener.api.unwrap().routes,
            tasuki_xds::model::listener::RouteSource::Rds(format!("{host}:80"))
        );
        let table = client.table(&format!("{host}:80"));
        assert_eq!(
            table.virtual_hosts[0].domains,
            [format!("{host}:80"), host.to_owned()]
        );
        let first = &table.virtual_hosts[0].routes[0];
        assert_eq!(first.name, route);
        assert_eq!(targets(first)[0].0, "outbound|80||*.partner.example");
    }
    assert!(client.listener("a.partner.example:81").is_none());
}

#[test]
fn the_only_destination_may_say_its_authority() {
    let rule = vs(
        "shop",
        "cart",
        "hosts: [cart]\nhttp:\n- headers: {request: {set: {host: general.example}}}\n  route: [{destination: {host: cart}, headers: {request: {set: {host: special.example}}}}]",
    );
    let mesh = good_mesh(&[SHOP, &rule]);
    let routes = routes_of(&mesh, "shop", "storefront");
    assert_eq!(
        forward(&routes[0]).host_rewrite.as_deref(),
        Some("special.example")
    );
}
