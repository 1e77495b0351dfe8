//! Where resources come from. Nothing below this module knows which source it is.

pub mod broken;
pub mod files;
pub mod folder;
pub mod kubernetes;
pub mod last_good;
pub mod scan;

use std::sync::Arc;

use tasuki_resources::{Object, Problem};

/// Everything that is declared at one moment, each object once, and what is wrong with the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// A folder's in order of their files' paths, then of their place in the file; a cluster's by kind and name.
    pub objects: Vec<Sourced>,
    pub problems: Vec<Problem>,
    /// What Pods and their endpoints have become cannot be seen at this moment.
    pub pods_unseen: bool,
}

/// An object and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    pub object: Arc<Object>,
    /// Relative to the watched folder; in a cluster the object's place in the API, `virtualservices/shop/cart`.
    pub file: Arc<str>,
}
