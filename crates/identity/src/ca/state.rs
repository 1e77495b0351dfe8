//! `state.json`: the phase that a certificate authority is in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::TrustDomain;

pub(super) const FILE: &str = "state.json";
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u32,
    pub(super) trust_domain: String,
    /// No certificate that is signed may live longer.
    pub(super) longest_ttl_seconds: u64,
    pub(super) phase: Phase,
}

/// Where a rotation stands. Roots are named by their file names; all that are named here are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// One root. Next: [`Phase::Adding`], when a rotation is asked for.
    Steady { signer: String },
    /// Both are trusted, the old one signs. Next: [`Phase::Switched`], when everybody trusts the new one.
    Adding { old: String, new: String },
    /// Both are trusted, the new one signs. Next: [`Phase::Steady`], at `old_leaves_end` (seconds since 1970).
    Switched {
        old: String,
        new: String,
        old_leaves_end: u64,
    },
}

impl Phase {
    /// The root that signs workload certificates.
    pub(super) fn signer(&self) -> String {
        match self {
            Phase::Steady { signer } => signer.clone(),
            Phase::Adding { old, .. } => old.clone(),
            Phase::Switched { new, .. } => new.clone(),
        }
    }

    /// The root that has been trusted longest.
    pub(super) fn oldest(&self) -> String {
        match self {
            Phase::Steady { signer } => signer.clone(),
            Phase::Adding { old, .. } | Phase::Switched { old, .. } => old.clone(),
        }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Phase::Steady { signer } => vec![signer],
            Phase::Adding { old, new } | Phase::Switched { old, new, .. } => vec![old, new],
        }
    }

    /// When the last certificate of the old root has expired.
    pub fn old_leaves_end(&self) -> Option<SystemTime> {
        match self {
            Phase::Switched { old_leaves_end, .. } => {
                Some(UNIX_EPOCH + Duration::from_secs(*old_leaves_end))
            }
            Phase::Steady { .. } | Phase::Adding { .. } => None,
        }
    }
}

impl State {
    pub(super) fn first(trust_domain: &TrustDomain, root: &str) -> Self {
        Self {
            version: VERSION,
            trust_domain: trust_domain.as_str().to_owned(),
            longest_ttl_seconds: 0,
            phase: Phase::Steady {
                signer: root.to_owned(),
            },
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        match serde_json::from_str::<State>(text) {
            Ok(state) if state.version == VERSION => Ok(state),
            Ok(state) => Err(Error::state(
                FILE,
                format!("unknown version {}", state.version),
            )),
            Err(error) => Err(Error::state(FILE, error.to_string())),
        }
    }

    pub(super) fn text(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self).map_err(|error| Error::state(FILE, error.to_string()))
    }
}

/// Seconds since 1970, rounded up.
pub(super) fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}
