//! What only the whole mesh shows to be wrong: references to nothing, rules that never apply, ports
//! that a gateway may not have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tasuki_resources::virtual_service::{
    GatewayRef, HttpAction, VirtualService, WeightedDestination,
};
use tasuki_resources::{Kind, NamespacedName, ObjectKey, Severity};

use super::config::Config;
use super::report::Report;
use super::service_entries::PROXY_PORTS;
use super::services::{Origin, Service, competes};

/// Adds what is wrong to the report.
pub(super) fn report(mesh: &Config, report: &mut Report<'_>) {
    for vs in mesh.virtual_services.iter() {
        destinations(mesh, vs, report);
        gateway_references(mesh, vs, report);
    }
    for (host, names) in mesh.virtual_services.merged() {
        let (first, rest) = (&names[0], &names[1..]);
        for name in rest {
            let reason = format!(
                "{host} is also routed by VirtualService {first}; the rules of that one come first"
            );
            report.add(
                Severity::Info,
                &key(Kind::VirtualService, name),
                "spec.hosts",
                reason,
            );
        }
    }
    for (winner, loser) in mesh.destination_rules.shadowed() {
        let reason = format!(
            "DestinationRule {} for the same host is older or comes first; this one is not used",
            winner.meta.name
        );
        report.add(
            Severity::Warning,
            &key(Kind::DestinationRule, &loser.meta.name),
            "spec.host",
            reason,
        );
    }
    shared_addresses(mesh, report);
    for gateway in mesh.gateways.iter() {
        for (index, server) in gateway.servers.iter().enumerate() {
            if PROXY_PORTS.contains(&server.port) {
                let field = format!("spec.servers[{index}].port.number");
                let reason = format!(
                    "{} is one of the proxy's own ports; the server is left out",
                    server.port
                );
                report.add(
                    Severity::Error,
                    &key(Kind::Gateway, &gateway.meta.name),
                    field,
                    reason,
                );
            }
        }
    }
}

/// Two services with one address and port: only the first can be called by it.
fn shared_addresses(mesh: &Config, report: &mut Report<'_>) {
    let mut seen: HashMap<(IpAddr, u16), &Arc<Service>> = HashMap::new();
    for service in mesh.services.iter() {
        let ports = service.ports.iter().map(|port| port.number);
        for key in ports.flat_map(|port| service.addresses.iter().map(move |a| (*a, port))) {
            let first = *seen.entry(key).or_insert(service);
            // The hosts of one ServiceEntry share its addresses on purpose; others do no harm where nobody sees both.
            let same = (&first.namespace, &first.name) == (&service.namespace, &service.name);
            if same || !competes(&first.exported, &service.exported) {
                continue;
            }
            let kind = match service.origin {
                Origin::Kubernetes => Kind::Service,
                Origin::ServiceEntry => Kind::ServiceEntry,
            };
            let name = NamespacedName::new(service.namespace.clone(), service.name.clone());
            let reason = format!(
                "{} port {} is already {}; it stays with that",
                key.0, key.1, first.host
            );
            report.add(Severity::Error, &self::key(kind, &name), "spec", reason);
        }
    }
}

fn destinations(mesh: &Config, vs: &VirtualService, report: &mut Report<'_>) {
    for (index, rule) in vs.http.iter().enumerate() {
        let HttpAction::Forward(forward) = &rule.action else {
            continue;
        };
        for (nth, destination) in forward.destinations.iter().enumerate() {
            let field = format!("spec.http[{index}].route[{nth}].destination");
            if let Some((part, reason, severity)) = fault(mesh, vs, destination) {
                report.add(
                    severity,
                    &key(Kind::VirtualService, &vs.meta.name),
                    format!("{field}.{part}"),
                    reason,
                );
            }
        }
    }
}

fn fault(
    mesh: &Config,
    vs: &VirtualService,
    destination: &WeightedDestination,
) -> Option<(&'static str, String, Severity)> {
    let namespace = &vs.meta.name.namespace;
    let host = &destination.host;
    let Some(service) = mesh.services.destination(host, namespace) else {
        return Some((
            "host",
            format!("no service {host} is known; the rule is withheld"),
            Severity::Error,
        ));
    };
    if let Some(port) = destination.port
        && service.port(port).is_none()
    {
        let reason = format!("{host} has no port {port}; the rule is withheld");
        return Some(("port.number", reason, Severity::Error));
    }
    let subset = destination.subset.as_deref()?;
    // Clients elsewhere may have a rule of their own; this is what most of them see.
    let rule = mesh
        .destination_rules
        .find(&service.host, &service.namespace, namespace);
    if rule.is_some_and(|rule| rule.subset(subset).is_some()) {
        return None;
    }
    let reason = format!(
        "no DestinationRule defines the subset {subset} of {host}; its share of requests fails"
    );
    Some(("subset", reason, Severity::Error))
}

fn gateway_references(mesh: &Config, vs: &VirtualService, report: &mut Report<'_>) {
    for gateway in &vs.gateways {
        let GatewayRef::Gateway(name) = gateway else {
            continue;
        };
        let Some(found) = mesh.gateways.get(name) else {
            let reason = format!("there is no Gateway {name}");
            report.add(
                Severity::Warning,
                &key(Kind::VirtualService, &vs.meta.name),
                "spec.gateways",
                reason,
            );
            continue;
        };
        let served = |host| {
            found
                .servers
                .iter()
                .any(|s| !s.serves(&vs.meta.name.namespace, host).is_empty())
        };
        if !vs.hosts.iter().any(served) {
            let reason = format!("no server of Gateway {name} has any of the hosts");
            report.add(
                Severity::Warning,
                &key(Kind::VirtualService, &vs.meta.name),
                "spec.hosts",
                reason,
            );
        }
    }
}

fn key(kind: Kind, name: &NamespacedName) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}
