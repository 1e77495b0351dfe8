//! Where a redirected connection was going (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

/// The address to which the client connected before the packet rules led it here. A connection that was not
/// redirected was going to the address of the accepted socket itself; the loop guard deals with those.
pub fn original_dst(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let accepted = canonical(as_inet(&socket.local_addr()?)?);
    // An IPv4 connection to a dual-stack socket keeps its destination in the IPv4 table.
    let found = match accepted {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match found {
        Ok(address) => Ok(canonical(as_inet(&address)?)),
        Err(e) if not_tracked(&e) => Ok(accepted),
        Err(e) => Err(e),
    }
}

/// `::ffff:10.0.0.1` is 10.0.0.1: addresses are compared and looked up in one form.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

fn as_inet(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet address"))
}

/// The kernel has no connection tracking, or no entry for this connection.
fn not_tracked(error: &io::Error) -> bool {
    use nix::libc::{ENOENT, ENOPROTOOPT, EOPNOTSUPP};
    matches!(
        error.raw_os_error(),
        Some(ENOENT | ENOPROTOOPT | EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
        let v6: SocketAddr = "[fe80::1]:80".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }

    #[test]
    fn a_connection_that_was_not_redirected_was_going_to_the_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(
            original_dst(&accepted).unwrap(),
            listener.local_addr().unwrap()
        );
    }
}
