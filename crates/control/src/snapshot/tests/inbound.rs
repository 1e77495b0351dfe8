//! The listener of a workload's own ports: modes, chains, policies.

use tasuki_xds::model::listener::{Filter, FilterChain, RouteSource, Transport};
use tasuki_xds::model::rbac::{Permission, Principal, Rbac, RbacAction};

use super::*;

fn inbound(documents: &[&str]) -> Listener {
    As::sidecar(&good_mesh(documents), "shop", "cart-v1")
        .listener("inbound")
        .unwrap()
}

fn shapes(listener: &Listener, port: Option<u16>) -> Vec<String> {
    let of_port = listener
        .chains
        .iter()
        .filter(|chain| chain.matches.destination_port == port);
    of_port
        .map(|chain| {
            let transport = match chain.matches.transport {
                Transport::Any => "any",
                Transport::Plaintext => "plain",
                Transport::Tls => "tls",
            };
            let filter = match &chain.filter {
                Filter::Http(_) => "http",
                Filter::Tcp(_) => "tcp",
            };
            let terminated = if chain.tls.is_some() { "!" } else { "" };
            format!(
                "{transport}{terminated} {} {filter}",
                chain.matches.alpn.join("+")
            )
        })
        .collect()
}

fn peer_authentication(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: pa, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn permissive_is_the_default() {
    let listener = inbound(&[SHOP]);
    assert_eq!(listener.workload.as_ref().unwrap().service_account, "cart");
    assert_eq!(
        shapes(&listener, Some(80)),
        [
            "tls! tasuki-h2 http",
            "tls! tasuki-tcp tcp",
            "tls  tcp",
            "plain  http"
        ]
    );
    assert_eq!(
        shapes(&listener, Some(9000)),
        [
            "tls! tasuki-h2 http",
            "tls! tasuki-tcp tcp",
            "tls  tcp",
            "plain  tcp"
        ]
    );
    let undeclared = [
        "tls! tasuki-h2 http",
        "tls! tasuki-tcp tcp",
        "tls  tcp",
        "plain http/1.1+h2c http",
        "plain  tcp",
    ];
    assert_eq!(shapes(&listener, Some(7000)), undeclared);
    assert_eq!(shapes(&listener, None), undeclared);
}

#[test]
fn strict_takes_only_the_mesh_and_grpc() {
    let listener = inbound(&[SHOP, &peer_authentication("{mtls: {mode: STRICT}}")]);
    assert_eq!(
        shapes(&listener, Some(80)),
        ["tls! tasuki-h2 http", "tls! tasuki-tcp tcp", "tls! h2 http"]
    );
    assert_eq!(
        shapes(&listener, Some(9000)),
        ["tls! tasuki-h2 http", "tls! tasuki-tcp tcp"]
    );
    assert!(
        shapes(&listener, None)
            .iter()
            .all(|shape| shape.starts_with("tls!"))
    );
}

#[test]
fn ports_override_the_workload_and_the_workload_its_namespace() {
    let namespace = peer_authentication("{mtls: {mode: STRICT}}");
    let workload = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  mtls: {mode: UNSET}
  portLevelMtls: {"9000": {mode: DISABLE}, "4321": {mode: PERMISSIVE}}
"#;
    let listener = inbound(&[SHOP, &namespace, workload]);
    assert_eq!(shapes(&listener, Some(9000)), ["tls  tcp", "plain  tcp"]);
    assert_eq!(shapes(&listener, Some(80)).len(), 3, "inherits STRICT");
    assert_eq!(
        shapes(&listener, Some(4321)).len(),
        5,
        "a port that no service has"
    );
}

#[test]
fn the_root_namespace_speaks_for_the_mesh() {
    let root = peer_authentication("{mtls: {mode: STRICT}}").replace("shop", "istio-system");
    assert_eq!(shapes(&inbound(&[SHOP, &root]), Some(80)).len(), 3);
}

#[test]
fn requests_go_to_the_port_they_were_sent_to() {
    let listener = inbound(&[SHOP]);
    let chain = listener
        .chains
        .iter()
        .find(|chain| chain.name == "80-mtls-http")
        .unwrap();
    let Filter::Http(http) = &chain.filter else {
        panic!()
    };
    let RouteSource::Inline(table) = &http.routes else {
        panic!()
    };
    assert_eq!(table.virtual_hosts[0].domains, ["*"]);
    let client = As::sidecar(&good_mesh(&[SHOP]), "shop", "cart-v1");
    let cluster = client.cluster("inbound|80||");
    let expected = tasuki_xds::model::cluster::Discovery::OriginalDestination {
        bind: Some("127.0.0.6".parse().unwrap()),
    };
    assert_eq!(cluster.discovery, expected);
    assert!(client.has(ResourceType::Cluster, "inbound|0||"));
}

#[test]
fn nobody_else_gets_it() {
    let mesh = good_mesh(&[SHOP]);
    let mut client = sidecar(&mesh, "shop", "cart-v1");
    client.identity = None;
    let client = As::client(&mesh, client);
    assert!(client.listener("inbound").is_none());
    assert!(!client.has(ResourceType::Cluster, "inbound|80||"));
}

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    let indented = spec.trim_matches('\n').replace('\n', "\n  ");
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {indented}\n"
    )
}

fn rbac<'l>(listener: &'l Listener, chain: &str) -> &'l [Rbac] {
    let chain: &FilterChain = listener.chains.iter().find(|c| c.name == chain).unwrap();
    match &chain.filter {
        Filter::Http(http) => &http.rbac,
        Filter::Tcp(tcp) => &tcp.rbac,
    }
}

#[test]
fn the_order_is_audit_deny_allow() {
    let allow = policy(
        "allow",
        "shop",
        r#"
selector: {matchLabels: {app: cart}}
rules:
- from: [{source: {namespaces: [service-b]}}]
  to: [{operation: {methods: [GET], paths: [/foo]}}]
- from: [{source: {namespaces: [service-c]}}]
  to: [{operation: {methods: [GET], paths: [/bar]}}]
"#,
    );
    let deny = policy(
        "deny",
        "istio-system",
        "action: DENY\nrules: [{to: [{operation: {paths: [\"/admin*\"]}}]}]",
    );
    let audit = policy("audit", "shop", "action: AUDIT\nrules: [{}]");
    let other = policy(
        "other",
        "shop",
        "selector: {matchLabels: {app: nobody}}\nrules: []",
    );
    let listener = inbound(&[SHOP, &allow, &deny, &audit, &other]);
    let http = rbac(&listener, "80-mtls-http");
    let actions: Vec<_> = http.iter().map(|rbac| rbac.action).collect();
    assert_eq!(
        actions,
        [RbacAction::Log, RbacAction::Deny, RbacAction::Allow]
    );
    let names: Vec<_> = http[2]
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "ns[shop]-policy[allow]-rule[0]",
            "ns[shop]-policy[allow]-rule[1]"
        ]
    );
    assert_eq!(
        http[1].policies[0].name,
        "ns[istio-system]-policy[deny]-rule[0]"
    );
    let Permission::All(parts) = &http[2].policies[0].permissions[0] else {
        panic!()
    };
    assert_eq!(parts.len(), 2);
    let tcp = rbac(&listener, "80-mtls-tcp");
    assert_eq!(
        tcp[2].policies.len(),
        0,
        "an ALLOW with HTTP fields never allows bytes"
    );
    assert_eq!(
        tcp[1].policies[0].permissions,
        [Permission::Any],
        "a DENY without its HTTP fields denies more"
    );
}

#[test]
fn an_allow_without_rules_denies() {
    let listener = inbound(&[SHOP, &policy("none", "shop", "action: ALLOW")]);
    let http = rbac(&listener, "plain-http");
    assert_eq!(
        (http[0].action, http[0].policies.len()),
        (RbacAction::Allow, 0)
    );
    assert!(
        rbac(&inbound(&[SHOP]), "plain-http").is_empty(),
        "no policy allows"
    );
    let deny = inbound(&[SHOP, &policy("none", "shop", "action: DENY")]);
    assert!(
        rbac(&deny, "plain-http").is_empty(),
        "a DENY without rules denies nothing"
    );
}

#[test]
fn sources_in_every_form() {
    let allow = policy(
        "allow",
        "shop",
        r#"
rules:
- from:
  - source: {principals: [cluster.local/ns/a/sa/b, "*/sa/c", "cluster.local/ns/d/*", "*"]}
  - source: {namespaces: ["n", "pre*", "*suf"], notNamespaces: [m]}
  - source: {serviceAccounts: [a/b, c]}
  - source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}
  - source: {requestPrincipals: ["*"]}
  when:
  - {key: "request.headers[x-user]", values: [admin]}
  - {key: destination.port, values: ["80"]}
"#,
    );
    let mesh = good_mesh(&[SHOP, &allow]);
    let listener = As::sidecar(&mesh, "shop", "cart-v1")
        .listener("inbound")
        .unwrap();
    let written = &rbac(&listener, "80-mtls-http")[0].policies[0];
    assert_eq!(
        written.permissions,
        [Permission::OneOf(vec![Permission::DestinationPort(80)])]
    );
    let text = format!("{:?}", written.principals);
    for part in [
        r#"Exact("spiffe://cluster.local/ns/a/sa/b")"#,
        r#"Suffix("/sa/c")"#,
        r#"Prefix("spiffe://cluster.local/ns/d/")"#,
        "Authenticated(None)",
        r#"Prefix("spiffe://cluster.local/ns/n/sa/")"#,
        r#"Prefix("spiffe://cluster.local/ns/pre")"#,
        r#"Regex("spiffe://[^/]+/ns/[^/]*suf/sa/.+")"#,
        r#"Not(OneOf([Authenticated(Some(StringMatch { pattern: Prefix("spiffe://cluster.local/ns/m/sa/")"#,
        r#"Exact("spiffe://cluster.local/ns/shop/sa/c")"#,
        "DirectIp(Cidr { address: 10.0.0.0, prefix_len: 8 })",
        "Not(Any)",
        r#"name: "x-user""#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(written.principals.len(), 5);
    assert!(
        written
            .principals
            .iter()
            .all(|p| matches!(p, Principal::All(_))),
        "each with the header condition"
    );
}

#[test]
fn the_sidecar_of_a_departed_pod_is_told_what_is_new() {
    let before = good_mesh(&[SHOP]);
    let client = sidecar(&before, "shop", "cart-v1");
    let documents: Vec<&str> = SHOP
        .split("---")
        .filter(|d| !d.contains("cart-v1"))
        .collect();
    let mut folder = Folder::default();
    folder.put("shop.yaml", Ok(documents.join("---")));
    folder.put(
        "mtls.yaml",
        Ok(peer_authentication("{mtls: {mode: STRICT}}")),
    );
    let after = before.successor(&Arc::new(folder.objects()), tokio::time::Instant::now());
    let shapes_of = |mesh: Arc<Mesh>| {
        let listener = As::client(&mesh, client.clone())
            .listener("inbound")
            .unwrap();
        shapes(&listener, Some(9000))
    };
    assert_eq!(shapes_of(before).len(), 4);
    assert_eq!(shapes_of(Arc::new(after)).len(), 2, "STRICT by now");
}
