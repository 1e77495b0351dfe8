//! Which DestinationRule applies to a service for a client: the client's namespace, then the service's,
//! then the root namespace; within one, the most specific host, then the oldest.

use std::collections::HashMap;
use std::sync::Arc;

use tasuki_resources::DestinationRule;

/// All DestinationRules.
#[derive(Clone, Debug, Default)]
pub struct DestinationRules {
    /// The most specific first, then the oldest.
    by_namespace: HashMap<String, Vec<Arc<DestinationRule>>>,
    root_namespace: String,
}

impl DestinationRules {
    pub fn new(mut all: Vec<Arc<DestinationRule>>, root_namespace: &str) -> Self {
        all.sort_by(|a, b| {
            b.host
                .specificity()
                .cmp(&a.host.specificity())
                .then_with(|| a.meta.age_key().cmp(&b.meta.age_key()))
        });
        let mut by_namespace: HashMap<String, Vec<_>> = HashMap::new();
        for rule in all {
            by_namespace
                .entry(rule.meta.name.namespace.clone())
                .or_default()
                .push(rule);
        }
        Self {
            by_namespace,
            root_namespace: root_namespace.to_owned(),
        }
    }

    /// The rule for clients in `viewer` calling `host` of `owner`.
    pub fn find(&self, host: &str, owner: &str, viewer: &str) -> Option<&Arc<DestinationRule>> {
        [viewer, owner, self.root_namespace.as_str()]
            .into_iter()
            .find_map(|namespace| {
                let rules = self.by_namespace.get(namespace)?;
                rules
                    .iter()
                    .find(|rule| rule.export_to.includes(viewer) && rule.host.matches(host))
            })
    }

    /// Pairs of rules of one namespace for exactly the same host: the second is never chosen.
    pub fn shadowed(&self) -> Vec<(&Arc<DestinationRule>, &Arc<DestinationRule>)> {
        let mut pairs = Vec::new();
        for rules in self.by_namespace.values() {
            for pair in rules.windows(2) {
                if pair[0].host == pair[1].host && pair[0].export_to == pair[1].export_to {
                    pairs.push((&pair[0], &pair[1]));
                }
            }
        }
        pairs.sort_by(|(_, a), (_, b)| a.meta.name.cmp(&b.meta.name));
        pairs
    }
}
