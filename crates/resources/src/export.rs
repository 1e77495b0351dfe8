//! `exportTo`: which namespaces see an object.

use std::collections::BTreeSet;

/// Where an object is visible. `.` has been replaced by the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportTo {
    /// `*`, and what an absent `exportTo` means.
    #[default]
    Everywhere,
    /// Only there; empty (`~`) is nowhere.
    Namespaces(BTreeSet<String>),
}

impl ExportTo {
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            ExportTo::Everywhere => true,
            ExportTo::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}
