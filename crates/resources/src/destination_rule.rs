//! Istio's `DestinationRule`: what clients do once a destination is chosen.

use std::collections::BTreeMap;

use crate::export::ExportTo;
use crate::host::Host;
use crate::object::Metadata;

mod policy;

pub use policy::{
    ConnectionPool, H2Upgrade, HttpPool, LoadBalancer, OutlierDetection, PolicySettings, RetryBudget, TcpKeepalive,
    TcpPool, TlsMode, TlsSettings, TrafficPolicy,
};

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    pub meta: Metadata,
    /// A short name is expanded in the object's namespace.
    pub host: Host,
    pub policy: TrafficPolicy,
    pub subsets: Vec<Subset>,
    pub export_to: ExportTo,
}

/// Endpoints with these labels, by a name that VirtualServices use.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub policy: TrafficPolicy,
}

impl DestinationRule {
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|s| s.name == name)
    }

    /// What applies to a port, for one subset or for the host as a whole: a port's settings replace the rule's own,
    /// and each group that the subset sets replaces the rule's.
    pub fn effective(&self, subset: Option<&str>, port: u16) -> PolicySettings {
        let base = self.policy.for_port(port);
        match subset.and_then(|name| self.subset(name)) {
            None => base.0.clone(),
            Some(subset) => {
                let (own, port_level) = subset.policy.for_port(port);
                own.over(base.0, port_level)
            }
        }
    }
}
