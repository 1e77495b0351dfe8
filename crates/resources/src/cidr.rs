//! IP blocks.

use std::fmt;
use std::net::IpAddr;

/// An IP block; a single address has the full prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl Cidr {
    /// Reads `10.0.0.1`, `10.0.0.0/8`, `2001:db8::/32`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = match prefix {
            None => full,
            // Refuses `+8` and `08`, which Rust's and Go's number parsers disagree about.
            Some(p) if p == "0" || (!p.starts_with(['0', '+'])) => {
                p.parse().ok().filter(|p| *p <= full)?
            }
            Some(_) => return None,
        };
        Some(Self {
            address,
            prefix_len,
        })
    }

    /// The block is one address.
    pub fn is_single(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |width: u32, difference: u128| {
            let host_bits = width - u32::from(self.prefix_len);
            difference.checked_shr(host_bits).unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shared(32, u128::from(a.to_bits() ^ b.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => shared(128, a.to_bits() ^ b.to_bits()),
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    #[test]
    fn reads_addresses_and_blocks() {
        assert!(Cidr::parse("10.0.0.1").unwrap().is_single());
        assert_eq!(Cidr::parse("10.0.0.0/8").unwrap().prefix_len, 8);
        assert_eq!(Cidr::parse("2001:db8::/32").unwrap().prefix_len, 32);
        for wrong in [
            "",
            "10.0.0",
            "1.2.3.4/33",
            "::/129",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/08",
            "a/8",
        ] {
            assert_eq!(Cidr::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn contains_what_shares_the_prefix() {
        let block = Cidr::parse("10.1.0.0/16").unwrap();
        assert!(block.contains("10.1.255.3".parse().unwrap()));
        assert!(!block.contains("10.2.0.1".parse().unwrap()));
        assert!(!block.contains("::1".parse().unwrap()));
        assert!(
            Cidr::parse("::/0")
                .unwrap()
                .contains("2001:db8::1".parse().unwrap())
        );
        assert!(
            Cidr::parse("0.0.0.0/0")
                .unwrap()
                .contains("1.1.1.1".parse().unwrap())
        );
    }
}
