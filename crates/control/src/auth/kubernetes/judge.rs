//! What the API server's answers mean. Pure.

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::core::v1::Pod;
use tasuki_identity::{SpiffeId, TrustDomain};
use tasuki_kubernetes::names;
use tasuki_resources::core::pod::Phase;

use crate::ads::{Caller, NsName, ProvenPod};

/// `status.user.extra` of a token that is bound to a Pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whose token it is. A token is good only for an audience that was asked for, of a service account, and bound to a Pod: an
/// API server that does not know audiences answers without them.
pub(super) fn review(
    status: &TokenReviewStatus,
    trust_domain: &TrustDomain,
) -> Result<Caller, String> {
    if status.authenticated != Some(true) {
        return Err("the API server does not accept the token".to_owned());
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|a| a == names::TOKEN_AUDIENCE) {
        return Err(format!(
            "the token is not for audience {}",
            names::TOKEN_AUDIENCE
        ));
    }
    let user = status.user.as_ref();
    let name = user.and_then(|user| user.username.as_deref());
    let account = name.and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, account) = account
        .and_then(|account| account.split_once(':'))
        .ok_or("the token is not of a service account")?;
    let id = SpiffeId::new(trust_domain, namespace, account).map_err(|e| e.to_string())?;
    let extra = user.and_then(|user| user.extra.as_ref());
    let one = |key: &str| match extra?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let (Some(pod), Some(uid)) = (one(POD_NAME), one(POD_UID)) else {
        return Err("the token is not bound to a Pod".to_owned());
    };
    let name = NsName {
        namespace: namespace.to_owned(),
        name: pod,
    };
    Ok(Caller {
        id,
        pod: Some(ProvenPod { name, uid }),
        may_renew: true,
    })
}

/// Whether what the API server has under the Pod's name is that Pod. One that is being deleted still runs; one that has ended
/// does not, whoever shows what it had.
pub(super) fn pod(found: Option<&Pod>, id: &SpiffeId, proven: &ProvenPod) -> Result<(), String> {
    let name = &proven.name;
    let found = found.ok_or_else(|| format!("there is no Pod {name}"))?;
    if found.metadata.uid.as_ref() != Some(&proven.uid) {
        return Err(format!("Pod {name} is another one by now"));
    }
    let spec = found.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref());
    if account.unwrap_or("default") != id.service_account() {
        return Err(format!("Pod {name} does not run as {id}"));
    }
    let phase = found.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Err(format!("Pod {name} has ended"));
    }
    Ok(())
}

pub(super) fn has_not_ended(phase: Phase) -> bool {
    match phase {
        Phase::Pending | Phase::Running | Phase::Unknown => true,
        Phase::Succeeded | Phase::Failed => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["tasuki-ca"],
            "user": {
                "username": "system:serviceaccount:shop:cart",
                "extra": {POD_NAME: ["cart-1"], POD_UID: ["u-1"]},
            },
        })
    }

    fn judge(status: Value) -> Result<Caller, String> {
        let domain = TrustDomain::new("cluster.local").unwrap();
        review(&serde_json::from_value(status).unwrap(), &domain)
    }

    fn proven() -> (SpiffeId, ProvenPod) {
        let caller = judge(good()).unwrap();
        (caller.id, caller.pod.unwrap())
    }

    #[test]
    fn a_token_of_a_pod_for_us() {
        let (id, pod) = proven();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(
            (pod.name.to_string(), pod.uid),
            ("shop/cart-1".into(), "u-1".into())
        );
        let mut more = good();
        more["audiences"] = json!(["https://kubernetes.default.svc", "tasuki-ca"]);
        assert!(judge(more).is_ok());
    }

    #[test]
    fn each_part_is_needed() {
        let unbound = json!({"authentication.kubernetes.io/node-name": ["n"]});
        for (pointer, value, reason) in [
            ("/authenticated", json!(false), "does not accept"),
            ("/authenticated", Value::Null, "does not accept"),
            ("/audiences", Value::Null, "audience"),
            ("/audiences", json!([]), "audience"),
            (
                "/audiences",
                json!(["https://kubernetes.default.svc"]),
                "audience",
            ),
            ("/user", Value::Null, "service account"),
            ("/user/username", json!("system:admin"), "service account"),
            (
                "/user/username",
                json!("system:serviceaccount:shop"),
                "service account",
            ),
            (
                "/user/username",
                json!("system:serviceaccount:shop:a/../b"),
                "service",
            ),
            ("/user/extra", Value::Null, "bound to a Pod"),
            ("/user/extra", unbound, "bound to a Pod"),
            (
                "/user/extra",
                json!({POD_NAME: ["cart-1"]}),
                "bound to a Pod",
            ),
            (
                "/user/extra",
                json!({POD_NAME: ["cart-1"], POD_UID: [""]}),
                "bound to a Pod",
            ),
            (
                "/user/extra",
                json!({POD_NAME: ["a", "b"], POD_UID: ["u"]}),
                "bound to a Pod",
            ),
        ] {
            let mut status = good();
            *status.pointer_mut(pointer).unwrap() = value.clone();
            let refusal = judge(status).unwrap_err();
            assert!(refusal.contains(reason), "{pointer} {value}: {refusal}");
        }
    }

    #[test]
    fn a_pod_must_be_the_very_one_and_run() {
        let (id, proven) = proven();
        let live = json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u-1"},
            "spec": {"serviceAccountName": "cart", "containers": []},
            "status": {"phase": "Running"},
        });
        let judge = |pod: &Value| pod_of(pod, &id, &proven);
        assert_eq!(judge(&live), Ok(()));
        let mut deleting = live.clone();
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(judge(&deleting), Ok(()), "it drains");
        for (pointer, value, reason) in [
            ("/metadata/uid", "u-2", "another one"),
            ("/spec/serviceAccountName", "pay", "does not run as"),
            ("/status/phase", "Succeeded", "ended"),
            ("/status/phase", "Failed", "ended"),
        ] {
            let mut other = live.clone();
            *other.pointer_mut(pointer).unwrap() = json!(value);
            assert!(judge(&other).unwrap_err().contains(reason));
        }
        assert!(pod(None, &id, &proven).unwrap_err().contains("no Pod"));
    }

    fn pod_of(value: &Value, id: &SpiffeId, proven: &ProvenPod) -> Result<(), String> {
        let found = serde_json::from_value(value.clone()).unwrap();
        pod(Some(&found), id, proven)
    }
}
