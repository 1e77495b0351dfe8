//! Gateways: which a gateway proxy serves, by name (ours) or by selector (Envoy's).

use std::collections::BTreeMap;
use std::sync::Arc;

use tasuki_resources::labels::selects;
use tasuki_resources::{Gateway, NamespacedName};

/// All Gateways, by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    by_name: BTreeMap<NamespacedName, Arc<Gateway>>,
}

impl Gateways {
    pub fn new(all: Vec<Arc<Gateway>>) -> Self {
        Self {
            by_name: all
                .into_iter()
                .map(|gateway| (gateway.meta.name.clone(), gateway))
                .collect(),
        }
    }

    pub fn get(&self, name: &NamespacedName) -> Option<&Arc<Gateway>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.by_name.values()
    }

    /// The Gateways whose selector a foreign proxy's labels satisfy.
    pub fn matching(&self, labels: &BTreeMap<String, String>) -> Vec<&Arc<Gateway>> {
        self.by_name
            .values()
            .filter(|gateway| selects(&gateway.selector, labels))
            .collect()
    }
}
