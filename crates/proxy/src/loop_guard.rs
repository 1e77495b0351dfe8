//! No leg dials the proxy's own listeners on a local address (contract section 5, flag `LOOP`).
//!
//! Without this a peer could reach the admin port through the inbound leg, and a connection that nobody
//! redirected would be carried back to the listener that accepted it, for ever.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;

use crate::original_dst::canonical;
use crate::settings::Settings;

/// What the proxy listens on itself.
#[derive(Clone, Debug, Default)]
pub struct LoopGuard {
    /// Refused on every local address: what interception leads to, and the proxy's own endpoints.
    ports: Vec<u16>,
    /// Explicit listeners: refused at the very address only, because several sidecars may share a machine's
    /// loopback network, each with addresses of its own.
    exact: Vec<SocketAddr>,
}

impl LoopGuard {
    /// `ports` are refused on every local address, `exact` at that address (an unspecified one: at all local ones).
    pub fn new(ports: Vec<u16>, exact: Vec<SocketAddr>) -> Self {
        let mut guard = Self {
            ports,
            exact: Vec::new(),
        };
        for address in exact {
            if address.ip().is_unspecified() {
                guard.ports.push(address.port());
            } else {
                guard.exact.push(canonical(address));
            }
        }
        guard
    }

    /// What `settings` make the proxy listen on.
    pub fn of(settings: &Settings) -> Self {
        let own = [settings.admin, settings.metrics, settings.health];
        let ports = own
            .iter()
            .chain(&settings.outbound)
            .chain(&settings.inbound)
            .map(SocketAddr::port)
            .collect();
        let listen = settings.listen.iter().map(|listen| listen.address);
        Self::new(
            ports,
            listen
                .chain(settings.inbound_listen.iter().map(|listen| listen.address))
                .collect(),
        )
    }

    /// Whether dialling `target` would reach the proxy itself.
    pub fn refuses(&self, target: SocketAddr) -> bool {
        let target = canonical(target);
        self.exact.contains(&target)
            || (self.ports.contains(&target.port()) && is_local(target.ip()))
    }
}

/// Whether `target` leads to one of `listeners`, such as a gateway's, which come and go.
pub fn is_bound(mut listeners: impl Iterator<Item = SocketAddr>, target: SocketAddr) -> bool {
    let target = canonical(target);
    listeners.any(|listener| {
        listener.port() == target.port()
            && (canonical(listener) == target
                || (listener.ip().is_unspecified() && is_local(target.ip())))
    })
}

/// Whether packets to `ip` stay on this machine (in this network namespace).
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || is_assigned(ip) || is_routed_locally(ip)
}

fn is_assigned(ip: IpAddr) -> bool {
    let Ok(interfaces) = getifaddrs() else {
        return true;
    };
    interfaces
        .filter_map(|interface| interface.address)
        .any(|address| {
            if let Some(v4) = address.as_sockaddr_in() {
                IpAddr::V4(v4.ip()) == ip
            } else if let Some(v6) = address.as_sockaddr_in6() {
                IpAddr::V6(v6.ip()) == ip
            } else {
                false
            }
        })
}

/// `ip route add local 10.0.0.0/8 dev lo` makes addresses local that no interface has. The kernel then chooses
/// the destination itself as the source; connecting a datagram socket asks it and sends nothing.
fn is_routed_locally(ip: IpAddr) -> bool {
    let any: SocketAddr = match ip {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let Ok(socket) = UdpSocket::bind(any) else {
        return false;
    };
    // The port is never sent to; 9 is discard.
    socket.connect((ip, 9)).is_ok() && socket.local_addr().is_ok_and(|local| local.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> LoopGuard {
        LoopGuard::new(
            vec![15001, 15006],
            vec![
                "127.0.0.9:8080".parse().unwrap(),
                "0.0.0.0:7070".parse().unwrap(),
            ],
        )
    }

    #[test]
    fn refuses_own_ports_on_every_local_address() {
        for address in [
            "127.0.0.1:15001",
            "127.3.4.5:15006",
            "[::1]:15006",
            "0.0.0.0:15001",
            "[::ffff:127.0.0.1]:15001",
            "127.0.0.1:7070",
        ] {
            assert!(guard().refuses(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn other_addresses_and_ports_are_dialled() {
        for address in [
            "192.0.2.7:15001",
            "127.0.0.1:8080",
            "127.0.0.8:8080",
            "[2001:db8::1]:15006",
        ] {
            assert!(!guard().refuses(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_gateways_listeners_are_refused_where_they_are_bound() {
        let listeners = ["0.0.0.0:8080", "127.0.0.9:443"].map(|a| a.parse().unwrap());
        let bound = |target: &str| is_bound(listeners.into_iter(), target.parse().unwrap());
        assert!(bound("127.0.0.1:8080"));
        assert!(bound("[::ffff:127.0.0.9]:443"));
        assert!(!bound("192.0.2.7:8080"));
        assert!(!bound("127.0.0.8:443"));
        assert!(!bound("127.0.0.1:80"));
    }

    #[test]
    fn explicit_listeners_are_refused_at_their_address() {
        assert!(guard().refuses("127.0.0.9:8080".parse().unwrap()));
    }
}
