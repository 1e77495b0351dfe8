//! Istio's `AuthorizationPolicy`: who may do what.

use std::collections::BTreeMap;

use crate::cidr::Cidr;
use crate::object::{Metadata, NamespacedName};

mod closed;
mod pattern;
mod read;

pub(crate) use closed::closed;
pub use pattern::{PathPattern, Pattern};
pub(crate) use read::{read, refuse_dry_run};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    pub meta: Metadata,
    /// Labels of the workloads it applies to; empty: all of the namespace (of the mesh, in the root namespace).
    pub selector: BTreeMap<String, String>,
    pub action: Action,
    /// Any of these. Empty never matches: an ALLOW without rules denies all.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
}

/// `from` and `to` and `when` must hold; the default value matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Any of these; empty: anyone.
    pub from: Vec<Source>,
    /// Any of these; empty: anything.
    pub to: Vec<Operation>,
    /// All of these.
    pub when: Vec<Condition>,
}

/// Values of which one must match, and values of which none may. Both empty: no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<T> {
    pub any: Vec<T>,
    pub none: Vec<T>,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Values<T> {
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

/// Where a request comes from; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, without `spiffe://`.
    pub principals: Values<Pattern>,
    /// Identities of JWTs. There are none yet: `any` never matches, `none` always holds.
    pub request_principals: Values<Pattern>,
    pub namespaces: Values<Pattern>,
    /// The namespace is filled in where the user left it out.
    pub service_accounts: Values<NamespacedName>,
    pub trust_domains: Values<Pattern>,
    /// The peer's own address.
    pub ip_blocks: Values<Cidr>,
}

/// What a request asks for; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Against `:authority` with its port, ignoring ASCII case.
    pub hosts: Values<Pattern>,
    /// Ports of the workload.
    pub ports: Values<u16>,
    pub methods: Values<Pattern>,
    /// Without the query string.
    pub paths: Values<PathPattern>,
}

impl Operation {
    /// Whether it speaks of anything that only HTTP has.
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

/// One entry of `when`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    SourceIp(Values<Cidr>),
    SourceNamespace(Values<Pattern>),
    SourcePrincipal(Values<Pattern>),
    SourceServiceAccount(Values<NamespacedName>),
    SourceTrustDomain(Values<Pattern>),
    DestinationIp(Values<Cidr>),
    DestinationPort(Values<u16>),
    /// `connection.sni`.
    Sni(Values<Pattern>),
    /// `request.headers[NAME]`; lower case.
    Header {
        name: String,
        values: Values<Pattern>,
    },
    /// `request.auth.*`, by its whole key. There are no JWTs yet: `any` never matches, `none` always holds.
    RequestAuth {
        key: String,
        values: Values<Pattern>,
    },
}

impl Condition {
    /// Whether it speaks of anything that only HTTP has.
    pub fn needs_http(&self) -> bool {
        matches!(
            self,
            Condition::Header { .. } | Condition::RequestAuth { .. }
        )
    }
}

#[cfg(test)]
mod tests;
