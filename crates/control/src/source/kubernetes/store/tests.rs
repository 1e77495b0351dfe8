//! What the store makes of changes.

use serde_json::{Value, json};
use tasuki_resources::{Kind, parse_json};

use super::*;
use crate::source::broken::is_loud;

fn place_of(kind: Kind) -> usize {
    WATCHED.iter().position(|w| w.kind == kind).unwrap()
}

fn document(kind: Kind, name: &str, spec: Value, version: &str) -> Box<Document> {
    let object = json!({
        "apiVersion": WATCHED[place_of(kind)].api_version(version),
        "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    });
    Box::new(parse_json(&object).remove(0))
}

fn service(name: &str, port: u32) -> Box<Document> {
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": port}]});
    document(Kind::Service, name, spec, "v1")
}

fn policy(spec: Value) -> Box<Document> {
    document(Kind::AuthorizationPolicy, "guard", spec, "v1")
}

fn named(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

/// A store in which every kind has been listed, empty.
fn listed() -> Store {
    let mut store = Store::default();
    for place in 0..WATCHED.len() {
        store.change(place, Change::Begin);
        store.change(place, Change::Complete);
    }
    assert!(store.waiting().is_empty());
    store
}

fn files(store: &Store) -> Vec<String> {
    let objects = store.objects().objects;
    objects.iter().map(|s| s.file.to_string()).collect()
}

fn report(store: &Store) -> String {
    let problems = store.objects().problems;
    problems.iter().map(|p| format!("{p}\n")).collect()
}

#[test]
fn every_kind_is_waited_for() {
    let mut store = Store::default();
    for (place, watched) in WATCHED.iter().enumerate() {
        assert!(store.waiting().iter().any(|(w, _)| w == watched));
        if watched.custom {
            assert!(store.change(place, Change::Absent));
            assert!(!store.change(place, Change::Absent), "no news");
        } else {
            store.change(place, Change::Begin);
            store.change(place, Change::Listed(named("x"), service("x", 1)));
            assert!(store.waiting().iter().any(|(w, _)| w == watched));
            store.change(place, Change::Complete);
        }
        assert!(store.waiting().iter().all(|(w, _)| w != watched));
    }
    assert!(store.waiting().is_empty());
    assert_eq!(report(&store), "");
}

#[test]
fn a_list_replaces_at_once_and_keeps_what_is_the_same() {
    let (mut store, services) = (listed(), place_of(Kind::Service));
    for name in ["a", "b"] {
        assert!(store.change(services, Change::Applied(named(name), service(name, 80))));
    }
    assert!(!store.change(services, Change::Applied(named("a"), service("a", 80))));
    let before = store.objects().objects;
    store.change(services, Change::Begin);
    store.change(services, Change::Listed(named("b"), service("b", 80)));
    store.change(services, Change::Listed(named("c"), service("c", 80)));
    assert_eq!(
        files(&store),
        ["services/shop/a", "services/shop/b"],
        "not complete"
    );
    assert!(store.change(services, Change::Complete));
    assert_eq!(files(&store), ["services/shop/b", "services/shop/c"]);
    assert!(Arc::ptr_eq(
        &before[1].object,
        &store.objects().objects[0].object
    ));

    store.change(services, Change::Begin);
    store.change(services, Change::Begin);
    for name in ["b", "c"] {
        store.change(services, Change::Listed(named(name), service(name, 80)));
    }
    assert!(
        !store.change(services, Change::Complete),
        "the same list is no news"
    );
    assert!(store.change(services, Change::Deleted(named("b"))));
    assert!(!store.change(services, Change::Deleted(named("b"))));
    assert_eq!(files(&store), ["services/shop/c"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let (mut store, services) = (listed(), place_of(Kind::Service));
    store.change(services, Change::Applied(named("a"), service("a", 80)));
    let good = store.objects();
    assert!(store.change(services, Change::Applied(named("a"), service("a", 99_999))));
    let kept = store.objects();
    assert!(Arc::ptr_eq(
        &good.objects[0].object,
        &kept.objects[0].object
    ));
    let text = report(&store);
    assert!(
        text.contains("services/shop/a: error: Service shop/a: spec.ports[0].port"),
        "{text}"
    );
    assert!(text.contains("last good version is kept"), "{text}");
    assert!(!store.change(services, Change::Applied(named("a"), service("a", 99_999))));
    store.change(services, Change::Begin);
    store.change(services, Change::Listed(named("a"), service("a", 99_999)));
    assert!(
        !store.change(services, Change::Complete),
        "listed anew it is kept too"
    );
    assert!(store.change(services, Change::Applied(named("a"), service("a", 81))));
    assert_eq!(report(&store), "");
    store.change(
        services,
        Change::Applied(named("new"), service("new", 99_999)),
    );
    assert_eq!(files(&store), ["services/shop/a"], "never was good");
    assert!(report(&store).contains("Service shop/new"));
}

#[test]
fn a_broken_policy_without_a_version_lets_nobody_in() {
    let (mut store, policies) = (listed(), place_of(Kind::AuthorizationPolicy));
    let broken = || policy(json!({"rules": [{"form": []}]}));
    assert!(store.change(policies, Change::Applied(named("guard"), broken())));
    assert_eq!(files(&store), ["authorizationpolicies/shop/guard"]);
    assert!(store.objects().problems.iter().any(is_loud));
    assert!(
        !store.change(policies, Change::Applied(named("guard"), broken())),
        "no news"
    );
    assert!(store.change(
        policies,
        Change::Applied(named("guard"), policy(json!({"rules": [{}]})))
    ));
    assert_eq!(report(&store), "");
    assert!(store.change(policies, Change::Applied(named("guard"), broken())));
    assert!(
        !store.objects().problems.iter().any(is_loud),
        "the good version is kept"
    );
}

#[test]
fn a_kind_that_cannot_be_watched_keeps_what_it_had() {
    let (mut store, policies) = (listed(), place_of(Kind::AuthorizationPolicy));
    store.change(
        policies,
        Change::Applied(named("guard"), policy(json!({"rules": [{}]}))),
    );
    for (trouble, said) in [
        (Trouble::Forbidden, "does not let the control plane watch"),
        (Trouble::Unreachable, "cannot be reached"),
        (Trouble::Refused(500), "answers 500"),
    ] {
        assert!(store.change(policies, Change::Trouble(Some(trouble))));
        assert!(
            !store.change(policies, Change::Trouble(Some(trouble))),
            "said once"
        );
        let text = report(&store);
        assert!(
            text.starts_with("authorizationpolicies.security.istio.io: "),
            "{text}"
        );
        assert!(text.contains(said) && text.contains("is kept"), "{text}");
        assert_eq!(files(&store).len(), 1);
    }
    assert!(!store.objects().pods_unseen);
    let pods = place_of(Kind::Pod);
    for trouble in [Some(Trouble::Unreachable), None] {
        assert!(store.change(pods, Change::Trouble(trouble)));
        assert_eq!(store.objects().pods_unseen, trouble.is_some());
    }
    assert!(store.change(policies, Change::Trouble(None)));
    assert!(store.change(policies, Change::Absent));
    assert!(report(&store).contains("was deleted"), "{}", report(&store));
    assert_eq!(files(&store).len(), 1);
    store.change(policies, Change::Begin);
    assert!(
        store.change(policies, Change::Complete),
        "installed again, without objects"
    );
    assert_eq!((files(&store).len(), report(&store).as_str()), (0, ""));
    assert!(store.change(policies, Change::Absent), "it had none");
    assert_eq!(report(&store), "");
}
