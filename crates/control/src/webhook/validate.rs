//! `/validate`: a resource that the mesh cannot act on is refused before anybody relies on it.

use serde_json::Value;
use tasuki_resources::{Problem, parse_json};

use super::review::{Operation, Request, Response};

/// Errors of a resource that would be kept refuse it; all else are warnings.
pub fn validate(request: &Request) -> Response {
    match request.operation {
        Operation::Create => {}
        Operation::Update => {}
        // Whatever is there may go.
        Operation::Delete | Operation::Connect => return Response::allowed(Vec::new()),
    }
    if !request.sub_resource.is_empty() {
        return Response::allowed(Vec::new());
    }
    let problems = problems(&request.object);
    let (errors, others): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().partition(Problem::is_error);
    let others = others.iter().map(ToString::to_string);
    if errors.is_empty() {
        return Response::allowed(others.collect());
    }
    let errors = errors.iter().map(ToString::to_string);
    if keeps_what_it_says(request) {
        return Response::allowed(errors.chain(others).collect());
    }
    Response::refused(422, errors.collect::<Vec<_>>().join("\n"))
}

fn problems(object: &Value) -> Vec<Problem> {
    parse_json(object)
        .into_iter()
        .flat_map(|document| document.problems)
        .collect()
}

/// An update of labels, finalizers or owners of a resource that was kept before anybody checked: were it refused, the
/// resource could not even be deleted.
fn keeps_what_it_says(request: &Request) -> bool {
    let is_going = !request.object["metadata"]["deletionTimestamp"].is_null();
    request.operation == Operation::Update
        && (is_going || request.object["spec"] == request.old_object["spec"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::review::Review;
    use super::*;

    fn review(operation: &str, object: Value, old: Value) -> Response {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "request": {
            "uid": "1",
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
            "operation": operation,
            "object": object,
            "oldObject": old,
        }});
        validate(
            &Review::parse(review.to_string().as_bytes())
                .unwrap()
                .request,
        )
    }

    fn virtual_service(timeout: Value) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "cart", "namespace": "shop", "uid": "u", "managedFields": []},
            "spec": {"hosts": ["cart"], "http": [{"timeout": timeout, "route": [{"destination": {"host": "cart"}}]}]},
        })
    }

    #[test]
    fn a_good_resource_passes() {
        let response = review("CREATE", virtual_service(json!("5s")), Value::Null);
        assert_eq!(response, Response::allowed(Vec::new()));
    }

    #[test]
    fn a_bad_one_is_refused_with_the_field_and_what_would_be_right() {
        let response = review("CREATE", virtual_service(json!("5")), Value::Null);
        let message = response.status.unwrap().message;
        for part in [
            "VirtualService shop/cart",
            "spec.http[0].timeout",
            "not a duration",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mut unknown = virtual_service(json!("5s"));
        unknown["spec"]["http"][0]["retry"] = json!({});
        assert!(!review("UPDATE", unknown, virtual_service(json!("5s"))).allowed);
    }

    #[test]
    fn what_is_there_may_be_touched_and_go() {
        let bad = virtual_service(json!("5"));
        let mut labelled = bad.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let response = review("UPDATE", labelled, bad.clone());
        assert!(response.allowed && response.warnings.len() == 1);
        assert!(review("DELETE", Value::Null, bad.clone()).allowed);
        let mut going = bad.clone();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(review("UPDATE", going, virtual_service(json!("5s"))).allowed);
        assert!(!review("UPDATE", bad, virtual_service(json!("5s"))).allowed);
    }

    #[test]
    fn what_is_not_acted_on_yet_is_refused() {
        let filter = json!({
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "x", "namespace": "shop"},
            "spec": {},
        });
        let response = review("CREATE", filter, Value::Null);
        assert!(
            response
                .status
                .unwrap()
                .message
                .contains("not honoured yet")
        );
    }
}
