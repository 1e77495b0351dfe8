//! Where the replicas of a control plane keep their authority together: one Secret, every change of it a compare-and-swap.
//!
//! Files and annotations apart from the API server, so that races can be tried without one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use serde_json::{Map, Value, json};
use tasuki_kubernetes::names;
use tokio::time::timeout;

/// For one request to the API server.
const ANSWER: Duration = Duration::from_secs(10);

/// What the Secret holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// By key; [`tasuki_identity::ca::KeyRing::files`] says which. Secret.
    pub files: BTreeMap<String, String>,
    /// Ours only.
    pub annotations: BTreeMap<String, String>,
    /// Changes with every change.
    pub version: String,
}

/// A change of the Secret: `None` removes.
pub type Changes = BTreeMap<String, Option<String>>;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Somebody else was faster: read again.
    #[error("it was changed by another replica meanwhile")]
    Conflict,
    #[error("it does not exist")]
    Gone,
    /// It may have been made or not.
    #[error("{0}")]
    Unknown(String),
}

/// See the module.
#[tonic::async_trait]
pub trait Vault: Send + Sync {
    /// For messages: kind and name.
    fn name(&self) -> String;

    /// `None` where there is none.
    async fn read(&self) -> Result<Option<Kept>, VaultError>;

    /// Makes it, unless there is one ([`VaultError::Conflict`]).
    async fn create(&self, files: BTreeMap<String, String>) -> Result<Kept, VaultError>;

    /// Changes files if it is still of that version, or annotations whatever it is.
    async fn change(
        &self,
        files: Changes,
        annotations: Changes,
        version: Option<&str>,
    ) -> Result<Kept, VaultError>;
}

/// Secret `tasuki-ca`.
pub struct SecretVault {
    secrets: Api<Secret>,
    namespace: String,
}

impl SecretVault {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }
}

#[tonic::async_trait]
impl Vault for SecretVault {
    fn name(&self) -> String {
        format!("Secret {}/{}", self.namespace, names::CA_SECRET)
    }

    async fn read(&self) -> Result<Option<Kept>, VaultError> {
        Ok(answer(self.secrets.get_opt(names::CA_SECRET))
            .await?
            .map(kept))
    }

    async fn create(&self, files: BTreeMap<String, String>) -> Result<Kept, VaultError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(names::CA_SECRET.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("tasuki.dev/ca".to_owned()),
            string_data: Some(files),
            ..Secret::default()
        };
        let params = PostParams::default();
        answer(self.secrets.create(&params, &secret))
            .await
            .map(kept)
    }

    async fn change(
        &self,
        files: Changes,
        annotations: Changes,
        version: Option<&str>,
    ) -> Result<Kept, VaultError> {
        let encode = |text: String| json!(ByteString(text.into_bytes()));
        let data = object(files, encode);
        let mut metadata = json!({"annotations": object(annotations, Value::String)});
        if let Some(version) = version {
            // The API server answers 409 when it has another.
            metadata["resourceVersion"] = json!(version);
        }
        let patch = json!({"metadata": metadata, "data": data});
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        let changed = self.secrets.patch(names::CA_SECRET, &params, &patch);
        answer(changed).await.map(kept)
    }
}

fn object(changes: Changes, write: impl Fn(String) -> Value) -> Value {
    let changes = changes.into_iter();
    let fields = changes.map(|(key, value)| (key, value.map_or(Value::Null, &write)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// A Secret as it was read or watched.
pub fn kept(secret: Secret) -> Kept {
    let files = secret.data.unwrap_or_default().into_iter();
    let text = |bytes: ByteString| String::from_utf8_lossy(&bytes.0).into_owned();
    let annotations = secret.metadata.annotations.unwrap_or_default();
    Kept {
        files: files.map(|(key, bytes)| (key, text(bytes))).collect(),
        annotations: annotations
            .into_iter()
            .filter(|(key, _)| key.starts_with("tasuki.dev/"))
            .collect(),
        version: secret.metadata.resource_version.unwrap_or_default(),
    }
}

async fn answer<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, VaultError> {
    match timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(failure),
        Err(_) => Err(VaultError::Unknown(
            "no answer from the API server".to_owned(),
        )),
    }
}

/// Never with what was sent: that may have been a key.
fn failure(error: Error) -> VaultError {
    match error {
        Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
            VaultError::Conflict
        }
        Error::Api(status) if status.is_not_found() => VaultError::Gone,
        Error::Api(status) => VaultError::Unknown(status.message),
        other => VaultError::Unknown(other.to_string()),
    }
}
