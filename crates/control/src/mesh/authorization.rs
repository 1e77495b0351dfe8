//! Which AuthorizationPolicies apply to a workload: those of its namespace and of the root namespace
//! whose selector its labels satisfy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tasuki_resources::AuthorizationPolicy;
use tasuki_resources::labels::selects;

/// All policies by namespace, in order of their names.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    by_namespace: HashMap<String, Vec<Arc<AuthorizationPolicy>>>,
    root_namespace: String,
}

impl Authorization {
    pub fn new(mut all: Vec<Arc<AuthorizationPolicy>>, root_namespace: &str) -> Self {
        all.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        let mut by_namespace: HashMap<String, Vec<_>> = HashMap::new();
        for policy in all {
            by_namespace
                .entry(policy.meta.name.namespace.clone())
                .or_default()
                .push(policy);
        }
        Self {
            by_namespace,
            root_namespace: root_namespace.to_owned(),
        }
    }

    /// Root namespace first, then the workload's own.
    pub fn of_workload(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<AuthorizationPolicy>> {
        let root = self
            .by_namespace
            .get(&self.root_namespace)
            .into_iter()
            .flatten();
        let own = (namespace != self.root_namespace)
            .then(|| self.by_namespace.get(namespace))
            .flatten();
        root.chain(own.into_iter().flatten())
            .filter(|policy| selects(&policy.selector, labels))
            .cloned()
            .collect()
    }
}
