//! What one mesh says differently than the one before it: the joins whose result may be another, and the pods and addresses of
//! which anything may be. Everything that clients are told depends on the configuration, which touches all, and otherwise on
//! these alone (`crate::snapshot::depends`).

use std::collections::HashSet;
use std::net::IpAddr;

use tasuki_resources::NamespacedName;

use super::services::JoinId;

/// More than has changed, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The configuration, or something else that concerns every client.
    pub everything: bool,
    /// Services whose endpoints were joined anew.
    pub joins: HashSet<JoinId>,
    /// Where a pod is, was, or is spoken to differently.
    pub addresses: HashSet<IpAddr>,
    pub pods: HashSet<NamespacedName>,
}

impl Touched {
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }
}
