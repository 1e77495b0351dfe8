//! The server half of ADS, incremental and state of the world: a state machine per stream, without
//! sockets and without knowledge of where resources come from.
//!
//! The owner hands in each request, and asks for the responses that are due with `poll`, after each
//! request and after each change of what the client may see. Bounded on both sides: a client has one
//! unacknowledged response per type, and a limited number of names.

mod delta;
mod sotw;
#[cfg(test)]
mod tests;
mod warming;

pub use delta::DeltaSession;
pub use sotw::SotwSession;

use std::sync::Arc;

use envoy_types::pb::google::rpc;
use prost::Message;

use crate::codec::Encoded;
use crate::model::ResourceType;
use crate::proto::{REJECTED_URL, Rejected};

/// What one client may see at one moment. Values of one view are consistent with each other.
pub trait View {
    /// The named resource, if it exists for this client.
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>>;
    /// Everything of a type that a wildcard subscription gets; empty for types that have no wildcard for this client.
    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>>;
    /// Which state of the source this is a view of; never goes back.
    fn generation(&self) -> u64 {
        0
    }
}

/// How a stream is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Names of one type that a client may ask for; more are answered as unknown.
    pub max_names: usize,
    /// Longest name in bytes; longer ones are answered as unknown.
    pub max_name_length: usize,
    /// Bytes of resources after which an incremental response is cut; the rest follows its ACK.
    pub max_response: usize,
    /// The client is an Envoy, which serves a new or changed cluster only once its endpoints have arrived. So they
    /// are sent again after the cluster changed (envoyproxy/envoy issue 13009), and routes and listeners wait until
    /// they are acknowledged. Our own proxy and gRPC see to this themselves.
    pub warm_clusters: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_names: 4096,
            max_name_length: 512,
            max_response: 2 << 20,
            warm_clusters: false,
        }
    }
}

/// What is known about one resource at one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceStatus {
    /// Its type.
    pub ty: ResourceType,
    /// Its name.
    pub name: String,
    /// The version last sent, or claimed by the client when it connected; `None` if it was told that there is none.
    pub sent: Option<String>,
    /// The version last accepted.
    pub acked: Option<String>,
    /// Why the version last sent was refused.
    pub refusal: Option<String>,
}

/// Text of a refusal is cut here; it comes from the client and is kept per resource.
const MAX_REFUSAL: usize = 512;

/// The refusals in a NACK: by name where the client says so, else its text for all of the response.
#[derive(Debug, Default)]
struct Nack {
    by_name: Vec<Rejected>,
    all: Option<String>,
}

impl Nack {
    fn read(error: &rpc::Status) -> Self {
        let details = error
            .details
            .iter()
            .filter(|any| any.type_url == REJECTED_URL);
        let by_name: Vec<_> = details
            .filter_map(|any| Rejected::decode(any.value.as_slice()).ok())
            .collect();
        let all = by_name.is_empty().then(|| cut(&error.message));
        Self { by_name, all }
    }

    /// Why `name` was refused; `None` if it was accepted.
    fn of(&self, name: &str) -> Option<String> {
        if let Some(all) = &self.all {
            return Some(all.clone());
        }
        self.by_name
            .iter()
            .find(|r| r.name == name)
            .map(|r| cut(&r.reason))
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_REFUSAL) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
