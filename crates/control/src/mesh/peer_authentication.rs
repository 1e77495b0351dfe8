//! Whether a workload's port asks its callers for mTLS: the workload's PeerAuthentication, then the
//! namespace's, then the mesh's, and PERMISSIVE in the end. Of several at one level the oldest counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tasuki_resources::PeerAuthentication;
use tasuki_resources::labels::selects;
use tasuki_resources::peer_authentication::MtlsMode;

/// All PeerAuthentications.
#[derive(Clone, Debug, Default)]
pub struct PeerAuthentications {
    /// Oldest first.
    by_namespace: HashMap<String, Vec<Arc<PeerAuthentication>>>,
    root_namespace: String,
}

impl PeerAuthentications {
    pub fn new(mut all: Vec<Arc<PeerAuthentication>>, root_namespace: &str) -> Self {
        all.sort_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()));
        let mut by_namespace: HashMap<String, Vec<_>> = HashMap::new();
        for one in all {
            by_namespace
                .entry(one.meta.name.namespace.clone())
                .or_default()
                .push(one);
        }
        Self {
            by_namespace,
            root_namespace: root_namespace.to_owned(),
        }
    }

    /// The mode of a port of a workload, or of its ports that nobody mentions.
    pub fn mode(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        port: Option<u16>,
    ) -> MtlsMode {
        let workload = self.of_workload(namespace, labels);
        let of_port = port.and_then(|port| workload?.ports.get(&port).copied().flatten());
        of_port
            .or_else(|| workload.and_then(|one| one.mode))
            .or_else(|| self.whole(namespace))
            .or_else(|| self.whole(&self.root_namespace))
            .unwrap_or(MtlsMode::Permissive)
    }

    /// Ports that a workload's own PeerAuthentication mentions.
    pub fn ports(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = u16> {
        self.of_workload(namespace, labels)
            .into_iter()
            .flat_map(|one| one.ports.keys().copied())
    }

    fn of_workload(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&Arc<PeerAuthentication>> {
        let own = self.by_namespace.get(namespace)?;
        own.iter()
            .find(|one| !one.selector.is_empty() && selects(&one.selector, labels))
    }

    fn whole(&self, namespace: &str) -> Option<MtlsMode> {
        self.by_namespace
            .get(namespace)?
            .iter()
            .find(|one| one.selector.is_empty())?
            .mode
    }
}
