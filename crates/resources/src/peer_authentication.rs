//! Istio's `PeerAuthentication`: whether a workload asks its callers for mTLS.

use std::collections::BTreeMap;

use crate::fields::{Fields, Value, label_map};
use crate::object::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    pub meta: Metadata,
    /// Empty: the whole namespace (the mesh, in the root namespace).
    pub selector: BTreeMap<String, String>,
    /// `None`: unset, inherits (workload, then namespace, then mesh; PERMISSIVE in the end).
    pub mode: Option<MtlsMode>,
    /// By the workload's port; `None` inherits `mode`. Only with a selector.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    Disable,
    Permissive,
    Strict,
}

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<PeerAuthentication> {
    let mut policy = PeerAuthentication {
        meta,
        selector: BTreeMap::new(),
        mode: None,
        ports: BTreeMap::new(),
    };
    let Some(spec) = spec else {
        return Some(policy);
    };
    policy.selector = read_selector(&spec);
    policy.mode = spec.get("mtls").and_then(|v| read_mode(&v));
    if let Some(ports) = spec.get("portLevelMtls") {
        policy.ports = read_ports(&ports);
        if policy.selector.is_empty() {
            ports.error(
                "portLevelMtls requires selector",
                "ports are those of a workload: select it with selector.matchLabels",
            );
        }
    }
    spec.finish();
    Some(policy)
}

/// `selector.matchLabels`; absent and empty are the same.
pub(crate) fn read_selector(spec: &Fields<'_>) -> BTreeMap<String, String> {
    let Some(selector) = spec.get("selector").and_then(|v| v.fields()) else {
        return BTreeMap::new();
    };
    let labels = selector
        .get("matchLabels")
        .map(|v| label_map(&v))
        .unwrap_or_default();
    selector.finish();
    labels
}

fn read_ports(value: &Value<'_>) -> BTreeMap<u16, Option<MtlsMode>> {
    let entries = value.entries();
    if entries.is_empty() {
        value.error("should have at least one port", "remove it");
    }
    let mut ports = BTreeMap::new();
    for (key, mtls) in &entries {
        match key.parse::<u16>() {
            Ok(port) if port > 0 => drop(ports.insert(port, read_mode(mtls))),
            _ => mtls.error(
                format!("{key:?} is not a port"),
                "port must be between 1-65535",
            ),
        }
    }
    ports
}

fn read_mode(value: &Value<'_>) -> Option<MtlsMode> {
    let mtls = value.fields()?;
    let mode = mtls.get("mode").and_then(|v| {
        v.choice(&[
            ("UNSET", None),
            ("DISABLE", Some(MtlsMode::Disable)),
            ("PERMISSIVE", Some(MtlsMode::Permissive)),
            ("STRICT", Some(MtlsMode::Strict)),
        ])
    });
    mtls.finish();
    mode.flatten()
}

#[cfg(test)]
mod tests {
    use super::{MtlsMode, PeerAuthentication};
    use crate::{Object, parse_documents};

    fn read(spec: &str) -> PeerAuthentication {
        let text = format!(
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{name: x}}\n{spec}"
        );
        match parse_documents("", &text).remove(0).object {
            Some(Object::PeerAuthentication(policy)) => policy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn modes_and_ports() {
        let policy = read(
            "spec: {selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, \"81\": {mode: UNSET}, 82: {}}}\n",
        );
        assert_eq!(policy.mode, Some(MtlsMode::Strict));
        let ports: Vec<_> = policy.ports.into_iter().collect();
        assert_eq!(
            ports,
            [(81, None), (82, None), (8080, Some(MtlsMode::Permissive))]
        );
        assert_eq!(read("spec: {selector: {}, mtls: {}}\n").mode, None);
        assert!(read("").selector.is_empty());
    }
}
