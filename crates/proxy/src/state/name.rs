//! Names under which a sidecar asks for Listeners: `IP:PORT` and `HOST:PORT`, canonical.

use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest name that is asked for: a DNS name of 253 bytes and a port.
const LONGEST: usize = 260;

/// A canonical Listener name: lower case, no trailing dot, explicit port (contract section 3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerName(Arc<str>);

impl ListenerName {
    /// `10.96.0.10:8080` or `[fd00::1]:8080`. An IPv4 address in IPv6's clothes is undressed.
    pub fn address(address: SocketAddr) -> ListenerName {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        ListenerName(address.to_string().into())
    }

    /// The name of `host` (a DNS name or an IP address, no brackets needed) on `port`; `None` when it cannot be a host.
    pub fn host(host: &str, port: u16) -> Option<ListenerName> {
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Some(ListenerName::address(SocketAddr::new(ip, port)));
        }
        let bare = bare.strip_suffix('.').unwrap_or(bare);
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if bare.is_empty() || bare.len() > LONGEST - 6 || !bare.bytes().all(allowed) {
            return None;
        }
        let mut name = bare.to_ascii_lowercase();
        name.push(':');
        name.push_str(&port.to_string());
        Some(ListenerName(name.into()))
    }

    /// The name of an HTTP authority (`Host`), whose port is `default_port` unless it says one.
    pub fn authority(authority: &str, default_port: u16) -> Option<ListenerName> {
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        if authority.ends_with(']') {
            return ListenerName::host(authority, default_port);
        }
        match authority.rsplit_once(':') {
            Some((host, port)) => ListenerName::host(host, port.parse().ok()?),
            None => ListenerName::host(authority, default_port),
        }
    }

    /// A name as the control plane or the state dir gives it, taken as it is.
    pub fn exact(name: &str) -> ListenerName {
        ListenerName(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ListenerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_canonical() {
        let name = |a: &str| ListenerName::authority(a, 80).map(|n| n.to_string());
        assert_eq!(name("Cart.Shop."), Some("cart.shop:80".into()));
        assert_eq!(name("cart:8080"), Some("cart:8080".into()));
        assert_eq!(name("10.0.0.1"), Some("10.0.0.1:80".into()));
        assert_eq!(name("[FD00::1]:8080"), Some("[fd00::1]:8080".into()));
        assert_eq!(name("[fd00::1]"), Some("[fd00::1]:80".into()));
        assert_eq!(name("a b"), None);
        assert_eq!(name("cart:port"), None);
        assert_eq!(name(""), None);
        assert_eq!(
            ListenerName::address("[::ffff:10.0.0.1]:80".parse().unwrap()).as_str(),
            "10.0.0.1:80"
        );
    }
}
