//! One state-of-the-world stream: Envoy and gRPC clients that do not speak the incremental protocol.
//!
//! Listeners and clusters are always sent whole, because absence deletes; endpoints and routes only as far as
//! they changed. A response's version is a hash of everything the client is to have of that type, so a client
//! that reconnects with it is sent nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::warming::Warming;
use super::{Nack, Options, ResourceStatus, View};
use crate::client::WILDCARD;
use crate::codec::Encoded;
use crate::model::ResourceType;
use crate::proto::{DiscoveryRequest, DiscoveryResponse};

/// State of one state-of-the-world stream.
#[derive(Debug)]
pub struct SotwSession {
    options: Options,
    types: BTreeMap<ResourceType, TypeState>,
    warming: Warming,
    nonce: u64,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client was last sent, by name.
    held: BTreeMap<String, Arc<Encoded>>,
    /// Names that were asked for and have not been answered on this stream.
    fresh: BTreeSet<String>,
    /// A response is due even if nothing changed: the first, and after the names of a whole type changed.
    due: bool,
    /// The version that the client brought along from an earlier stream.
    claimed: Option<String>,
    /// Of the last response; requests with another are stale.
    nonce: String,
    in_flight: Option<InFlight>,
    acked: BTreeMap<String, String>,
    refused: BTreeMap<String, String>,
    /// [`View::generation`] up to which everything that changed has been answered for.
    settled_of: u64,
}

#[derive(Debug)]
struct InFlight {
    /// Names and versions in the response.
    sent: Vec<(String, String)>,
    /// [`View::generation`] of which this is all.
    all_of: u64,
}

/// Absence from a response deletes.
fn is_whole(ty: ResourceType) -> bool {
    matches!(ty, ResourceType::Listener | ResourceType::Cluster)
}

impl SotwSession {
    /// A stream on which nothing has been asked for.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            types: BTreeMap::new(),
            warming: Warming::default(),
            nonce: 0,
        }
    }

    /// Takes a request; types that are not ours are ignored.
    pub fn on_request(&mut self, request: DiscoveryRequest) {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else {
            return;
        };
        let first = !self.types.contains_key(&ty);
        let state = self.types.entry(ty).or_default();
        if !request.response_nonce.is_empty() && !first {
            if request.response_nonce != state.nonce {
                // Stale: the client repeats itself when it answers the newer response.
                return;
            }
            for (name, refused) in state.answered(&request) {
                self.warming.answered(ty, &name, refused);
            }
        }
        if first {
            state.due = true;
            state.claimed =
                (!request.version_info.is_empty()).then(|| request.version_info.clone());
        }
        state.want(ty, request.resource_names, first, &self.options);
    }

    /// The responses that are due now.
    pub fn poll(&mut self, view: &dyn View) -> Vec<DiscoveryResponse> {
        let mut responses = Vec::new();
        let mut renewed = Vec::new();
        self.warming.refresh(view);
        for ty in ResourceType::ALL {
            let held_back = Warming::holds(ty) && self.holds();
            let Some(state) = self.types.get_mut(&ty) else {
                continue;
            };
            if ty == ResourceType::Endpoint {
                state.forget(&renewed);
            }
            if state.in_flight.is_some() || held_back {
                continue;
            }
            let wanted = state.wanted(ty, view);
            // What goes away stays in the first response, and leaves with the last.
            let kept = state
                .held
                .iter()
                .filter(|(name, _)| is_whole(ty) && state.is_wanted(name));
            let mut target: BTreeMap<_, _> = kept.map(|(n, e)| (n.clone(), e.clone())).collect();
            target.extend(wanted);
            let changed = state.changed(&target);
            let warm = ty == ResourceType::Cluster && self.options.warm_clusters;
            let was_held = |name: &&String| state.held.contains_key(*name);
            let again: Vec<String> = changed.iter().filter(was_held).cloned().collect();
            let response = state.respond(ty, target, changed.clone(), &mut self.nonce);
            if warm && response.is_some() {
                self.warming.sent(changed.iter().map(String::as_str), view);
                renewed = again;
            }
            match &mut state.in_flight {
                Some(in_flight) => in_flight.all_of = view.generation(),
                None => state.settled_of = view.generation(),
            }
            responses.extend(response);
        }
        if self.types.values().all(|s| s.in_flight.is_none()) && !self.holds() {
            responses.extend(self.remove(view));
        }
        responses
    }

    /// Whole types without what is gone.
    fn remove(&mut self, view: &dyn View) -> Vec<DiscoveryResponse> {
        let mut responses = Vec::new();
        for ty in [ResourceType::Listener, ResourceType::Cluster] {
            let Some(state) = self.types.get_mut(&ty) else {
                continue;
            };
            let wanted = state.wanted(ty, view);
            if state.held.keys().any(|name| !wanted.contains_key(name)) {
                state.due = true;
                let changed = state.changed(&wanted);
                responses.extend(state.respond(ty, wanted, changed, &mut self.nonce));
            }
        }
        responses
    }

    /// Whether listeners and routes wait for clusters that the client does not use yet.
    pub fn holds(&self) -> bool {
        let clusters = self.types.get(&ResourceType::Cluster);
        self.options.warm_clusters
            && (!self.warming.is_empty() || clusters.is_some_and(|s| s.in_flight.is_some()))
    }

    /// Lets go of what [`Self::holds`] holds back; for a client that never asks for endpoints.
    pub fn release(&mut self) {
        self.warming.clear();
    }

    /// What is known about each resource at this client.
    pub fn status(&self) -> Vec<ResourceStatus> {
        let mut all = Vec::new();
        for (ty, state) in &self.types {
            let names: BTreeSet<&String> = state.names.iter().chain(state.held.keys()).collect();
            all.extend(names.into_iter().map(|name| ResourceStatus {
                ty: *ty,
                name: name.clone(),
                sent: state.held.get(name).map(|e| e.version.clone()),
                acked: state.acked.get(name).cloned(),
                refusal: state.refused.get(name).cloned(),
            }));
        }
        all
    }

    /// As [`super::DeltaSession::has_settled`].
    pub fn has_settled(
        &self,
        ty: ResourceType,
        generation: u64,
        concerns: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(state) = self.types.get(&ty) else {
            return true;
        };
        let lags = state.settled_of < generation;
        let mut behind = state.held.keys().filter(|name| {
            let (acked, refused) = (
                state.acked.contains_key(*name),
                state.refused.contains_key(*name),
            );
            (acked || !refused) && (lags || refused)
        });
        !behind.any(|name| concerns(name))
    }

    /// As [`super::DeltaSession::names`].
    pub fn names(&self) -> Vec<(ResourceType, &str)> {
        let types = self.types.iter();
        let names = types.flat_map(|(ty, state)| {
            let names = state.names.iter().chain(state.held.keys());
            names.map(|name| (*ty, name.as_str()))
        });
        names.collect()
    }

    /// As [`super::DeltaSession::carry`].
    pub fn carry(&mut self, polled: u64, generation: u64) {
        for state in self.types.values_mut() {
            if state.settled_of == polled {
                state.settled_of = generation;
            }
            if let Some(in_flight) = &mut state.in_flight
                && in_flight.all_of == polled
            {
                in_flight.all_of = generation;
            }
        }
    }

    /// Whether a resource of this type has been asked for.
    pub fn subscribes_to(&self, ty: ResourceType) -> bool {
        self.types
            .get(&ty)
            .is_some_and(|s| s.wildcard || !s.names.is_empty())
    }
}

impl TypeState {
    /// The names that the answer is about, each with whether it was refused.
    fn answered(&mut self, request: &DiscoveryRequest) -> Vec<(String, bool)> {
        let Some(in_flight) = self.in_flight.take() else {
            return Vec::new();
        };
        self.settled_of = in_flight.all_of;
        let nack = request.error_detail.as_ref().map(Nack::read);
        let mut answered = Vec::new();
        for (name, version) in in_flight.sent {
            let refusal = nack.as_ref().and_then(|nack| nack.of(&name));
            let refused = refusal.is_some();
            if let Some(reason) = refusal {
                self.refused.insert(name.clone(), reason);
            } else {
                self.refused.remove(&name);
                self.acked.insert(name.clone(), version);
            }
            // Otherwise it is about to be sent once more, and this was not the last word.
            if self.held.contains_key(&name) {
                answered.push((name, refused));
            }
        }
        answered
    }

    /// The names of a request are all that the client wants.
    fn want(&mut self, ty: ResourceType, names: Vec<String>, first: bool, options: &Options) {
        let mut wildcard = names.iter().any(|n| n == WILDCARD);
        // Without names: everything, if it never named any.
        wildcard |= is_whole(ty) && names.is_empty() && (first || self.wildcard);
        let names: BTreeSet<String> = names
            .into_iter()
            .filter(|n| n != WILDCARD && n.len() <= options.max_name_length)
            .take(options.max_names)
            .collect();
        let added: Vec<String> = names.difference(&self.names).cloned().collect();
        let changed = names != self.names || wildcard != self.wildcard;
        if is_whole(ty) && changed {
            self.due = true;
        }
        if !is_whole(ty) {
            // An unwanted one is forgotten, so that it is sent when it is wanted again.
            self.held.retain(|name, _| names.contains(name));
        }
        self.fresh.extend(added);
        self.fresh.retain(|name| names.contains(name));
        self.acked
            .retain(|name, _| wildcard || names.contains(name));
        self.refused
            .retain(|name, _| wildcard || names.contains(name));
        self.wildcard = wildcard;
        self.names = names;
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn wanted(&self, ty: ResourceType, view: &dyn View) -> BTreeMap<String, Arc<Encoded>> {
        let listed = if self.wildcard {
            view.list(ty)
        } else {
            Vec::new()
        };
        let mut wanted: BTreeMap<_, _> = listed.into_iter().map(|e| (e.name.clone(), e)).collect();
        for name in &self.names {
            if let Some(encoded) = view.get(ty, name) {
                wanted.insert(name.clone(), encoded);
            }
        }
        wanted
    }

    /// Names whose version the client does not have.
    fn changed(&self, target: &BTreeMap<String, Arc<Encoded>>) -> Vec<String> {
        let differs = |(name, encoded): &(&String, &Arc<Encoded>)| {
            self.fresh.contains(*name)
                || self
                    .held
                    .get(*name)
                    .is_none_or(|held| held.version != encoded.version)
        };
        target
            .iter()
            .filter(differs)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn forget(&mut self, names: &[String]) {
        for name in names {
            if self.held.remove(name).is_some() {
                self.fresh.insert(name.clone());
            }
        }
    }

    fn respond(
        &mut self,
        ty: ResourceType,
        target: BTreeMap<String, Arc<Encoded>>,
        changed: Vec<String>,
        counter: &mut u64,
    ) -> Option<DiscoveryResponse> {
        let version = version_of(&target);
        let due = std::mem::take(&mut self.due) && is_whole(ty);
        if let Some(claimed) = self.claimed.take()
            && claimed == version
        {
            // The client has all of it from an earlier stream.
            self.acked = target
                .iter()
                .map(|(n, e)| (n.clone(), e.version.clone()))
                .collect();
            self.held = target;
            self.fresh.clear();
            return None;
        }
        if changed.is_empty() && !due {
            return None;
        }
        let sent: Vec<&Arc<Encoded>> = match is_whole(ty) {
            true => target.values().collect(),
            false => changed.iter().filter_map(|name| target.get(name)).collect(),
        };
        *counter += 1;
        self.nonce = counter.to_string();
        self.in_flight = Some(InFlight {
            sent: sent
                .iter()
                .map(|e| (e.name.clone(), e.version.clone()))
                .collect(),
            all_of: self.settled_of,
        });
        let resources = sent.iter().map(|e| e.any.clone()).collect();
        self.fresh.clear();
        self.held = target;
        Some(DiscoveryResponse {
            version_info: version,
            resources,
            type_url: ty.type_url().to_owned(),
            nonce: self.nonce.clone(),
            ..DiscoveryResponse::default()
        })
    }
}

/// One version for a whole set: equal sets have equal versions, on every replica.
fn version_of(target: &BTreeMap<String, Arc<Encoded>>) -> String {
    let mut hash = Sha256::new();
    for (name, encoded) in target {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(encoded.version.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
