//! Applications of the scenarios, as Deployments of the test image.

use anyhow::Result;
use serde_json::{Value, json};
use tasuki_testkit::cluster::{IMAGE, Space};

/// A Deployment with a ServiceAccount of its own, whose pods run `tasuki-origin`; its container is called `app`.
#[derive(Clone, Debug)]
pub struct App {
    pub name: String,
    pub replicas: u32,
    pub account: String,
    /// Besides `app: NAME`.
    pub labels: Value,
    pub annotations: Value,
    /// Name and number of its container port; the application listens there.
    pub port: (String, u16),
    /// More of the container, and of the pod, in place of what is here.
    pub container: Value,
    pub pod: Value,
}

impl App {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            replicas: 1,
            account: name.to_owned(),
            labels: json!({ "app": name }),
            annotations: json!({}),
            port: ("http".to_owned(), 8080),
            container: json!({}),
            pod: json!({}),
        }
    }

    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    pub fn account(mut self, account: &str) -> Self {
        self.account = account.to_owned();
        self
    }

    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels[name] = json!(value);
        self
    }

    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations[name] = json!(value);
        self
    }

    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.port = (name.to_owned(), number);
        self
    }

    /// More of the container, such as probes.
    pub fn container(mut self, more: Value) -> Self {
        merge(&mut self.container, more);
        self
    }

    /// More of the pod's `spec`.
    pub fn pod(mut self, more: Value) -> Self {
        merge(&mut self.pod, more);
        self
    }

    /// Without a sidecar, whatever its namespace says.
    pub fn unmeshed(self) -> Self {
        self.label("tasuki.dev/inject", "disabled")
    }

    /// The template of its pods.
    pub fn template(&self) -> Value {
        let (port_name, port) = &self.port;
        let mut container = json!({
            "name": "app",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "args": [format!("--listen=0.0.0.0:{port}")],
            "ports": [{"name": port_name, "containerPort": port}],
            "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 10},
        });
        // A probe has one kind of check: another replaces it as a whole.
        if let Some(probe) = self.container.get("readinessProbe") {
            container["readinessProbe"] = probe.clone();
        }
        merge(&mut container, self.container.clone());
        let mut spec = json!({
            "serviceAccountName": self.account,
            "containers": [container],
        });
        merge(&mut spec, self.pod.clone());
        json!({"metadata": {"labels": self.labels, "annotations": self.annotations}, "spec": spec})
    }

    pub fn objects(&self) -> Value {
        // A Deployment takes over the pods of another whose selector is the same.
        let mut labels = self.labels.clone();
        labels["deployment"] = json!(self.name);
        let mut template = self.template();
        template["metadata"]["labels"] = labels;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"deployment": self.name}},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": template,
            },
        });
        list(vec![account(&self.account), deployment])
    }

    /// Applies it.
    pub fn deploy(&self, space: &Space) -> Result<()> {
        space.apply(&self.objects().to_string())
    }
}

/// `exec` and `rollout` know it by this name.
pub fn deployment(name: &str) -> String {
    format!("deployment/{name}")
}

pub fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

/// A Service before the pods with the label `app: NAME`, from port 80 to 8080.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The PeerAuthentication of a namespace.
pub fn mtls(mode: &str) -> String {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
        "spec": {"mtls": {"mode": mode}},
    })
    .to_string()
}

/// Puts the fields of `more` into `into`, those of maps one by one.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a pod has a sidecar of the native kind: an init container that goes on.
pub fn has_sidecar(pod: &Value) -> bool {
    let init = pod["spec"]["initContainers"].as_array();
    let mut init = init.into_iter().flatten();
    init.any(|container| {
        container["name"] == "tasuki-proxy" && container["restartPolicy"] == "Always"
    })
}
