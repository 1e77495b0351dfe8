//! What the two planes say to each other: validated model types, the codec between them and Envoy's
//! xDS v3 messages, and the ADS state machines of client and server.
//!
//! Pure values only. Who owns the sockets, how a route is matched and where a resource comes from
//! is the business of the crates that use this one.

pub mod model;
