//! How far the other replicas are with a rotation: each says in a Lease of its own which of its clients do not trust the roots
//! yet, and the leader waits for all of them.
//!
//! A replica that ends takes its Lease away. One that is silent may still serve clients, so it is waited for as long as a
//! departed pod is answered for; then it holds up nothing any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tasuki_identity::ca::Phase;
use tasuki_kubernetes::names;
use tasuki_xds::model::TrustBundle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Authority;
use super::rotation::{Lacking, RETURN};
use super::voices::Voice;
use crate::leader::{Campaign, while_leading};
use crate::mesh::departed::GRACE;

/// How often a replica says how far it is, and the leader looks, while a rotation is under way; a tenth as often otherwise.
const EVERY: Duration = Duration::from_secs(1);
const CALM: u32 = 10;
/// For one request to the API server.
const ANSWER: Duration = Duration::from_secs(5);
/// Names that a report has.
const SHOWN: usize = 4;
/// Annotation with the report.
const REPORT: &str = "tasuki.dev/trust";
const LABEL: &str = "tasuki.dev/replica";

/// What one replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// The roots that it means, PEM digests.
    roots: Vec<String>,
    /// Clients that have not acknowledged them.
    lacking: Vec<String>,
}

/// This replica among the others.
pub struct Replica {
    member: Arc<Member>,
    task: JoinHandle<()>,
}

struct Member {
    leases: Api<Lease>,
    name: String,
    authority: Authority,
    lacking: Lacking,
}

impl Replica {
    /// Reports from now on, and listens to the others while it leads.
    pub fn start(
        client: Client,
        namespace: &str,
        campaign: &Campaign,
        authority: Authority,
        lacking: Lacking,
    ) -> Self {
        let identity = campaign.identity();
        let own = identity.rsplit('_').next().unwrap_or(identity);
        let voice = authority.voice("the other replicas");
        let member = Arc::new(Member {
            leases: Api::namespaced(client, namespace),
            name: format!("{}-{own}", names::CONTROL),
            authority,
            lacking,
        });
        let (speaker, listener, leadership) =
            (member.clone(), member.clone(), campaign.leadership());
        let task = tokio::spawn(async move {
            let listen = || listener.clone().listen(voice.clone());
            tokio::join!(speaker.report(), while_leading(leadership, listen));
        });
        Self { member, task }
    }

    /// Takes this replica's Lease away: nobody needs to wait for it.
    pub async fn leave(self) {
        self.task.abort();
        let leases = &self.member.leases;
        let params = DeleteParams::default();
        let gone = leases.delete(&self.member.name, &params);
        let _ = timeout(ANSWER, gone).await;
    }
}

impl Member {
    async fn report(&self) {
        let started = Instant::now();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut silent) = (None, 0);
        loop {
            ticks.tick().await;
            let bundle = self.authority.bundle();
            let lacking = match self.is_awaited() {
                true => self.lacking(&bundle, started),
                false => Vec::new(),
            };
            let report = Report {
                roots: digests(&bundle),
                lacking,
            };
            silent += 1;
            if silent < CALM && last.as_ref() == Some(&report) {
                continue;
            }
            if self.write(&report).await {
                (last, silent) = (Some(report), 0);
            }
        }
    }

    /// Whether anything depends on who trusts the roots: at no other time is it worth looking through all clients.
    fn is_awaited(&self) -> bool {
        match self.authority.phase() {
            Phase::Adding { .. } => true,
            Phase::Steady { .. } | Phase::Switched { .. } => false,
        }
    }

    fn lacking(&self, bundle: &TrustBundle, started: Instant) -> Vec<String> {
        let mut lacking = (self.lacking)(bundle);
        lacking.truncate(SHOWN);
        // Its clients may not have returned yet.
        if lacking.is_empty() && started.elapsed() < RETURN {
            lacking.push(format!("clients of {}", self.name));
        }
        lacking
    }

    async fn write(&self, report: &Report) -> bool {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "labels": {LABEL: "true"},
                "annotations": {REPORT: serde_json::to_string(report).unwrap_or_default()},
            },
            "spec": {
                "holderIdentity": self.name,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        let patch = Patch::Apply(lease);
        match timeout(ANSWER, self.leases.patch(&self.name, &params, &patch)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "this replica's report");
                false
            }
            Err(_) => false,
        }
    }

    /// For one term of leadership.
    async fn listen(self: Arc<Self>, voice: Arc<Voice>) {
        voice.withdraw();
        let mut seen = Seen::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0;
        loop {
            ticks.tick().await;
            idle += 1;
            // Between rotations only the Leases of those that are gone are looked for.
            if !self.is_awaited() && idle < CALM {
                continue;
            }
            idle = 0;
            let params = ListParams::default().labels(LABEL);
            let Ok(Ok(list)) = timeout(ANSWER, self.leases.list(&params)).await else {
                voice.withdraw();
                continue;
            };
            let bundle = self.authority.bundle();
            let others = list.items.iter().filter_map(read);
            let others = others.filter(|(name, ..)| *name != self.name);
            let (lacking, gone) = seen.judge(others, &digests(&bundle), Instant::now());
            if lacking.is_empty() {
                voice.confirm(&bundle);
            } else {
                voice.wait_for(lacking);
            }
            for name in gone {
                let _ = timeout(ANSWER, self.leases.delete(&name, &DeleteParams::default())).await;
            }
        }
    }
}

fn digests(bundle: &TrustBundle) -> Vec<String> {
    bundle
        .roots
        .iter()
        .map(|root| tasuki_identity::digest(root))
        .collect()
}

/// Name, renewal, report.
fn read(lease: &Lease) -> Option<(String, String, Report)> {
    let name = lease.metadata.name.clone()?;
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
    let annotations = lease.metadata.annotations.as_ref();
    let report = annotations
        .and_then(|all| all.get(REPORT))
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    Some((name, renewed.0.to_string(), report))
}

/// When each replica was last heard of, by our own clock.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, (String, Instant)>);

impl Seen {
    /// Who does not trust these roots yet, and which replicas have been silent for so long that they are not asked any more.
    fn judge(
        &mut self,
        others: impl Iterator<Item = (String, String, Report)>,
        roots: &[String],
        now: Instant,
    ) -> (Vec<String>, Vec<String>) {
        let (mut lacking, mut gone) = (Vec::new(), Vec::new());
        let mut present = BTreeMap::new();
        for (name, renewed, report) in others {
            let known = self.0.remove(&name).filter(|(known, _)| *known == renewed);
            let since = known.map_or(now, |(_, since)| since);
            if now.saturating_duration_since(since) > GRACE {
                gone.push(name);
                continue;
            }
            if report.roots != roots {
                lacking.push(format!("replica {name}"));
            } else {
                lacking.extend(report.lacking);
            }
            present.insert(name, (renewed, since));
        }
        self.0 = present;
        (lacking, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(name: &str, renewed: &str, root: &str, lacking: &[&str]) -> (String, String, Report) {
        let report = Report {
            roots: vec![root.to_owned()],
            lacking: lacking.iter().map(|name| (*name).to_owned()).collect(),
        };
        (name.to_owned(), renewed.to_owned(), report)
    }

    #[tokio::test(start_paused = true)]
    async fn all_replicas_are_waited_for_but_not_for_ever() {
        let new = ["new".to_owned()];
        let mut seen = Seen::default();
        let now = Instant::now();
        let mut judge = |says: Vec<_>, at| seen.judge(says.into_iter(), &new, at);
        let (lacking, _) = judge(
            vec![says("a", "1", "old", &[]), says("b", "1", "new", &["web"])],
            now,
        );
        assert_eq!(lacking, ["replica a", "web"]);
        let (lacking, _) = judge(
            vec![says("a", "2", "new", &[]), says("b", "2", "new", &[])],
            now,
        );
        assert!(lacking.is_empty());
        // Silent since, with something lacking.
        let (lacking, gone) = judge(vec![says("a", "2", "old", &[])], now + GRACE);
        assert_eq!((lacking.len(), gone.len()), (1, 0));
        let late = now + GRACE + EVERY;
        let (lacking, gone) = judge(vec![says("a", "2", "old", &[])], late);
        assert!(lacking.is_empty() && gone == ["a"]);
        let (lacking, _) = judge(vec![says("a", "3", "old", &[])], late);
        assert_eq!(lacking, ["replica a"], "it was alive after all");
    }
}
