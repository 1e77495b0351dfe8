//! ConfigMap `tasuki-root-ca` in every namespace: what a sidecar trusts before xDS tells it more. The leader writes them, and
//! writes them again when somebody edits or deletes one.
//!
//! A namespace that is being deleted gets none. Writes are spaced: a cluster may have thousands of namespaces, and they wait for
//! nothing but their first pod.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tasuki_identity::Roots;
use tasuki_kubernetes::names;
use tasuki_xds::model::TrustBundle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Authority;
use super::voices::Voice;
use crate::leader::{Leadership, while_leading};
use crate::watched::watched;

/// Between two writes.
const SPACING: Duration = Duration::from_millis(20);
/// For one request to the API server.
const ANSWER: Duration = Duration::from_secs(10);
/// After a write that failed in a namespace, and between two in one that somebody else keeps editing.
const AGAIN: Duration = Duration::from_secs(5);
/// Characters of why a namespace refuses it: an admission webhook may say what it likes.
const SHOWN: usize = 160;

/// Keeps them right while this replica leads. Never ends; to be spawned.
pub async fn keep(client: Client, authority: Authority, leadership: Leadership) {
    let voice = authority.voice("ConfigMaps tasuki-root-ca");
    while_leading(leadership, || {
        follow(client.clone(), authority.clone(), voice.clone())
    })
    .await;
}

enum Seen {
    Namespaces(Event<Presence>),
    Maps(Event<Presence>),
    Failed(String),
}

/// A name, and what there is under it.
struct Presence {
    namespace: String,
    /// Of a ConfigMap. Of a namespace: `None` when it is being deleted.
    text: Option<String>,
}

async fn follow(client: Client, authority: Authority, voice: Arc<Voice>) {
    voice.withdraw();
    let mut bundles = authority.bundles();
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let ours =
        watcher::Config::default().fields(&format!("metadata.name={}", names::ROOTS_CONFIG_MAP));
    let all = watcher::Config::default();
    let maps = watched(maps, ours).map(|event| {
        seen(event, Seen::Maps, |map| Presence {
            namespace: map.namespace().unwrap_or_default(),
            text: map.data.and_then(|mut data| data.remove(names::ROOTS_KEY)),
        })
    });
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let namespaces = watched(namespaces, all).map(|event| {
        seen(event, Seen::Namespaces, |namespace| Presence {
            text: namespace
                .meta()
                .deletion_timestamp
                .is_none()
                .then(String::new),
            namespace: namespace.name_any(),
        })
    });
    let mut events = std::pin::pin!(select(maps, namespaces));
    let mut desk = Desk::default();
    let mut free = Instant::now();
    loop {
        let bundle = bundles.borrow_and_update().clone();
        let pem = pem(&bundle);
        let due = desk.due(&pem);
        match desk.lacking(&pem) {
            Some(lacking) if lacking.is_empty() => voice.confirm(&bundle),
            Some(lacking) => voice.wait_for(lacking),
            None => {}
        }
        let (namespace, at) = due.unwrap_or_else(|| (String::new(), free));
        tokio::select! {
            event = events.next() => match event {
                Some(event) => desk.take(event),
                None => return,
            },
            changed = bundles.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(at.max(free)), if !namespace.is_empty() => {
                free = Instant::now() + SPACING;
                let written = write(&client, &namespace, &pem).await;
                desk.wrote(&namespace, &pem, written);
            }
        }
    }
}

fn seen<K>(
    event: watcher::Result<Event<K>>,
    kind: fn(Event<Presence>) -> Seen,
    presence: impl Fn(K) -> Presence,
) -> Seen {
    match event {
        Ok(Event::Init) => kind(Event::Init),
        Ok(Event::InitApply(object)) => kind(Event::InitApply(presence(object))),
        Ok(Event::InitDone) => kind(Event::InitDone),
        Ok(Event::Apply(object)) => kind(Event::Apply(presence(object))),
        Ok(Event::Delete(object)) => kind(Event::Delete(presence(object))),
        Err(error) => Seen::Failed(error.to_string()),
    }
}

fn pem(bundle: &TrustBundle) -> String {
    // The authority's own roots, which have been parsed before.
    let roots = Roots::from_der(bundle.roots.clone());
    roots.map(|roots| roots.to_pem()).unwrap_or_default()
}

async fn write(client: &Client, namespace: &str, pem: &str) -> Result<(), String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names::ROOTS_CONFIG_MAP,
            "labels": {"app.kubernetes.io/managed-by": names::FIELD_MANAGER},
        },
        "data": {names::ROOTS_KEY: pem},
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    let patch = Patch::Apply(map);
    match timeout(ANSWER, maps.patch(names::ROOTS_CONFIG_MAP, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the API server".to_owned()),
    }
}

/// What there is and what there should be. Pure.
#[derive(Debug, Default)]
struct Desk {
    namespaces: Listing,
    maps: Listing,
    /// Not before then.
    later: BTreeMap<String, Instant>,
    /// Why it could not be written there.
    refused: BTreeMap<String, String>,
    complained: String,
}

/// What a watch has told, by namespace; whole after the first list, and again after each.
#[derive(Debug, Default)]
struct Listing {
    known: BTreeMap<String, String>,
    coming: Option<BTreeMap<String, String>>,
    complete: bool,
}

impl Listing {
    fn take(&mut self, event: Event<Presence>) {
        let mut put = |presence: Presence| match presence.text {
            Some(text) => drop(self.known.insert(presence.namespace, text)),
            None => drop(self.known.remove(&presence.namespace)),
        };
        match event {
            Event::Init => self.coming = Some(BTreeMap::new()),
            Event::InitApply(presence) => {
                let coming = self.coming.get_or_insert_default();
                coming.extend(presence.text.map(|text| (presence.namespace, text)));
            }
            Event::InitDone => {
                self.known = self.coming.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(presence) => put(presence),
            Event::Delete(presence) => drop(self.known.remove(&presence.namespace)),
        }
    }
}

impl Desk {
    fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Namespaces(event) => self.namespaces.take(event),
            Seen::Maps(event) => self.maps.take(event),
            Seen::Failed(reason) => self.complain("cannot be followed", &reason),
        }
        let known = &self.namespaces.known;
        self.later
            .retain(|namespace, _| known.contains_key(namespace));
        self.refused
            .retain(|namespace, _| known.contains_key(namespace));
    }

    /// Where it is not right, those first that refuse it, and why: they may hold up a rotation for ever. `None`: not known yet.
    fn lacking(&self, pem: &str) -> Option<Vec<String>> {
        if !self.is_complete() {
            return None;
        }
        let wrong = |namespace: &&String| !self.is_right(namespace, pem);
        let wrong = self.namespaces.known.keys().filter(wrong);
        let mut lacking: Vec<_> = wrong
            .map(|namespace| match self.refused.get(namespace) {
                Some(reason) => (false, format!("namespace {namespace} ({reason})")),
                None => (true, format!("namespace {namespace}")),
            })
            .collect();
        lacking.sort();
        Some(lacking.into_iter().map(|(_, text)| text).collect())
    }

    fn is_right(&self, namespace: &str, pem: &str) -> bool {
        self.maps.known.get(namespace).map(String::as_str) == Some(pem)
    }

    fn is_complete(&self) -> bool {
        self.namespaces.complete && self.maps.complete
    }

    /// The namespace to be written next, and when at the earliest. Nothing before it is known what is there.
    fn due(&self, pem: &str) -> Option<(String, Instant)> {
        if !self.is_complete() {
            return None;
        }
        let wrong = |namespace: &&String| !self.is_right(namespace, pem);
        let at = |namespace: &String| self.later.get(namespace).copied();
        let wrong = self.namespaces.known.keys().filter(wrong);
        // Those that have never been written come first.
        let next = wrong.min_by_key(|namespace| at(namespace))?;
        Some((next.clone(), at(next).unwrap_or_else(Instant::now)))
    }

    fn wrote(&mut self, namespace: &str, pem: &str, written: Result<(), String>) {
        let again = Instant::now() + AGAIN;
        self.later.insert(namespace.to_owned(), again);
        match written {
            Ok(()) => {
                // The watch says the same a moment later, unless somebody else has changed it meanwhile.
                let known = &mut self.maps.known;
                known.insert(namespace.to_owned(), pem.to_owned());
                self.refused.remove(namespace);
                self.complained.clear();
            }
            Err(reason) => {
                self.complain(&format!("not written in {namespace}"), &reason);
                let shown = reason.chars().take(SHOWN).collect();
                self.refused.insert(namespace.to_owned(), shown);
            }
        }
    }

    fn complain(&mut self, what: &str, reason: &str) {
        let text = format!("{what}: {reason}");
        if self.complained != text {
            tracing::warn!("ConfigMap {} {text}", names::ROOTS_CONFIG_MAP);
            self.complained = text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(namespace: &str, text: Option<&str>) -> Presence {
        Presence {
            namespace: namespace.to_owned(),
            text: text.map(str::to_owned),
        }
    }

    fn due(desk: &Desk, pem: &str) -> Option<String> {
        desk.due(pem).map(|(namespace, _)| namespace)
    }

    #[tokio::test(start_paused = true)]
    async fn every_namespace_gets_the_roots_once_and_after_every_edit() {
        let mut desk = Desk::default();
        for event in [
            Event::Init,
            Event::InitApply(presence("a", Some(""))),
            Event::InitDone,
        ] {
            desk.take(Seen::Namespaces(event));
        }
        assert_eq!(due(&desk, "PEM"), None, "it is not known what is there");
        assert_eq!(desk.lacking("PEM"), None);
        desk.take(Seen::Maps(Event::Init));
        desk.take(Seen::Maps(Event::InitDone));
        desk.take(Seen::Namespaces(Event::Apply(presence("b", Some("")))));
        assert_eq!(due(&desk, "PEM").as_deref(), Some("a"));
        desk.wrote("a", "PEM", Err("quota".to_owned()));
        assert_eq!(
            due(&desk, "PEM").as_deref(),
            Some("b"),
            "one does not stop the others"
        );
        let lacking = desk.lacking("PEM").unwrap();
        assert_eq!(lacking, ["namespace a (quota)", "namespace b"]);
        desk.wrote("b", "PEM", Ok(()));
        let (next, at) = desk.due("PEM").unwrap();
        assert_eq!((next.as_str(), at), ("a", Instant::now() + AGAIN));
        desk.wrote("a", "PEM", Ok(()));
        assert_eq!(due(&desk, "PEM"), None);
        assert_eq!(desk.lacking("PEM"), Some(Vec::new()));
        assert!(due(&desk, "NEW").is_some());

        desk.take(Seen::Maps(Event::Apply(presence("b", Some("EDITED")))));
        assert_eq!(due(&desk, "PEM").as_deref(), Some("b"));
        desk.take(Seen::Namespaces(Event::Apply(presence("b", None))));
        assert_eq!(due(&desk, "PEM"), None, "it is being deleted");
        desk.take(Seen::Maps(Event::Delete(presence("a", None))));
        assert_eq!(due(&desk, "PEM").as_deref(), Some("a"));
    }
}
