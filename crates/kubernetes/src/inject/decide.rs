//! Whether a Pod gets a sidecar: who asked for it, and what stands against it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::InjectionSettings;
use super::handler::Handler;
use super::template::{Object, Template, text};
use crate::names;

/// Istio's, of a Pod.
const ISTIO_INJECT_LABEL: &str = "sidecar.istio.io/inject";

/// Why a Pod is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Neither the Pod nor its namespace asks for it.
    NotAsked,
    /// The Pod or its namespace asks not to.
    Disabled,
    /// A namespace of the cluster itself or of the mesh.
    SystemNamespace,
    /// The kubelet's picture of a static pod: changing it changes nothing.
    MirrorPod,
    HostNetwork,
    Windows,
    /// A container of another mesh, by its name.
    OtherMesh(&'static str),
}

impl Skip {
    /// Somebody asked for a sidecar and gets none.
    pub fn surprises(&self) -> bool {
        match self {
            Skip::NotAsked | Skip::Disabled | Skip::SystemNamespace | Skip::MirrorPod => false,
            Skip::HostNetwork | Skip::Windows | Skip::OtherMesh(_) => true,
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no sidecar: ")?;
        match self {
            Skip::NotAsked => f.write_str("neither the pod nor its namespace asks for one"),
            Skip::Disabled => write!(f, "{}=disabled", names::INJECT_LABEL),
            Skip::SystemNamespace => f.write_str("the namespace belongs to the cluster or to the mesh"),
            Skip::MirrorPod => f.write_str("it is the mirror of a static pod"),
            Skip::HostNetwork => f.write_str(
                "hostNetwork is true, and the node's own traffic cannot be led through a pod's sidecar",
            ),
            Skip::Windows => f.write_str("the pod runs on Windows"),
            Skip::OtherMesh(container) => {
                write!(f, "the pod is in another mesh already, by its container {container}")
            }
        }
    }
}

/// What is known of a Pod's namespace.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// `None` when the Pod is to have a sidecar.
///
/// # Errors
/// One sentence, when a label has a value that means nothing.
pub fn skip(
    pod: &Template,
    namespace: &Namespace,
    settings: &InjectionSettings,
) -> Result<Option<Skip>, String> {
    let system = [settings.system_namespace.as_str(), "kube-system"];
    if system.contains(&namespace.name.as_str()) {
        return Ok(Some(Skip::SystemNamespace));
    }
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Ok(Some(Skip::MirrorPod));
    }
    match asked(pod, namespace, settings)? {
        None => return Ok(Some(Skip::NotAsked)),
        Some(false) => return Ok(Some(Skip::Disabled)),
        Some(true) => {}
    }
    Ok(impossible(pod))
}

/// What the Pod says, else what its namespace says.
fn asked(
    pod: &Template,
    namespace: &Namespace,
    settings: &InjectionSettings,
) -> Result<Option<bool>, String> {
    let of_pod = pod.label(names::INJECT_LABEL);
    if let Some(value) = of_pod {
        return inject_label("the pod", value).map(Some);
    }
    if let Some(value) = namespace.labels.get(names::INJECT_LABEL) {
        return inject_label(&format!("namespace {}", namespace.name), value).map(Some);
    }
    if settings.always {
        return Ok(Some(true));
    }
    if !settings.istio_injection {
        return Ok(None);
    }
    let of_namespace = namespace.labels.get(names::ISTIO_INJECTION_LABEL);
    Ok(match of_namespace.map(String::as_str) {
        Some("enabled") => Some(pod.label(ISTIO_INJECT_LABEL) != Some("false")),
        Some("disabled") => Some(false),
        _ => None,
    })
}

fn inject_label(whose: &str, value: &str) -> Result<bool, String> {
    match value {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err(format!(
            "label {} of {whose} is {value:?}; write enabled or disabled",
            names::INJECT_LABEL
        )),
    }
}

fn impossible(pod: &Template) -> Option<Skip> {
    if pod.spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Some(Skip::HostNetwork);
    }
    let field = |outer: &str, name: &str| pod.spec.get(outer).map(|object| &object[name]);
    let os = [
        field("os", "name"),
        field("nodeSelector", "kubernetes.io/os"),
        field("nodeSelector", "beta.kubernetes.io/os"),
    ];
    if os.into_iter().flatten().any(|os| os == "windows") {
        return Some(Skip::Windows);
    }
    let is_there = |name: &&str| {
        pod.all_containers()
            .any(|container| container.name == *name)
    };
    let other = ["istio-proxy", "linkerd-proxy"].into_iter().find(is_there);
    other.map(Skip::OtherMesh)
}

/// What would fail later, and worse.
///
/// # Errors
/// One sentence: what stands against injection, and what to do.
pub fn refuse(pod: &Template, namespace: &Namespace) -> Result<(), String> {
    let level = namespace.labels.get("pod-security.kubernetes.io/enforce");
    if let Some(level @ ("baseline" | "restricted")) = level.map(String::as_str) {
        return Err(format!(
            "namespace {} enforces the Pod Security level {level}, which forbids the capability NET_ADMIN that init container {} needs: label the namespace pod-security.kubernetes.io/enforce=privileged, or the pod {}=disabled",
            namespace.name,
            names::REDIRECT_CONTAINER,
            names::INJECT_LABEL
        ));
    }
    let pod_context = pod.spec.get("securityContext").and_then(Value::as_object);
    for container in pod.all_containers() {
        let own = container
            .fields
            .get("securityContext")
            .and_then(Value::as_object);
        let id = |name: &str| number(own, name).or_else(|| number(pod_context, name));
        for field in ["runAsUser", "runAsGroup"] {
            if id(field) == Some(names::PROXY_UID) {
                return Err(format!(
                    "container {} has {field} {}, which is the sidecar's own, so that its traffic would pass by the sidecar; give it another",
                    container.name,
                    names::PROXY_UID
                ));
            }
        }
    }
    Ok(())
}

/// What of the Pod's own native sidecars would wait for ours, which starts only after them where it is not native.
///
/// # Errors
/// One sentence: which container, and what to do.
pub fn refuse_classic(pod: &Template) -> Result<(), String> {
    let natives = pod.init_containers.iter().filter(|c| c.is_native_sidecar());
    for container in natives {
        let field = |name: &str| container.fields.get(name).and_then(Value::as_object);
        let hook = container.fields.get("lifecycle").map(|l| &l["postStart"]);
        let asked = [
            ("startupProbe", field("startupProbe")),
            ("livenessProbe", field("livenessProbe")),
            ("postStart", hook.and_then(Value::as_object)),
        ];
        let waits = |(_, probe): &(_, Option<&Object>)| {
            let handler = probe.and_then(Handler::of);
            handler.is_some_and(|handler| !handler.has_host())
        };
        if let Some((field, _)) = asked.into_iter().find(waits) {
            return Err(format!(
                "{field} of the native sidecar {} goes over the network, so through {}, which starts only after it because {} or the mesh's settings make it an ordinary container: annotate the pod {}=true, or make it an exec",
                container.name,
                names::PROXY_CONTAINER,
                names::NATIVE_SIDECAR,
                names::NATIVE_SIDECAR,
            ));
        }
    }
    Ok(())
}

fn number(object: Option<&Object>, name: &str) -> Option<i64> {
    object?.get(name)?.as_i64()
}

/// What is worth saying though the Pod is injected.
pub fn warn(pod: &Template, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !native && !pod.restarts_always() {
        warnings.push(format!(
            "restartPolicy is {}, but a sidecar that is not native never ends, so neither does the pod",
            text(&pod.spec, "restartPolicy").unwrap_or_default()
        ));
    }
    for container in pod.all_containers() {
        let ports = container.fields.get("ports").and_then(Value::as_array);
        let taken = ports
            .into_iter()
            .flatten()
            .filter_map(|port| port["containerPort"].as_u64());
        warnings.extend(taken.filter(|port| OWN_PORTS.contains(port)).map(|port| {
            format!(
                "port {port} of container {} is one of the sidecar's own",
                container.name
            )
        }));
    }
    warnings
}

/// Where the sidecar listens (contract section 1).
const OWN_PORTS: [u64; 5] = [15000, 15001, 15006, 15020, 15021];
