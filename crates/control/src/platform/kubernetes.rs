//! A Kubernetes cluster: its API server is the store, and the control plane's replicas keep nothing of their own.

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tasuki_identity::TrustDomain;
use tasuki_kubernetes::names;

use super::{Cluster, Platform};
use crate::auth::kubernetes::KubernetesAuthenticator;
use crate::ca;
use crate::leader::{self, Campaign};
use crate::settings::Settings;
use crate::source::kubernetes::{self as source, watch::WATCH_SECONDS};

/// To connect to the API server.
const CONNECT: Duration = Duration::from_secs(5);
/// To send a request.
const WRITE: Duration = Duration::from_secs(10);
/// Longest silence within an answer: watches end before, whatever else takes so long never comes. A connection that has died
/// while it was idle costs whoever takes it as much.
const READ: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// # Errors
/// When it is not known how to reach the API server; one that is only away is waited for.
pub async fn open(settings: &Settings, trust_domain: &TrustDomain) -> anyhow::Result<Platform> {
    let client = client(settings.kubeconfig.as_deref()).await?;
    let objects = source::follow(&client).await;
    let namespace = namespace();
    let ttl = settings.certificate_ttl;
    let authority = ca::cluster::open(&client, &namespace, trust_domain, ttl).await?;
    let pod = env::var("POD_NAME").ok();
    let identity = leader::identity(pod.as_deref());
    let campaign = Campaign::start(client.clone(), &namespace, identity);
    tokio::spawn(ca::roots_map::keep(
        client.clone(),
        authority.clone(),
        campaign.leadership(),
    ));
    let authenticator =
        KubernetesAuthenticator::new(client.clone(), objects.clone(), trust_domain.clone());
    Ok(Platform {
        objects,
        authority,
        authenticator: Arc::new(authenticator),
        cluster: Some(Cluster {
            client,
            campaign,
            namespace,
        }),
    })
}

/// Where this control plane lives: the downward API tells it.
fn namespace() -> String {
    let told = env::var("POD_NAMESPACE").ok();
    told.filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| names::SYSTEM_NAMESPACE.to_owned())
}

/// A client for the API server; it connects when it is used.
async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file);
            let kubeconfig =
                kubeconfig.with_context(|| format!("--kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {}", file.display()))?
        }
        None => Config::infer()
            .await
            .context("neither in a pod nor with a kubeconfig; see --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    config.read_timeout = Some(READ);
    // Or the time for which a connection was idle counts as silence.
    config.reset_reader_on_write = true;
    Client::try_from(config).context("a client for the API server")
}
