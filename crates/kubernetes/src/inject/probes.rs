//! Probes and hooks that the kubelet performs over the network: after injection it asks the sidecar, which performs them.
//! Under STRICT the kubelet itself, having no certificate, would be refused, and a TCP probe would see the sidecar's
//! listener rather than the application's.

use serde_json::{Value, json};
use tasuki_runtime::hook_key::{self, HookKey};

use super::handler::{self, Handler};
use super::template::{Container, Object, Template};
use crate::names;

/// Field of a container and the last part of the path.
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "liveness"),
    ("readinessProbe", "readiness"),
    ("startupProbe", "startup"),
];
const POST_START: (&str, &str) = ("postStart", "poststart");
const PRE_STOP: (&str, &str) = ("preStop", "prestop");
/// The kubelet waits this much longer than the sidecar, so that a slow application is told from a slow sidecar.
const MARGIN: u64 = 1;
/// The longest that the sidecar takes for meant.
const LONGEST_TIMEOUT: u64 = 3600;

/// The environment is one string a variable, and Linux takes none beyond 128 KiB.
const LARGEST: usize = 100_000;

/// What was found and changed.
#[derive(Debug)]
pub struct Rewritten {
    /// What the kubelet shows when it calls a hook.
    pub hook_key: HookKey,
    /// What the sidecar performs, by `<container>/<kind>`: `TASUKI_PROBES`.
    pub checks: Object,
    /// What was there before, by the same keys; null where there was nothing.
    pub originals: Object,
    pub warnings: Vec<String>,
}

/// Leads probes and hooks of every container that runs beside the sidecar to the sidecar.
///
/// # Errors
/// One sentence, for a probe that leads there already and of which nobody knows what it was, or that nobody can perform.
pub fn rewrite(pod: &mut Template, hook_key: HookKey) -> Result<Rewritten, String> {
    let mut rewritten = Rewritten {
        hook_key,
        checks: Object::new(),
        originals: Object::new(),
        warnings: Vec::new(),
    };
    let grace = pod.grace_seconds();
    for container in pod.running_containers_mut() {
        for (field, kind) in PROBES {
            rewritten.probe(container, field, kind)?;
        }
        rewritten.hook(container, POST_START, None)?;
        rewritten.hook(container, PRE_STOP, Some(grace))?;
    }
    // What is not restarted is not called by others either: a Job's container ends by itself, and then no preStop runs. Native
    // sidecars of the application are stopped after the containers, so they outlast the wait anyway.
    if pod.restarts_always() {
        for container in &mut pod.containers {
            rewritten.await_departure(container);
        }
    }
    rewritten.fits()?;
    Ok(rewritten)
}

impl Rewritten {
    fn probe(&mut self, container: &mut Container, field: &str, kind: &str) -> Result<(), String> {
        let Some(Value::Object(probe)) = container.fields.get(field) else {
            return Ok(());
        };
        let Some(mut check) = self.check(container, probe, field)? else {
            return Ok(());
        };
        let mut new = probe.clone();
        let seconds = probe
            .get("timeoutSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(1)
            .clamp(1, LONGEST_TIMEOUT);
        check.insert("timeoutSeconds".to_owned(), seconds.into());
        new.retain(|name, _| !handler::KINDS.contains(&name.as_str()));
        new.insert("httpGet".to_owned(), ask_sidecar(&container.name, kind));
        new.insert("timeoutSeconds".to_owned(), (seconds + MARGIN).into());
        let key = key(&container.name, kind);
        self.originals
            .insert(key.clone(), Value::Object(probe.clone()));
        self.checks.insert(key, Value::Object(check));
        container
            .fields
            .insert(field.to_owned(), Value::Object(new));
        Ok(())
    }

    /// Hooks of commands and pauses stay as they are.
    fn hook(
        &mut self,
        container: &mut Container,
        (field, kind): (&str, &str),
        timeout: Option<u64>,
    ) -> Result<(), String> {
        let lifecycle = container.fields.get("lifecycle").and_then(Value::as_object);
        let Some(Value::Object(hook)) = lifecycle.and_then(|lifecycle| lifecycle.get(field)) else {
            return Ok(());
        };
        if !hook.contains_key("httpGet") {
            return Ok(());
        }
        let Some(mut check) = self.check(container, hook, field)? else {
            return Ok(());
        };
        if let Some(seconds) = timeout {
            let seconds = seconds.clamp(1, LONGEST_TIMEOUT);
            check.insert("timeoutSeconds".to_owned(), seconds.into());
        }
        let key = key(&container.name, kind);
        self.originals
            .insert(key.clone(), Value::Object(hook.clone()));
        self.checks.insert(key, Value::Object(check));
        self.set_hook(container, field, kind);
        Ok(())
    }

    /// The network handler of a probe or hook with its port as a number; `None` for one that is to stay.
    fn check(
        &mut self,
        container: &Container,
        probe: &Object,
        field: &str,
    ) -> Result<Option<Object>, String> {
        let Some(handler) = Handler::of(probe) else {
            return Ok(None);
        };
        let whose = format!("{field} of container {}", container.name);
        if is_asking(handler.fields) {
            return Err(format!(
                "{whose} leads to the sidecar already, but annotation {} does not say what it was; apply it as it was before injection",
                names::PROBES_ANNOTATION
            ));
        }
        // Another host than the pod: the kubelet asks it directly, as before.
        if handler.has_host() || !handler.is_valid() {
            return Ok(None);
        }
        let Some(port) = handler.port(container) else {
            self.warnings.push(format!(
                "{whose} names a port that the container does not have; it stays as it is"
            ));
            return Ok(None);
        };
        let fields = handler.for_sidecar(port, &whose, &mut self.warnings)?;
        Ok(Some(Object::from_iter([(
            handler.kind.to_owned(),
            Value::Object(fields),
        )])))
    }

    /// All checks together, as the sidecar's environment takes them.
    fn fits(&self) -> Result<(), String> {
        let length = Value::Object(self.checks.clone()).to_string().len();
        if length <= LARGEST {
            return Ok(());
        }
        Err(format!(
            "the network probes and hooks of the pod's containers are {length} bytes together, and the sidecar can be told {LARGEST}: shorten their paths and headers"
        ))
    }

    /// A preStop that waits until nobody sends requests here any more.
    fn await_departure(&mut self, container: &mut Container) {
        let lifecycle = container.fields.get("lifecycle");
        if lifecycle.is_some_and(|lifecycle| !lifecycle[PRE_STOP.0].is_null()) {
            self.warnings.push(format!(
                "container {} has a preStop of its own, which stays: it must wait until clients have noticed that the pod leaves",
                container.name
            ));
            return;
        }
        let (field, kind) = PRE_STOP;
        self.originals
            .insert(key(&container.name, kind), Value::Null);
        self.set_hook(container, field, kind);
    }

    fn set_hook(&self, container: &mut Container, field: &str, kind: &str) {
        let hook = call_sidecar(&container.name, kind, &self.hook_key);
        let lifecycle = container
            .fields
            .entry("lifecycle")
            .or_insert_with(|| json!({}));
        if !lifecycle.is_object() {
            *lifecycle = json!({});
        }
        lifecycle[field] = json!({"httpGet": hook});
    }
}

/// Puts back what an earlier injection noted, unless somebody has changed it since.
pub fn restore(pod: &mut Template, originals: &Object) {
    for container in pod.running_containers_mut() {
        for (field, kind) in PROBES {
            let original = originals.get(&key(&container.name, kind));
            let current = container.fields.get(field);
            if let (Some(original), true) = (original, current.is_some_and(asks_sidecar)) {
                container.fields.insert(field.to_owned(), original.clone());
            }
        }
        for (field, kind) in [POST_START, PRE_STOP] {
            let original = originals.get(&key(&container.name, kind));
            let Some(Value::Object(lifecycle)) = container.fields.get_mut("lifecycle") else {
                continue;
            };
            let Some(original) = original.filter(|_| asks_sidecar(&lifecycle[field])) else {
                continue;
            };
            if original.is_null() {
                lifecycle.remove(field);
            } else {
                lifecycle.insert(field.to_owned(), original.clone());
            }
            if lifecycle.is_empty() {
                container.fields.remove("lifecycle");
            }
        }
    }
}

fn key(container: &str, kind: &str) -> String {
    format!("{container}/{kind}")
}

/// The handler by which the kubelet calls a hook at the sidecar.
pub fn call_sidecar(container: &str, kind: &str, key: &HookKey) -> Value {
    let mut handler = ask_sidecar(container, kind);
    handler["httpHeaders"] = json!([{"name": hook_key::HEADER, "value": key.digits()}]);
    handler
}

/// The handler by which the kubelet asks the sidecar.
fn ask_sidecar(container: &str, kind: &str) -> Value {
    json!({
        "path": format!("/app/{container}/{kind}"),
        "port": names::HEALTH_PORT,
        "scheme": "HTTP",
    })
}

/// A probe or hook that is such a handler.
fn asks_sidecar(probe: &Value) -> bool {
    probe["httpGet"].as_object().is_some_and(is_asking)
}

fn is_asking(handler: &Object) -> bool {
    let path = handler.get("path").and_then(Value::as_str);
    handler.get("port") == Some(&names::HEALTH_PORT.into())
        && path.is_some_and(|path| path.starts_with("/app/"))
}
