//! SPIFFE ids of the form Istio uses: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// Longest id that the SPIFFE standard lets an implementation rely on (SPIFFE-ID section 2.3).
const MAX_LENGTH: usize = 2048;

/// The administrative domain whose roots vouch for an id; lower case letters, digits, `.`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A workload's identity. Cheap to clone; equality is that of the whole URI.
#[derive(Clone)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Byte ranges within `uri`, found once by the parser.
    trust_domain_end: usize,
    namespace_end: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a SPIFFE id: {reason}")]
pub struct InvalidSpiffeId {
    pub value: String,
    pub reason: &'static str,
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

impl TrustDomain {
    pub fn new(name: &str) -> Result<Self, InvalidSpiffeId> {
        match trust_domain_fault(name) {
            None => Ok(Self(name.into())),
            Some(reason) => Err(InvalidSpiffeId {
                value: name.to_owned(),
                reason,
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl SpiffeId {
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        Self::parse(&format!(
            "{SCHEME}{trust_domain}{NAMESPACE}{namespace}{ACCOUNT}{service_account}"
        ))
    }

    /// Strict: exactly `/ns/<segment>/sa/<segment>` after the trust domain, no query, no escapes.
    pub fn parse(uri: &str) -> Result<Self, InvalidSpiffeId> {
        let refuse = |reason| {
            // A hostile certificate chooses this text; an error message keeps only its beginning.
            let value = uri.chars().take(128).collect();
            Err(InvalidSpiffeId { value, reason })
        };
        if uri.len() > MAX_LENGTH {
            return refuse("longer than 2048 bytes");
        }
        let Some(rest) = uri.strip_prefix(SCHEME) else {
            return refuse("does not begin with spiffe://");
        };
        let Some((domain, path)) = rest.split_once('/') else {
            return refuse("has no path");
        };
        if let Some(reason) = trust_domain_fault(domain) {
            return refuse(reason);
        }
        let mut segments = path.split('/');
        let shape = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        );
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) = shape else {
            return refuse("its path is not /ns/<namespace>/sa/<service account>");
        };
        if !is_segment(namespace) || !is_segment(account) {
            return refuse("namespace and service account are letters, digits, '.', '-' and '_'");
        }
        let trust_domain_end = SCHEME.len() + domain.len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end,
            namespace_end,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end]
    }

    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end + NAMESPACE.len()..self.namespace_end]
    }

    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + ACCOUNT.len()..]
    }
}

/// SPIFFE-ID section 2.1.
fn trust_domain_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 255 {
        return Some("a trust domain has 1 to 255 characters");
    }
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    (!name.bytes().all(allowed))
        .then_some("a trust domain is lower case letters, digits, '.', '-' and '_'")
}

/// SPIFFE-ID section 2.2: no empty and no relative segments.
fn is_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uri.cmp(&other.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart-v2").unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "cart-v2")
        );
        let domain = TrustDomain::new("cluster.local").unwrap();
        assert_eq!(SpiffeId::new(&domain, "shop", "cart-v2").unwrap(), id);
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart-v2");
    }

    #[test]
    fn what_is_not_an_id() {
        for bad in [
            "",
            "spiffe://",
            "https://cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://u@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local//ns/a/sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a%2fb/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/sa/a/ns/b",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_cannot_smuggle_another() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        assert!(SpiffeId::new(&domain, "a/sa/admin", "b").is_err());
        assert!(SpiffeId::new(&domain, "a", "b/../c").is_err());
    }
}
