//! A folder of YAML and a state dir: no more is needed.

use std::sync::Arc;

use anyhow::Context;
use tasuki_identity::TrustDomain;

use super::Platform;
use crate::auth::StateDirAuthenticator;
use crate::ca::Authority;
use crate::settings::Settings;
use crate::source::files::Files;

/// # Errors
/// When a folder is missing, unreadable or of another trust domain.
pub fn open(settings: &Settings, trust_domain: &TrustDomain) -> anyhow::Result<Platform> {
    let config_dir = settings
        .config_dir
        .as_deref()
        .context("--config-dir is needed")?;
    let state_dir = settings
        .state_dir
        .as_deref()
        .context("--state-dir is needed")?;
    let authority = Authority::open(state_dir, trust_domain, settings.certificate_ttl)
        .with_context(|| format!("--state-dir {}", state_dir.display()))?;
    let files = Files::open_with(config_dir, state_dir)
        .with_context(|| format!("--config-dir {}", config_dir.display()))?;
    let authenticator = StateDirAuthenticator::new(state_dir, trust_domain.clone())?;
    Ok(Platform {
        objects: files.follow(),
        authority,
        authenticator: Arc::new(authenticator),
        cluster: None,
    })
}
