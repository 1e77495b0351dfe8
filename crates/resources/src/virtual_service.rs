//! Istio's `VirtualService`: how requests for a host are routed.

use std::time::Duration;

use crate::export::{self, ExportTo};
use crate::fields::{Fields, Value, host, is_dns_label, is_dns_subdomain};
use crate::host::Host;
use crate::object::{Metadata, NamespacedName};

mod action;
mod headers;
mod matching;
mod retries;

pub use action::{
    DirectResponse, Forward, HttpAction, Redirect, RedirectPath, RedirectPort, Rewrite,
    WeightedDestination,
};
pub use headers::{HeaderOperations, Headers};
pub use matching::{HttpMatch, StringMatch, ValueMatch};
pub use retries::{Retries, RetryOn};

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    pub meta: Metadata,
    /// Short names are expanded in the object's namespace; never empty.
    pub hosts: Vec<Host>,
    /// Never empty; [`GatewayRef::Mesh`] alone when the user names none.
    pub gateways: Vec<GatewayRef>,
    pub http: Vec<HttpRule>,
    pub export_to: ExportTo,
}

/// Who applies a rule: the sidecars, or a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// `mesh`: all sidecars.
    Mesh,
    Gateway(NamespacedName),
}

/// One entry of `http`: the first whose match fits decides.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    pub name: Option<String>,
    /// Any of these; empty matches every request.
    pub matches: Vec<HttpMatch>,
    pub action: HttpAction,
    /// Whole request including retries; `None` is no limit.
    pub timeout: Option<Duration>,
    /// `None`: the mesh's safe default.
    pub retries: Option<Retries>,
    pub headers: Headers,
}

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<VirtualService> {
    let spec = spec?;
    spec.not_honoured(&["tcp", "tls"]);
    let gateways = spec
        .get("gateways")
        .map(|v| read_gateways(&v))
        .unwrap_or_default();
    let gateways = if gateways.is_empty() {
        vec![GatewayRef::Mesh]
    } else {
        gateways
    };
    let hosts = spec
        .require("hosts")
        .map(|v| read_hosts(&v, &meta.name.namespace, &gateways));
    let http: Vec<_> = spec
        .get("http")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| read_rule(&v))
        .collect();
    if http.is_empty()
        && spec.count(&["tcp", "tls"]) == 0
        && spec.get("http").is_none_or(|v| v.list().is_empty())
    {
        spec.error_at(
            "http",
            "is missing",
            "a VirtualService needs at least one rule",
        );
    }
    warn_unreachable(&spec, &http);
    let export_to = export::read(spec.get("exportTo"));
    spec.finish();
    Some(VirtualService {
        meta,
        hosts: hosts?,
        gateways,
        http,
        export_to,
    })
}

fn read_hosts(value: &Value<'_>, namespace: &str, gateways: &[GatewayRef]) -> Vec<Host> {
    let items = value.list();
    if items.is_empty() {
        value.error(
            "is empty",
            "a VirtualService names at least one host (delegates are not honoured yet)",
        );
    }
    let mut hosts: Vec<Host> = Vec::new();
    for item in &items {
        let Some(host) = host(item, Some(namespace)) else {
            continue;
        };
        if host == Host::Suffix(String::new()) && gateways.contains(&GatewayRef::Mesh) {
            item.error(
                "wildcard host * is not allowed for virtual services bound to the mesh gateway",
                "name the hosts",
            );
        } else if hosts.contains(&host) {
            item.error(format!("host {host} is given twice"), "");
        } else {
            hosts.push(host);
        }
    }
    hosts
}

/// `mesh`, `NAME`, `NAMESPACE/NAME`, or the old `NAME.NAMESPACE.svc.cluster.local`.
fn read_gateways(value: &Value<'_>) -> Vec<GatewayRef> {
    let mut gateways = Vec::new();
    for item in value.list() {
        let Some(text) = item.text() else { continue };
        let name = match (
            text,
            text.split_once('/'),
            crate::host::parse_service_host(text),
        ) {
            ("mesh", ..) => {
                gateways.push(GatewayRef::Mesh);
                continue;
            }
            (_, Some((namespace, name)), _) => NamespacedName::new(namespace, name),
            (_, None, Some((namespace, name))) => NamespacedName::new(namespace, name),
            _ => NamespacedName::new(item.report.namespace.clone(), text),
        };
        if !is_dns_label(&name.namespace) || !is_dns_subdomain(&name.name) {
            item.error(
                format!("{text:?} is not a gateway"),
                "write mesh, NAME or NAMESPACE/NAME",
            );
            continue;
        }
        gateways.push(GatewayRef::Gateway(name));
    }
    gateways
}

fn read_rule(value: &Value<'_>) -> Option<HttpRule> {
    let rule = value.fields()?;
    rule.not_honoured(&[
        "fault",
        "mirror",
        "mirrorPercent",
        "mirror_percent",
        "mirrorPercentage",
        "mirrors",
        "corsPolicy",
        "delegate",
    ]);
    let matches = rule
        .get("match")
        .iter()
        .flat_map(Value::list)
        .filter_map(|v| matching::read(&v))
        .collect();
    let action = action::read(&rule);
    let read = HttpRule {
        name: rule.get("name").and_then(|v| v.text().map(str::to_owned)),
        matches,
        timeout: rule.get("timeout").and_then(|v| v.duration()),
        retries: rule.get("retries").and_then(|v| retries::read(&v)),
        headers: rule
            .get("headers")
            .map(|v| headers::read(&v))
            .unwrap_or_default(),
        action: action.unwrap_or(HttpAction::Direct(DirectResponse {
            status: 500,
            body: Vec::new(),
        })),
    };
    rule.finish();
    Some(read)
}

/// Rules behind one that matches everything for everyone.
fn warn_unreachable(spec: &Fields<'_>, rules: &[HttpRule]) {
    let everything = |m: &HttpMatch| {
        m.is_catch_all()
            && m.port.is_none()
            && m.gateways.is_empty()
            && m.source_labels.is_empty()
            && m.source_namespace.is_none()
    };
    let catch_all = rules
        .iter()
        .position(|rule| rule.matches.is_empty() || rule.matches.iter().any(everything));
    let items = spec.get("http").map(|v| v.list()).unwrap_or_default();
    // Rules that could not be read would shift the positions.
    if let Some(index) =
        catch_all.filter(|index| items.len() == rules.len() && index + 1 < rules.len())
    {
        items[index + 1].warn(
            format!("cannot be reached: rule {index} matches everything"),
            "move the general rule to the end",
        );
    }
}

#[cfg(test)]
mod tests;
