//! What is said of objects that are broken, whichever the source (contract section 11): the last good version is kept; a policy that has
//! none is replaced by a stand-in that lets nobody in.

use tasuki_resources::authorization_policy::Action;
use tasuki_resources::{Object, ObjectKey, Problem};

/// The object is broken as it is now, and its last good version stays in force.
pub(super) fn kept(path: &str, key: &ObjectKey) -> Problem {
    let mut problem = Problem::warning(path, "", "the last good version is kept");
    problem.object = Some(key.to_string());
    problem
}

/// Begins the reason of the problem that [`is_loud`] finds.
const FAILS_CLOSED: &str = "is broken, has no earlier version and so fails closed: ";

/// Whether a problem closes workloads to their callers, and so must not go unnoticed.
pub fn is_loud(problem: &Problem) -> bool {
    problem.reason.starts_with(FAILS_CLOSED)
}

/// The object is broken and never was good; `object` stands in for it. Nothing for kinds that have no stand-in.
pub(super) fn fails_closed(path: &str, object: &Object) -> Option<Problem> {
    let Object::AuthorizationPolicy(policy) = object else {
        return None;
    };
    let labels = policy.selector.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let whose = match labels.as_slice() {
        [] => "all workloads that it applies to".to_owned(),
        labels => format!("the workloads with {}", labels.join(",")),
    };
    let what = match policy.action {
        Action::Allow => "deny every request that no other policy allows",
        Action::Deny | Action::Audit => "deny every request",
    };
    let mut problem = Problem::error(path, "", format!("{FAILS_CLOSED}{whose} {what}"));
    problem.object = Some(object.key().to_string());
    problem.expected = "mend or delete it".to_owned();
    Some(problem)
}
