//! What end-to-end tests, benches and the demo are made of: network-namespace pods, process
//! launchers, a config folder, origins that misbehave on demand and a load client.
//!
//! Nothing here is used by the planes themselves. Everything is blocking on the outside, so that a
//! test reads as a list of steps; what needs a reactor runs one on a thread inside the namespace.

pub mod binaries;
pub mod client;
pub mod cluster;
pub mod config;
pub mod load;
pub mod mesh;
pub mod message;
pub mod metrics;
pub mod namespace;
pub mod origin;
pub mod process;
pub mod require;
pub mod wait;
