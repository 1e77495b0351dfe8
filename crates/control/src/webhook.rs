//! The admission webhooks: the API server asks before it keeps a Pod (`/inject`) or a resource of the mesh (`/validate`).
//!
//! | file | does |
//! |---|---|
//! | `webhook/serve.rs` | TLS, connections, bodies: everything bounded |
//! | `webhook/review.rs` | the messages, `admission.k8s.io/v1` |
//! | `webhook/validate.rs` | is the resource one that the mesh can act on |
//! | `webhook/ca_bundle.rs` | tells the API server which roots to trust |
//!
//! An answer depends on the question, the Pod's namespace and the mesh's settings, changes nothing anywhere and holds
//! nothing secret but a key that is new with each: the API server does not say who it is, so anybody in the cluster may ask.

pub mod ca_bundle;
mod review;
pub mod serve;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use prometheus::{IntCounterVec, Opts, Registry};
use tasuki_kubernetes::inject::{InjectionSettings, Namespace, Outcome, inject, patch};
use tasuki_kubernetes::names;
use tasuki_runtime::HookKey;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing::info;

use crate::ca::Authority;
use crate::catalog::Published;
use crate::platform::Cluster;
use crate::settings::Settings;
use review::{Request, Response, Review};

/// For an answer of the API server, which is the one that waits for ours.
const API_SERVER: Duration = Duration::from_secs(4);

/// What the webhooks need to answer. The settings of the mesh are those in force at each question.
pub struct Webhook {
    client: Client,
    settings: InjectionSettings,
    published: Arc<Published>,
    reviews: IntCounterVec,
}

/// Which of the two is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Inject,
    Validate,
}

impl Question {
    /// By the path of the request.
    pub fn parse(path: &str) -> Option<Self> {
        match path {
            names::INJECT_PATH => Some(Question::Inject),
            names::VALIDATE_PATH => Some(Question::Validate),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Question::Inject => "inject",
            Question::Validate => "validate",
        }
    }
}

/// Binds `--webhook` and keeps the API server told of the roots.
///
/// # Errors
/// When the port is taken.
pub async fn open(
    settings: &Settings,
    cluster: &Cluster,
    authority: &Authority,
    published: &Arc<Published>,
    registry: &Registry,
) -> anyhow::Result<(TcpListener, Webhook)> {
    let listener = TcpListener::bind(settings.webhook)
        .await
        .with_context(|| format!("--webhook {}", settings.webhook))?;
    let mut injection = InjectionSettings::new(&settings.proxy_image);
    injection.istio_injection = settings.istio_injection_label;
    injection.defaults.native_sidecar = has_native_sidecars(&cluster.client).await;
    let webhook = Webhook::new(
        cluster.client.clone(),
        injection,
        published.clone(),
        registry,
    )?;
    tokio::spawn(ca_bundle::keep(
        cluster.client.clone(),
        authority.clone(),
        cluster.campaign.leadership(),
    ));
    info!(webhook = %listener.local_addr()?, "serving");
    Ok((listener, webhook))
}

/// Kubernetes since 1.29. Where it does not say, it is a newer one.
async fn has_native_sidecars(client: &Client) -> bool {
    let Ok(Ok(version)) = timeout(API_SERVER, client.apiserver_version()).await else {
        return true;
    };
    let number = |text: &str| text.trim_end_matches('+').parse().unwrap_or(u32::MAX);
    (number(&version.major), number(&version.minor)) >= (1, 29)
}

impl Webhook {
    /// # Errors
    /// When the registry already has its metrics.
    pub fn new(
        client: Client,
        settings: InjectionSettings,
        published: Arc<Published>,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let opts = Opts::new(
            "tasuki_webhook_reviews_total",
            "Admission reviews answered, by webhook and outcome.",
        );
        let reviews = IntCounterVec::new(opts, &["webhook", "outcome"])?;
        registry.register(Box::new(reviews.clone()))?;
        Ok(Self {
            client,
            settings,
            published,
            reviews,
        })
    }

    /// The answer to a review, as JSON.
    ///
    /// # Errors
    /// Why the body is no review: a question that cannot be told has no answer.
    pub async fn answer(&self, question: Question, body: &[u8]) -> Result<Vec<u8>, String> {
        let review = Review::parse(body)?;
        let response = match question {
            Question::Inject => self.inject(&review.request).await,
            Question::Validate => validate::validate(&review.request),
        };
        self.reviews
            .with_label_values(&[question.as_str(), response.outcome()])
            .inc();
        Ok(review.answered(response))
    }

    async fn inject(&self, request: &Request) -> Response {
        if !request.creates_pod() {
            return Response::allowed(Vec::new());
        }
        let namespace = match self.namespace(&request.namespace).await {
            Ok(namespace) => namespace,
            // Letting the Pod pass would start it without a sidecar.
            Err(reason) => return Response::refused(503, reason),
        };
        let mut settings = self.settings.clone();
        let mesh = self.published.mesh();
        settings.adopt(mesh.settings.injection());
        let fresh = HookKey::random();
        match inject(request.object.clone(), &namespace, &settings, fresh) {
            Outcome::Injected { pod, warnings } => match patch(&request.object, &pod) {
                Ok(patch) => Response::patched(&patch, warnings),
                Err(error) => Response::refused(500, error.to_string()),
            },
            Outcome::Skipped(skip) if skip.surprises() => Response::allowed(vec![skip.to_string()]),
            Outcome::Skipped(_) => Response::allowed(Vec::new()),
            Outcome::Refused(reason) => Response::refused(422, format!("tasuki: {reason}")),
        }
    }

    /// Asked each time rather than followed: a namespace that was labelled a moment ago must count for the Pods that are
    /// created now.
    async fn namespace(&self, name: &str) -> Result<Namespace, String> {
        let namespaces: Api<v1::Namespace> = Api::all(self.client.clone());
        let found = timeout(API_SERVER, namespaces.get_metadata_opt(name)).await;
        let reason = match found {
            Ok(Ok(Some(found))) => {
                return Ok(Namespace {
                    name: name.to_owned(),
                    labels: found.metadata.labels.unwrap_or_default(),
                });
            }
            Ok(Ok(None)) => "it is not there".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        Err(format!(
            "tasuki: namespace {name} could not be read, and it says whether pods get a sidecar: {reason}"
        ))
    }
}
