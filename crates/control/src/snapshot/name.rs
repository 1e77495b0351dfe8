//! Names of clusters: `outbound|PORT|SUBSET|FQDN`, its plain half `outbound-plain|PORT|SUBSET|FQDN`, `inbound|PORT||`,
//! `pod|IP|PORT` and two fixed ones.

use std::net::IpAddr;

/// Where an undeclared destination goes under allow-any.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// And under registry-only.
pub const BLACK_HOLE: &str = "BlackHoleCluster";

/// A cluster's name, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Passthrough,
    BlackHole,
    /// The application's own port; 0 stands for every port that nobody declared.
    Inbound {
        port: u16,
    },
    Pod {
        address: IpAddr,
        port: u16,
    },
    /// `subset` is empty for the service as a whole.
    Outbound {
        port: u16,
        subset: &'a str,
        host: &'a str,
    },
    /// The endpoints of a half-migrated service that are no mesh peers, for Envoys; `super::divided`.
    Plain {
        port: u16,
        subset: &'a str,
        host: &'a str,
    },
}

impl<'a> Name<'a> {
    /// `None` for anything that no cluster is called.
    pub fn parse(name: &'a str) -> Option<Self> {
        match name {
            PASSTHROUGH => return Some(Name::Passthrough),
            BLACK_HOLE => return Some(Name::BlackHole),
            _ => {}
        }
        let parts: Vec<&str> = name.split('|').collect();
        match parts.as_slice() {
            ["inbound", port, "", ""] => Some(Name::Inbound {
                port: port.parse().ok()?,
            }),
            ["pod", address, port] => Some(Name::Pod {
                address: address.parse().ok()?,
                port: port.parse().ok().filter(|port| *port != 0)?,
            }),
            ["outbound", port, subset, host] if !host.is_empty() => Some(Name::Outbound {
                port: port.parse().ok()?,
                subset,
                host,
            }),
            ["outbound-plain", port, subset, host] if !host.is_empty() => Some(Name::Plain {
                port: port.parse().ok()?,
                subset,
                host,
            }),
            _ => None,
        }
    }
}

pub fn cluster_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

pub fn inbound_cluster_name(port: u16) -> String {
    format!("inbound|{port}||")
}

pub fn pod_cluster_name(address: IpAddr, port: u16) -> String {
    format!("pod|{address}|{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(
            Name::parse(&pod_cluster_name(address, 80)),
            Some(Name::Pod { address, port: 80 })
        );
        assert_eq!(
            Name::parse(&inbound_cluster_name(0)),
            Some(Name::Inbound { port: 0 })
        );
        let outbound = Name::Outbound {
            port: 80,
            subset: "v1",
            host: "a.b",
        };
        assert_eq!(Name::parse(&cluster_name(80, "v1", "a.b")), Some(outbound));
        for wrong in [
            "",
            "outbound|80||",
            "outbound|x||a",
            "pod|10.0.0.1|0",
            "inbound|80",
            "other|1||x",
        ] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
