//! Istio's `DestinationRule`: what clients do once a destination is chosen.

use std::collections::BTreeMap;

use crate::export::{self, ExportTo};
use crate::fields::{Fields, Value, host, is_dns_label, label_map};
use crate::host::Host;
use crate::object::Metadata;

mod policy;
pub(crate) mod read;

pub use policy::{
    ConnectionPool, H2Upgrade, HttpPool, LoadBalancer, OutlierDetection, PolicySettings,
    RetryBudget, TcpKeepalive, TcpPool, TlsMode, TlsSettings, TrafficPolicy,
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
    /// and each group that the subset sets replaces the rule's. Retry budgets are not among what a port can set.
    pub fn effective(&self, subset: Option<&str>, port: u16) -> PolicySettings {
        let subset = subset.and_then(|name| self.subset(name));
        let base = self.policy.for_port(port);
        let settings = match subset {
            None => base.0.clone(),
            Some(subset) => {
                let (own, port_level) = subset.policy.for_port(port);
                own.over(base.0, port_level)
            }
        };
        let budget = subset.and_then(|subset| subset.policy.settings.retry_budget);
        PolicySettings {
            retry_budget: budget.or(self.policy.settings.retry_budget),
            ..settings
        }
    }
}

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<DestinationRule> {
    let spec = spec?;
    spec.not_honoured(&["workloadSelector"]);
    let host = spec
        .require("host")
        .and_then(|v| host(&v, Some(&meta.name.namespace)));
    let policy = spec
        .get("trafficPolicy")
        .map(|v| read::traffic_policy(&v))
        .unwrap_or_default();
    let mut subsets: Vec<Subset> = Vec::new();
    for item in spec.get("subsets").iter().flat_map(Value::list) {
        let Some(subset) = read_subset(&item) else {
            continue;
        };
        if subsets.iter().any(|s| s.name == subset.name) {
            item.error(format!("subset {:?} is given twice", subset.name), "");
        }
        subsets.push(subset);
    }
    let export_to = export::read(spec.get("exportTo"));
    spec.finish();
    Some(DestinationRule {
        meta,
        host: host?,
        policy,
        subsets,
        export_to,
    })
}

fn read_subset(value: &Value<'_>) -> Option<Subset> {
    let subset = value.fields()?;
    let name = subset.require("name").and_then(|v| {
        let text = v.text()?;
        if !is_dns_label(text) {
            v.error(
                format!("{text:?} is not a subset name"),
                "write lower-case letters, digits and dashes",
            );
        }
        Some(text.to_owned())
    });
    let labels = subset
        .get("labels")
        .map(|v| label_map(&v))
        .unwrap_or_default();
    let policy = subset
        .get("trafficPolicy")
        .map(|v| read::traffic_policy(&v))
        .unwrap_or_default();
    subset.finish();
    Some(Subset {
        name: name?,
        labels,
        policy,
    })
}

#[cfg(test)]
mod tests;
