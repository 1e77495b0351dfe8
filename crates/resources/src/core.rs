//! Kubernetes's own kinds: only the fields that the mesh reads; everything else in them is Kubernetes's business.

pub mod endpoint_slice;
pub mod namespace;
pub mod pod;
pub mod service;
