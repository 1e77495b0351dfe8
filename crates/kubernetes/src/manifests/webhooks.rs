//! Which requests the API server asks the control plane about. Our own namespace and `kube-system` are never among those
//! for pods: with `failurePolicy: Fail` and no control plane left, its pods and the cluster's must still start.
//!
//! `caBundle` is not here: the control plane writes it, and what is not sent is not taken away by a later apply.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::settings::FailurePolicy;
use super::{InstallSettings, cluster_metadata, texts};
use crate::names::{
    CONTROL, INJECT_LABEL, INJECT_PATH, ISTIO_INJECTION_LABEL, ISTIO_REVISION_LABEL,
    SYSTEM_NAMESPACE, VALIDATE_PATH,
};

/// The API server's label on each namespace with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Istio's, of a pod.
const ISTIO_INJECT_LABEL: &str = "sidecar.istio.io/inject";
/// Enough for a control plane that is busy, and less than what would hold up a ReplicaSet for long.
const TIMEOUT: i32 = 10;

/// One webhook for namespaces that are injected and one for pods that ask for it where nobody decided for the namespace;
/// they exclude each other, so that a pod is sent once.
pub fn mutating(settings: &InstallSettings) -> MutatingWebhookConfiguration {
    let mut webhooks = vec![
        injector(
            settings,
            "namespace.inject.tasuki.dev",
            vec![is(INJECT_LABEL, &["enabled"])],
            vec![is_not(INJECT_LABEL, &["disabled"])],
        ),
        injector(
            settings,
            "object.inject.tasuki.dev",
            vec![is_not(INJECT_LABEL, &["enabled", "disabled"])],
            vec![is(INJECT_LABEL, &["enabled"])],
        ),
    ];
    if settings.injection.istio_label {
        webhooks.push(injector(
            settings,
            "istio.inject.tasuki.dev",
            vec![
                is(ISTIO_INJECTION_LABEL, &["enabled"]),
                is_not(INJECT_LABEL, &["enabled", "disabled"]),
            ],
            vec![
                is_not(INJECT_LABEL, &["enabled", "disabled"]),
                is_not(ISTIO_INJECT_LABEL, &["false"]),
            ],
        ));
    }
    MutatingWebhookConfiguration {
        metadata: cluster_metadata(),
        webhooks: Some(webhooks),
    }
}

fn injector(
    settings: &InstallSettings,
    name: &str,
    mut namespaces: Vec<LabelSelectorRequirement>,
    pods: Vec<LabelSelectorRequirement>,
) -> MutatingWebhook {
    namespaces.push(is_not(NAME_LABEL, &["kube-system", SYSTEM_NAMESPACE]));
    MutatingWebhook {
        name: name.to_owned(),
        client_config: client(INJECT_PATH),
        rules: Some(vec![RuleWithOperations {
            operations: Some(texts(&["CREATE"])),
            api_groups: Some(texts(&[""])),
            api_versions: Some(texts(&["v1"])),
            resources: Some(texts(&["pods"])),
            scope: Some("Namespaced".to_owned()),
        }]),
        namespace_selector: Some(selector(namespaces)),
        object_selector: Some(selector(pods)),
        failure_policy: Some(failure_policy(settings)),
        match_policy: Some("Equivalent".to_owned()),
        // Containers that a later webhook adds need their probes rewritten as well.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT),
        admission_review_versions: texts(&["v1"]),
        ..MutatingWebhook::default()
    }
}

/// Our kinds and those of Istio that we read, in every namespace that is not Istio's: our own has the mesh-wide ones.
pub fn validating(settings: &InstallSettings) -> ValidatingWebhookConfiguration {
    let mut namespaces = vec![
        is_not(INJECT_LABEL, &["disabled"]),
        is_not(NAME_LABEL, &["istio-system", SYSTEM_NAMESPACE]),
    ];
    if !settings.injection.istio_label {
        namespaces.push(is_not(ISTIO_INJECTION_LABEL, &["enabled"]));
        namespaces.push(LabelSelectorRequirement {
            key: ISTIO_REVISION_LABEL.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        });
    }
    // Not by its inject label, which keeps pods out.
    let system = vec![is(NAME_LABEL, &[SYSTEM_NAMESPACE])];
    ValidatingWebhookConfiguration {
        metadata: cluster_metadata(),
        webhooks: Some(vec![
            validator(settings, "namespace.validate.tasuki.dev", namespaces),
            validator(settings, "system.validate.tasuki.dev", system),
            label_reader(),
        ]),
    }
}

fn validator(
    settings: &InstallSettings,
    name: &str,
    namespaces: Vec<LabelSelectorRequirement>,
) -> ValidatingWebhook {
    ValidatingWebhook {
        name: name.to_owned(),
        client_config: client(VALIDATE_PATH),
        rules: Some(vec![
            written(
                "networking.istio.io",
                &[
                    "destinationrules",
                    "gateways",
                    "serviceentries",
                    "virtualservices",
                ],
            ),
            written(
                "security.istio.io",
                &["authorizationpolicies", "peerauthentications"],
            ),
            written("tasuki.dev", &["meshsettings"]),
        ]),
        namespace_selector: Some(selector(namespaces)),
        failure_policy: Some(failure_policy(settings)),
        match_policy: Some("Equivalent".to_owned()),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT),
        admission_review_versions: texts(&["v1"]),
        ..ValidatingWebhook::default()
    }
}

/// Warns of a namespace's label that nobody acts on, and is asked about no other namespace. It stands in nobody's way.
fn label_reader() -> ValidatingWebhook {
    let labels = vec![
        LabelSelectorRequirement {
            key: INJECT_LABEL.to_owned(),
            operator: "Exists".to_owned(),
            values: None,
        },
        is_not(INJECT_LABEL, &["enabled", "disabled"]),
    ];
    ValidatingWebhook {
        name: "label.validate.tasuki.dev".to_owned(),
        client_config: client(VALIDATE_PATH),
        rules: Some(vec![RuleWithOperations {
            api_versions: Some(texts(&["v1"])),
            ..written("", &["namespaces"])
        }]),
        object_selector: Some(selector(labels)),
        failure_policy: Some("Ignore".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(TIMEOUT / 2),
        admission_review_versions: texts(&["v1"]),
        ..ValidatingWebhook::default()
    }
}

fn written(group: &str, resources: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        operations: Some(texts(&["CREATE", "UPDATE"])),
        api_groups: Some(texts(&[group])),
        api_versions: Some(texts(&["*"])),
        resources: Some(texts(resources)),
        scope: Some("*".to_owned()),
    }
}

fn client(path: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            name: CONTROL.to_owned(),
            namespace: SYSTEM_NAMESPACE.to_owned(),
            path: Some(path.to_owned()),
            port: Some(443),
        }),
        ..WebhookClientConfig::default()
    }
}

fn failure_policy(settings: &InstallSettings) -> String {
    match settings.webhook.failure_policy {
        FailurePolicy::Fail => "Fail",
        FailurePolicy::Ignore => "Ignore",
    }
    .to_owned()
}

fn selector(requirements: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector {
        match_expressions: Some(requirements),
        ..LabelSelector::default()
    }
}

fn is(label: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(label, "In", values)
}

/// Also true of what has no such label.
fn is_not(label: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(label, "NotIn", values)
}

fn requirement(label: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: label.to_owned(),
        operator: operator.to_owned(),
        values: Some(texts(values)),
    }
}
