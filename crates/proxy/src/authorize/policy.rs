//! One policy: permissions and principals as trees of conditions.

use std::net::IpAddr;

use http::request::Parts;
use tasuki_xds::model::rbac::{self, Cidr, Permission, Principal};

use super::template::Template;
use super::text::{HeaderCondition, Text};
use super::{InvalidPolicy, Source, path};

/// What conditions look at.
pub(super) struct Facts<'a> {
    pub source: &'a Source<'a>,
    /// `None` on connections that are not read as HTTP.
    pub request: Option<&'a Parts>,
}

#[derive(Debug)]
pub(super) struct Policy {
    name: String,
    permissions: Condition,
    principals: Condition,
}

/// Permissions and principals are the same kind of tree over different leaves.
#[derive(Debug)]
enum Condition {
    Any,
    All(Vec<Condition>),
    OneOf(Vec<Condition>),
    Not(Box<Condition>),
    Header(HeaderCondition),
    Path(Text),
    PathTemplate(Template),
    DestinationPort(u16),
    DestinationIp(Cidr),
    ServerName(Text),
    Authenticated(Option<Text>),
    DirectIp(Cidr),
}

impl Policy {
    pub fn compile(policy: &rbac::Policy) -> Result<Self, InvalidPolicy> {
        let wrap = |reason| InvalidPolicy {
            policy: policy.name.clone(),
            reason,
        };
        Ok(Self {
            name: policy.name.clone(),
            permissions: Condition::one_of(&policy.permissions, Condition::permission)
                .map_err(wrap)?,
            principals: Condition::one_of(&policy.principals, Condition::principal)
                .map_err(wrap)?,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `unknown` is what a condition that cannot be decided on this connection contributes to a match.
    pub fn matches(&self, facts: &Facts<'_>, unknown: bool) -> bool {
        self.permissions.holds(facts, unknown) && self.principals.holds(facts, unknown)
    }

    pub fn mentions_paths(&self) -> bool {
        self.permissions.mentions_paths() || self.principals.mentions_paths()
    }
}

impl Condition {
    fn permission(permission: &Permission) -> Result<Self, String> {
        Ok(match permission {
            Permission::Any => Self::Any,
            Permission::All(inner) => Self::All(Self::each(inner, Self::permission)?),
            Permission::OneOf(inner) => Self::one_of(inner, Self::permission)?,
            Permission::Not(inner) => Self::Not(Box::new(Self::permission(inner)?)),
            Permission::Header(header) => Self::Header(HeaderCondition::compile(header)?),
            Permission::Path(text) => Self::Path(Text::compile(&path::canonical_pattern(text))?),
            Permission::PathTemplate(template) => Self::PathTemplate(Template::compile(template)?),
            Permission::DestinationPort(port) => Self::DestinationPort(*port),
            Permission::DestinationIp(cidr) => Self::DestinationIp(*cidr),
            Permission::ServerName(text) => Self::ServerName(Text::compile(text)?),
        })
    }

    fn principal(principal: &Principal) -> Result<Self, String> {
        Ok(match principal {
            Principal::Any => Self::Any,
            Principal::All(inner) => Self::All(Self::each(inner, Self::principal)?),
            Principal::OneOf(inner) => Self::one_of(inner, Self::principal)?,
            Principal::Not(inner) => Self::Not(Box::new(Self::principal(inner)?)),
            Principal::Authenticated(text) => {
                Self::Authenticated(text.as_ref().map(Text::compile).transpose()?)
            }
            Principal::DirectIp(cidr) => Self::DirectIp(*cidr),
            Principal::Header(header) => Self::Header(HeaderCondition::compile(header)?),
        })
    }

    fn each<T>(inner: &[T], compile: fn(&T) -> Result<Self, String>) -> Result<Vec<Self>, String> {
        inner.iter().map(compile).collect()
    }

    fn one_of<T>(inner: &[T], compile: fn(&T) -> Result<Self, String>) -> Result<Self, String> {
        Ok(Self::OneOf(Self::each(inner, compile)?))
    }

    fn holds(&self, facts: &Facts<'_>, unknown: bool) -> bool {
        match self {
            Self::Any => true,
            Self::All(inner) => inner.iter().all(|c| c.holds(facts, unknown)),
            Self::OneOf(inner) => inner.iter().any(|c| c.holds(facts, unknown)),
            // The worst case of a negation is the best case of what it negates.
            Self::Not(inner) => !inner.holds(facts, !unknown),
            Self::Header(header) => facts.request.map_or(unknown, |r| header.holds(r)),
            Self::Path(text) => facts
                .request
                .map_or(unknown, |r| text.matches(r.uri.path())),
            Self::PathTemplate(template) => facts
                .request
                .map_or(unknown, |r| template.matches(r.uri.path())),
            Self::DestinationPort(port) => facts.source.destination.port() == *port,
            Self::DestinationIp(cidr) => contains(cidr, facts.source.destination.ip()),
            // A connection without SNI has an empty requested server name, as in Envoy.
            Self::ServerName(text) => text.matches(facts.source.server_name.unwrap_or_default()),
            Self::Authenticated(None) => facts.source.identity.is_some(),
            Self::Authenticated(Some(text)) => {
                facts.source.identity.is_some_and(|id| text.matches(id))
            }
            Self::DirectIp(cidr) => contains(cidr, facts.source.address),
        }
    }

    fn mentions_paths(&self) -> bool {
        match self {
            Self::Path(_) | Self::PathTemplate(_) => true,
            Self::Header(header) => header.is_path(),
            Self::All(inner) | Self::OneOf(inner) => inner.iter().any(Self::mentions_paths),
            Self::Not(inner) => inner.mentions_paths(),
            Self::Any
            | Self::DestinationPort(_)
            | Self::DestinationIp(_)
            | Self::ServerName(_)
            | Self::Authenticated(_)
            | Self::DirectIp(_) => false,
        }
    }
}

/// Whether `ip` is in `cidr`; an IPv4 address in IPv6's clothes is an IPv4 address.
fn contains(cidr: &Cidr, ip: IpAddr) -> bool {
    match (cidr.address.to_canonical(), ip.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => same_prefix(
            net.to_bits().into(),
            ip.to_bits().into(),
            32,
            cidr.prefix_len,
        ),
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            same_prefix(net.to_bits(), ip.to_bits(), 128, cidr.prefix_len)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn same_prefix(net: u128, ip: u128, width: u8, prefix_len: u8) -> bool {
    let host_bits = u32::from(width.saturating_sub(prefix_len));
    net.checked_shr(host_bits).unwrap_or(0) == ip.checked_shr(host_bits).unwrap_or(0)
}
