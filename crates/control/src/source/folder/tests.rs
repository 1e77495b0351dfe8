//! What a folder declares while its files change, break and go.

use tasuki_resources::authorization_policy::Action;

use super::*;
use crate::source::broken::is_loud;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn names(folder: &Folder) -> Vec<String> {
    folder
        .objects()
        .objects
        .iter()
        .map(|sourced| sourced.object.meta().name.name.clone())
        .collect()
}

fn port(folder: &Folder, name: &str) -> u16 {
    let objects = folder.objects().objects;
    let found = objects
        .iter()
        .find(|sourced| sourced.object.meta().name.name == name)
        .unwrap();
    match &*found.object {
        Object::Service(service) => service.ports[0].port,
        other => panic!("{other:?}"),
    }
}

fn report(folder: &Folder) -> String {
    folder
        .objects()
        .problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

fn put(folder: &mut Folder, path: &str, text: &str) -> bool {
    folder.put(path, Ok(text.to_owned()))
}

#[test]
fn documents_come_and_go_with_their_files() {
    let mut folder = Folder::default();
    assert!(put(
        &mut folder,
        "b.yaml",
        &(service("x", 1) + &service("w", 1))
    ));
    assert!(
        !put(&mut folder, "b.yaml", &(service("x", 1) + &service("w", 1))),
        "nothing new"
    );
    assert!(put(&mut folder, "a.yaml", &service("z", 1)));
    assert_eq!(names(&folder), ["z", "x", "w"], "by path, then by place");
    put(&mut folder, "b.yaml", &service("w", 2));
    assert_eq!(names(&folder), ["z", "w"]);
    assert_eq!(port(&folder, "w"), 2);
    assert!(folder.remove("b.yaml"));
    assert!(!folder.remove("b.yaml"));
    assert_eq!(names(&folder), ["z"]);
    assert_eq!(report(&folder), "");
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let mut folder = Folder::default();
    put(&mut folder, "a.yaml", &(service("x", 1) + &service("w", 1)));
    let broken = service("x", 2).replace("port: 2", "port: 99999");
    put(&mut folder, "a.yaml", &(broken.clone() + &service("w", 2)));
    assert_eq!((port(&folder, "x"), port(&folder, "w")), (1, 2));
    assert!(
        report(&folder).contains("Service shop/x"),
        "{}",
        report(&folder)
    );
    assert!(
        report(&folder).contains("last good version"),
        "{}",
        report(&folder)
    );
    put(&mut folder, "a.yaml", &(broken + &service("w", 3)));
    assert_eq!(
        (port(&folder, "x"), port(&folder, "w")),
        (1, 3),
        "kept as long as it is broken"
    );
    put(&mut folder, "a.yaml", &service("w", 3));
    assert_eq!(names(&folder), ["w"], "taken out, it is gone");
    assert_eq!(report(&folder), "");
}

#[test]
fn an_empty_or_half_written_file_removes_nothing() {
    let mut folder = Folder::default();
    put(&mut folder, "a.yaml", &(service("x", 1) + &service("w", 1)));
    for half in [
        "",
        "  \n",
        "kind: Serv\napiVersion: [",
        "apiVersion: v1\nkind: Service\nmetadata: {na",
    ] {
        put(&mut folder, "a.yaml", half);
        assert_eq!(names(&folder), ["x", "w"], "{half:?}");
        assert!(!report(&folder).is_empty(), "{half:?}");
    }
    put(
        &mut folder,
        "a.yaml",
        &(service("x", 5) + "kind: Serv\napiVersion: ["),
    );
    assert_eq!(
        (port(&folder, "x"), port(&folder, "w")),
        (5, 1),
        "what is good already counts"
    );
    folder.put("a.yaml", Err("cannot be read: denied".to_owned()));
    assert_eq!(names(&folder), ["x", "w"]);
    assert!(report(&folder).contains("denied"));
    put(&mut folder, "a.yaml", &service("w", 9));
    assert_eq!(names(&folder), ["w"]);
    assert_eq!(report(&folder), "");
}

#[test]
fn a_file_that_never_was_good_declares_nothing() {
    let mut folder = Folder::default();
    put(&mut folder, "a.yaml", "kind: [");
    assert!(names(&folder).is_empty());
    assert!(report(&folder).contains("a.yaml"), "{}", report(&folder));
}

#[test]
fn the_first_of_two_wins_and_both_are_reported() {
    let mut folder = Folder::default();
    put(&mut folder, "b.yaml", &service("x", 2));
    put(&mut folder, "a.yaml", &service("x", 1));
    assert_eq!(port(&folder, "x"), 1);
    let lines = report(&folder);
    assert!(
        lines.contains(
            "b.yaml: error: Service shop/x: metadata.name: is already declared in a.yaml"
        ),
        "{lines}"
    );
    assert!(
        lines.contains("a.yaml: error: Service shop/x: metadata.name: is declared again in b.yaml"),
        "{lines}"
    );
    folder.remove("a.yaml");
    assert_eq!(port(&folder, "x"), 2);
    assert_eq!(report(&folder), "");
}

fn policy(action: &str, path: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: guard, namespace: shop}}\nspec: {{action: {action}, selector: {{matchLabels: {{app: cart}}}}, rules: [{{to: [{{operation: {{{path}: [/x]}}}}]}}]}}\n---\n"
    )
}

/// The policy in force: its action and whether it has conditions.
fn guard(folder: &Folder) -> Option<(Action, bool)> {
    let objects = folder.objects().objects;
    objects.iter().find_map(|sourced| match &*sourced.object {
        Object::AuthorizationPolicy(policy) => Some((
            policy.action,
            policy.rules.iter().any(|rule| !rule.to.is_empty()),
        )),
        _ => None,
    })
}

#[test]
fn a_new_policy_that_is_broken_lets_nobody_in() {
    let mut folder = Folder::default();
    put(&mut folder, "a.yaml", &policy("ALLOW", "pahts"));
    assert_eq!(guard(&folder), Some((Action::Allow, false)));
    assert!(folder.objects().problems.iter().any(is_loud));
    let told = report(&folder);
    assert!(
        told.contains("the workloads with app=cart deny every request that no other policy"),
        "{told}"
    );
    put(&mut folder, "a.yaml", &policy("DENY", "pahts"));
    assert_eq!(guard(&folder), Some((Action::Deny, false)));
    put(&mut folder, "a.yaml", "apiVersion: [");
    assert_eq!(guard(&folder), Some((Action::Deny, false)), "half-written");
    put(&mut folder, "a.yaml", &policy("DENY", "paths"));
    assert_eq!(guard(&folder), Some((Action::Deny, true)));
    assert!(!folder.objects().problems.iter().any(is_loud));
    put(&mut folder, "a.yaml", &policy("ALLOW", "pahts"));
    assert_eq!(
        guard(&folder),
        Some((Action::Deny, true)),
        "there is a version to keep"
    );
    put(&mut folder, "a.yaml", &service("x", 1));
    assert_eq!(guard(&folder), None);
}

#[test]
fn a_policy_that_is_good_elsewhere_needs_no_stand_in() {
    let mut folder = Folder::default();
    put(&mut folder, "b.yaml", &policy("ALLOW", "paths"));
    put(&mut folder, "a.yaml", &policy("ALLOW", "pahts"));
    assert_eq!(guard(&folder), Some((Action::Allow, true)));
    assert!(!folder.objects().problems.iter().any(is_loud));
    folder.remove("b.yaml");
    assert_eq!(guard(&folder), Some((Action::Allow, false)));
}
