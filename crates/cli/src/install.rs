//! `tasuki install`: puts the control plane into a cluster, or brings the one that is there up to these settings, and sees
//! that it works. `--print` only says what would be put there.
//!
//! The order, and why: the kinds must be known before anybody watches them; the control plane makes its certificate
//! authority and must be ready before the API server is told to ask it; whether the API server reaches it is tried last.

mod attempt;
mod rollout;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::Resource as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt};
use tasuki_kubernetes::crd;
use tasuki_kubernetes::manifests::{InstallSettings, Manifests, Values, to_yaml};
use tasuki_kubernetes::names::{CA_SECRET, CONTROL, INJECT_LABEL, SYSTEM_NAMESPACE};
use tasuki_runtime::parse_duration;
use tokio::time::{Instant, sleep};

use crate::cluster::{Access, EVERY, apply, block_on, delete, said};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print the objects as YAML and touch no cluster
    #[arg(long)]
    print: bool,

    /// File of values, like the chart's values.yaml; may be repeated, a later one wins
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,

    /// One value, such as webhook.port=10250; may be repeated and wins over files
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,

    /// How long to wait in all
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,

    #[command(flatten)]
    access: Access,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let settings = settings(arguments)?;
    let manifests = Manifests::render(&settings);
    if arguments.print {
        let mut objects = Vec::new();
        for definition in crd::all() {
            objects.push(serde_json::to_value(definition)?);
        }
        objects.extend(manifests.objects()?);
        print!("{}", to_yaml(&objects)?);
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Instant::now() + arguments.timeout;
    block_on(async {
        let client = arguments.access.client().await?;
        install(&client, &settings, &manifests, deadline).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn settings(arguments: &Arguments) -> Result<InstallSettings> {
    let mut values = Values::defaults()?;
    for file in &arguments.values {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        values.merge(&file.display().to_string(), &text)?;
    }
    for assignment in &arguments.set {
        values.set(assignment)?;
    }
    Ok(values.settings()?)
}

async fn install(
    client: &Client,
    settings: &InstallSettings,
    manifests: &Manifests,
    deadline: Instant,
) -> Result<()> {
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| said("the API server", error))?;
    println!("Kubernetes {}", version.git_version);
    nobody_elses(client).await?;
    kinds(client, deadline).await?;
    namespace(client, &manifests.namespace).await?;
    access(client, manifests).await?;
    println!("namespace {SYSTEM_NAMESPACE}, service account and roles applied");
    workload(client, manifests).await?;
    rollout::wait(client, deadline).await?;
    authority(client, deadline).await?;
    webhooks(client, manifests, deadline).await?;
    attempt::wait(client, &settings.webhook, deadline).await?;
    println!("Tasuki is installed. To bring a namespace into the mesh:");
    println!("  kubectl label namespace NAME {INJECT_LABEL}=enabled");
    println!("  kubectl rollout restart deployment --namespace NAME");
    Ok(())
}

/// Two that apply different values would undo each other's work.
async fn nobody_elses(client: &Client) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let existing = api.get_opt(CONTROL).await;
    let existing = existing.map_err(|error| said("Deployment tasuki-control", error))?;
    let release = existing.and_then(|existing| {
        let annotation = existing.annotations().get("meta.helm.sh/release-name");
        annotation.cloned()
    });
    if let Some(release) = release {
        bail!(
            "Helm has installed Tasuki here as release {release}: use helm upgrade, or helm uninstall first"
        );
    }
    Ok(())
}

/// Definitions that another has brought, such as Istio's own, stay as they are.
async fn kinds(client: &Client, deadline: Instant) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let (mut applied, mut kept) = (0, Vec::new());
    for definition in crd::all() {
        let name = definition.name_any();
        let existing = api.get_opt(&name).await;
        let existing = existing.map_err(|error| said(&name, error))?;
        if crd::may_apply(existing.as_ref()) {
            apply(&api, &definition).await?;
            applied += 1;
        } else {
            kept.push(name);
        }
    }
    for definition in crd::all() {
        established(&api, &definition.name_any(), deadline).await?;
    }
    println!("{applied} kinds applied and established");
    if !kept.is_empty() {
        println!("kept as others have defined them: {}", kept.join(", "));
    }
    Ok(())
}

async fn established(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    deadline: Instant,
) -> Result<()> {
    loop {
        let definition = api.get(name).await.map_err(|error| said(name, error))?;
        let status = definition.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        if conditions
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True")
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let reasons: Vec<_> = conditions.into_iter().filter_map(|c| c.message).collect();
            bail!(
                "the API server does not serve {name}: {}",
                reasons.join("; ")
            );
        }
        sleep(EVERY).await;
    }
}

async fn namespace(client: &Client, namespace: &Namespace) -> Result<()> {
    let api = Api::all(client.clone());
    let applied = apply(&api, namespace).await?;
    if applied.metadata.deletion_timestamp.is_some() {
        bail!(
            "namespace {SYSTEM_NAMESPACE} is being deleted: wait until it is gone, and install again"
        );
    }
    Ok(())
}

async fn access(client: &Client, manifests: &Manifests) -> Result<()> {
    let namespaced = |client: &Client| (client.clone(), SYSTEM_NAMESPACE);
    let (own, system) = namespaced(client);
    apply(
        &Api::namespaced(own.clone(), system),
        &manifests.service_account,
    )
    .await?;
    apply(&Api::all(own.clone()), &manifests.cluster_role).await?;
    apply(&Api::all(own.clone()), &manifests.cluster_role_binding).await?;
    apply(&Api::namespaced(own.clone(), system), &manifests.role).await?;
    apply(&Api::namespaced(own, system), &manifests.role_binding).await?;
    Ok(())
}

async fn workload(client: &Client, manifests: &Manifests) -> Result<()> {
    let services = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&services, &manifests.service).await?;
    let budgets = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&budgets, &manifests.disruption_budget).await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    match &manifests.network_policy {
        Some(policy) => {
            apply(&policies, policy).await?;
        }
        None => {
            delete(&policies, CONTROL).await?;
        }
    }
    let deployments = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    apply(&deployments, &manifests.deployment).await?;
    Ok(())
}

/// The control plane makes it, once: an earlier one is kept.
async fn authority(client: &Client, deadline: Instant) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    loop {
        let found = api.get_metadata_opt(CA_SECRET).await;
        if found.map_err(|error| said(CA_SECRET, error))?.is_some() {
            println!("certificate authority in {} {CA_SECRET}", Secret::KIND);
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "the control plane is ready, but has made no Secret {CA_SECRET}: see kubectl logs --namespace {SYSTEM_NAMESPACE} deployment/{CONTROL}"
            );
        }
        sleep(EVERY).await;
    }
}

/// Without `caBundle`, which whoever holds the Lease writes; waits until that is done.
async fn webhooks(client: &Client, manifests: &Manifests, deadline: Instant) -> Result<()> {
    apply(&Api::all(client.clone()), &manifests.validating_webhook).await?;
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let mut configuration = apply(&api, &manifests.mutating_webhook).await?;
    loop {
        let webhooks = configuration.webhooks.unwrap_or_default();
        let trusted = |bundle: &Option<k8s_openapi::ByteString>| {
            bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty())
        };
        if webhooks
            .iter()
            .all(|webhook| trusted(&webhook.client_config.ca_bundle))
        {
            println!("webhooks applied");
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "nobody has written caBundle into MutatingWebhookConfiguration {CONTROL}: see kubectl logs --namespace {SYSTEM_NAMESPACE} deployment/{CONTROL}, and who holds Lease {CONTROL}"
            );
        }
        sleep(EVERY).await;
        let got = api.get(CONTROL).await;
        configuration = got.map_err(|error| said("MutatingWebhookConfiguration", error))?;
    }
}
