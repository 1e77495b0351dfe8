//! Probes and hooks of the application, performed in the kubelet's place (contract section 12).
//!
//! Under STRICT the kubelet cannot reach the application: it has no identity. So the injector leads its probes and httpGet
//! hooks to port 15021, and the sidecar performs what the Pod declared, from inside, and tells the outcome and nothing
//! else. `declared.rs` reads the declaration, `shared.rs` bounds how often the application is asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;

use crate::application::{Application, Failure, Place};

mod declared;
mod grpc;
mod http_get;
pub mod shared;

pub use self::declared::{Check, Declared, HttpGet, Kind, Probes, Scheme};
use self::shared::Shared;

/// Applications tell probes apart by its beginning.
const AGENT: &str = concat!("kube-probe/tasuki-", env!("CARGO_PKG_VERSION"));

/// The checks of a Pod, ready to be asked for.
#[derive(Clone)]
pub struct Prober {
    application: Option<Application>,
    checks: Arc<BTreeMap<(String, Kind), Checked>>,
}

/// One check and what became of it.
struct Checked {
    declared: Declared,
    shared: Shared<Outcome>,
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The application answered, but not with success.
    Status(StatusCode),
    /// It said that it does not serve (gRPC).
    NotServing,
    Failed(Failure),
}

impl Prober {
    /// What `probes` declare of `application`.
    pub fn new(application: Option<Application>, probes: &Probes) -> Prober {
        let checks = probes.iter().map(|(key, declared)| {
            if let Check::Impossible(reason) = &declared.check {
                tracing::error!(
                    reason,
                    "a probe or hook that cannot be performed always fails"
                );
            }
            let checked = Checked {
                declared: declared.clone(),
                shared: Shared::default(),
            };
            (key.clone(), checked)
        });
        Prober {
            application,
            checks: Arc::new(checks.collect()),
        }
    }

    /// Performs a check, or shares one that is under way. `None`: nothing of this kind is declared.
    pub async fn ask(&self, container: &str, kind: Kind) -> Option<Outcome> {
        let Checked { declared, shared } = self.checks.get(&(container.to_owned(), kind))?;
        let application = self.application.clone()?;
        let outcome = shared
            .ask(perform(application, declared.clone(), kind))
            .await
            .unwrap_or(Outcome::Failed(Failure::Broken));
        tracing::debug!(container, ?kind, ?outcome, "checked");
        Some(outcome)
    }
}

async fn perform(application: Application, declared: Declared, kind: Kind) -> Outcome {
    let checked = tokio::time::timeout(declared.timeout, check(&application, &declared.check));
    match checked.await {
        Ok(Ok(outcome)) => outcome.of(kind),
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(_) => Outcome::Failed(Failure::Timeout),
    }
}

async fn check(application: &Application, check: &Check) -> Result<Outcome, Failure> {
    Ok(match check {
        Check::Http(get) => match http_get::get(application, get).await? {
            status if status.is_success() || status.is_redirection() => Outcome::Success,
            status => Outcome::Status(status),
        },
        Check::Tcp { host, port } => {
            let place = Place {
                host: host.clone(),
                port: *port,
            };
            application.dial(&place).await.map(|_| Outcome::Success)?
        }
        Check::Grpc { port, service } => {
            if grpc::check(application, *port, service).await? {
                Outcome::Success
            } else {
                Outcome::NotServing
            }
        }
        Check::Impossible(_) => return Err(Failure::Impossible),
    })
}

impl Outcome {
    /// To the kubelet a hook has succeeded when it was answered, whatever the answer says.
    fn of(self, kind: Kind) -> Outcome {
        match self {
            Outcome::Status(_) if kind.is_hook() => Outcome::Success,
            outcome => outcome,
        }
    }

    /// What the kubelet is told.
    pub fn status(self) -> StatusCode {
        match self {
            Outcome::Success => StatusCode::OK,
            Outcome::Status(status) if status.is_client_error() || status.is_server_error() => {
                status
            }
            Outcome::Status(_) | Outcome::NotServing | Outcome::Failed(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Success => f.write_str("ok"),
            Outcome::Status(status) => write!(f, "status {}", status.as_u16()),
            Outcome::NotServing => f.write_str("not serving"),
            Outcome::Failed(failure) => failure.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
