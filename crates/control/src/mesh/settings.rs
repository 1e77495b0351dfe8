//! What is the same for the whole mesh: what the control plane was started with, under the `MeshSettings` in force.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tasuki_identity::TrustDomain;
use tasuki_resources::destination_rule::{ConnectionPool, RetryBudget};
use tasuki_resources::mesh_settings::{AccessLog, Injection, NAME, OutboundTrafficPolicy};
use tasuki_resources::{Kind, MeshSettings as Declared, ObjectKey, Severity};

use super::report::Report;

/// The settings of one mesh. The object's fields come before the flags.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSettings {
    pub trust_domain: TrustDomain,
    pub root_namespace: String,
    outbound_traffic_policy: OutboundTrafficPolicy,
    certificate_ttl: Duration,
    /// Whether the API server sends the pods of namespaces with Istio's label to the webhook; `None` without one.
    istio_label: Option<bool>,
    declared: Arc<Declared>,
}

impl MeshSettings {
    /// As the flags have it.
    pub fn new(
        trust_domain: TrustDomain,
        root_namespace: impl Into<String>,
        outbound_traffic_policy: OutboundTrafficPolicy,
        certificate_ttl: Duration,
    ) -> Self {
        Self {
            trust_domain,
            root_namespace: root_namespace.into(),
            outbound_traffic_policy,
            certificate_ttl,
            istio_label: None,
            declared: Arc::default(),
        }
    }

    /// In a cluster, installed to honour Istio's label or not.
    pub fn with_istio_label(mut self, honoured: bool) -> Self {
        self.istio_label = Some(honoured);
        self
    }

    /// The same flags under what `all` declare now. Those that are not in the
    /// root namespace are reported; those of another name have been.
    pub(super) fn declared_by(&self, all: &[&Declared], report: &mut Report<'_>) -> Self {
        let mut own = Arc::default();
        for object in all.iter().filter(|object| object.meta.name.name == NAME) {
            if object.meta.name.namespace == self.root_namespace {
                self.warn_of_label(object, report);
                own = Arc::new((*object).clone());
                continue;
            }
            let reason = format!(
                "not used: the mesh's settings are read in the root namespace, {}",
                self.root_namespace
            );
            report.add(
                Severity::Warning,
                &key(object),
                "metadata.namespace",
                reason,
            );
        }
        Self {
            declared: own,
            ..self.clone()
        }
    }

    /// The webhooks' selectors are the installation's: without it no such pod ever comes to be asked about.
    fn warn_of_label(&self, object: &Declared, report: &mut Report) {
        let asked = object.injection.istio_injection_label == Some(true);
        if asked && self.istio_label == Some(false) {
            report.add(
                Severity::Warning,
                &key(object),
                "spec.injection.istioInjectionLabel",
                "has no effect: pods of namespaces with istio-injection=enabled do not come to the webhook; install with injection.istioLabel=true as well",
            );
        }
    }

    pub fn outbound_traffic_policy(&self) -> OutboundTrafficPolicy {
        let said = self.declared.outbound_traffic_policy;
        said.unwrap_or(self.outbound_traffic_policy)
    }

    /// How long a workload certificate is valid.
    pub fn certificate_ttl(&self) -> Duration {
        self.declared
            .certificate_ttl
            .unwrap_or(self.certificate_ttl)
    }

    /// `None`: as each proxy's own flag has it.
    pub fn access_log(&self) -> Option<AccessLog> {
        self.declared.access_log
    }

    /// A service's pool over the mesh's.
    pub fn connection_pool<'a>(
        &'a self,
        own: Option<&'a ConnectionPool>,
    ) -> Cow<'a, ConnectionPool> {
        let base = &self.declared.connection_pool;
        match own {
            None => Cow::Borrowed(base),
            Some(own) => Cow::Owned(own.over(base)),
        }
    }

    /// For services whose DestinationRule has none.
    pub fn retry_budget(&self) -> Option<RetryBudget> {
        self.declared.retry_budget
    }

    /// What the injector does where a Pod does not say otherwise.
    pub fn injection(&self) -> &Injection {
        &self.declared.injection
    }
}

fn key(object: &Declared) -> ObjectKey {
    ObjectKey {
        kind: Kind::MeshSettings,
        namespace: object.meta.name.namespace.clone(),
        name: object.meta.name.name.clone(),
    }
}
