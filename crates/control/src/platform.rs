//! What the control plane stands on: where resources come from, who keeps the keys, and who says who calls. One file per
//! platform; nothing else asks which it is.

pub mod embedded;
pub mod kubernetes;

use std::sync::Arc;

use tokio::sync::watch;

use crate::ads::Authenticator;
use crate::ca::Authority;
use crate::leader::Campaign;
use crate::source::Objects;

/// A platform that is ready to serve: everything was read once.
pub struct Platform {
    pub objects: watch::Receiver<Arc<Objects>>,
    pub authority: Authority,
    pub authenticator: Arc<dyn Authenticator>,
    /// What only a cluster has.
    pub cluster: Option<Cluster>,
}

/// The API server, for those who write to it or answer it.
pub struct Cluster {
    pub client: kube::Client,
    /// Which of the replicas leads.
    pub campaign: Campaign,
    /// Of the control plane itself.
    pub namespace: String,
}
