//! The client half of incremental ADS: a state machine without sockets.
//!
//! The owner of the stream calls [`AdsClient::connected`] when a stream has opened, sends whatever
//! [`AdsClient::next_request`] returns until it returns `None` (again after every call that changes
//! something), and hands in responses with [`AdsClient::on_response`]. Time (the 15 s of gRFC A57, the
//! negative cache, back-off) is the owner's.

mod node;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use envoy_types::pb::envoy::service::discovery::v3::Resource as WireResource;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use prost::Message;

pub use self::node::NodeInfo;
use crate::codec::{self, Refusal};
use crate::model::{Resource, ResourceType};
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, REJECTED_URL, Rejected};

/// Name of a wildcard subscription.
pub const WILDCARD: &str = "*";

/// google.rpc.Code of a refusal.
const INVALID_ARGUMENT: i32 = 3;

/// Refusals listed in one NACK; a response with more bad resources than this says so in its message.
const MAX_DETAILS: usize = 256;

/// What a response did to one resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// New or changed; already acknowledged.
    Updated(Box<Update>),
    /// The control plane says that there is no such resource (or no longer).
    Removed {
        /// Type of the resource.
        ty: ResourceType,
        /// Its name.
        name: String,
    },
    /// Refused and reported; the last good version stays.
    Rejected {
        /// Type of the resource.
        ty: ResourceType,
        /// What was wrong.
        refusal: Refusal,
    },
}

/// An accepted resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The decoded resource.
    pub resource: Resource,
    /// The server's version of it.
    pub version: String,
    /// The message as received, to be kept in the state dir and given to [`AdsClient::restore`].
    pub any: Any,
}

/// A further check of a decoded resource; its error refuses the resource.
pub type Check = Box<dyn Fn(&Resource) -> Result<(), String> + Send>;

/// State of one client over all its streams.
pub struct AdsClient {
    node: Node,
    check: Option<Check>,
    types: BTreeMap<ResourceType, Subscription>,
    /// ACKs and NACKs, in the order of the responses.
    answers: VecDeque<DeltaDiscoveryRequest>,
    stream: Stream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Closed,
    /// The node has not been sent.
    Fresh,
    Open,
}

/// What is wanted of one type, and what is held.
#[derive(Default)]
struct Subscription {
    wildcard: bool,
    wanted: BTreeSet<String>,
    /// Last good version by name; what `initial_resource_versions` offers.
    versions: HashMap<String, String>,
    /// The first request of this type has been sent on this stream.
    started: bool,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
}

impl Subscription {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.wanted.contains(name)
    }
}

impl AdsClient {
    /// A client that has no stream yet.
    pub fn new(node: &NodeInfo) -> Self {
        Self {
            node: node.to_node(),
            check: None,
            types: BTreeMap::new(),
            answers: VecDeque::new(),
            stream: Stream::Closed,
        }
    }

    /// Adds a check of the owner's: a resource that it refuses is rejected like one the codec refuses.
    pub fn with_check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// Puts back a resource kept from an earlier run, before connecting. Its version is offered to the
    /// server, which then sends it only if it changed. Does not subscribe.
    ///
    /// # Errors
    /// The codec's or the check's, if the kept form is no longer acceptable.
    pub fn restore(
        &mut self,
        ty: ResourceType,
        version: &str,
        any: &Any,
    ) -> Result<Resource, Refusal> {
        let resource = self.read(ty, any)?;
        let held = &mut self.types.entry(ty).or_default().versions;
        held.insert(resource.name().to_owned(), version.to_owned());
        Ok(resource)
    }

    /// Wants the named resource. False if it was already wanted.
    pub fn subscribe(&mut self, ty: ResourceType, name: &str) -> bool {
        let subscription = self.types.entry(ty).or_default();
        if !subscription.wanted.insert(name.to_owned()) {
            return false;
        }
        // Also after an unsubscribe that was not sent yet: the version is forgotten, so ask again.
        subscription.unsubscribe.remove(name);
        subscription.subscribe.insert(name.to_owned());
        true
    }

    /// Wants all resources of a type (`*`).
    pub fn subscribe_all(&mut self, ty: ResourceType) {
        let subscription = self.types.entry(ty).or_default();
        if !subscription.wildcard {
            subscription.wildcard = true;
            subscription.subscribe.insert(WILDCARD.to_owned());
        }
    }

    /// No longer wants the named resource, and forgets it. False if it was not wanted.
    pub fn unsubscribe(&mut self, ty: ResourceType, name: &str) -> bool {
        let Some(subscription) = self.types.get_mut(&ty) else {
            return false;
        };
        if !subscription.wanted.remove(name) {
            return false;
        }
        subscription.versions.remove(name);
        subscription.subscribe.remove(name);
        subscription.unsubscribe.insert(name.to_owned());
        true
    }

    /// Whether the named resource is wanted.
    pub fn is_subscribed(&self, ty: ResourceType, name: &str) -> bool {
        self.types.get(&ty).is_some_and(|s| s.wants(name))
    }

    /// Number of names wanted of a type.
    pub fn subscribed(&self, ty: ResourceType) -> usize {
        self.types.get(&ty).map_or(0, |s| s.wanted.len())
    }

    /// A stream has opened: everything wanted is asked for again, with the versions already held.
    pub fn connected(&mut self) {
        self.disconnected();
        self.stream = Stream::Fresh;
    }

    /// The stream is gone; nothing is forgotten.
    pub fn disconnected(&mut self) {
        self.stream = Stream::Closed;
        self.answers.clear();
        for subscription in self.types.values_mut() {
            subscription.started = false;
            subscription.subscribe.clear();
            subscription.unsubscribe.clear();
        }
    }

    /// Applies a response; the acknowledgement is the next request.
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Vec<Event> {
        let Some(ty) = ResourceType::from_type_url(&response.type_url) else {
            let reason = format!("type `{}` is not known", response.type_url);
            self.answers.push_back(answer(
                response.type_url,
                response.nonce,
                Some(refuse_whole(reason)),
            ));
            return Vec::new();
        };
        let mut events = Vec::new();
        let mut refusals = Vec::new();
        for resource in response.resources {
            match self.apply(ty, resource) {
                Ok(update) => events.extend(update.map(Event::Updated)),
                Err(refusal) => {
                    refusals.push(refusal.clone());
                    events.push(Event::Rejected { ty, refusal });
                }
            }
        }
        let removed = response.removed_resource_names.into_iter().map(|n| n.name);
        for name in response.removed_resources.into_iter().chain(removed) {
            let Some(subscription) = self.types.get_mut(&ty) else {
                continue;
            };
            if subscription.wants(&name) {
                subscription.versions.remove(&name);
                events.push(Event::Removed { ty, name });
            }
        }
        let error = (!refusals.is_empty()).then(|| refuse(&refusals));
        self.answers
            .push_back(answer(response.type_url, response.nonce, error));
        events
    }

    /// `Ok(None)`: nothing to do, for a resource that is not wanted or is held in this version.
    fn apply(
        &mut self,
        ty: ResourceType,
        wire: WireResource,
    ) -> Result<Option<Box<Update>>, Refusal> {
        let WireResource {
            name,
            resource_name,
            aliases: _,
            version,
            resource,
            ttl,
            cache_control: _,
            metadata: _,
        } = wire;
        let name = resource_name.map_or(name, |n| n.name);
        let refusal = |reason: String| Refusal {
            name: name.clone(),
            reason,
        };
        match self.types.get(&ty) {
            Some(subscription) if subscription.wants(&name) => {
                if subscription
                    .versions
                    .get(&name)
                    .is_some_and(|held| *held == version && !held.is_empty())
                {
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        }
        if ttl.is_some() {
            return Err(refusal("ttl: not honoured".to_owned()));
        }
        let any = resource.ok_or_else(|| refusal("resource: missing".to_owned()))?;
        // A resource that cannot even say its name is refused by the name it was sent under.
        let resource = self.read(ty, &any).map_err(|r| refusal(r.reason))?;
        if resource.name() != name {
            return Err(refusal(format!(
                "name: `{}` inside a resource called `{name}`",
                resource.name()
            )));
        }
        if let Some(subscription) = self.types.get_mut(&ty) {
            subscription.versions.insert(name, version.clone());
        }
        Ok(Some(Box::new(Update {
            resource,
            version,
            any,
        })))
    }

    fn read(&self, ty: ResourceType, any: &Any) -> Result<Resource, Refusal> {
        let resource = codec::decode(ty, any)?;
        if let Some(check) = &self.check {
            check(&resource).map_err(|reason| Refusal {
                name: resource.name().to_owned(),
                reason,
            })?;
        }
        Ok(resource)
    }

    /// The next message to send, if any and if there is a stream.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        if self.stream == Stream::Closed {
            return None;
        }
        let mut request = match self.answers.pop_front() {
            Some(request) => request,
            None => self
                .types
                .iter_mut()
                .find_map(|(ty, subscription)| next_of(*ty, subscription))?,
        };
        if self.stream == Stream::Fresh {
            request.node = Some(self.node.clone());
            self.stream = Stream::Open;
        }
        Some(request)
    }
}

/// What is still to be said about one type: everything on a new stream, else only what changed.
fn next_of(ty: ResourceType, subscription: &mut Subscription) -> Option<DeltaDiscoveryRequest> {
    let mut request = DeltaDiscoveryRequest {
        type_url: ty.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    if subscription.started {
        if subscription.subscribe.is_empty() && subscription.unsubscribe.is_empty() {
            return None;
        }
        request.resource_names_subscribe = std::mem::take(&mut subscription.subscribe)
            .into_iter()
            .collect();
        request.resource_names_unsubscribe = std::mem::take(&mut subscription.unsubscribe)
            .into_iter()
            .collect();
        return Some(request);
    }
    if subscription.wanted.is_empty() && !subscription.wildcard {
        return None;
    }
    subscription.started = true;
    subscription.subscribe.clear();
    subscription.unsubscribe.clear();
    request.resource_names_subscribe = subscription.wanted.iter().cloned().collect();
    if subscription.wildcard {
        request.resource_names_subscribe.push(WILDCARD.to_owned());
    }
    let held = subscription
        .versions
        .iter()
        .filter(|(name, _)| subscription.wants(name));
    request.initial_resource_versions = held
        .map(|(name, version)| (name.clone(), version.clone()))
        .collect();
    Some(request)
}

fn answer(type_url: String, nonce: String, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

fn refuse_whole(message: String) -> Status {
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// The NACK that names the bad resources; the others of the response have been applied.
fn refuse(refusals: &[Refusal]) -> Status {
    let detail = |refusal: &Refusal| {
        let rejected = Rejected {
            name: refusal.name.clone(),
            reason: refusal.reason.clone(),
        };
        Any {
            type_url: REJECTED_URL.to_owned(),
            value: rejected.encode_to_vec(),
        }
    };
    let message = match refusals {
        [one] => one.to_string(),
        many => format!("{} resources refused; first: {}", many.len(), many[0]),
    };
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: refusals.iter().take(MAX_DETAILS).map(detail).collect(),
    }
}
