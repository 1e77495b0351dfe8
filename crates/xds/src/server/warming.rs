//! Clusters that an Envoy was sent and does not use yet.
//!
//! A route that arrives before the endpoints of its new cluster answers 503 until they come, so listeners and
//! routes are held back that long. The owner of the stream bounds the time with `release`.

use std::collections::BTreeSet;

use super::View;
use crate::model::ResourceType;

/// Names of clusters whose endpoints have not been acknowledged since the cluster was sent.
#[derive(Debug, Default)]
pub(super) struct Warming(BTreeSet<String>);

impl Warming {
    /// Clusters have been sent; those without endpoints of their own (DNS, static) are usable at once.
    pub(super) fn sent<'a>(&mut self, names: impl Iterator<Item = &'a str>, view: &dyn View) {
        let discovered = names.filter(|name| view.get(ResourceType::Endpoint, name).is_some());
        self.0.extend(discovered.map(str::to_owned));
    }

    /// Forgets what no longer exists.
    pub(super) fn refresh(&mut self, view: &dyn View) {
        self.0
            .retain(|name| view.get(ResourceType::Endpoint, name).is_some());
    }

    /// The client has answered for this resource: endpoints either way, a cluster only when it was refused.
    pub(super) fn answered(&mut self, ty: ResourceType, name: &str, refused: bool) {
        if ty == ResourceType::Endpoint || (ty == ResourceType::Cluster && refused) {
            self.0.remove(name);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether resources of this type refer to clusters.
    pub(super) fn holds(ty: ResourceType) -> bool {
        matches!(ty, ResourceType::Listener | ResourceType::Route)
    }
}
