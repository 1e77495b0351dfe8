//! References between objects: to hosts, ports, subsets, gateways and workloads that are not there. Warnings, since what is missing
//! may well live elsewhere.

use std::collections::{BTreeMap, HashMap};

use super::{Located, problem};
use crate::core::service::{Service, ServiceKind};
use crate::host::{Host, service_host};
use crate::labels::selects;
use crate::object::{Metadata, NamespacedName, Object};
use crate::problem::{Problem, Severity};
use crate::virtual_service::{GatewayRef, HttpAction, VirtualService, WeightedDestination};
use crate::{DestinationRule, Gateway, Pod, ServiceEntry};

/// Everything that others refer to.
struct Index<'a> {
    services: HashMap<String, &'a Service>,
    entries: Vec<&'a ServiceEntry>,
    rules: Vec<&'a DestinationRule>,
    gateways: HashMap<&'a NamespacedName, &'a Gateway>,
    pods: Vec<&'a Pod>,
}

pub fn check(objects: &[Located]) -> Vec<Problem> {
    let index = Index::new(objects);
    let mut problems = Vec::new();
    for located in objects {
        let mut warn = |field: String, reason: String| {
            problems.push(problem(Severity::Warning, located, field, reason))
        };
        match &located.object {
            Object::VirtualService(vs) => index.virtual_service(vs, &mut warn),
            Object::DestinationRule(rule) => index.destination_rule(rule, &mut warn),
            Object::AuthorizationPolicy(policy) => {
                index.selector(&policy.meta, &policy.selector, &mut warn)
            }
            Object::PeerAuthentication(policy) => {
                index.selector(&policy.meta, &policy.selector, &mut warn)
            }
            Object::Service(service) => index.service(service, &mut warn),
            Object::Pod(_)
            | Object::EndpointSlice(_)
            | Object::Namespace(_)
            | Object::ServiceEntry(_)
            | Object::Gateway(_)
            | Object::MeshSettings(_) => {}
        }
    }
    problems.extend(mesh_wide_twice(objects));
    problems
}

/// Two PeerAuthentications without a selector in one namespace: only the older one counts.
fn mesh_wide_twice(objects: &[Located]) -> Vec<Problem> {
    let mut first: BTreeMap<&str, &Located> = BTreeMap::new();
    let mut problems = Vec::new();
    for located in objects {
        let Object::PeerAuthentication(policy) = &located.object else {
            continue;
        };
        if !policy.selector.is_empty() {
            continue;
        }
        match first.get(policy.meta.name.namespace.as_str()) {
            None => drop(first.insert(&policy.meta.name.namespace, located)),
            Some(other) => problems.push(problem(
                Severity::Warning,
                located,
                "spec.selector",
                format!(
                    "{} is for the whole namespace too; only the older one counts",
                    other.object.key()
                ),
            )),
        }
    }
    problems
}

/// Takes the field and the reason of a warning.
type Warn<'w> = &'w mut dyn FnMut(String, String);

impl<'a> Index<'a> {
    fn new(objects: &'a [Located]) -> Self {
        let mut index = Index {
            services: HashMap::new(),
            entries: Vec::new(),
            rules: Vec::new(),
            gateways: HashMap::new(),
            pods: Vec::new(),
        };
        for located in objects {
            match &located.object {
                Object::Service(service) => {
                    index.services.insert(
                        service_host(&service.meta.name.name, &service.meta.name.namespace),
                        service,
                    );
                }
                Object::ServiceEntry(entry) => index.entries.push(entry),
                Object::DestinationRule(rule) => index.rules.push(rule),
                Object::Gateway(gateway) => {
                    index.gateways.insert(&gateway.meta.name, gateway);
                }
                Object::Pod(pod) => index.pods.push(pod),
                _ => {}
            }
        }
        index
    }

    /// The ports of a host, or `None` when nothing has that name.
    fn ports(&self, host: &str) -> Option<Vec<u16>> {
        if let Some(service) = self.services.get(host) {
            return Some(service.ports.iter().map(|p| p.port).collect());
        }
        let mut entries = self
            .entries
            .iter()
            .filter(|e| e.hosts.iter().any(|h| h.matches(host)))
            .peekable();
        entries.peek()?;
        Some(
            entries
                .flat_map(|e| e.ports.iter().map(|p| p.number))
                .collect(),
        )
    }

    fn virtual_service(&self, vs: &VirtualService, warn: Warn<'_>) {
        if vs.gateways.contains(&GatewayRef::Mesh) {
            for (nth, host) in vs.hosts.iter().enumerate() {
                if let Host::Exact(name) = host
                    && self.ports(name).is_none()
                    && vs.gateways.len() == 1
                {
                    warn(
                        format!("spec.hosts[{nth}]"),
                        format!("no Service or ServiceEntry {name} is here"),
                    );
                }
            }
        }
        self.gateways(vs, warn);
        for (rule_index, rule) in vs.http.iter().enumerate() {
            let HttpAction::Forward(forward) = &rule.action else {
                continue;
            };
            for (nth, destination) in forward.destinations.iter().enumerate() {
                let field = format!("spec.http[{rule_index}].route[{nth}].destination");
                self.destination(destination, &field, warn);
            }
        }
    }

    fn gateways(&self, vs: &VirtualService, warn: Warn<'_>) {
        for (nth, gateway) in vs.gateways.iter().enumerate() {
            let GatewayRef::Gateway(name) = gateway else {
                continue;
            };
            match self.gateways.get(name) {
                None => warn(
                    format!("spec.gateways[{nth}]"),
                    format!("no Gateway {name} is here"),
                ),
                Some(gateway) => {
                    let served = |host| {
                        gateway
                            .servers
                            .iter()
                            .any(|s| !s.serves(&vs.meta.name.namespace, host).is_empty())
                    };
                    if !vs.hosts.iter().any(served) {
                        warn(
                            format!("spec.gateways[{nth}]"),
                            format!("Gateway {name} serves none of the hosts"),
                        );
                    }
                }
            }
        }
    }

    fn destination(&self, destination: &WeightedDestination, field: &str, warn: Warn<'_>) {
        let host = &destination.host;
        let Some(ports) = self.ports(host) else {
            warn(
                format!("{field}.host"),
                format!("no Service or ServiceEntry {host} is here"),
            );
            return;
        };
        if let Some(port) = destination.port.filter(|port| !ports.contains(port)) {
            warn(
                format!("{field}.port.number"),
                format!("{host} has no port {port}"),
            );
        }
        let Some(subset) = &destination.subset else {
            return;
        };
        let rules = self.rules.iter().filter(|rule| rule.host.matches(host));
        if !rules.clone().any(|rule| rule.subset(subset).is_some()) {
            let mut known: Vec<_> = rules
                .flat_map(|rule| rule.subsets.iter().map(|s| s.name.as_str()))
                .collect();
            known.sort_unstable();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            warn(
                format!("{field}.subset"),
                format!(
                    "no DestinationRule defines the subset {subset} of {host} (defined: {known})"
                ),
            );
        }
    }

    fn destination_rule(&self, rule: &DestinationRule, warn: Warn<'_>) {
        let Host::Exact(host) = &rule.host else {
            return;
        };
        let Some(ports) = self.ports(host) else {
            warn(
                "spec.host".to_owned(),
                format!("no Service or ServiceEntry {host} is here"),
            );
            return;
        };
        if let Some(port) = rule.policy.ports.keys().find(|port| !ports.contains(port)) {
            warn(
                "spec.trafficPolicy.portLevelSettings".to_owned(),
                format!("{host} has no port {port}"),
            );
        }
        let Some((service, selector)) = self
            .services
            .get(host)
            .and_then(|s| Some((s, s.selector.as_ref()?)))
        else {
            return;
        };
        let pods: Vec<_> = self
            .pods_of(&service.meta.name.namespace, selector)
            .collect();
        for (nth, subset) in rule.subsets.iter().enumerate() {
            if !pods.is_empty()
                && !pods
                    .iter()
                    .any(|pod| selects(&subset.labels, &pod.meta.labels))
            {
                warn(
                    format!("spec.subsets[{nth}].labels"),
                    format!("no Pod of {host} has these labels"),
                );
            }
        }
    }

    /// Only where Pods are given at all: on Kubernetes they are not among one's files.
    fn selector(&self, meta: &Metadata, selector: &BTreeMap<String, String>, warn: Warn<'_>) {
        let namespace = &meta.name.namespace;
        let any = self
            .pods
            .iter()
            .any(|pod| pod.meta.name.namespace == *namespace);
        if any && !selector.is_empty() && self.pods_of(namespace, selector).next().is_none() {
            warn(
                "spec.selector.matchLabels".to_owned(),
                format!("selects no Pod of namespace {namespace}"),
            );
        }
    }

    fn service(&self, service: &Service, warn: Warn<'_>) {
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            return;
        }
        if let Some(selector) = &service.selector {
            self.selector_of_service(service, selector, warn);
        }
    }

    fn selector_of_service(
        &self,
        service: &Service,
        selector: &BTreeMap<String, String>,
        warn: Warn<'_>,
    ) {
        let namespace = &service.meta.name.namespace;
        let any = self
            .pods
            .iter()
            .any(|pod| pod.meta.name.namespace == *namespace);
        let pods: Vec<_> = self.pods_of(namespace, selector).collect();
        if any && pods.is_empty() {
            warn(
                "spec.selector".to_owned(),
                format!("selects no Pod of namespace {namespace}"),
            );
        }
        for (nth, port) in service.ports.iter().enumerate() {
            if !pods.is_empty()
                && !pods
                    .iter()
                    .any(|pod| pod.resolve_port(&port.target, port.transport).is_some())
            {
                warn(
                    format!("spec.ports[{nth}].targetPort"),
                    "no selected Pod has a port of this name".to_owned(),
                );
            }
        }
    }

    fn pods_of<'i>(
        &'i self,
        namespace: &'i str,
        selector: &'i BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Pod> + 'i {
        let chosen = move |pod: &&&'a Pod| {
            pod.meta.name.namespace == namespace && selects(selector, &pod.meta.labels)
        };
        self.pods.iter().filter(chosen).copied()
    }
}
