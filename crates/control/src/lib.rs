//! Tasuki's control plane: resources in, xDS and certificates out.
//!
//! `source` reads resources, `mesh` joins them, `snapshot` says what each client gets of it, `ads` tells
//! them, `ca` signs their certificates.

pub mod ads;
pub mod auth;
pub mod ca;
pub mod catalog;
pub mod debug;
pub mod departures;
pub mod ending;
pub mod leader;
pub mod limits;
pub mod mesh;
pub mod platform;
pub mod serve;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod timer;
mod watched;
pub mod webhook;
