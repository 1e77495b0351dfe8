//! Who the control plane is in the cluster and what it may do there: [`crate::access`] as objects.

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::{InstallSettings, cluster_metadata, metadata, texts};
use crate::access::{self, Rule};
use crate::names::{CONTROL, SYSTEM_NAMESPACE};

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn service_account(settings: &InstallSettings) -> ServiceAccount {
    let secrets = &settings.image.pull_secrets;
    ServiceAccount {
        metadata: metadata(),
        image_pull_secrets: (!secrets.is_empty()).then(|| {
            secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect()
        }),
        ..ServiceAccount::default()
    }
}

pub fn cluster_role() -> ClusterRole {
    ClusterRole {
        metadata: cluster_metadata(),
        rules: Some(rules(access::CLUSTER)),
        ..ClusterRole::default()
    }
}

pub fn cluster_role_binding() -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: cluster_metadata(),
        role_ref: role_ref("ClusterRole"),
        subjects: Some(vec![subject()]),
    }
}

pub fn role() -> Role {
    Role {
        metadata: metadata(),
        rules: Some(rules(access::NAMESPACE)),
    }
}

pub fn role_binding() -> RoleBinding {
    RoleBinding {
        metadata: metadata(),
        role_ref: role_ref("Role"),
        subjects: Some(vec![subject()]),
    }
}

fn role_ref(kind: &str) -> RoleRef {
    RoleRef {
        api_group: GROUP.to_owned(),
        kind: kind.to_owned(),
        name: CONTROL.to_owned(),
    }
}

fn subject() -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: CONTROL.to_owned(),
        namespace: Some(SYSTEM_NAMESPACE.to_owned()),
        ..Subject::default()
    }
}

fn rules(parts: &[&[Rule]]) -> Vec<PolicyRule> {
    parts.iter().copied().flatten().map(policy_rule).collect()
}

fn policy_rule(rule: &Rule) -> PolicyRule {
    PolicyRule {
        api_groups: Some(texts(&[rule.group])),
        resources: Some(texts(rule.resources)),
        resource_names: (!rule.names.is_empty()).then(|| texts(rule.names)),
        verbs: texts(rule.verbs),
        ..PolicyRule::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// Rules as the chart has them, with their reasons.
    fn text(parts: &[&[Rule]]) -> String {
        let quoted = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
            texts.join(", ")
        };
        if parts.concat().is_empty() {
            return "[]\n".to_owned();
        }
        let mut text = String::from("# From crates/kubernetes/src/access.rs.\n");
        for rule in parts.iter().copied().flatten() {
            write!(
                text,
                "# {}\n- apiGroups: [{}]\n",
                rule.reason,
                quoted(&[rule.group])
            )
            .unwrap();
            writeln!(text, "  resources: [{}]", quoted(rule.resources)).unwrap();
            if !rule.names.is_empty() {
                writeln!(text, "  resourceNames: [{}]", quoted(rule.names)).unwrap();
            }
            writeln!(text, "  verbs: [{}]", quoted(rule.verbs)).unwrap();
        }
        text
    }

    /// `TASUKI_BLESS=1` writes the files instead.
    #[test]
    fn the_charts_rules_are_ours() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/tasuki/files");
        for (file, rules) in [
            ("cluster-rules.yaml", access::CLUSTER),
            ("namespace-rules.yaml", access::NAMESPACE),
        ] {
            let path = format!("{folder}/{file}");
            if std::env::var_os("TASUKI_BLESS").is_some() {
                std::fs::write(&path, text(rules)).unwrap();
            }
            let chart = std::fs::read_to_string(&path).unwrap();
            assert_eq!(
                chart,
                text(rules),
                "to write {file} anew: TASUKI_BLESS=1 cargo test -p tasuki-kubernetes the_charts_rules"
            );
        }
    }
}
