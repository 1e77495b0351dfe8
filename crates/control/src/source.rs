//! Where resources come from. Nothing below this module knows which source it is.

pub mod files;
pub mod folder;
pub mod last_good;
pub mod scan;

use std::sync::Arc;

use tasuki_resources::{Object, Problem};

/// Everything that is declared at one moment, each object once, and what is wrong with the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// In order of their files' paths, then of their place in the file.
    pub objects: Vec<Sourced>,
    pub problems: Vec<Problem>,
}

/// An object and the file it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    pub object: Arc<Object>,
    /// Relative to the watched folder.
    pub file: Arc<str>,
}
