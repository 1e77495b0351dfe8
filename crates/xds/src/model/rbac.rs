//! Authorization (Envoy `extensions.filters.http.rbac.v3.RBAC`, and its network twin).

use std::net::IpAddr;

use super::matching::{HeaderMatch, StringMatch};

/// One filter: an action and named policies. A policy matches when one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rbac {
    pub action: RbacAction,
    /// Sorted by name, as Envoy evaluates them (`map<string, Policy>`).
    pub policies: Vec<Policy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RbacAction {
    /// Denied unless a policy matches.
    Allow,
    /// Denied if a policy matches.
    Deny,
    /// Recorded only (AUDIT).
    Log,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `ns[foo]-policy[bar]-rule[0]`.
    pub name: String,
    /// Any of these. Empty never matches.
    pub permissions: Vec<Permission>,
    /// Any of these. Empty never matches.
    pub principals: Vec<Principal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Any,
    All(Vec<Permission>),
    OneOf(Vec<Permission>),
    Not(Box<Permission>),
    Header(HeaderMatch),
    /// The path without its query string.
    Path(StringMatch),
    /// `uri_template` extension: Istio's `{*}` and `{**}`.
    PathTemplate(String),
    DestinationPort(u16),
    DestinationIp(Cidr),
    /// TLS SNI.
    ServerName(StringMatch),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    Any,
    All(Vec<Principal>),
    OneOf(Vec<Principal>),
    Not(Box<Principal>),
    /// The verified URI SAN (`spiffe://...`); `None` is any authenticated peer.
    Authenticated(Option<StringMatch>),
    /// The connection's peer address.
    DirectIp(Cidr),
    Header(HeaderMatch),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix_len: u8,
}
