//! Host names as routing rules write them: `cart`, `cart.shop.svc.cluster.local`, `*.example.com`, `*`.

use std::fmt;

/// The DNS suffix of Kubernetes services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A host or a wildcard. Lower case, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name or an IP address.
    Exact(String),
    /// `*` followed by this (`.example.com`, `-v2.example.com`, or empty for `*`).
    Suffix(String),
}

impl Host {
    /// Whether the name (lower case, without port) is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Host::Exact(own) => own == name,
            // The star stands for at least one character, as in Envoy's domains.
            Host::Suffix(suffix) => {
                suffix.is_empty() || (name.len() > suffix.len() && name.ends_with(suffix))
            }
        }
    }

    /// Whether every name that `other` means is meant.
    pub fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Suffix(suffix), Host::Suffix(narrower)) => narrower.ends_with(suffix),
            (_, Host::Exact(name)) => self.matches(name),
            (Host::Exact(_), Host::Suffix(_)) => false,
        }
    }

    /// What both mean: one of the two, or nothing.
    pub fn intersection(&self, other: &Host) -> Option<Host> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Greater is more specific: names before wildcards, longer wildcards before shorter ones.
    pub fn specificity(&self) -> (bool, usize) {
        match self {
            Host::Exact(name) => (true, name.len()),
            Host::Suffix(suffix) => (false, suffix.len()),
        }
    }

    pub fn as_exact(&self) -> Option<&str> {
        match self {
            Host::Exact(name) => Some(name),
            Host::Suffix(_) => None,
        }
    }

    pub fn is_wildcard(&self) -> bool {
        matches!(self, Host::Suffix(_))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Exact(name) => f.write_str(name),
            Host::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// `cart` in namespace `shop` is `cart.shop.svc.cluster.local`; names with a dot or a colon (addresses) stay as they are.
/// Lower case, without a trailing dot.
pub fn expand_host(name: &str, namespace: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.contains(['.', ':', '*']) || name.is_empty() {
        name
    } else {
        service_host(&name, namespace)
    }
}

/// The DNS name of a Kubernetes Service.
pub fn service_host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Namespace and name behind a Service's DNS name; `None` for any other host.
pub fn parse_service_host(host: &str) -> Option<(&str, &str)> {
    let rest = host.strip_suffix(CLUSTER_DOMAIN)?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
        .then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::{Host, expand_host, parse_service_host};

    #[test]
    fn short_names_are_expanded() {
        assert_eq!(expand_host("Cart", "shop"), "cart.shop.svc.cluster.local");
        assert_eq!(expand_host("cart.shop", "x"), "cart.shop");
        assert_eq!(expand_host("pay.example.", "x"), "pay.example");
        assert_eq!(expand_host("::1", "x"), "::1");
        assert_eq!(
            parse_service_host("cart.shop.svc.cluster.local"),
            Some(("shop", "cart"))
        );
        for other in [
            "cart.svc.cluster.local",
            "a.b.c.svc.cluster.local",
            "svc.cluster.local",
            ".x.svc.cluster.local",
            "cart.shop.svc",
        ] {
            assert_eq!(parse_service_host(other), None, "{other}");
        }
    }

    #[test]
    fn wildcards_match_and_cover() {
        let (all, suffix, longer, name) = (
            Host::Suffix(String::new()),
            Host::Suffix(".a.b".into()),
            Host::Suffix(".x.a.b".into()),
            Host::Exact("x.a.b".into()),
        );
        assert!(
            all.matches("anything")
                && suffix.matches("x.a.b")
                && !suffix.matches("a.b")
                && !suffix.matches(".a.b")
        );
        assert!(
            all.covers(&suffix)
                && suffix.covers(&longer)
                && suffix.covers(&name)
                && !longer.covers(&suffix)
        );
        assert_eq!(suffix.intersection(&longer), Some(longer.clone()));
        assert_eq!(longer.intersection(&name), None);
        let mut hosts = [&all, &suffix, &longer, &name];
        hosts.sort_by_key(|h| std::cmp::Reverse(h.specificity()));
        assert_eq!(hosts, [&name, &longer, &suffix, &all]);
    }
}
