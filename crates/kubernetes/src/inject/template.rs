//! A Pod, or the template of one, taken apart: the few parts that injection touches are lists and maps here, all else stays
//! as it came, so that fields of a newer Kubernetes survive.

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// A Pod with its parts taken out; [`Template::into_value`] puts them back.
#[derive(Clone, Debug)]
pub struct Template {
    root: Object,
    metadata: Object,
    labels: Object,
    annotations: Object,
    pub spec: Object,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Value>,
}

/// One container; it has a name.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    pub fields: Object,
}

impl Template {
    /// # Errors
    /// Which field has another shape than a Pod's.
    pub fn new(value: Value) -> Result<Self, String> {
        let mut root = object("the pod", value)?;
        let mut metadata = take_object(&mut root, "metadata")?;
        let labels = take_object(&mut metadata, "labels")?;
        let annotations = take_object(&mut metadata, "annotations")?;
        let mut spec = take_object(&mut root, "spec")?;
        let init_containers = take_containers(&mut spec, "initContainers")?;
        let containers = take_containers(&mut spec, "containers")?;
        if containers.is_empty() {
            return Err("spec.containers is empty; a pod needs a container".to_owned());
        }
        let volumes = take_list(&mut spec, "volumes")?;
        Ok(Self {
            root,
            metadata,
            labels,
            annotations,
            spec,
            init_containers,
            containers,
            volumes,
        })
    }

    pub fn into_value(self) -> Value {
        let mut spec = self.spec;
        put_list(&mut spec, "containers", fields(self.containers));
        put_list(&mut spec, "initContainers", fields(self.init_containers));
        put_list(&mut spec, "volumes", self.volumes);
        let mut metadata = self.metadata;
        put_object(&mut metadata, "labels", self.labels);
        put_object(&mut metadata, "annotations", self.annotations);
        let mut root = self.root;
        put_object(&mut root, "metadata", metadata);
        put_object(&mut root, "spec", spec);
        Value::Object(root)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name)?.as_str()
    }

    pub fn set_label(&mut self, name: &str, value: &str) {
        self.labels.insert(name.to_owned(), value.into());
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)?.as_str()
    }

    pub fn annotations(&self) -> impl Iterator<Item = &str> {
        self.annotations.keys().map(String::as_str)
    }

    pub fn set_annotation(&mut self, name: &str, value: impl Into<Value>) {
        self.annotations.insert(name.to_owned(), value.into());
    }

    pub fn remove_annotation(&mut self, name: &str) -> Option<String> {
        match self.annotations.remove(name)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Every container, in the order in which they start.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Those that run beside each other: native sidecars and the containers proper.
    pub fn running_containers_mut(&mut self) -> impl Iterator<Item = &mut Container> {
        self.init_containers
            .iter_mut()
            .filter(|container| container.is_native_sidecar())
            .chain(&mut self.containers)
    }

    /// The container is restarted when it ends: all that may be called, not what runs once.
    pub fn restarts_always(&self) -> bool {
        text(&self.spec, "restartPolicy").is_none_or(|policy| policy == "Always")
    }

    /// Kubernetes' default without one.
    pub fn grace_seconds(&self) -> u64 {
        self.spec
            .get("terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(30)
    }
}

impl Container {
    pub fn is_native_sidecar(&self) -> bool {
        text(&self.fields, "restartPolicy") == Some("Always")
    }

    /// A port of this container by its name, as probes and hooks may give it.
    pub fn port(&self, name: &str) -> Option<u64> {
        let ports = self.fields.get("ports")?.as_array()?;
        let port = ports.iter().find(|port| port["name"] == name)?;
        port["containerPort"].as_u64()
    }
}

/// A field that is a text.
pub fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str()
}

fn object(what: &str, value: Value) -> Result<Object, String> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(format!("{what} is not an object")),
    }
}

/// Absent and null are empty.
fn take_object(from: &mut Object, name: &str) -> Result<Object, String> {
    match from.remove(name) {
        None | Some(Value::Null) => Ok(Object::new()),
        Some(value) => object(name, value),
    }
}

fn take_list(from: &mut Object, name: &str) -> Result<Vec<Value>, String> {
    match from.remove(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(format!("spec.{name} is not a list")),
    }
}

fn take_containers(from: &mut Object, list: &str) -> Result<Vec<Container>, String> {
    let containers = take_list(from, list)?.into_iter().enumerate();
    containers
        .map(|(index, value)| {
            let fields = object(&format!("spec.{list}[{index}]"), value)?;
            let name = text(&fields, "name")
                .ok_or_else(|| format!("spec.{list}[{index}].name is missing"))?;
            Ok(Container {
                name: name.to_owned(),
                fields,
            })
        })
        .collect()
}

fn fields(containers: Vec<Container>) -> Vec<Value> {
    containers
        .into_iter()
        .map(|container| Value::Object(container.fields))
        .collect()
}

fn put_object(into: &mut Object, name: &str, object: Object) {
    if !object.is_empty() {
        into.insert(name.to_owned(), Value::Object(object));
    }
}

fn put_list(into: &mut Object, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        into.insert(name.to_owned(), Value::Array(list));
    }
}
