//! The API server and etcd are killed under load, come back without their history, and what was changed meanwhile is seen late
//! but seen. By hand: `TASUKI_OUTAGE` says for how many seconds (CI makes it five).

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tasuki_testkit::cluster::{Cluster, LIMIT, Load, Process, Running, Space, run};
use tasuki_testkit::wait;

use crate::app::{App, deployment, list, mtls, service};
use crate::control::Replicas;
use crate::rollout::setting;
use crate::shop::{INJECTED, settled};
use crate::{install, whole_mesh};

/// Names of Services whose pods `web` and `other` are.
const DOMAIN: &str = "outage.svc.cluster.local";

#[test]
fn what_changes_unseen_is_seen_at_last() {
    let Some((cluster, _mesh)) = whole_mesh("kubernetes: API server away") else {
        return;
    };
    let outage = Outage::new(cluster);
    let loads = outage.load();
    for (name, backend) in [("shifted", "web"), ("old", "other"), ("fresh", "web")] {
        outage.leads(name, backend);
    }
    outage.answers("/closed", "200");

    let cut = Cut::new(cluster).unwrap();
    let revision = revision(cluster).unwrap();
    // An API server that starts remembers from where it starts: that must be later.
    outage
        .space
        .kubectl(&["create", "configmap", "later"])
        .unwrap();
    away(cluster, "apiserver");
    outage.change();
    cluster.script(&["compact"]).unwrap();
    // Whoever goes on from before is told that it cannot: what was deleted meanwhile is never announced again.
    assert_gone(cluster, &revision);
    // Nothing has come through, so that all of it has to come later.
    for (name, backend) in [("shifted", "web"), ("old", "other"), ("fresh", "web")] {
        outage.leads(name, backend);
    }
    drop(cut);

    for (name, backend) in [("shifted", "other"), ("old", "web"), ("fresh", "other")] {
        outage.leads(name, backend);
    }
    outage.answers("/closed", "403");
    outage.nothing_is_stale();

    away(cluster, "etcd");
    outage.space.apply(&shift_to("web")).unwrap();
    outage.leads("shifted", "web");
    outage.nothing_is_stale();
    for load in loads {
        let outcome = load.finish().unwrap();
        eprintln!("{} of {} failed", outcome.failed(), outcome.requests);
        assert!(
            outcome.failed() == 0 && outcome.succeeded > 0,
            "{outcome:?}"
        );
    }
}

struct Outage {
    space: Space,
    /// Address of `web`, where a name that the sidecar does not know is answered by `web` itself.
    address: String,
    client: Process,
}

impl Outage {
    fn new(cluster: Cluster) -> Self {
        let space = cluster.space("outage", &[INJECTED]).unwrap();
        let named = |name: &str, pods: &str| {
            let mut service = service(name);
            service["spec"]["selector"] = json!({ "app": pods });
            service
        };
        let services = [
            ("web", "web"),
            ("other", "other"),
            ("shifted", "web"),
            ("old", "other"),
        ];
        let services = services.map(|(name, pods)| named(name, pods));
        space.apply(&list(services.to_vec()).to_string()).unwrap();
        space.apply(&mtls("STRICT")).unwrap();
        space.apply(&shift_to("web")).unwrap();
        for app in [
            App::new("web").replicas(2),
            App::new("other"),
            App::new("client"),
        ] {
            app.deploy(&space).unwrap();
        }
        for name in ["web", "other", "client"] {
            space.rolled_out(&deployment(name)).unwrap();
        }
        let client = Process::of(&space.pods("app=client").unwrap()[0], "app").unwrap();
        let address = space.service_ip("web").unwrap();
        Self {
            space,
            address,
            client,
        }
    }

    /// Calls of `web` that go on whoever is killed.
    fn load(&self) -> [Running; 2] {
        let few = Load::new("web:80").requests(20);
        settled(
            "web answers",
            &few,
            &self.space,
            "deployment/client",
            |outcome| outcome.failed() == 0,
        );
        ["http1", "http2"].map(|protocol| {
            let load = Load::new("web:80").protocol(protocol).rate(50, 4);
            load.start_beside(&self.client).unwrap()
        })
    }

    /// What changes while the control plane cannot see it.
    fn change(&self) {
        self.space.kubectl(&["delete", "service", "old"]).unwrap();
        let mut fresh = service("fresh");
        fresh["spec"]["selector"] = json!({"app": "other"});
        let closed = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "closed"},
            "spec": {
                "action": "DENY", "selector": {"matchLabels": {"app": "web"}},
                "rules": [{"to": [{"operation": {"paths": ["/closed"]}}]}],
            },
        });
        self.space
            .apply(&list(vec![fresh, closed]).to_string())
            .unwrap();
        self.space.apply(&shift_to("other")).unwrap();
    }

    /// Waits until the client's calls of a name are answered by the pods of one Deployment.
    fn leads(&self, name: &str, backend: &str) {
        let load = Load::new(&format!("{}:80", self.address))
            .with(&format!("--authority={name}.{DOMAIN}"))
            .requests(10);
        let what = format!("{name} leads to {backend}");
        settled(&what, &load, &self.space, "deployment/client", |outcome| {
            outcome.failed() == 0 && outcome.share(backend) == 100.0
        });
    }

    /// Waits until `web` answers a path with a status.
    fn answers(&self, path: &str, status: &str) {
        let load = Load::new("web:80").path(path).requests(10);
        let what = format!("{path} is answered with {status}");
        settled(&what, &load, &self.space, "deployment/client", |outcome| {
            outcome.outcomes.get(status) == Some(&10)
        });
    }

    /// Waits until every sidecar has acknowledged what it was sent, none has anything of what was deleted, and the control plane
    /// complains of nothing.
    fn nothing_is_stale(&self) {
        let cluster = self.space.cluster;
        wait::until("nothing is stale", LIMIT, || {
            let replicas = Replicas::find(cluster)?;
            for client in replicas.clients()? {
                let lines = client["resources"].as_array().context("no resources")?;
                for line in lines {
                    let name = line["name"].as_str().context("no name")?;
                    let old = name.contains(&format!("old.{DOMAIN}"));
                    let held = !line["sent"].is_null();
                    ensure!(!(old && held), "{} has {line}", client["node"]);
                    ensure!(
                        line["sent"] == line["acked"],
                        "{} owes {line}",
                        client["node"]
                    );
                }
            }
            for resources in replicas.ask("/debug/resources")? {
                let problems = resources["problems"].as_array().context("no problems")?;
                let mut errors = problems.iter().filter(|line| line["severity"] == "error");
                ensure!(errors.next().is_none(), "{problems:?}");
            }
            Ok(())
        })
        .unwrap();
    }
}

/// The route of `shifted`.
fn shift_to(host: &str) -> String {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "shifted"},
        "spec": {"hosts": ["shifted"], "http": [{"route": [{"destination": {"host": host}}]}]},
    })
    .to_string()
}

/// Kills a component and launches it again; returns when the API server answers.
fn away(cluster: Cluster, component: &str) {
    cluster.component("kill", component).unwrap();
    sleep(Duration::from_secs(setting("TASUKI_OUTAGE", 5).into()));
    cluster.component("launch", component).unwrap();
    wait::until("the API server is back", LIMIT, || {
        cluster.kubectl(&["get", "--raw", "/readyz"])
    })
    .unwrap();
    // Those that were without it try again after up to a minute, and a new one at once.
    for component in ["controller-manager", "scheduler"] {
        cluster.component("kill", component).unwrap();
        cluster.component("launch", component).unwrap();
    }
}

/// Where a watch of Services would go on.
fn revision(cluster: Cluster) -> Result<String> {
    let list = cluster.kubectl(&["get", "--raw", "/api/v1/services?limit=1"])?;
    let list: Value = serde_json::from_str(&list)?;
    let revision = list["metadata"]["resourceVersion"].as_str();
    Ok(revision.context("no version")?.to_owned())
}

/// A watch that goes on there is told that the history is gone.
fn assert_gone(cluster: Cluster, revision: &str) {
    let path = format!("/api/v1/services?watch=true&timeoutSeconds=5&resourceVersion={revision}");
    let told = cluster.kubectl(&["get", "--raw", &path]).unwrap();
    assert!(told.contains("\"code\":410"), "{revision}: {told}");
}

/// Keeps the control plane's pods from the API server, which reaches them all the same: webhooks go on.
struct Cut;

impl Cut {
    fn new(cluster: Cluster) -> Result<Self> {
        let pods = install::control_pods(cluster)?;
        let addresses = pods.iter().map(|pod| pod["status"]["podIP"].as_str());
        let addresses: Option<Vec<_>> = addresses.collect();
        let addresses = addresses.context("a replica without an address")?;
        let addresses = addresses.join(", ");
        nft(&format!(
            "add table ip tasuki_cut\n\
             add chain ip tasuki_cut input {{ type filter hook input priority -10; }}\n\
             add rule ip tasuki_cut input ip saddr {{ {addresses} }} tcp dport 6443 reject with tcp reset\n"
        ))?;
        Ok(Self)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = nft("delete table ip tasuki_cut\n") {
            eprintln!("{error:#}");
        }
    }
}

/// In the network of the node, where this test is.
fn nft(rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["--file", "-"]);
    run(command, rules).map(drop)
}
