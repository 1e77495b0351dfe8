//! Probes and hooks of the application, performed in the kubelet's place (contract section 12).
//!
//! Under STRICT the kubelet cannot reach the application: it has no identity. So the injector leads its probes and httpGet
//! hooks to port 15021, and the sidecar performs what the Pod declared, from inside, and tells the outcome and nothing
//! else. `declared.rs` reads the declaration.

mod declared;

pub use self::declared::{Check, Declared, HttpGet, Kind, Probes, Scheme};
