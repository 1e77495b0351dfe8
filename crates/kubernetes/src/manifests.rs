//! What `tasuki install` puts into a cluster, as Kubernetes' own types, from [`InstallSettings`]. The Helm chart in
//! `deploy/tasuki` is written by hand and must give the same objects; a test compares them.

mod rbac;
mod settings;
mod webhooks;
mod workload;

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use crate::names::{CONTROL, INJECT_LABEL, PART_OF, PART_OF_LABEL, SYSTEM_NAMESPACE};

pub use settings::{
    Error, FailurePolicy, Image, Injection, InstallSettings, OutboundTrafficPolicy, Proxy,
    PullPolicy, Resources, Toleration, VERSION, Values, Webhook,
};

/// Everything but the kinds (CRDs), which are there for all installations of a cluster and outlive them.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests {
    pub namespace: Namespace,
    pub service_account: ServiceAccount,
    pub cluster_role: ClusterRole,
    pub cluster_role_binding: ClusterRoleBinding,
    pub role: Role,
    pub role_binding: RoleBinding,
    pub service: Service,
    pub deployment: Deployment,
    pub disruption_budget: PodDisruptionBudget,
    /// `None` where the settings do without.
    pub network_policy: Option<NetworkPolicy>,
    pub mutating_webhook: MutatingWebhookConfiguration,
    pub validating_webhook: ValidatingWebhookConfiguration,
}

impl Manifests {
    pub fn render(settings: &InstallSettings) -> Self {
        Self {
            namespace: namespace(settings),
            service_account: rbac::service_account(settings),
            cluster_role: rbac::cluster_role(),
            cluster_role_binding: rbac::cluster_role_binding(),
            role: rbac::role(),
            role_binding: rbac::role_binding(),
            service: workload::service(),
            deployment: workload::deployment(settings),
            disruption_budget: workload::disruption_budget(),
            network_policy: settings
                .network_policy
                .then(|| workload::network_policy(settings)),
            mutating_webhook: webhooks::mutating(settings),
            validating_webhook: webhooks::validating(settings),
        }
    }

    /// As the API server takes them, in the order in which they may be applied.
    ///
    /// # Errors
    /// Never: all of them have text as keys.
    pub fn objects(&self) -> Result<Vec<Value>, serde_json::Error> {
        let mut objects = vec![
            value(&self.namespace)?,
            value(&self.service_account)?,
            value(&self.cluster_role)?,
            value(&self.cluster_role_binding)?,
            value(&self.role)?,
            value(&self.role_binding)?,
            value(&self.service)?,
            value(&self.deployment)?,
            value(&self.disruption_budget)?,
        ];
        if let Some(policy) = &self.network_policy {
            objects.push(value(policy)?);
        }
        objects.push(value(&self.mutating_webhook)?);
        objects.push(value(&self.validating_webhook)?);
        Ok(objects)
    }
}

/// As `kubectl apply -f` reads them.
///
/// # Errors
/// Never: JSON is YAML.
pub fn to_yaml(objects: &[Value]) -> Result<String, serde_saphyr::ser::Error> {
    // Quotes wherever there is text: which bare words are text, YAML 1.1 and 1.2 do not agree on.
    let options = serde_saphyr::ser_options! { quote_all: true, compact_list_indent: true };
    serde_saphyr::to_string_multiple_with_options(objects, options)
}

fn value(object: &impl Serialize) -> Result<Value, serde_json::Error> {
    serde_json::to_value(object)
}

/// Not injected, and for pods without any privilege, unless they are to be in their node's network.
fn namespace(settings: &InstallSettings) -> Namespace {
    let level = if settings.webhook.host_network {
        "privileged"
    } else {
        "restricted"
    };
    let mut labels = labels();
    labels.extend(text_map(&[
        (INJECT_LABEL, "disabled"),
        ("pod-security.kubernetes.io/enforce", level),
    ]));
    Namespace {
        metadata: ObjectMeta {
            name: Some(SYSTEM_NAMESPACE.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// Metadata of an object of the control plane that belongs to no namespace.
fn cluster_metadata() -> ObjectMeta {
    ObjectMeta {
        name: Some(CONTROL.to_owned()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object of the control plane in its namespace.
fn metadata() -> ObjectMeta {
    ObjectMeta {
        namespace: Some(SYSTEM_NAMESPACE.to_owned()),
        ..cluster_metadata()
    }
}

fn labels() -> BTreeMap<String, String> {
    let mut labels = selector();
    labels.extend(text_map(&[
        (PART_OF_LABEL, PART_OF),
        ("app.kubernetes.io/version", VERSION),
    ]));
    labels
}

/// What the control plane's pods are known by; a Deployment's cannot be changed later.
fn selector() -> BTreeMap<String, String> {
    text_map(&[("app.kubernetes.io/name", CONTROL)])
}

fn text_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests;
