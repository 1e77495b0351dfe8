//! Checks across objects.

use super::check_texts;

fn reported(text: &str) -> Vec<String> {
    check_texts(&[("mesh.yaml".to_owned(), text.to_owned())])
        .iter()
        .map(ToString::to_string)
        .collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {clusterIP: 10.0.0.1, selector: {app: cart}, ports: [{name: http, port: 80}]}\n---\n";

#[test]
fn an_orderly_mesh_is_silent() {
    let text = format!(
        "{SERVICE}apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec: {{host: cart, subsets: [{{name: v1, labels: {{version: v1}}}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec: {{hosts: [cart], http: [{{route: [{{destination: {{host: cart, subset: v1, port: {{number: 80}}}}}}]}}]}}\n"
    );
    assert!(reported(&text).is_empty());
}

#[test]
fn references_to_nothing_are_warned_of() {
    let text = format!(
        "{SERVICE}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\n\
         spec:\n  hosts: [cart]\n  gateways: [mesh, edge]\n  http:\n  - route:\n    - destination: {{host: cart, subset: v9, port: {{number: 81}}}}\n      weight: 1\n    - destination: {{host: crat}}\n      weight: 1\n"
    );
    let reported = reported(&text);
    for expected in [
        "spec.gateways[1]: no Gateway shop/edge",
        "destination.port.number: cart.shop.svc.cluster.local has no port 81",
        "route[0].destination.subset: no DestinationRule",
        "route[1].destination.host: no Service or ServiceEntry crat.shop",
    ] {
        assert!(
            reported
                .iter()
                .any(|line| line.contains(expected) && line.contains("warning")),
            "{expected} in {reported:#?}"
        );
    }
    assert_eq!(reported.len(), 4, "{reported:#?}");
}

#[test]
fn the_second_of_one_identity_is_an_error() {
    let reported = reported(&format!("{SERVICE}{SERVICE}"));
    assert_eq!(reported.len(), 2);
    assert!(reported[0].starts_with("mesh.yaml:1: warning: Service shop/cart: metadata.name: is declared again at mesh.yaml:6"), "{reported:#?}");
    assert!(
        reported[1].starts_with("mesh.yaml:6: error: Service shop/cart"),
        "{reported:#?}"
    );
}

#[test]
fn selectors_are_checked_where_pods_are_given() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop, labels: {app: other}}\nspec: {}\n---\n\
               apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {selector: {matchLabels: {app: nobody}}}\n";
    let reported = reported(&format!("{SERVICE}{pod}"));
    assert_eq!(reported.len(), 2, "{reported:#?}");
    assert!(reported[0].contains("spec.selector: selects no Pod"));
    assert!(reported[1].contains("spec.selector.matchLabels: selects no Pod"));
}
