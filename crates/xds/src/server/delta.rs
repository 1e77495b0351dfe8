//! One incremental stream.
//!
//! Additions go out in the order of [`ResourceType`]; what the client had and must lose goes out when nothing
//! else is on its way, so that no route is left pointing at a cluster that is gone.

use std::collections::{BTreeMap, HashSet};

use envoy_types::pb::envoy::service::discovery::v3::Resource as WireResource;

use super::warming::Warming;
use super::{Nack, Options, ResourceStatus, View};
use crate::client::WILDCARD;
use crate::codec::Encoded;
use crate::model::ResourceType;
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// State of one incremental stream.
#[derive(Debug)]
pub struct DeltaSession {
    options: Options,
    types: BTreeMap<ResourceType, TypeState>,
    warming: Warming,
    nonce: u64,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    entries: BTreeMap<String, Entry>,
    /// Names that are answered as unknown and not kept: too long, or too many.
    refused: Vec<String>,
    in_flight: Option<InFlight>,
    /// A wildcard client is told once even if there is nothing.
    greeted: bool,
    /// [`View::generation`] up to which everything that changed has been answered for.
    settled_of: u64,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    sent: Vec<String>,
    /// [`View::generation`] of which this is all; `None` if the rest had to wait.
    all_of: Option<u64>,
}

/// One resource at this client.
#[derive(Debug, Default)]
struct Entry {
    /// Asked for by name, rather than part of a wildcard.
    explicit: bool,
    has: Has,
    acked: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Has {
    /// Nothing has been said.
    #[default]
    Unknown,
    /// It was told that there is none.
    Absent,
    Version(String),
}

/// What is due for one type.
#[derive(Default)]
struct Due {
    resources: Vec<WireResource>,
    /// Never had: told at once.
    unknown: Vec<String>,
    /// Had: told last.
    lost: Vec<String>,
    /// The response is full, and something has to wait for the next.
    cut: bool,
}

impl DeltaSession {
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
    pub fn on_request(&mut self, request: DeltaDiscoveryRequest) {
        let Some(ty) = ResourceType::from_type_url(&request.type_url) else {
            return;
        };
        let first = !self.types.contains_key(&ty);
        let state = self.types.entry(ty).or_default();
        if !request.response_nonce.is_empty() {
            for (name, refused) in state.answered(&request) {
                self.warming.answered(ty, &name, refused);
            }
        }
        let names = &request.resource_names_subscribe;
        // The older way to say "everything": a first request without names.
        let legacy = first && names.is_empty() && request.resource_names_unsubscribe.is_empty();
        if legacy && matches!(ty, ResourceType::Listener | ResourceType::Cluster) {
            state.wildcard = true;
        }
        let mut explicit = state.entries.values().filter(|e| e.explicit).count();
        for name in request.resource_names_subscribe {
            state.subscribe(name, &mut explicit, &self.options);
        }
        for name in request.resource_names_unsubscribe {
            state.unsubscribe(&name);
        }
        for (name, version) in request.initial_resource_versions {
            state.claim(name, version, &self.options);
        }
    }

    /// The responses that are due now. Call until it returns nothing new only after further requests or changes.
    pub fn poll(&mut self, view: &dyn View) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let mut lost = Vec::new();
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
            let resend = ty == ResourceType::Cluster && self.options.warm_clusters;
            let held = if resend {
                state.held_names()
            } else {
                HashSet::new()
            };
            let mut due = state.due(ty, view, &self.options);
            if resend {
                let sent = due.resources.iter().map(|r| r.name.as_str());
                self.warming.sent(sent, view);
                renewed = due
                    .resources
                    .iter()
                    .map(|r| r.name.clone())
                    .filter(|n| held.contains(n))
                    .collect();
            }
            lost.push((ty, std::mem::take(&mut due.lost)));
            let greeting = state.wildcard && !state.greeted;
            if due.resources.is_empty() && due.unknown.is_empty() && !greeting {
                state.settled_of = view.generation();
                continue;
            }
            state.greeted = true;
            responses.push(send(&mut self.nonce, ty, state, due.resources, due.unknown));
            if let Some(in_flight) = &mut state.in_flight {
                in_flight.all_of = (!due.cut).then(|| view.generation());
            }
        }
        if self.types.values().all(|s| s.in_flight.is_none()) && !self.holds() {
            // In reverse: what refers goes before what is referred to.
            for (ty, names) in lost
                .into_iter()
                .rev()
                .filter(|(_, names)| !names.is_empty())
            {
                if let Some(state) = self.types.get_mut(&ty) {
                    state.lose(&names);
                    responses.push(send(&mut self.nonce, ty, state, Vec::new(), names));
                }
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
        let entries = self
            .types
            .iter()
            .flat_map(|(ty, state)| state.entries.iter().map(|(name, entry)| (*ty, name, entry)));
        entries
            .map(|(ty, name, entry)| ResourceStatus {
                ty,
                name: name.clone(),
                sent: match &entry.has {
                    Has::Version(version) => Some(version.clone()),
                    Has::Unknown | Has::Absent => None,
                },
                acked: entry.acked.clone(),
                refusal: entry.refusal.clone(),
            })
            .collect()
    }

    /// Whether the client has acknowledged the resources of this type that `concerns` names as they are since `generation`,
    /// or holds none of them. One that it refuses is not acknowledged, unless it never had any.
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
        let mut behind = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_behind(lags));
        !behind.any(|(name, _)| concerns(name))
    }

    /// Everything that was asked for or sent.
    pub fn names(&self) -> Vec<(ResourceType, &str)> {
        let types = self.types.iter();
        let names = types.flat_map(|(ty, state)| state.entries.keys().map(|name| (*ty, name)));
        names.map(|(ty, name)| (ty, name.as_str())).collect()
    }

    /// Nothing of what the client follows is different in the view of `generation` than in the one last polled, which was
    /// of `polled`.
    pub fn carry(&mut self, polled: u64, generation: u64) {
        for state in self.types.values_mut() {
            if state.settled_of == polled {
                state.settled_of = generation;
            }
            if let Some(in_flight) = &mut state.in_flight
                && in_flight.all_of == Some(polled)
            {
                in_flight.all_of = Some(generation);
            }
        }
    }

    /// Whether a resource of this type has been asked for.
    pub fn subscribes_to(&self, ty: ResourceType) -> bool {
        self.types
            .get(&ty)
            .is_some_and(|s| s.wildcard || !s.entries.is_empty())
    }
}

fn send(
    counter: &mut u64,
    ty: ResourceType,
    state: &mut TypeState,
    resources: Vec<WireResource>,
    removed: Vec<String>,
) -> DeltaDiscoveryResponse {
    *counter += 1;
    let nonce = counter.to_string();
    let sent = resources.iter().map(|r| r.name.clone()).collect();
    state.in_flight = Some(InFlight {
        nonce: nonce.clone(),
        sent,
        all_of: None,
    });
    DeltaDiscoveryResponse {
        type_url: ty.type_url().to_owned(),
        nonce,
        resources,
        removed_resources: removed,
        ..DeltaDiscoveryResponse::default()
    }
}

impl TypeState {
    /// An ACK or NACK: the names it is about, each with whether it was refused. One that is not for the response
    /// on its way is stale and says nothing.
    fn answered(&mut self, request: &DeltaDiscoveryRequest) -> Vec<(String, bool)> {
        let Some(in_flight) = self
            .in_flight
            .take_if(|f| f.nonce == request.response_nonce)
        else {
            return Vec::new();
        };
        self.settled_of = in_flight.all_of.unwrap_or(self.settled_of);
        let nack = request.error_detail.as_ref().map(Nack::read);
        let mut answered = Vec::new();
        for name in in_flight.sent {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            entry.refusal = nack.as_ref().and_then(|nack| nack.of(&name));
            // Otherwise it is about to be sent once more, and this was not the last word.
            let Has::Version(version) = &entry.has else {
                continue;
            };
            if entry.refusal.is_none() {
                entry.acked = Some(version.clone());
            }
            answered.push((name, entry.refusal.is_some()));
        }
        answered
    }

    /// `explicit` counts the names asked for so far.
    fn subscribe(&mut self, name: String, explicit: &mut usize, options: &Options) {
        if name == WILDCARD {
            self.wildcard = true;
            return;
        }
        let known = self.entries.get(&name).is_some_and(|e| e.explicit);
        if name.len() > options.max_name_length || (!known && *explicit >= options.max_names) {
            // A client that does not even read its answers is not told of all of them.
            if self.refused.len() < options.max_names {
                self.refused.push(name);
            }
            return;
        }
        *explicit += usize::from(!known);
        let entry = self.entries.entry(name).or_default();
        entry.explicit = true;
        // Asking again means that the client no longer has it.
        entry.has = Has::Unknown;
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            self.greeted = false;
            self.entries.retain(|_, e| e.explicit);
        } else if let Some(entry) = self.entries.get_mut(name) {
            entry.explicit = false;
            if !self.wildcard {
                self.entries.remove(name);
            }
        }
    }

    /// A version that the client brought along from an earlier stream.
    fn claim(&mut self, name: String, version: String, options: &Options) {
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.acked = Some(version.clone());
            entry.has = Has::Version(version);
        } else if self.wildcard && name.len() <= options.max_name_length {
            let acked = Some(version.clone());
            self.entries.insert(
                name,
                Entry {
                    has: Has::Version(version),
                    acked,
                    ..Entry::default()
                },
            );
        }
    }

    fn forget(&mut self, names: &[String]) {
        for name in names {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.has = Has::Unknown;
            }
        }
    }

    fn held_names(&self) -> HashSet<String> {
        let held = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.has, Has::Version(_)));
        held.map(|(name, _)| name.clone()).collect()
    }

    /// What the client lacks, marked as sent; losses are only listed.
    fn due(&mut self, ty: ResourceType, view: &dyn View, options: &Options) -> Due {
        let mut due = Due {
            unknown: std::mem::take(&mut self.refused),
            ..Due::default()
        };
        let mut budget = options.max_response;
        let listed = if self.wildcard {
            view.list(ty)
        } else {
            Vec::new()
        };
        let mut present = HashSet::new();
        for encoded in &listed {
            present.insert(encoded.name.clone());
            let entry = self.entries.entry(encoded.name.clone()).or_default();
            entry.offer(encoded, &mut budget, &mut due);
        }
        for (name, entry) in &mut self.entries {
            if present.contains(name) {
                continue;
            }
            let found = if entry.explicit {
                view.get(ty, name)
            } else {
                None
            };
            match (found, &entry.has) {
                (Some(encoded), _) => entry.offer(&encoded, &mut budget, &mut due),
                (None, Has::Unknown) => {
                    entry.has = Has::Absent;
                    due.unknown.push(name.clone());
                }
                (None, Has::Absent) => {}
                (None, Has::Version(_)) => due.lost.push(name.clone()),
            }
        }
        due
    }

    fn lose(&mut self, names: &[String]) {
        for name in names {
            match self.entries.get_mut(name) {
                Some(entry) if entry.explicit => {
                    *entry = Entry {
                        explicit: true,
                        has: Has::Absent,
                        ..Entry::default()
                    }
                }
                _ => {
                    self.entries.remove(name);
                }
            }
        }
    }
}

impl Entry {
    /// Whether the client may be using an older version than it should; `lags`: not everything has been answered for.
    fn is_behind(&self, lags: bool) -> bool {
        let in_use = match &self.has {
            Has::Version(_) => self.acked.is_some() || self.refusal.is_none(),
            Has::Unknown | Has::Absent => self.acked.is_some(),
        };
        in_use && (lags || self.refusal.is_some())
    }

    /// Adds the resource to the response unless the client has it or the response is full.
    fn offer(&mut self, encoded: &Encoded, budget: &mut usize, due: &mut Due) {
        let has = matches!(&self.has, Has::Version(version) if *version == encoded.version);
        if has {
            return;
        }
        if *budget == 0 {
            due.cut = true;
            return;
        }
        *budget = budget.saturating_sub(encoded.any.value.len());
        self.has = Has::Version(encoded.version.clone());
        due.resources.push(WireResource {
            name: encoded.name.clone(),
            version: encoded.version.clone(),
            resource: Some(encoded.any.clone()),
            ..WireResource::default()
        });
    }
}
