//! Injection into manifests: the Pods in a text of YAML or JSON documents, and those that Deployments and their like make.

use serde_json::Value;
use tasuki_resources::documents::split_documents;
use tasuki_runtime::HookKey;

use super::{InjectionSettings, Namespace, Outcome, inject};

/// What became of a text.
#[derive(Debug, PartialEq)]
pub struct Manifests {
    /// Documents that nothing was injected into are as they were, to the letter.
    pub text: String,
    /// What is worth knowing, each with the object that it is about.
    pub notes: Vec<String>,
}

/// Where a kind has the template of its Pods; a Pod is its own.
const TEMPLATES: [(&str, &str); 8] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// Deeper documents are no manifests.
const DEEPEST: usize = 64;

/// Injects into every document that makes Pods. Who calls this wants it: what does not say `disabled` is injected. Each
/// template gets a key of hooks of its own from `keys`, which all of its Pods share.
///
/// # Errors
/// Which document or object is wrong and what would be right.
pub fn inject_manifests(
    text: &str,
    settings: &InjectionSettings,
    keys: fn() -> HookKey,
) -> Result<Manifests, String> {
    let settings = InjectionSettings {
        always: true,
        ..settings.clone()
    };
    let mut all = Vec::new();
    let mut notes = Vec::new();
    for (line, document) in split_documents(text) {
        let value =
            parse(document).map_err(|reason| format!("document of line {line}: {reason}"))?;
        let injected = object(value.clone(), &settings, keys, &mut notes)?;
        let document = document.strip_prefix("---").unwrap_or(document);
        all.push(if injected == value {
            document.trim_start_matches([' ', '\n', '\r']).to_owned()
        } else {
            write(&injected)?
        });
    }
    for document in &mut all {
        if !document.ends_with('\n') {
            document.push('\n');
        }
    }
    Ok(Manifests {
        text: all.join("---\n"),
        notes,
    })
}

/// As kubectl reads it: a number with a leading zero, such as a file mode, is octal.
fn parse(document: &str) -> Result<Value, String> {
    let mut options = serde_saphyr::Options::default();
    options.legacy_octal_numbers = true;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = DEEPEST;
    }
    serde_saphyr::from_str_with_options(document, options)
        .map_err(|error| error.without_snippet().to_string())
}

fn write(value: &Value) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { compact_list_indent: true };
    serde_saphyr::to_string_with_options(value, options).map_err(|error| error.to_string())
}

fn object(
    mut value: Value,
    settings: &InjectionSettings,
    keys: fn() -> HookKey,
    notes: &mut Vec<String>,
) -> Result<Value, String> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    if let (true, Some(Value::Array(items))) = (kind.ends_with("List"), value.get_mut("items")) {
        for item in items {
            *item = object(item.take(), settings, keys, notes)?;
        }
        return Ok(value);
    }
    let Some((_, pointer)) = TEMPLATES.iter().find(|(name, _)| *name == kind) else {
        return Ok(value);
    };
    let text = |name: &str| value["metadata"][name].as_str().map(str::to_owned);
    let namespace = text("namespace").unwrap_or_else(|| "default".to_owned());
    let name = text("name").or_else(|| text("generateName"));
    let who = format!("{kind} {namespace}/{}", name.unwrap_or_default());
    let namespace = Namespace {
        name: namespace,
        ..Namespace::default()
    };
    let Some(template) = value.pointer_mut(pointer) else {
        return Err(format!("{who}: has no {}", pointer[1..].replace('/', ".")));
    };
    match inject(template.clone(), &namespace, settings, keys()) {
        Outcome::Injected { pod, warnings } => {
            *template = pod;
            notes.extend(warnings.iter().map(|warning| format!("{who}: {warning}")));
        }
        Outcome::Skipped(skip) => notes.push(format!("{who}: {skip}")),
        Outcome::Refused(reason) => return Err(format!("{who}: {reason}")),
    }
    Ok(value)
}
