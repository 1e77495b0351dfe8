//! What stands in for a policy that cannot be read: nobody gets in by mistake.
//!
//! On Kubernetes the admission webhook refuses such a policy and its author sees it. A folder has nobody to refuse, and a
//! policy that is left out is a door left open. So where there is no earlier version to keep, the broken one fails closed:
//!
//! | what it says of `action` | what is in force |
//! |---|---|
//! | ALLOW, or nothing | ALLOW without rules: it allows nothing, and its workloads have an ALLOW policy. No good version of it could allow less. |
//! | anything else that is not AUDIT | DENY everything: which requests it meant to deny is not known |
//! | AUDIT, or a dry run | nothing: it would change no answer |
//!
//! It closes the workloads of its selector; if that cannot be read, all that any selector could mean: the namespace, or the
//! mesh in the root namespace. The root namespace is no exception although a slip there closes most: its policies are the
//! ones that matter most, and an exception would make just those fail open. It hits only a policy that has never been in
//! force, `tasuki check` finds it beforehand, and the control plane says it loudly.
//!
//! A policy for a `targetRef` is left out: it never speaks of sidecars, and nothing that it could be attached to exists yet.
//! So is a document of which not even kind and name can be read: nobody knows what it is.

use std::collections::BTreeMap;

use super::{Action, AuthorizationPolicy, Rule, read::is_dry_run};
use crate::fields::{Fields, Report, Value};
use crate::object::Metadata;
use crate::peer_authentication::read_selector;

/// The policy in force instead of the one whose reading has failed. Problems have been reported already; `scratch` is a
/// report of its own, in which new ones show that a part cannot be trusted.
pub(crate) fn closed(
    spec: Option<Value<'_>>,
    meta: Metadata,
    scratch: &Report<'_>,
) -> Option<AuthorizationPolicy> {
    if is_dry_run(&meta) {
        return None;
    }
    let (selector, said) = match spec.map(|spec| spec.fields()) {
        None => (BTreeMap::new(), Said::Allow),
        Some(None) => (BTreeMap::new(), Said::Unclear),
        Some(Some(spec)) if spec.count(&["targetRef", "targetRefs"]) > 0 => return None,
        Some(Some(spec)) => (selector(&spec, scratch), action(spec, scratch)),
    };
    let (action, rules) = match said {
        Said::Allow => (Action::Allow, Vec::new()),
        Said::Audit => return None,
        Said::Unclear => (Action::Deny, vec![Rule::default()]),
    };
    Some(AuthorizationPolicy {
        meta,
        selector,
        action,
        rules,
    })
}

enum Said {
    Allow,
    Audit,
    /// Or DENY, or CUSTOM.
    Unclear,
}

/// Empty, and so of everybody, when a part of it cannot be read.
fn selector(spec: &Fields<'_>, scratch: &Report<'_>) -> BTreeMap<String, String> {
    let before = scratch.errors();
    let selector = read_selector(spec);
    if scratch.errors() > before {
        return BTreeMap::new();
    }
    selector
}

/// Where there is no `action`, a field that nobody knows may be a misspelt one.
fn action(spec: Fields<'_>, scratch: &Report<'_>) -> Said {
    for known in ["selector", "rules", "provider"] {
        spec.get(known);
    }
    let action = spec.get("action").map(|value| value.string());
    let before = scratch.errors();
    spec.finish();
    match action {
        None if scratch.errors() > before => Said::Unclear,
        None | Some(Some("ALLOW")) => Said::Allow,
        Some(Some("AUDIT")) => Said::Audit,
        Some(_) => Said::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Object;
    use crate::parse_documents;

    fn stand_in(metadata: &str, spec: &str) -> Option<AuthorizationPolicy> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x, namespace: shop{metadata}}}\nspec: {spec}\n"
        );
        let document = parse_documents("", &text).remove(0);
        assert!(document.object.is_none(), "{spec} is good");
        match document.stand_in {
            Some(Object::AuthorizationPolicy(policy)) => Some(policy),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    /// Action, whether it matches everything, and labels.
    fn shape(spec: &str) -> (Action, bool, String) {
        let policy = stand_in("", spec).unwrap();
        let labels: Vec<_> = policy
            .selector
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let all = policy.rules == [Rule::default()];
        assert!(all || policy.rules.is_empty());
        (policy.action, all, labels.join(","))
    }

    #[test]
    fn an_allow_allows_nothing() {
        let nothing = |labels: &str| (Action::Allow, false, labels.to_owned());
        let bad = "rules: [{to: [{operation: {pahts: [/x]}}]}]";
        assert_eq!(shape(&format!("{{{bad}}}")), nothing(""));
        assert_eq!(
            shape(&format!(
                "{{action: ALLOW, selector: {{matchLabels: {{app: cart}}}}, {bad}}}"
            )),
            nothing("app=cart")
        );
        assert_eq!(
            shape("{selector: {matchLables: {app: cart}}, rules: [{}]}"),
            nothing("")
        );
        assert_eq!(shape("{provider: {name: x}}"), nothing(""));
        assert_eq!(
            shape("{action: ALLOW, selectr: {}, rules: [{}]}"),
            nothing("")
        );
        let unlabelled = stand_in(", labels: 5", "").unwrap();
        assert_eq!(
            (unlabelled.action, unlabelled.rules),
            (Action::Allow, Vec::new())
        );
    }

    #[test]
    fn what_may_be_a_deny_denies_everything() {
        let everything = |labels: &str| (Action::Deny, true, labels.to_owned());
        for spec in [
            "{action: DENY, rules: [{to: [{operation: {ports: [\"0\"]}}]}]}",
            "{action: deny}",
            "{action: [DENY]}",
            "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
            "{actoin: DENY, rules: [{}]}",
            "a string",
        ] {
            assert_eq!(shape(spec), everything(""), "{spec}");
        }
        assert_eq!(
            shape("{selector: {matchLabels: {app: cart}}, action: DENY, rules: 5}"),
            everything("app=cart")
        );
    }

    #[test]
    fn what_could_not_deny_anything_is_left_out() {
        assert_eq!(stand_in("", "{action: AUDIT, rules: 5}"), None);
        assert_eq!(
            stand_in("", "{action: AUDIT, selectr: {}, rules: [{}]}"),
            None
        );
        assert_eq!(
            stand_in("", "{targetRefs: [{kind: Gateway, name: x}], rules: [{}]}"),
            None
        );
        let dry = ", annotations: {istio.io/dry-run: \"true\"}";
        assert_eq!(stand_in(dry, "{action: DENY, rules: 5}"), None);
        assert_eq!(stand_in(dry, "{action: DENY, rules: [{}]}"), None);
    }
}
