//! The cluster as `install` and `uninstall` see it: a connection, and objects put there, found and taken away.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, ValidationDirective};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tasuki_kubernetes::names::{FIELD_MANAGER, PROXY_CONTAINER};

/// How often what is waited for is looked at.
pub const EVERY: Duration = Duration::from_millis(500);
/// Longest wait for one answer of the API server, which itself waits for webhooks.
const ANSWER: Duration = Duration::from_secs(40);

/// Which cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Access {
    /// How to reach the cluster [default: KUBECONFIG, else as kubectl]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Which context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Access {
    /// # Errors
    /// When there is no usable kubeconfig. Whether the API server answers is not looked at.
    pub async fn client(&self) -> Result<Client> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match &self.kubeconfig {
            Some(file) => {
                let place = || format!("--kubeconfig {}", file.display());
                let kubeconfig = Kubeconfig::read_from(file).with_context(place)?;
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .with_context(place)?
            }
            None => match Config::from_kubeconfig(&options).await {
                Ok(config) => config,
                // In a pod there is none.
                Err(error) => Config::incluster().map_err(|_| error)?,
            },
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(ANSWER);
        config.write_timeout = Some(ANSWER);
        Client::try_from(config).context("a client for the API server")
    }
}

/// Runs one command's work to its end.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Puts an object there, or makes the one there so; fields that others own and that are not in it stay.
pub async fn apply<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    K::DynamicType: Default,
{
    let parameters = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(FIELD_MANAGER).force()
    };
    api.patch(&object.name_any(), &parameters, &Patch::Apply(object))
        .await
        .map_err(|error| said(&describe::<K>(&object.name_any()), error))
}

/// Takes an object away; one that is not there is as good. True if it was there.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
    K::DynamicType: Default,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(said(&describe::<K>(name), error)),
    }
}

/// Whether a pod has a sidecar of ours, of either form.
pub fn injected(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref());
    let running = spec.map(|spec| &spec.containers);
    let mut all = init.into_iter().chain(running).flatten();
    all.any(|container| container.name == PROXY_CONTAINER)
}

/// `Deployment tasuki-control`.
fn describe<K: Resource>(name: &str) -> String
where
    K::DynamicType: Default,
{
    format!("{} {name}", K::kind(&K::DynamicType::default()))
}

/// The API server's own sentence, with what it is about.
pub fn said(about: &str, error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("{about}: {}", status.message),
        error => anyhow!(error).context(about.to_owned()),
    }
}
