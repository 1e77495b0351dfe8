//! Injection: a Pod in, the same Pod with a sidecar out. Pure; the control plane's webhook and `tasuki inject` call it.
//!
//! | phase | file | does |
//! |---|---|---|
//! | decide | `inject/decide.rs` | is a sidecar asked for, is it possible, would it fail later |
//! | read | `inject/options.rs` | the Pod's annotations over the defaults |
//! | rewrite | `inject/probes.rs`, `inject/handler.rs`, `inject/metrics.rs` | probes, hooks and scraping lead to the sidecar |
//! | add | `inject/sidecar.rs` | two containers, four volumes |
//!
//! `inject/offline.rs` does it to manifests.
//!
//! A Pod that was injected before is first brought back to what it was, with the originals that its annotation keeps. So
//! doing it twice is doing it once, whatever other webhooks did in between, and an upgrade is an injection.

mod decide;
mod handler;
mod metrics;
mod offline;
mod options;
mod probes;
mod sidecar;
mod template;

use serde_json::Value;
use tasuki_resources::mesh_settings::Injection;
use tasuki_runtime::HookKey;

pub use decide::{Namespace, Skip};
pub use offline::{Manifests, inject_manifests};
pub use options::Options;

use crate::names;
use template::{Object, Template};

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct InjectionSettings {
    /// Of the sidecar and of the init container.
    pub image: String,
    /// `None`: Kubernetes' own default.
    pub image_pull_policy: Option<String>,
    /// What the Pod's annotation will say.
    pub version: String,
    /// The control plane: `https://HOST:PORT`.
    pub control: String,
    /// Where the control plane lives; nothing is injected there.
    pub system_namespace: String,
    /// Istio's label of namespaces counts too.
    pub istio_injection: bool,
    /// Where neither the Pod nor its namespace says anything, the answer is yes.
    pub always: bool,
    pub defaults: Options,
}

impl InjectionSettings {
    /// The sidecar of that image, with the control plane where `tasuki install` puts it.
    pub fn new(image: impl Into<String>) -> Self {
        let system = names::SYSTEM_NAMESPACE;
        Self {
            image: image.into(),
            image_pull_policy: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            control: format!("https://{}.{system}.svc:15012", names::CONTROL),
            system_namespace: system.to_owned(),
            istio_injection: false,
            always: false,
            defaults: Options::default(),
        }
    }

    /// Lets the mesh's settings stand in for the defaults.
    pub fn adopt(&mut self, mesh: &Injection) {
        self.istio_injection = mesh.istio_injection_label.unwrap_or(self.istio_injection);
        self.defaults = self.defaults.with_mesh(mesh);
    }
}

/// What becomes of a Pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Injected {
        pod: Value,
        warnings: Vec<String>,
    },
    Skipped(Skip),
    /// It must not run like this: one sentence that says what is wrong and what would be right.
    Refused(String),
}

/// Adds a sidecar to a Pod, or to the `{metadata, spec}` of a template of Pods. Its hooks get the `fresh` key, unless an
/// earlier injection gave them one.
pub fn inject(
    pod: Value,
    namespace: &Namespace,
    settings: &InjectionSettings,
    fresh: HookKey,
) -> Outcome {
    match decide_and_add(pod, namespace, settings, fresh) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome::Refused(reason),
    }
}

fn decide_and_add(
    pod: Value,
    namespace: &Namespace,
    settings: &InjectionSettings,
    fresh: HookKey,
) -> Result<Outcome, String> {
    let mut pod = Template::new(pod)?;
    if let Some(skip) = decide::skip(&pod, namespace, settings)? {
        return Ok(Outcome::Skipped(skip));
    }
    let hook_key = sidecar::hook_key(&pod).unwrap_or(fresh);
    undo(&mut pod);
    decide::refuse(&pod, namespace)?;
    let options = settings.defaults.with_annotations(&pod)?;
    if !options.native_sidecar {
        decide::refuse_classic(&pod)?;
    }
    let mut warnings = options::unknown(&pod);
    warnings.extend(decide::warn(&pod, options.native_sidecar));

    let mut rewritten = probes::rewrite(&mut pod, hook_key)?;
    warnings.append(&mut rewritten.warnings);
    let metrics = metrics::redirect(&mut pod, &mut rewritten.originals, &mut warnings);
    sidecar::add(&mut pod, settings, &options, &rewritten, metrics.as_deref());
    pod.set_label(names::TLS_MODE_LABEL, names::TLS_MODE);
    pod.set_annotation(names::PROXY_ANNOTATION, settings.version.as_str());
    if !rewritten.originals.is_empty() {
        let originals = Value::Object(rewritten.originals).to_string();
        pod.set_annotation(names::PROBES_ANNOTATION, originals);
    }
    let pod = pod.into_value();
    Ok(Outcome::Injected { pod, warnings })
}

/// Takes an earlier injection back.
fn undo(pod: &mut Template) {
    sidecar::remove(pod);
    let originals = pod.remove_annotation(names::PROBES_ANNOTATION);
    let originals: Option<Object> = originals.and_then(|text| serde_json::from_str(&text).ok());
    let originals = originals.unwrap_or_default();
    probes::restore(pod, &originals);
    metrics::restore(pod, &originals);
}

/// The JSON Patch (RFC 6902) from one Pod to the other, as an admission response carries it.
///
/// # Errors
/// None in practice: a patch is always JSON.
pub fn patch(before: &Value, after: &Value) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&json_patch::diff(before, after))
}

#[cfg(test)]
mod tests;
