//! The control plane itself: its pods, how they are reached and what keeps them from all being away at once.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, Service, ServicePort, ServiceSpec, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::settings::{OutboundTrafficPolicy, PullPolicy};
use super::{InstallSettings, labels, metadata, selector, text_map, texts};
use crate::names::{CONTROL, CONTROL_ADMIN_PORT, CONTROL_HOST, XDS_PORT};

/// The user that images for unprivileged programs commonly have.
const UID: i64 = 65532;

/// Seconds from SIGTERM: 5 in which endpoints forget it, up to 11 for last answers, up to 9 to hand the leadership over.
const ENDING: i64 = 30;

pub fn service() -> Service {
    let port = |name: &str, port: u16, target: &str| ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        target_port: Some(IntOrString::String(target.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(),
        spec: Some(ServiceSpec {
            selector: Some(selector()),
            ports: Some(vec![
                port("tls-xds", XDS_PORT, "xds"),
                port("https-webhook", 443, "webhook"),
                port("http-metrics", CONTROL_ADMIN_PORT, "metrics"),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub fn deployment(settings: &InstallSettings) -> Deployment {
    // In their nodes' network a second pod does not fit beside the first: the old one goes before the new one comes.
    let (surge, unavailable) = if settings.webhook.host_network {
        (0, 1)
    } else {
        (1, 0)
    };
    Deployment {
        metadata: metadata(),
        spec: Some(DeploymentSpec {
            replicas: Some(settings.replicas.into()),
            selector: pods(),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    annotations: Some(text_map(&[
                        ("prometheus.io/scrape", "true"),
                        ("prometheus.io/port", "15014"),
                        ("prometheus.io/path", "/metrics"),
                    ])),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(settings)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(settings: &InstallSettings) -> PodSpec {
    let host = settings.webhook.host_network;
    let class = &settings.priority_class_name;
    PodSpec {
        service_account_name: Some(CONTROL.to_owned()),
        // With the names of services in its environment the program's own TASUKI_* variables would clash.
        enable_service_links: Some(false),
        priority_class_name: (!class.is_empty()).then(|| class.clone()),
        host_network: host.then_some(true),
        dns_policy: host.then(|| "ClusterFirstWithHostNet".to_owned()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(ENDING),
        topology_spread_constraints: Some(vec![
            spread("kubernetes.io/hostname"),
            spread("topology.kubernetes.io/zone"),
        ]),
        node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
        tolerations: (!settings.tolerations.is_empty())
            .then(|| settings.tolerations.iter().map(toleration).collect()),
        containers: vec![container(settings)],
        ..PodSpec::default()
    }
}

/// Apart where that can be; where it cannot, two on one node are better than one.
fn spread(key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(pods()),
        ..TopologySpreadConstraint::default()
    }
}

fn toleration(toleration: &super::Toleration) -> Toleration {
    Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        toleration_seconds: toleration.toleration_seconds,
    }
}

fn container(settings: &InstallSettings) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        ..ContainerPort::default()
    };
    Container {
        name: CONTROL.to_owned(),
        image: Some(settings.control_image()),
        image_pull_policy: Some(
            match settings.image.pull_policy {
                PullPolicy::Always => "Always",
                PullPolicy::IfNotPresent => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
        ),
        args: Some(arguments(settings)),
        env: Some(environment(settings)),
        ports: Some(vec![
            port("xds", XDS_PORT),
            port("webhook", settings.webhook.port),
            port("metrics", CONTROL_ADMIN_PORT),
        ]),
        // It serves once the API server has listed everything, and one that is away is waited for.
        startup_probe: Some(probe("/live", 2, 300)),
        readiness_probe: Some(probe("/ready", 5, 2)),
        // Generous: a control plane that is slow must not be killed for it.
        liveness_probe: Some(probe("/live", 10, 6)),
        resources: resources(settings),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(texts(&["ALL"])),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn arguments(settings: &InstallSettings) -> Vec<String> {
    let policy = match settings.outbound_traffic_policy {
        OutboundTrafficPolicy::AllowAny => "allow-any",
        OutboundTrafficPolicy::RegistryOnly => "registry-only",
    };
    let mut arguments = vec![
        "--kubernetes".to_owned(),
        format!("--xds-tls=0.0.0.0:{XDS_PORT}"),
        format!("--xds-tls-name={CONTROL_HOST}"),
        format!("--admin=0.0.0.0:{CONTROL_ADMIN_PORT}"),
        format!("--webhook=0.0.0.0:{}", settings.webhook.port),
        format!("--trust-domain={}", settings.trust_domain),
        format!("--outbound-traffic-policy={policy}"),
        format!("--proxy-image={}", settings.proxy_image()),
    ];
    if settings.injection.istio_label {
        arguments.push("--istio-injection-label".to_owned());
    }
    arguments
}

fn environment(settings: &InstallSettings) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        EnvVar {
            name: "TASUKI_LOG".to_owned(),
            value: Some(settings.log_level.clone()),
            ..EnvVar::default()
        },
    ]
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn resources(settings: &InstallSettings) -> Option<ResourceRequirements> {
    let wanted = &settings.resources;
    if wanted.requests.is_empty() && wanted.limits.is_empty() {
        return None;
    }
    let quantities = |named: &BTreeMap<String, String>| {
        (!named.is_empty()).then(|| {
            named
                .iter()
                .map(|(name, quantity)| (name.clone(), Quantity(quantity.clone())))
                .collect()
        })
    };
    Some(ResourceRequirements {
        requests: quantities(&wanted.requests),
        limits: quantities(&wanted.limits),
        ..ResourceRequirements::default()
    })
}

/// Counts who is away, not who is there: with one replica a node can still be emptied.
pub fn disruption_budget() -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that does not work must not keep a node from being emptied.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(pods()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// What listens is reachable, from wherever sidecars, API servers and Prometheus are; nothing else in the pod is.
pub fn network_policy(settings: &InstallSettings) -> NetworkPolicy {
    let port = |port: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicy {
        metadata: metadata(),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods()),
            policy_types: Some(texts(&["Ingress"])),
            ingress: Some(vec![NetworkPolicyIngressRule {
                ports: Some(vec![
                    port(XDS_PORT),
                    port(settings.webhook.port),
                    port(CONTROL_ADMIN_PORT),
                ]),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn pods() -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector()),
        ..LabelSelector::default()
    }
}
