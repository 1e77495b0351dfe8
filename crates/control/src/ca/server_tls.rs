//! The control plane's own certificate on 15012: made by its own authority, renewed at half-life, remade when roots change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tasuki_identity::{
    ClientAuth, Error, SpiffeId, TrustDomain, WorkloadCertificate, server_config,
};
use tasuki_runtime::Backoff;

use super::Authority;

/// The identity of the control plane itself.
const NAMESPACE: &str = "tasuki-system";
const SERVICE_ACCOUNT: &str = "tasuki-control";

/// As which the control plane itself is known.
pub fn identity(trust_domain: &TrustDomain) -> Result<SpiffeId, Error> {
    Ok(SpiffeId::new(trust_domain, NAMESPACE, SERVICE_ACCOUNT)?)
}

/// The present configuration, kept fresh by [`ServerTls::keep_fresh`].
pub struct ServerTls {
    authority: Authority,
    id: SpiffeId,
    names: Vec<String>,
    config: Arc<ArcSwap<ServerConfig>>,
    certificate: WorkloadCertificate,
}

impl ServerTls {
    /// `names` are the DNS names and IP addresses of `--xds-tls-name`; localhost and the loopback addresses are added.
    pub fn new(authority: Authority, names: &[String]) -> Result<Self, Error> {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        let id = identity(authority.trust_domain())?;
        let (certificate, config) = make(&authority, &id, &all)?;
        authority.mention_end();
        let config = Arc::new(ArcSwap::new(config));
        Ok(Self {
            authority,
            id,
            names: all,
            config,
            certificate,
        })
    }

    /// For [`crate::auth::incoming::tls`].
    pub fn config(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.config)
    }

    /// Never ends; to be spawned.
    pub async fn keep_fresh(mut self) {
        let mut bundles = self.authority.bundles();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10), 0.2);
        let mut wait = self.until_renewal();
        loop {
            tokio::select! {
                changed = bundles.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
            wait = match make(&self.authority, &self.id, &self.names) {
                Ok((certificate, config)) => {
                    self.certificate = certificate;
                    self.config.store(config);
                    self.authority.mention_end();
                    backoff.reset();
                    self.until_renewal()
                }
                Err(error) => {
                    tracing::error!(%error, "the control plane's own certificate could not be renewed");
                    backoff.next_delay()
                }
            };
        }
    }

    fn until_renewal(&self) -> Duration {
        let at = self.certificate.renew_at(0.0);
        // A second at least, whatever the clock does.
        at.duration_since(SystemTime::now())
            .unwrap_or_default()
            .max(Duration::from_secs(1))
    }
}

/// Clients may show a certificate, and one that is shown must be good; without one they need a token.
fn make(
    authority: &Authority,
    id: &SpiffeId,
    names: &[String],
) -> Result<(WorkloadCertificate, Arc<ServerConfig>), Error> {
    let certificate = authority.server_certificate(id, names)?;
    let config = server_config(
        &certificate,
        &authority.roots(),
        &[b"h2"],
        ClientAuth::Optional,
    )?;
    Ok((certificate, config))
}
