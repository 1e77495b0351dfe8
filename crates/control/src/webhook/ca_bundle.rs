//! The roots in `clientConfig.caBundle` of both webhook configurations: by them the API server knows this control plane.
//!
//! Installing never writes that field, so what is here is the only writer of it: the leader, at every change of the roots or
//! of a configuration, and now and then. During a rotation it has both roots before any certificate changes.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tasuki_identity::Roots;
use tasuki_kubernetes::names;
use tasuki_xds::model::TrustBundle;

use crate::ca::Authority;
use crate::ca::voices::Voice;
use crate::leader::{Leadership, while_leading};
use crate::watched::watched;

/// Also without a change: a watch may miss one for as long as it is broken.
const EVERY: Duration = Duration::from_secs(60);
/// After a patch that failed.
const AGAIN: Duration = Duration::from_secs(2);

/// Keeps both configurations right while this replica leads. Never ends; to be spawned.
pub async fn keep(client: Client, authority: Authority, leadership: Leadership) {
    // There before anything is rotated: a new root is not used before the API server knows it.
    let voice = authority.voice("the webhook configurations");
    while_leading(leadership, || {
        follow(client.clone(), authority.clone(), voice.clone())
    })
    .await;
}

async fn follow(client: Client, authority: Authority, voice: Arc<Voice>) {
    let mut bundles = authority.bundles();
    voice.withdraw();
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let ours = || watcher::Config::default().fields(&format!("metadata.name={}", names::CONTROL));
    let changes = futures_util::stream::select(
        watched(mutating.clone(), ours()).map(drop),
        watched(validating.clone(), ours()).map(drop),
    );
    let mut changes = std::pin::pin!(changes);
    loop {
        let bundle = bundles.borrow_and_update().clone();
        let pem = bundle_pem(&bundle);
        let patched = async {
            patch(&mutating, &pem).await?;
            patch(&validating, &pem).await
        };
        let wait = match patched.await {
            Ok(()) => {
                voice.confirm(&bundle);
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the webhook configurations' caBundle could not be written");
                AGAIN
            }
        };
        tokio::select! {
            changed = bundles.changed() => if changed.is_err() {
                return;
            },
            _ = changes.next() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn bundle_pem(bundle: &TrustBundle) -> String {
    // The authority's own roots, which have been parsed before.
    Roots::from_der(bundle.roots.clone())
        .map(|roots| roots.to_pem())
        .unwrap_or_default()
}

/// Nothing to do where the configuration is not installed.
async fn patch<K>(api: &Api<K>, pem: &str) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + Debug,
{
    let Some(current) = api.get_opt(names::CONTROL).await? else {
        return Ok(());
    };
    let current = serde_json::to_value(&current).map_err(kube::Error::SerdeError)?;
    let Some(patch) = missing(&current, pem) else {
        return Ok(());
    };
    let params = PatchParams {
        field_manager: Some(format!("{}-ca-bundle", names::FIELD_MANAGER)),
        ..PatchParams::default()
    };
    api.patch_metadata(names::CONTROL, &params, &Patch::Strategic(patch))
        .await?;
    tracing::info!(kind = %K::kind(&()), "caBundle written");
    Ok(())
}

/// A strategic merge patch, which finds webhooks by their names, for those that have another bundle. It fits only the
/// configuration that was read: what was changed since is a conflict, and read again.
fn missing(configuration: &Value, pem: &str) -> Option<Value> {
    let bundle = BASE64_STANDARD.encode(pem);
    let others: Vec<Value> = configuration["webhooks"]
        .as_array()?
        .iter()
        .filter(|webhook| webhook["clientConfig"]["caBundle"].as_str() != Some(bundle.as_str()))
        .map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": bundle}}))
        .collect();
    if others.is_empty() {
        return None;
    }
    let version = &configuration["metadata"]["resourceVersion"];
    Some(json!({"metadata": {"resourceVersion": version}, "webhooks": others}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_patched() {
        let configuration = json!({
            "metadata": {"name": "tasuki-control", "resourceVersion": "7"},
            "webhooks": [
                {"name": "right", "clientConfig": {"caBundle": "UEVN", "service": {}}},
                {"name": "empty", "clientConfig": {"service": {}}},
                {"name": "other", "clientConfig": {"caBundle": "WA==", "service": {}}},
            ],
        });
        let patch = missing(&configuration, "PEM").unwrap();
        let expected = json!({
            "metadata": {"resourceVersion": "7"},
            "webhooks": [
                {"name": "empty", "clientConfig": {"caBundle": "UEVN"}},
                {"name": "other", "clientConfig": {"caBundle": "UEVN"}},
            ],
        });
        assert_eq!(patch, expected);
        let right = json!({"webhooks": [configuration["webhooks"][0]]});
        assert_eq!(missing(&right, "PEM"), None);
        assert_eq!(missing(&json!({}), "PEM"), None);
    }
}
