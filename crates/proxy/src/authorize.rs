//! May this request, or this connection, pass? Envoy's RBAC semantics on the model's filters.
//!
//! Compiled once when a listener arrives; a check allocates nothing but for headers that repeat. The order is
//! the filters' own: AUDIT is noted, a DENY that matches refuses, an ALLOW without a match refuses. What was
//! allowed is a value, [`Permitted`], that the next stage asks for, so that the check cannot be forgotten.

use std::net::{IpAddr, SocketAddr};

use http::request::Parts;
use tasuki_xds::model::Rbac;
use tasuki_xds::model::rbac::RbacAction;

pub mod path;
mod policy;
mod template;
mod text;

use self::path::Strictness;
use self::policy::{Facts, Policy};
use crate::error::Error;

/// All RBAC filters of one chain.
#[derive(Debug, Default)]
pub struct Authorizer {
    filters: Vec<Filter>,
    mentions_paths: bool,
}

#[derive(Debug)]
struct Filter {
    action: RbacAction,
    policies: Vec<Policy>,
}

/// What the connection says about its peer and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The verified URI SAN, `spiffe://...`; `None` without mTLS.
    pub identity: Option<&'a str>,
    /// The connection's peer address.
    pub address: IpAddr,
    /// Where the connection was going.
    pub destination: SocketAddr,
    /// SNI.
    pub server_name: Option<&'a str>,
}

/// Proof that a request or a connection was authorised.
#[derive(Debug)]
pub struct Permitted {
    _checked: (),
}

/// Refused, and by what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rbac_access_denied_matched_policy[{policy}]")]
pub struct Denied {
    /// The DENY policy that matched; `none` when no ALLOW policy did.
    pub policy: String,
}

/// A policy that cannot be compiled; the listener is refused.
#[derive(Debug, thiserror::Error)]
#[error("policy {policy}: {reason}")]
pub struct InvalidPolicy {
    pub policy: String,
    pub reason: String,
}

impl Authorizer {
    /// Compiles the filters of a chain, in their order.
    pub fn compile(filters: &[Rbac]) -> Result<Self, InvalidPolicy> {
        let mut mentions_paths = false;
        let mut compiled = Vec::with_capacity(filters.len());
        for filter in filters {
            let policies = filter
                .policies
                .iter()
                .map(Policy::compile)
                .collect::<Result<Vec<_>, _>>()?;
            // An AUDIT policy changes nothing, so it does not make paths ambiguous either.
            mentions_paths |=
                filter.action != RbacAction::Log && policies.iter().any(Policy::mentions_paths);
            compiled.push(Filter {
                action: filter.action,
                policies,
            });
        }
        Ok(Self {
            filters: compiled,
            mentions_paths,
        })
    }

    /// Whether a policy looks at paths: then ambiguous paths are refused (semantics section 8).
    pub fn mentions_paths(&self) -> bool {
        self.mentions_paths
    }

    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Brings the request's path into the one form that is matched and sent on, then checks it.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a path that policies cannot judge, [`Error::Denied`].
    pub fn admit(&self, source: &Source<'_>, request: &mut Parts) -> Result<Permitted, Error> {
        let strictness = if self.mentions_paths {
            Strictness::Unambiguous
        } else {
            Strictness::Base
        };
        path::canonicalize(&mut request.uri, strictness)
            .map_err(|ambiguous| Error::BadRequest(ambiguous.reason()))?;
        self.check_http(source, request)
            .map_err(|denied| Error::Denied(denied.policy))
    }

    /// Checks a request whose path is canonical already (see [`path::canonical`]).
    pub fn check_http(&self, source: &Source<'_>, request: &Parts) -> Result<Permitted, Denied> {
        self.check(&Facts {
            source,
            request: Some(request),
        })
    }

    /// Checks a connection of which no request is read. What only a request could tell is taken at its worst:
    /// an ALLOW policy that asks for it does not match, a DENY policy ignores it (semantics section 3).
    pub fn check_tcp(&self, source: &Source<'_>) -> Result<Permitted, Denied> {
        self.check(&Facts {
            source,
            request: None,
        })
    }

    fn check(&self, facts: &Facts<'_>) -> Result<Permitted, Denied> {
        for filter in &self.filters {
            match filter.action {
                RbacAction::Log => {
                    if let Some(policy) = filter.policies.iter().find(|p| p.matches(facts, false)) {
                        tracing::info!(
                            policy = policy.name(),
                            peer = facts.source.identity,
                            "audited"
                        );
                    }
                }
                RbacAction::Deny => {
                    if let Some(policy) = filter.policies.iter().find(|p| p.matches(facts, true)) {
                        return Err(Denied {
                            policy: policy.name().to_owned(),
                        });
                    }
                }
                RbacAction::Allow => {
                    if !filter.policies.iter().any(|p| p.matches(facts, false)) {
                        return Err(Denied {
                            policy: "none".to_owned(),
                        });
                    }
                }
            }
        }
        Ok(Permitted { _checked: () })
    }
}

#[cfg(test)]
mod tests;
