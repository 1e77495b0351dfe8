//! The Helm chart against `tasuki install --print`: the same values give the same objects.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tasuki_testkit::require::{Need, have, program};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/tasuki");

/// Flags, which both understand, and a file of values.
const VALUES: [(&[&str], &str); 6] = [
    (&[], ""),
    (
        &["image.registry=tasuki.test", "image.tag=test", "replicas=1"],
        "image: {pullPolicy: Never}\nlogLevel: debug,h2=info\n",
    ),
    (
        &["webhook.hostNetwork=true", "webhook.port=10260"],
        "priorityClassName: system-cluster-critical\nimage: {pullSecrets: [one, two]}\n",
    ),
    (
        &["injection.istioLabel=true", "webhook.failurePolicy=Ignore"],
        "outboundTrafficPolicy: registry-only\ntrustDomain: example.org\n",
    ),
    (
        &["nodeSelector.disk=ssd", "networkPolicy=false"],
        "tolerations: [{key: spot, operator: Exists, effect: NoExecute, tolerationSeconds: 30}]\n",
    ),
    (
        &[
            "resources.requests.memory=1Gi",
            "resources.limits.memory=null",
        ],
        "proxy: {image: 'registry.example:5000/sidecar@sha256:0123'}\nresources: {requests: {cpu: '2'}}\n",
    ),
];

struct Values {
    file: tempfile::NamedTempFile,
    set: &'static [&'static str],
}

impl Values {
    fn new(set: &'static [&'static str], text: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self { file, set }
    }

    fn give(&self, command: &mut Command) {
        command.arg("--values").arg(self.file.path());
        for assignment in self.set {
            command.args(["--set", assignment]);
        }
    }
}

fn helm(test: &str) -> Option<PathBuf> {
    have(test, &[Need::Program("helm")])
        .then(|| program("helm"))
        .flatten()
}

fn template(helm: &PathBuf, values: &Values) -> Output {
    let mut command = Command::new(helm);
    command.args(["template", "tasuki", CHART, "--namespace=tasuki-system"]);
    values.give(command.arg("--kube-version=1.34"));
    command.output().unwrap()
}

fn print(values: &Values) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasuki"));
    values.give(command.args(["install", "--print"]));
    command.output().unwrap()
}

/// Objects by kind and name.
fn objects(output: &Output) -> BTreeMap<String, Value> {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let count = documents.len();
    let named = |object: Value| {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        (name, object)
    };
    let objects: BTreeMap<_, _> = documents.into_iter().map(named).collect();
    assert_eq!(objects.len(), count, "an object comes twice");
    objects
}

#[test]
fn the_chart_gives_what_install_prints() {
    let Some(helm) = helm("chart: the same objects") else {
        return;
    };
    for (set, file) in VALUES {
        let values = Values::new(set, file);
        let chart = objects(&template(&helm, &values));
        let mut printed = objects(&print(&values));
        // Helm makes the namespace itself (--create-namespace), and would take it away again with the CA in it if it were
        // in the chart.
        assert!(printed.remove("\"Namespace\" \"tasuki-system\"").is_some());
        printed.retain(|_, object| object["kind"] != "CustomResourceDefinition");
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&chart), names(&printed), "{set:?}");
        for (name, object) in &printed {
            assert_eq!(&chart[name], object, "{name} with {set:?} {file}");
        }
    }
}

#[test]
fn both_refuse_the_same_slips() {
    let helm = helm("chart: the same refusals");
    for (set, file) in [
        (&["replicas=0"][..], ""),
        (&["replicas=many"], ""),
        (&["webhook.port=80"], ""),
        (&["webhook.port=15012"], ""),
        (&["webhook.failurePolicy=Maybe"], ""),
        (&["trustDomain="], ""),
        (&["trustDomain=null"], ""),
        (&[], "webhook: {prot: 10250}\n"),
        (&[], "webhoks: {}\n"),
        (&[], "resources: {requests: {cpu: 1}}\n"),
        (&[], "tolerations: [{keys: spot}]\n"),
    ] {
        let values = Values::new(set, file);
        let printed = print(&values);
        assert!(!printed.status.success(), "{set:?} {file}");
        assert!(printed.stdout.is_empty() && !printed.stderr.is_empty());
        if let Some(helm) = &helm {
            assert!(!template(helm, &values).status.success(), "{set:?} {file}");
        }
    }
}

#[test]
fn helm_lint_has_nothing_to_say() {
    let Some(helm) = helm("chart: lint") else {
        return;
    };
    let mut command = Command::new(helm);
    command.args(["lint", "--strict", "--namespace=tasuki-system", CHART]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        !text.contains("[WARNING]") && !text.contains("[ERROR]"),
        "{text}"
    );
}

#[test]
fn another_namespace_is_refused() {
    let Some(helm) = helm("chart: namespace") else {
        return;
    };
    let mut command = Command::new(helm);
    command.args(["template", "tasuki", CHART, "--namespace=default"]);
    let output = command.arg("--kube-version=1.34").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--namespace tasuki-system"), "{error}");
}
