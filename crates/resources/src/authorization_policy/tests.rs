//! AuthorizationPolicies as users write them.

use super::{Action, AuthorizationPolicy, Condition, PathPattern, Pattern, Rule};
use crate::{NamespacedName, Object, Problem, parse_documents};

fn parse(annotations: &str, spec: &str) -> (Option<AuthorizationPolicy>, Vec<Problem>) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop, annotations: {annotations}}}\n{spec}"
    );
    let document = parse_documents("", &text).remove(0);
    let policy = document.object.map(|object| match object {
        Object::AuthorizationPolicy(policy) => policy,
        other => panic!("{other:?}"),
    });
    (policy, document.problems)
}

fn read(spec: &str) -> AuthorizationPolicy {
    let (policy, problems) = parse("{}", spec);
    policy.unwrap_or_else(|| panic!("{problems:?}"))
}

#[test]
fn the_seeds_case() {
    let policy = read(
        "spec:\n  selector: {matchLabels: {app: a}}\n  rules:\n  - from: [{source: {namespaces: [service-b]}}]\n    to: [{operation: {methods: [GET], paths: [/foo, \"/bar/*\", \"/x/{*}\"]}}]\n",
    );
    assert_eq!(policy.action, Action::Allow);
    let rule = &policy.rules[0];
    assert_eq!(
        rule.from[0].namespaces.any,
        [Pattern::Exact("service-b".into())]
    );
    let operation = &rule.to[0];
    assert!(operation.needs_http());
    assert_eq!(
        operation.paths.any,
        [
            PathPattern::Text(Pattern::Exact("/foo".into())),
            PathPattern::Text(Pattern::Prefix("/bar/".into())),
            PathPattern::Template("/x/{*}".into())
        ]
    );
}

#[test]
fn nothing_and_everything() {
    assert!(read("spec: {}\n").rules.is_empty());
    assert!(read("").rules.is_empty());
    assert_eq!(read("spec: {rules: [{}]}\n").rules, [Rule::default()]);
    let (policy, problems) = parse("{}", "spec: {action: DENY}\n");
    assert!(policy.is_some());
    assert!(!problems[0].is_error() && problems[0].reason.contains("never matches"));
}

#[test]
fn a_dry_run_is_not_honoured_yet() {
    for spec in ["", "spec: {action: DENY, rules: [{}]}\n"] {
        let (policy, problems) = parse("{istio.io/dry-run: \"true\"}", spec);
        assert!(policy.is_none());
        assert!(problems[0].is_not_honoured(), "{problems:?}");
        assert_eq!(problems[0].field, "metadata.annotations");
    }
    let (policy, _) = parse("{istio.io/dry-run: \"false\"}", "");
    assert!(policy.is_some());
}

#[test]
fn conditions_of_every_key() {
    let policy = read(
        "spec:\n  rules:\n  - when:\n    - {key: source.ip, values: [10.0.0.1, \"2001:db8::/32\", 2001:db8::]}\n    - {key: source.namespace, notValues: [\"a*\"]}\n    - {key: source.serviceAccount, values: [cart, pay/till]}\n    - {key: destination.port, values: [\"80\"]}\n    - {key: \"request.headers[X-User]\", values: [\"*\"]}\n    - {key: connection.sni, values: [\"*.example\"]}\n",
    );
    let when = &policy.rules[0].when;
    assert!(matches!(&when[0], Condition::SourceIp(v) if v.any.len() == 3));
    assert!(
        matches!(&when[1], Condition::SourceNamespace(v) if v.none == [Pattern::Prefix("a".into())])
    );
    assert!(
        matches!(&when[2], Condition::SourceServiceAccount(v) if v.any == [NamespacedName::new("shop", "cart"), NamespacedName::new("pay", "till")])
    );
    assert!(matches!(&when[3], Condition::DestinationPort(v) if v.any == [80]));
    assert!(
        matches!(&when[4], Condition::Header { name, values } if name == "x-user" && values.any == [Pattern::Present])
    );
    assert!(matches!(&when[5], Condition::Sni(_)));
    assert!(when[4].needs_http() && !when[3].needs_http());
}

#[test]
fn identities_of_jwts_are_accepted_with_a_warning() {
    let (policy, problems) = parse(
        "{}",
        "spec:\n  rules:\n  - from: [{source: {requestPrincipals: [\"*\"]}}]\n    when: [{key: \"request.auth.claims[iss]\", values: [x]}]\n  - from: [{source: {notRequestPrincipals: [\"*\"]}}]\n",
    );
    let policy = policy.unwrap();
    assert_eq!(
        policy.rules[0].from[0].request_principals.any,
        [Pattern::Present]
    );
    assert_eq!(
        policy.rules[1].from[0].request_principals.none,
        [Pattern::Present]
    );
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems
            .iter()
            .all(|p| !p.is_error() && p.reason.contains("JWT"))
    );
}

#[test]
fn sixteen_accounts_and_no_more() {
    let accounts = |n: usize| {
        (0..n)
            .map(|i| format!("a{i}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    let spec = |n| {
        format!(
            "spec: {{rules: [{{from: [{{source: {{serviceAccounts: [{}]}}}}]}}]}}\n",
            accounts(n)
        )
    };
    assert_eq!(
        read(&spec(16)).rules[0].from[0].service_accounts.any.len(),
        16
    );
    assert!(parse("{}", &spec(17)).0.is_none());
}

#[test]
fn principals_are_written_without_their_scheme() {
    let (policy, problems) = parse(
        "{}",
        "spec: {action: DENY, rules: [{from: [{source: {principals: [\"spiffe://cluster.local/ns/a/sa/b\", \"cluster.local/ns/a/sa/b\"]}}]}]}\n",
    );
    assert!(policy.is_some());
    let warned: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(warned, ["spec.rules[0].from[0].source.principals[0]"]);
}
