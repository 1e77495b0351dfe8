//! Follows the two Secrets that the authority depends on: `tasuki-ca`, which replicas share, and `cacerts`, by which somebody
//! plugs in a root of his own. A broken plug-in is reported and changes nothing.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Error};
use tasuki_identity::ca::PlugIn;
use tasuki_identity::{Error as Reason, TrustDomain};
use tasuki_kubernetes::names;

use super::Authority;
use super::vault::kept;
use crate::source::kubernetes::watch::WATCH_SECONDS;
use crate::watched::watched;

/// A watch that silently broke is noticed after this, and asked for anew a little later.
pub(super) const WATCH: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 5);

/// Never ends; to be spawned.
pub async fn authority(authority: Authority, client: Client, namespace: &str) {
    let secrets = Api::namespaced(client, namespace);
    secret(secrets, names::CA_SECRET, |seen| {
        authority.observe(seen.map(kept));
    })
    .await;
}

/// Never ends; to be spawned. A Secret that is deleted changes nothing either: what it plugged in goes on.
pub async fn plugin(authority: Authority, client: Client, namespace: &str) {
    let secrets = Api::namespaced(client, namespace);
    let mut complained = String::new();
    secret(secrets, names::PLUGIN_SECRET, |seen| {
        match seen.map(|secret| read_plugin(secret, authority.trust_domain())) {
            None => authority.plug_in(None),
            Some(Ok(plugin)) => {
                complained.clear();
                authority.plug_in(Some(plugin));
            }
            Some(Err(reason)) => {
                if complained != reason {
                    tracing::error!(reason, "the plug-in root is not used");
                    complained = reason;
                }
            }
        }
    })
    .await;
}

/// The plug-in root that is there when an authority is made.
///
/// # Errors
/// The outer one when it cannot be told at this moment, the inner one when it is wrong.
pub async fn find_plugin(
    client: Client,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Result<Result<Option<PlugIn>, String>, Error> {
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let found = secrets.get_opt(names::PLUGIN_SECRET).await?;
    let read = found.map(|secret| read_plugin(secret, trust_domain));
    Ok(read.transpose())
}

fn read_plugin(secret: Secret, trust_domain: &TrustDomain) -> Result<PlugIn, String> {
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let kept = kept(secret);
    let read = |key: &str| kept.files.get(key).cloned();
    PlugIn::read(trust_domain, SystemTime::now(), read).map_err(|error| {
        let name = names::PLUGIN_SECRET;
        match error {
            Reason::State { path, reason } => {
                format!(
                    "Secret {namespace}/{name}: key {}: {reason}",
                    path.display()
                )
            }
            other => format!("Secret {namespace}/{name}: {other}"),
        }
    })
}

/// Tells what there is under that name now, and after each change.
async fn secret(secrets: Api<Secret>, name: &str, mut tell: impl FnMut(Option<Secret>)) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watched(secrets, only));
    let mut listed = None;
    let mut complained = String::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                complained.clear();
                match event {
                    Event::Init => listed = None,
                    Event::InitApply(secret) => listed = Some(secret),
                    Event::InitDone => tell(listed.take()),
                    Event::Apply(secret) => tell(Some(secret)),
                    Event::Delete(_) => tell(None),
                }
            }
            Err(error) => {
                let text = error.to_string();
                if complained != text {
                    tracing::warn!(reason = text, "Secret {name} cannot be followed");
                    complained = text;
                }
            }
        }
    }
}
