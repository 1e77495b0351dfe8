//! The Kubernetes objects of test pods, as YAML.

use std::fmt::Write;

use crate::namespace::Namespace;

/// A pod to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub name: String,
    pub namespace: String,
    pub account: String,
    pub labels: Vec<(String, String)>,
    /// Name, number.
    pub ports: Vec<(String, u16)>,
    /// Has a Tasuki sidecar: the label and the annotation that the injector would set.
    pub meshed: bool,
    /// What its `Ready` condition says.
    pub ready: bool,
}

impl PodSpec {
    /// A meshed pod in `default` whose service account and `app` label are called like it.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            account: name.to_owned(),
            labels: vec![("app".to_owned(), name.to_owned())],
            ports: Vec::new(),
            meshed: true,
            ready: true,
        }
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    pub fn account(mut self, account: &str) -> Self {
        self.account = account.to_owned();
        self
    }

    /// Sets a label, replacing one of that name.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.retain(|(existing, _)| existing != key);
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), number));
        self
    }

    /// Without a sidecar.
    pub fn plain(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// Not ready until [`super::RunningPod::set_ready`].
    pub fn starting(mut self) -> Self {
        self.ready = false;
        self
    }

    /// The `Pod` that runs in `namespace`.
    pub fn yaml(&self, namespace: &Namespace) -> String {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  labels:\n",
            self.name, self.namespace
        );
        for (key, value) in &self.labels {
            let _ = writeln!(yaml, "    {key}: \"{value}\"");
        }
        if self.meshed {
            yaml.push_str("    security.istio.io/tlsMode: istio\n  annotations:\n    tasuki.dev/proxy: \"0.1.0\"\n");
        }
        let _ = write!(
            yaml,
            "spec:\n  serviceAccountName: {}\n  containers:\n  - name: app\n    image: app\n",
            self.account
        );
        if !self.ports.is_empty() {
            yaml.push_str("    ports:\n");
        }
        for (name, number) in &self.ports {
            let _ = writeln!(yaml, "    - name: {name}\n      containerPort: {number}");
        }
        let _ = write!(
            yaml,
            "status:\n  phase: Running\n  podIP: {ip}\n  podIPs:\n  - ip: {ip}\n  - ip: \"{ip6}\"\n  conditions:\n  - type: Ready\n    status: \"{ready}\"\n",
            ip = namespace.ip,
            ip6 = namespace.ip6,
            ready = if self.ready { "True" } else { "False" },
        );
        yaml
    }
}

/// A ClusterIP Service that selects `app: NAME`; each port is its name, number and target.
pub fn service(
    namespace: &str,
    name: &str,
    cluster_ip: &str,
    ports: &[(&str, u16, u16)],
) -> String {
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  clusterIP: {cluster_ip}\n  clusterIPs: [{cluster_ip}]\n  selector:\n    app: {name}\n  ports:\n"
    );
    for (port, number, target) in ports {
        let _ = writeln!(
            yaml,
            "  - name: {port}\n    port: {number}\n    targetPort: {target}"
        );
    }
    yaml
}
