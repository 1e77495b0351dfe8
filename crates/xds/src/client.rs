//! The client half of incremental ADS: a state machine without sockets.
//!
//! The owner of the stream calls [`AdsClient::connected`] when a stream has opened, sends whatever
//! [`AdsClient::next_request`] returns until it returns `None` (again after every call that changes
//! something), and hands in responses with [`AdsClient::on_response`].

use envoy_types::pb::google::protobuf::Any;

use crate::codec::Refusal;
use crate::model::{Resource, ResourceType};
use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

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

/// Who this client says it is; becomes the `Node` of the first request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// `sidecar~NS/NAME` or `gateway~NS/NAME`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// String metadata: `POD_NAME`, `POD_NAMESPACE`, `GATEWAY`.
    pub metadata: Vec<(String, String)>,
    /// Shown in `/debug/clients`.
    pub version: String,
}

/// A further check of a decoded resource; its error refuses the resource.
pub type Check = Box<dyn Fn(&Resource) -> Result<(), String> + Send>;

/// State of one client over all its streams.
pub struct AdsClient {
    node: Node,
}

impl AdsClient {
    /// A client that has no stream yet.
    pub fn new(node: &NodeInfo) -> Self {
        let _ = node;
        Self { node: Node::default() }
    }

    /// Adds a check of the owner's: a resource that it refuses is rejected like one the codec refuses.
    pub fn with_check(self, check: Check) -> Self {
        let _ = check;
        self
    }

    /// Puts back a resource kept from an earlier run, before connecting. Its version is offered to the
    /// server, which then sends it only if it changed. Does not subscribe.
    ///
    /// # Errors
    /// The codec's, if the kept form is no longer readable.
    pub fn restore(&mut self, ty: ResourceType, version: &str, any: &Any) -> Result<Resource, Refusal> {
        crate::codec::decode(ty, any).inspect(|_| { let _ = version; })
    }

    /// Wants the named resource. False if it was already wanted.
    pub fn subscribe(&mut self, ty: ResourceType, name: &str) -> bool {
        let _ = (ty, name);
        true
    }

    /// Wants all resources of a type (`*`).
    pub fn subscribe_all(&mut self, ty: ResourceType) {
        let _ = ty;
    }

    /// No longer wants the named resource, and forgets it. False if it was not wanted.
    pub fn unsubscribe(&mut self, ty: ResourceType, name: &str) -> bool {
        let _ = (ty, name);
        true
    }

    /// A stream has opened: everything wanted is asked for again, with the versions already held.
    pub fn connected(&mut self) {}

    /// The stream is gone; nothing is forgotten.
    pub fn disconnected(&mut self) {}

    /// Applies a response; the acknowledgement is the next request.
    pub fn on_response(&mut self, response: DeltaDiscoveryResponse) -> Vec<Event> {
        let _ = response;
        Vec::new()
    }

    /// The next message to send, if any and if there is a stream.
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        let _ = &self.node;
        None
    }
}
