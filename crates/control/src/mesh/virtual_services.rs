//! Which VirtualServices apply to a host for a client (semantics section 8).
//!
//! A rule in the host's own namespace (producer) applies to everybody it is exported to; rules in
//! another namespace (consumer) apply only to clients of that namespace, and replace the producer's for
//! them. Several of one namespace merge, oldest first. A host that nobody declared has no owner: there
//! the client's own namespace comes first, then the namespace of the oldest rule. One that says nothing
//! to this client on the port that is called (`match.port`, `sourceLabels`) neither routes nor replaces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tasuki_resources::virtual_service::GatewayRef;
use tasuki_resources::{Host, NamespacedName, VirtualService};

use super::names;

/// All VirtualServices, oldest first.
#[derive(Clone, Debug, Default)]
pub struct VirtualServices {
    all: Vec<Arc<VirtualService>>,
    /// Those for sidecars, by exact host.
    exact: HashMap<String, Vec<usize>>,
    /// Those for sidecars with a wildcard, the most specific wildcard first.
    wildcards: Vec<(Host, Vec<usize>)>,
    by_gateway: BTreeMap<NamespacedName, Vec<usize>>,
    /// Names of labels in any `sourceLabels`.
    source_labels: BTreeSet<String>,
}

impl VirtualServices {
    pub fn new(mut all: Vec<Arc<VirtualService>>) -> Self {
        all.sort_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()));
        let mut index = Self::default();
        let mut wildcards: BTreeMap<Host, Vec<usize>> = BTreeMap::new();
        for (position, vs) in all.iter().enumerate() {
            for gateway in &vs.gateways {
                if let GatewayRef::Gateway(name) = gateway {
                    index
                        .by_gateway
                        .entry(name.clone())
                        .or_default()
                        .push(position);
                }
            }
            if !vs.gateways.contains(&GatewayRef::Mesh) {
                continue;
            }
            for host in &vs.hosts {
                match host {
                    Host::Exact(name) => {
                        index.exact.entry(name.clone()).or_default().push(position)
                    }
                    Host::Suffix(_) => wildcards.entry(host.clone()).or_default().push(position),
                }
            }
        }
        let blocks = all.iter().flat_map(|vs| &vs.http).flat_map(|r| &r.matches);
        let labels = blocks.flat_map(|block| block.source_labels.keys());
        index.source_labels = labels.cloned().collect();
        index.wildcards = wildcards.into_iter().collect();
        index
            .wildcards
            .sort_by(|(a, _), (b, _)| b.specificity().cmp(&a.specificity()).then_with(|| a.cmp(b)));
        index.all = all;
        index
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.all.iter()
    }

    /// Of a client's labels, those that may make a difference to its rules.
    pub fn of_interest(&self, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let names = self.source_labels.iter();
        let pairs = names.filter_map(|name| Some((name.clone(), labels.get(name)?.clone())));
        pairs.collect()
    }

    /// The rules for requests of sidecars in `viewer` to `host`, which the namespace `owner` declared.
    /// Never from two namespaces; empty when nothing is said about the host. Only those that `speaks` holds for count.
    pub fn for_mesh(
        &self,
        host: &str,
        owner: Option<&str>,
        viewer: &str,
        speaks: &dyn Fn(&VirtualService) -> bool,
    ) -> Vec<&Arc<VirtualService>> {
        if let Some(positions) = self.exact.get(host) {
            let chosen = self.choose(positions, owner, viewer, speaks);
            if !chosen.is_empty() {
                return chosen;
            }
        }
        let covering = self
            .wildcards
            .iter()
            .filter(|(pattern, _)| covers(pattern, host));
        covering
            .map(|(_, positions)| self.choose(positions, owner, viewer, speaks))
            .find(|c| !c.is_empty())
            .unwrap_or_default()
    }

    fn choose(
        &self,
        positions: &[usize],
        owner: Option<&str>,
        viewer: &str,
        speaks: &dyn Fn(&VirtualService) -> bool,
    ) -> Vec<&Arc<VirtualService>> {
        let visible = || {
            positions
                .iter()
                .map(|p| &self.all[*p])
                .filter(|vs| vs.export_to.includes(viewer) && speaks(vs))
        };
        let of = |namespace: &str| {
            visible()
                .filter(|vs| vs.meta.name.namespace == namespace)
                .collect::<Vec<_>>()
        };
        let own = of(viewer);
        if !own.is_empty() {
            return own;
        }
        match owner {
            Some(owner) => of(owner),
            None => visible()
                .next()
                .map(|oldest| of(&oldest.meta.name.namespace))
                .unwrap_or_default(),
        }
    }

    /// The full name under which rules visible to `viewer` know a host that is not in the registry.
    pub fn knows(
        &self,
        host: &str,
        viewer: &str,
        speaks: &dyn Fn(&VirtualService) -> bool,
    ) -> Option<String> {
        names::candidates(host, viewer)
            .into_iter()
            .find(|name| !self.for_mesh(name, None, viewer, speaks).is_empty())
    }

    /// The rules bound to a gateway, oldest first.
    pub fn for_gateway(
        &self,
        gateway: &NamespacedName,
    ) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.by_gateway
            .get(gateway)
            .into_iter()
            .flatten()
            .map(|position| &self.all[*position])
            .filter(|vs| vs.export_to.includes(&gateway.namespace))
    }

    /// Hosts for which several rules of one namespace merge, with their names.
    pub fn merged(&self) -> Vec<(String, Vec<NamespacedName>)> {
        let mut merged = Vec::new();
        for (host, positions) in &self.exact {
            let mut by_namespace: BTreeMap<&str, Vec<NamespacedName>> = BTreeMap::new();
            for position in positions {
                let name = &self.all[*position].meta.name;
                by_namespace
                    .entry(&name.namespace)
                    .or_default()
                    .push(name.clone());
            }
            merged.extend(
                by_namespace
                    .into_values()
                    .filter(|names| names.len() > 1)
                    .map(|n| (host.clone(), n)),
            );
        }
        merged.sort();
        merged
    }
}

/// `*` alone is for gateways' catch-all servers and for sidecars means every host that is asked for.
fn covers(pattern: &Host, host: &str) -> bool {
    match Host::Exact(host.to_owned()) {
        exact if !host.starts_with('*') => pattern.covers(&exact),
        _ => pattern.covers(&Host::Suffix(host[1..].to_owned())),
    }
}
