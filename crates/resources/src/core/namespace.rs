//! `v1 Namespace`.

use crate::object::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub meta: Metadata,
}
