//! Istio's `VirtualService`: how requests for a host are routed.

use std::time::Duration;

use crate::export::ExportTo;
use crate::host::Host;
use crate::object::{Metadata, NamespacedName};

mod action;
mod headers;
mod matching;
mod retries;

pub use action::{
    DirectResponse, Forward, HttpAction, Redirect, RedirectPath, RedirectPort, Rewrite, WeightedDestination,
};
pub use headers::{HeaderOperations, Headers};
pub use matching::{HttpMatch, StringMatch, ValueMatch};
pub use retries::{Retries, RetryOn};

#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    pub meta: Metadata,
    /// Short names are expanded in the object's namespace; never empty.
    pub hosts: Vec<Host>,
    /// Never empty; [`GatewayRef::Mesh`] alone when the user names none.
    pub gateways: Vec<GatewayRef>,
    pub http: Vec<HttpRule>,
    pub export_to: ExportTo,
}

/// Who applies a rule: the sidecars, or a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// `mesh`: all sidecars.
    Mesh,
    Gateway(NamespacedName),
}

/// One entry of `http`: the first whose match fits decides.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    pub name: Option<String>,
    /// Any of these; empty matches every request.
    pub matches: Vec<HttpMatch>,
    pub action: HttpAction,
    /// Whole request including retries; `None` is no limit.
    pub timeout: Option<Duration>,
    /// `None`: the mesh's safe default.
    pub retries: Option<Retries>,
    pub headers: Headers,
}
