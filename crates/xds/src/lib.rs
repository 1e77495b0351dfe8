//! What the two planes say to each other: validated model types, the codec between them and Envoy's
//! xDS v3 messages, and the ADS state machines of client and server.
//!
//! Pure values only. Who owns the sockets, how a route is matched and where a resource comes from
//! is the business of the crates that use this one.

pub mod client;
pub mod codec;
pub mod model;
pub mod proto;
pub mod server;

pub use envoy_types::pb::google::protobuf::Any;
pub use model::{Resource, ResourceType};

/// In `node.client_features`: the client understands `api_listener`, our own messages and our metadata.
pub const TASUKI_FEATURE: &str = "tasuki.v1";

/// In `node.client_features`: the client asks for its Pod's [`model::Departure`].
pub const DEPARTURE_FEATURE: &str = "tasuki.departure.v1";

/// The certificate provider instance of a Tasuki proxy: its own certificate and the mesh's roots.
pub const WORKLOAD_PROVIDER: &str = "workload";
