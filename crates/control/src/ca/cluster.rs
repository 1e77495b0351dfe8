//! The authority of a cluster: in Secret `tasuki-ca`, followed, with a plug-in root if there is one.

use std::time::Duration;

use kube::Client;
use tasuki_identity::TrustDomain;
use tasuki_identity::ca::PlugIn;
use tasuki_runtime::Backoff;

use super::shared::Led;
use super::vault::SecretVault;
use super::{Authority, follow};
use crate::leader;

/// Opens it, and follows what the other replicas do to it. An API server that is away is waited for.
///
/// # Errors
/// When Secret `tasuki-ca` holds something that cannot be used, or there is none and `cacerts` cannot be; nothing is written over them.
pub async fn open(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
    ttl: Duration,
) -> anyhow::Result<Authority> {
    let plugin = plugin(client, namespace, trust_domain).await;
    let vault = Box::new(SecretVault::new(client.clone(), namespace));
    let lease = Lease {
        client: client.clone(),
        namespace: namespace.to_owned(),
    };
    let authority = Authority::open_shared(vault, plugin, trust_domain, ttl, &lease).await?;
    let (follower, plugged) = (authority.clone(), authority.clone());
    let (lasting, guarded) = (authority.clone(), authority.clone());
    let (client, namespace) = (client.clone(), namespace.to_owned());
    tokio::spawn(async move {
        tokio::join!(
            follow::authority(follower, client.clone(), &namespace),
            follow::plugin(plugged, client.clone(), &namespace),
            lasting.record_ttl(),
            guarded.guard(),
        );
    });
    Ok(authority)
}

/// What is plugged in, or why it cannot be used: that matters only where there is no authority yet.
async fn plugin(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Result<Option<PlugIn>, String> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 0.3);
    let mut complained = String::new();
    loop {
        match follow::find_plugin(client.clone(), namespace, trust_domain).await {
            Ok(found) => return found,
            Err(error) => {
                let reason = error.to_string();
                if complained != reason {
                    tracing::warn!(reason, "the API server cannot be used yet");
                    complained = reason;
                }
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

struct Lease {
    client: Client,
    namespace: String,
}

#[tonic::async_trait]
impl Led for Lease {
    async fn is_led(&self) -> bool {
        leader::is_led(self.client.clone(), &self.namespace).await
    }
}
