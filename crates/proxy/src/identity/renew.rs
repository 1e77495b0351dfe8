//! Keeps a valid certificate: asks at half-life with jitter, tries again soon when refused, keeps it in the state dir.
//!
//! The roots come first: without a trust bundle nothing is asked for, because a leaf that peers could not verify
//! (or whose peers could not be verified) is of no use.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, ensure};
use tasuki_identity::proto::{IstioCertificateServiceClient, request};
use tasuki_identity::{CsrPem, SpiffeId, TrustDomain, WorkloadCertificate, key_and_csr};
use tasuki_runtime::Backoff;
use tasuki_xds::model::TrustBundle;
use tokio::sync::{mpsc, watch};

use crate::control::{ControlPlane, service_account};
use crate::observe::Metrics;
use crate::settings::{ObjectName, Role};
use crate::state::State;

/// The wall clock may be set while we sleep, so no sleep is longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A signature takes milliseconds; without an answer by then another connection is tried.
const SIGNING: Duration = Duration::from_secs(10);

/// Whoever signs: the control plane, or a test.
pub trait Signer {
    /// The account in whose name is asked, as far as it is known.
    fn account(&self) -> Option<(String, String)>;
    /// Signs; `current` is what this proxy can show for itself. The chain, leaf first, in PEM.
    fn sign(
        &self,
        csr: &CsrPem,
        current: Option<&WorkloadCertificate>,
    ) -> impl Future<Output = anyhow::Result<String>>;
}

/// The control plane's certificate service.
pub struct ControlSigner {
    pub control: Arc<ControlPlane>,
    pub state: Arc<State>,
    pub role: Role,
}

impl Signer for ControlSigner {
    fn account(&self) -> Option<(String, String)> {
        service_account(&self.control.token()?)
    }

    async fn sign(
        &self,
        csr: &CsrPem,
        current: Option<&WorkloadCertificate>,
    ) -> anyhow::Result<String> {
        // A connection of its own: the stream's may have been opened with a certificate that has expired since.
        let channel = self.control.connect(current, self.state.roots()).await?;
        let pod = match &self.role {
            Role::Sidecar {
                pod: ObjectName { namespace, name },
            } => Some((namespace.as_str(), name.as_str())),
            Role::Gateway { .. } => None,
        };
        let mut request = tonic::Request::new(request(csr, None, pod));
        self.control.authorize(&mut request, current);
        let response = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await?;
        let mut chain = response.into_inner().cert_chain;
        // The root comes last; whoever does not have it already would not believe it from us.
        if chain.len() > 1 {
            chain.pop();
        }
        ensure!(!chain.is_empty(), "the answer has no certificate");
        Ok(chain.join("\n"))
    }
}

/// What the renewal works with.
pub struct Renewal<S, C> {
    pub signer: S,
    /// The wall clock.
    pub clock: C,
    pub state_dir: PathBuf,
    pub trust: watch::Receiver<Option<Arc<TrustBundle>>>,
    /// New certificates go here.
    pub certificates: mpsc::Sender<WorkloadCertificate>,
    pub metrics: Arc<Metrics>,
}

/// What has been logged, so that each thing is once.
#[derive(Default)]
struct Said {
    reason: String,
    expired: bool,
}

impl Said {
    fn failure(
        &mut self,
        error: &anyhow::Error,
        current: Option<&WorkloadCertificate>,
        now: SystemTime,
    ) {
        let reason = format!("{error:#}");
        if self.reason != reason {
            tracing::warn!(reason, "no new certificate yet");
            self.reason = reason;
        }
        let expired = current.is_some_and(|current| now >= current.not_after());
        if expired && !self.expired {
            tracing::error!(
                reason = self.reason,
                "the certificate has expired: no new mutual TLS connection can be made, open ones go on"
            );
        }
        self.expired = expired;
    }
}

impl<S: Signer, C: Fn() -> SystemTime> Renewal<S, C> {
    /// Runs until nobody takes certificates any more.
    pub async fn run(mut self) {
        let mut current = self.kept();
        if let Some(kept) = &current
            && self.certificates.send(kept.clone()).await.is_err()
        {
            return;
        }
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30), 0.5);
        let mut said = Said::default();
        loop {
            if let Some(certificate) = &current {
                self.sleep_until_due(certificate).await;
            }
            match self.renew(current.as_ref()).await {
                Ok(certificate) => {
                    self.count("success");
                    tracing::info!(id = %certificate.id(), "new certificate");
                    backoff.reset();
                    said = Said::default();
                    self.keep(&certificate);
                    if self.certificates.send(certificate.clone()).await.is_err() {
                        return;
                    }
                    current = Some(certificate);
                }
                Err(error) => {
                    self.count("failure");
                    said.failure(&error, current.as_ref(), (self.clock)());
                    tokio::time::sleep(self.patience(current.as_ref(), backoff.next_delay())).await;
                }
            }
        }
    }

    fn count(&self, outcome: &str) {
        let renewals = &self.metrics.certificate_renewals;
        renewals.with_label_values(&[outcome]).inc();
    }

    /// The certificate of an earlier run, if it can still be used.
    fn kept(&self) -> Option<WorkloadCertificate> {
        let kept = load(&self.state_dir)?;
        if !kept.is_valid_at((self.clock)()) {
            tracing::warn!(id = %kept.id(), "the kept certificate is not valid at this time");
            return None;
        }
        // The state dir may have been another workload's.
        if let Some((namespace, account)) = self.signer.account()
            && (kept.id().namespace(), kept.id().service_account()) != (&namespace, &account)
        {
            tracing::warn!(id = %kept.id(), namespace, account, "the kept certificate is not of the token's account");
            return None;
        }
        Some(kept)
    }

    fn keep(&self, certificate: &WorkloadCertificate) {
        if let Err(error) = keep(&self.state_dir, certificate) {
            self.metrics.state_write_failures.inc();
            tracing::warn!(%error, "the certificate could not be kept; a restart needs the control plane");
        }
    }

    /// Never so long that a certificate of a few seconds runs out in between.
    fn patience(&self, current: Option<&WorkloadCertificate>, delay: Duration) -> Duration {
        let rest =
            current.and_then(|current| current.not_after().duration_since((self.clock)()).ok());
        rest.map_or(delay, |rest| {
            delay.min((rest / 4).max(Duration::from_millis(100)))
        })
    }

    /// Until the certificate is at half its life, by the wall clock or by time passed: a clock that was set back must not
    /// put the renewal off.
    async fn sleep_until_due(&self, certificate: &WorkloadCertificate) {
        let at = certificate.renew_at(rand::random_range(-1.0..=1.0));
        let start = tokio::time::Instant::now();
        let by_clock = |at: SystemTime| at.duration_since((self.clock)()).unwrap_or_default();
        let half_life = at.duration_since(certificate.not_before());
        let longest = by_clock(at).min(half_life.unwrap_or_default());
        loop {
            let rest = by_clock(at).min(longest.saturating_sub(start.elapsed()));
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest.min(LONGEST_SLEEP)).await;
        }
    }

    async fn renew(
        &mut self,
        current: Option<&WorkloadCertificate>,
    ) -> anyhow::Result<WorkloadCertificate> {
        let bundle = match self.trust.wait_for(Option::is_some).await {
            Ok(bundle) => bundle.clone().ok_or_else(|| anyhow!("no trust bundle"))?,
            // The process is ending.
            Err(_) => std::future::pending().await,
        };
        let id = self.id(current, &bundle.name)?;
        let (key, csr) = key_and_csr(&id)?;
        // What has expired already is no help.
        let current = current.filter(|current| current.is_valid_at((self.clock)()));
        let chain = tokio::time::timeout(SIGNING, self.signer.sign(&csr, current))
            .await
            .context("no answer from the control plane")?
            .context("asking for a certificate")?;
        let certificate = WorkloadCertificate::from_pem(&chain, key.as_str())
            .context("the signed certificate")?;
        ensure!(
            (self.clock)() < certificate.not_after(),
            "the signed certificate has expired already"
        );
        Ok(certificate)
    }

    fn id(
        &self,
        current: Option<&WorkloadCertificate>,
        trust_domain: &str,
    ) -> anyhow::Result<SpiffeId> {
        match (self.signer.account(), current) {
            (Some((namespace, account)), _) => Ok(SpiffeId::new(
                &TrustDomain::new(trust_domain)?,
                &namespace,
                &account,
            )?),
            (None, Some(current)) => Ok(current.id().clone()),
            (None, None) => Err(anyhow!("the token does not say a service account")),
        }
    }
}

fn place(state_dir: &Path) -> PathBuf {
    state_dir.join("identity.pem")
}

/// Chain and key in one file, so that they always belong together.
fn keep(state_dir: &Path, certificate: &WorkloadCertificate) -> std::io::Result<()> {
    let text = format!(
        "{}\n{}",
        certificate.chain_pem().trim_end(),
        certificate.key_pem()
    );
    let place = place(state_dir);
    let beside = place.with_extension("new");
    write_secret(&beside, &text)
        .and_then(|()| std::fs::rename(&beside, place))
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    // A leftover may have been made with another mode.
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

fn load(state_dir: &Path) -> Option<WorkloadCertificate> {
    let text = std::fs::read_to_string(place(state_dir)).ok()?;
    let key = text.rfind("-----BEGIN PRIVATE KEY-----")?;
    WorkloadCertificate::from_pem(&text[..key], &text[key..])
        .inspect_err(|error| tracing::warn!(%error, "the kept certificate is damaged"))
        .ok()
}

#[cfg(test)]
mod tests;
