//! The containers and volumes that injection adds.

use std::time::Duration;

use serde_json::{Value, json};
use tasuki_runtime::HookKey;

use super::options::Options;
use super::probes::{self, Rewritten};
use super::template::{Container, Template};
use super::{InjectionSettings, template};
use crate::names;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const HOOK_KEY: &str = "TASUKI_HOOK_KEY";
const STATE_VOLUME: &str = "tasuki-state";
const TOKEN_VOLUME: &str = "tasuki-token";
const ROOTS_VOLUME: &str = "tasuki-roots";
const EMPTY_VOLUME: &str = "tasuki-empty";
const VOLUMES: [&str; 4] = [STATE_VOLUME, TOKEN_VOLUME, ROOTS_VOLUME, EMPTY_VOLUME];
const STATE_DIR: &str = "/var/lib/tasuki";
/// Where Kubernetes mounts the token of its own API into every container that has nothing there yet.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The kubelet asks for a new token at four fifths of it.
const TOKEN_SECONDS: u32 = 3600;
/// How long a preStop waits at most, and at most half of the time that the Pod has to end.
const PRESTOP_LIMIT: Duration = Duration::from_secs(10);

/// Adds both containers and the volumes. The redirection comes first and the sidecar right after it, so that whatever the pod's own
/// init containers call goes through the mesh. A sidecar that is not native runs only after all init containers:
/// the redirection is the last of them, and those before it have the plain network. It is the first of the containers, which
/// the kubelet starts one after the other, waiting for each one's postStart.
pub fn add(
    pod: &mut Template,
    settings: &InjectionSettings,
    options: &Options,
    rewritten: &Rewritten,
    metrics: Option<&str>,
) {
    let redirect = redirect(settings, options);
    let sidecar = sidecar(pod, settings, options, rewritten, metrics);
    if options.native_sidecar {
        pod.init_containers.splice(0..0, [redirect, sidecar]);
    } else {
        pod.init_containers.push(redirect);
        name_default_container(pod);
        pod.containers.insert(0, sidecar);
    }
    pod.volumes.extend(volumes());
}

/// Whom `kubectl logs` and `kubectl exec` mean, which is otherwise the first.
fn name_default_container(pod: &mut Template) {
    if pod.annotation(DEFAULT_CONTAINER).is_none()
        && let Some(name) = pod.containers.first().map(|first| first.name.clone())
    {
        pod.set_annotation(DEFAULT_CONTAINER, name);
    }
}

/// The key that an earlier injection made, so that a later one changes nothing.
pub fn hook_key(pod: &Template) -> Option<HookKey> {
    let mut containers = pod.all_containers();
    let sidecar = containers.find(|container| container.name == names::PROXY_CONTAINER)?;
    let environment = sidecar.fields.get("env")?.as_array()?;
    let variable = environment
        .iter()
        .find(|variable| variable["name"] == HOOK_KEY)?;
    variable["value"].as_str()?.parse().ok()
}

/// Takes away what an earlier injection added.
pub fn remove(pod: &mut Template) {
    let ours = |container: &Container| {
        [names::PROXY_CONTAINER, names::REDIRECT_CONTAINER].contains(&container.name.as_str())
    };
    pod.init_containers.retain(|container| !ours(container));
    pod.containers.retain(|container| !ours(container));
    pod.volumes
        .retain(|volume| !VOLUMES.iter().any(|name| volume["name"] == **name));
}

fn redirect(settings: &InjectionSettings, options: &Options) -> Container {
    let mut args = vec!["redirect".to_owned(), "install".to_owned()];
    let mut exclude = |flag: &str, list: Vec<String>| {
        if !list.is_empty() {
            args.push(format!("--exclude-{flag}={}", list.join(",")));
        }
    };
    exclude("inbound-ports", texts(&options.exclude_inbound_ports));
    exclude("outbound-ports", texts(&options.exclude_outbound_ports));
    exclude("outbound-cidrs", texts(&options.exclude_outbound_cidrs));
    container(json!({
        "name": names::REDIRECT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        },
        // Packet rules belong to root with NET_ADMIN; iptables-nft needs no NET_RAW, nor a file to lock.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [no_api_token()],
    }))
}

fn sidecar(
    pod: &Template,
    settings: &InjectionSettings,
    options: &Options,
    rewritten: &Rewritten,
    metrics: Option<&str>,
) -> Container {
    let mut sidecar = container(json!({
        "name": names::PROXY_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["sidecar"],
        "env": environment(pod, settings, options, rewritten, metrics),
        "ports": [{"name": "tasuki-metrics", "containerPort": names::METRICS_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": options.cpu.as_str(), "memory": options.memory.as_str()},
            "limits": {"cpu": options.cpu_limit.as_str(), "memory": options.memory_limit.as_str()},
        },
        "securityContext": {
            "runAsUser": names::PROXY_UID,
            "runAsGroup": names::PROXY_UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Whatever starts after a native sidecar waits for this: ten minutes for a control plane that is not there yet.
        "startupProbe": probe(1, 600),
        "readinessProbe": probe(5, 3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": STATE_VOLUME, "mountPath": STATE_DIR},
            {"name": TOKEN_VOLUME, "mountPath": folder(names::TOKEN_FILE), "readOnly": true},
            {"name": ROOTS_VOLUME, "mountPath": folder(names::ROOTS_FILE), "readOnly": true},
            no_api_token(),
        ],
    }));
    let (field, value) = if options.native_sidecar {
        ("restartPolicy", json!("Always"))
    } else {
        // All containers are told to end at once: the sidecar waits as long as those that it serves.
        let wait = probes::call_sidecar(names::PROXY_CONTAINER, "prestop", &rewritten.hook_key);
        let ready = json!({"exec": {"command": ["tasuki-proxy", "wait"]}});
        let lifecycle = json!({"postStart": ready, "preStop": {"httpGet": wait}});
        ("lifecycle", lifecycle)
    };
    sidecar.fields.insert(field.to_owned(), value);
    sidecar
}

fn environment(
    pod: &Template,
    settings: &InjectionSettings,
    options: &Options,
    rewritten: &Rewritten,
    metrics: Option<&str>,
) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let mut environment = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("TASUKI_POD_IP", "status.podIP"),
    ];
    let mut set =
        |name: &str, value: String| environment.push(json!({"name": name, "value": value}));
    let limit = PRESTOP_LIMIT.min(Duration::from_secs(pod.grace_seconds()) / 2);
    set("TASUKI_POD", "$(POD_NAMESPACE)/$(POD_NAME)".to_owned());
    set("TASUKI_CONTROL", settings.control.clone());
    set("TASUKI_CONTROL_CA", names::ROOTS_FILE.to_owned());
    set("TASUKI_TOKEN_FILE", names::TOKEN_FILE.to_owned());
    set("TASUKI_STATE_DIR", STATE_DIR.to_owned());
    set("TASUKI_LOG", options.log_level.clone());
    set("TASUKI_DRAIN_TIME", milliseconds(options.drain_time));
    set("TASUKI_DRAIN_MINIMUM", milliseconds(options.drain_minimum));
    set("TASUKI_PRESTOP_LIMIT", milliseconds(limit));
    set(HOOK_KEY, rewritten.hook_key.digits());
    if let Some(workers) = options.workers {
        set("TASUKI_WORKERS", workers.to_string());
    }
    if !rewritten.checks.is_empty() {
        set(
            "TASUKI_PROBES",
            literal(&Value::Object(rewritten.checks.clone()).to_string()),
        );
    }
    if let Some(metrics) = metrics {
        set("TASUKI_APPLICATION_METRICS", literal(metrics));
    }
    environment
}

/// The kubelet replaces `$(NAME)` in values of the environment, which what a user wrote elsewhere does not expect; `$$` is one `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// A unit that every flag understands.
fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn probe(period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": "/ready", "port": names::HEALTH_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

fn volumes() -> [Value; 4] {
    [
        json!({"name": STATE_VOLUME, "emptyDir": {}}),
        // Without fsGroup the kubelet makes the token readable to all of the pod's users, with one to that group, which every
        // container is in: either way the sidecar may read it, and only the sidecar mounts it.
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": {
            "audience": names::TOKEN_AUDIENCE,
            "expirationSeconds": TOKEN_SECONDS,
            "path": file(names::TOKEN_FILE),
        }}]}}),
        json!({"name": ROOTS_VOLUME, "configMap": {
            "name": names::ROOTS_CONFIG_MAP,
            "items": [{"key": names::ROOTS_KEY, "path": file(names::ROOTS_FILE)}],
        }}),
        json!({"name": EMPTY_VOLUME, "emptyDir": {}}),
    ]
}

/// Neither container has business with the API server. The ServiceAccount admission plugin runs once more after
/// this webhook and gives its token to all that have nothing mounted there.
fn no_api_token() -> Value {
    json!({"name": EMPTY_VOLUME, "mountPath": API_TOKEN_DIR, "readOnly": true})
}

/// Without the fields that are null, which say that the default holds.
fn container(value: Value) -> Container {
    let mut fields = match value {
        Value::Object(fields) => fields,
        _ => template::Object::new(),
    };
    fields.retain(|_, value| !value.is_null());
    let name = template::text(&fields, "name")
        .unwrap_or_default()
        .to_owned();
    Container { name, fields }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(folder, _)| folder)
}

fn file(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, file)| file)
}
