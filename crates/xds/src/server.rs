//! The server half of ADS, incremental and state of the world: a state machine per stream, without
//! sockets and without knowledge of where resources come from.

use std::sync::Arc;

use crate::codec::Encoded;
use crate::model::ResourceType;

/// What one client may see at one moment. Values of one view are consistent with each other.
pub trait View {
    /// The named resource, if it exists for this client.
    fn get(&self, ty: ResourceType, name: &str) -> Option<Arc<Encoded>>;
    /// Everything of a type that a wildcard subscription gets; empty for types that have no wildcard for this client.
    fn list(&self, ty: ResourceType) -> Vec<Arc<Encoded>>;
}
