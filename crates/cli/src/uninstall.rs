//! `tasuki uninstall`: takes the control plane out of a cluster. Not while pods have a sidecar, which would lose their
//! certificates some hours later; and never the kinds, nor, unless told to, the certificate authority, so that the next
//! installation trusts what this one has signed.
//!
//! Webhooks go first: without the control plane behind them no pod of an injected namespace could start.

mod injected;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tasuki_kubernetes::names::{CA_SECRET, CONTROL, ROOTS_CONFIG_MAP, SYSTEM_NAMESPACE};
use tasuki_runtime::parse_duration;
use tokio::time::{Instant, sleep};

use crate::cluster::{Access, EVERY, block_on, delete, said};
use injected::Injected;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Go on although pods have a sidecar; says until when they work
    #[arg(long)]
    force: bool,

    /// Delete the certificate authority as well, and the namespace
    #[arg(long)]
    purge: bool,

    /// How long to wait in all
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    timeout: Duration,

    #[command(flatten)]
    access: Access,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let deadline = Instant::now() + arguments.timeout;
    block_on(async {
        let client = arguments.access.client().await?;
        uninstall(&client, arguments, deadline).await
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn uninstall(client: &Client, arguments: &Arguments, deadline: Instant) -> Result<()> {
    let injected = Injected::of(&pods(client).await?);
    if !injected.is_empty() && !arguments.force {
        bail!("{}", injected.refusal());
    }
    // Before the settings that say it may go.
    let lifetime = lifetime(client).await;
    cluster::<MutatingWebhookConfiguration>(client).await?;
    cluster::<ValidatingWebhookConfiguration>(client).await?;
    println!("webhooks deleted");
    // Those that were made while this was looked at first.
    let left = Injected::of(&pods(client).await?);
    if !left.is_empty() && !arguments.force {
        bail!(
            "pods were injected meanwhile; the webhooks are gone, the control plane is not.\n{}",
            left.refusal()
        );
    }
    control_plane(client, deadline).await?;
    if left.is_empty() {
        bootstrap_roots(client).await?;
    } else {
        println!("{}", left.farewell(lifetime));
    }
    if arguments.purge {
        purge(client, deadline).await?;
    } else {
        println!(
            "kept: the kinds (CRDs) with their objects, and namespace {SYSTEM_NAMESPACE} with Secret {CA_SECRET} (--purge deletes these two)"
        );
    }
    Ok(())
}

async fn control_plane(client: &Client, deadline: Instant) -> Result<()> {
    system::<Deployment>(client).await?;
    system::<Service>(client).await?;
    system::<PodDisruptionBudget>(client).await?;
    system::<NetworkPolicy>(client).await?;
    gone(client, deadline).await?;
    system::<Lease>(client).await?;
    system::<RoleBinding>(client).await?;
    system::<Role>(client).await?;
    cluster::<ClusterRoleBinding>(client).await?;
    cluster::<ClusterRole>(client).await?;
    system::<ServiceAccount>(client).await?;
    println!("control plane deleted");
    Ok(())
}

/// Deletes the control plane's object of a kind in its namespace.
async fn system<K>(client: &Client) -> Result<bool>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    delete(
        &Api::<K>::namespaced(client.clone(), SYSTEM_NAMESPACE),
        CONTROL,
    )
    .await
}

/// Deletes the control plane's object of a kind that has no namespaces.
async fn cluster<K>(client: &Client) -> Result<bool>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    delete(&Api::<K>::all(client.clone()), CONTROL).await
}

/// Until no pod of the control plane is left, which would write again what is deleted next.
async fn gone(client: &Client, deadline: Instant) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={CONTROL}"));
    loop {
        let left = pods.list_metadata(&selector).await;
        let left = left.map_err(|error| said("pods of the control plane", error))?;
        let Some(pod) = left.items.first() else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            bail!("pod {} of the control plane does not end", pod.name_any());
        }
        sleep(EVERY).await;
    }
}

/// What the control plane has put into every namespace.
async fn bootstrap_roots(client: &Client) -> Result<()> {
    let all: Api<ConfigMap> = Api::all(client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={ROOTS_CONFIG_MAP}"));
    let found = all.list_metadata(&named).await;
    for map in found.map_err(|error| said(ROOTS_CONFIG_MAP, error))? {
        let namespace = map.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        delete(&api, ROOTS_CONFIG_MAP).await?;
    }
    Ok(())
}

async fn purge(client: &Client, deadline: Instant) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    delete(&secrets, CA_SECRET).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    delete(&namespaces, SYSTEM_NAMESPACE).await?;
    loop {
        let found = namespaces.get_metadata_opt(SYSTEM_NAMESPACE).await;
        if found
            .map_err(|error| said(SYSTEM_NAMESPACE, error))?
            .is_none()
        {
            println!("Secret {CA_SECRET} and namespace {SYSTEM_NAMESPACE} deleted");
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("namespace {SYSTEM_NAMESPACE} is still being deleted");
        }
        sleep(EVERY).await;
    }
}

async fn pods(client: &Client) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut pods = Vec::new();
    let mut page = ListParams::default().limit(500);
    loop {
        let list = api.list(&page).await;
        let list = list.map_err(|error| said("pods", error))?;
        let more = list.metadata.continue_.filter(|token| !token.is_empty());
        pods.extend(list.items);
        match more {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

/// How long certificates live: MeshSettings say it, else the control plane's default holds.
async fn lifetime(client: &Client) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(24 * 3600);
    let kind = GroupVersionKind::gvk("tasuki.dev", "v1alpha1", "MeshSettings");
    let kind = ApiResource::from_gvk_with_plural(&kind, "meshsettings");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM_NAMESPACE, &kind);
    let settings = api.get_opt("default").await.ok().flatten();
    let text = settings.as_ref().and_then(|settings| {
        let ttl = settings.data.get("spec")?.get("certificateTtl")?;
        parse_duration(ttl.as_str()?).ok()
    });
    text.unwrap_or(DEFAULT)
}
