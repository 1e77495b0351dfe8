//! Istio's `PeerAuthentication`: whether a workload asks its callers for mTLS.

use std::collections::BTreeMap;

use crate::object::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    pub meta: Metadata,
    /// Empty: the whole namespace (the mesh, in the root namespace).
    pub selector: BTreeMap<String, String>,
    /// `None`: unset, inherits (workload, then namespace, then mesh; PERMISSIVE in the end).
    pub mode: Option<MtlsMode>,
    /// By the workload's port; `None` inherits `mode`. Only with a selector.
    pub ports: BTreeMap<u16, Option<MtlsMode>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    Disable,
    Permissive,
    Strict,
}
