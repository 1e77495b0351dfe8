//! Process plumbing that every binary needs: logging, metrics exposition, the admin HTTP server, who holds the
//! connections of a server, signals, back-off, the limit of open files, keys of hooks and the parsing of durations. Nothing here knows what a mesh is.

pub mod admin;
pub mod backoff;
pub mod duration;
pub mod hook_key;
pub mod logging;
pub mod metrics;
pub mod open_files;
pub mod places;
pub mod signals;

pub use backoff::Backoff;
pub use duration::parse_duration;
pub use hook_key::HookKey;
