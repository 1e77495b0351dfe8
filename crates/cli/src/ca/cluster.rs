//! `tasuki ca rotate --kube`: the same conversation through annotations of Secret `tasuki-ca`.
//!
//! The request stays there until the rotation is done, so neither this command nor a control plane that restarts loses it. A
//! request that went with a deleted Secret is made again.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::{Client, Config, Error};
use serde_json::json;
use tasuki_identity::ca::rotation::{Progress, Request};
use tasuki_kubernetes::names;

/// How often the progress is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Longest silence of the API server.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) fn rotate(kubeconfig: Option<&Path>, namespace: &str) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let secrets = Api::namespaced(client(kubeconfig).await?, namespace);
        watch(&secrets, namespace).await
    })
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client> {
    let mut config = match kubeconfig {
        Some(file) => {
            let what = || format!("--kubeconfig {}", file.display());
            let kubeconfig = Kubeconfig::read_from(file).with_context(what)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(what)?
        }
        None => Config::infer().await.context("no kubeconfig")?,
    };
    config.connect_timeout = Some(ANSWER);
    config.read_timeout = Some(ANSWER);
    Ok(Client::try_from(config)?)
}

/// Names and annotations only: the keys stay where they are.
type Secrets = Api<Secret>;

async fn watch(secrets: &Secrets, namespace: &str) -> Result<ExitCode> {
    let found = look(secrets).await.context("asking the API server")?;
    let Some((waiting, _)) = found else {
        bail!(
            "there is no Secret {namespace}/{}: is the control plane installed there, and has it started?",
            names::CA_SECRET
        );
    };
    let request = match waiting {
        Some(request) => {
            println!("a rotation is under way already; watching it");
            request
        }
        None => {
            let new = Request::new();
            ask(secrets, &new).await.context("asking for a rotation")?;
            println!("rotation requested");
            new
        }
    };
    let mut shown = String::new();
    let mut away = false;
    loop {
        match look(secrets).await {
            Ok(Some((waiting, progress))) => {
                away = false;
                let progress = progress.filter(|progress| progress.request == request.id);
                let done = progress.as_ref().is_some_and(|progress| progress.done);
                if let Some(progress) = progress
                    && progress.detail != shown
                {
                    println!("{}", progress.detail);
                    shown = progress.detail;
                }
                if done {
                    return Ok(ExitCode::SUCCESS);
                }
                if waiting.is_none() {
                    ask(secrets, &request).await.context("asking again")?;
                }
            }
            Ok(None) if !away => {
                eprintln!("the Secret is gone; the control plane makes it again");
                away = true;
            }
            Err(error) if !away => {
                eprintln!("{error}; the rotation goes on when it is back");
                away = true;
            }
            Ok(None) | Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The request that waits, and the last progress. `None` without Secret.
async fn look(secrets: &Secrets) -> Result<Option<(Option<Request>, Option<Progress>)>, Error> {
    let found: Option<PartialObjectMeta<Secret>> =
        secrets.get_metadata_opt(names::CA_SECRET).await?;
    Ok(found.map(|secret| {
        let annotations = secret.metadata.annotations.unwrap_or_default();
        let request = annotations.get(names::ROTATION_REQUEST);
        let progress = annotations.get(names::ROTATION_PROGRESS);
        (
            request.map(|id| Request { id: id.clone() }),
            progress.and_then(|text| serde_json::from_str(text).ok()),
        )
    }))
}

async fn ask(secrets: &Secrets, request: &Request) -> Result<(), Error> {
    let annotations = json!({names::ROTATION_REQUEST: request.id});
    let patch = json!({"metadata": {"annotations": annotations}});
    let params = PatchParams::default();
    secrets
        .patch_metadata(names::CA_SECRET, &params, &Patch::Merge(patch))
        .await?;
    Ok(())
}
