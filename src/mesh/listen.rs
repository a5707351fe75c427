//! Takes the mesh's port: QUIC and TCP on one number, IPv4 and IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Swarm};

use super::behaviour::Behaviour;

/// How often a free port is looked for: another program may take it between the look and the taking.
const ATTEMPTS: u32 = 16;

/// Why the port could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Somebody has it.
    #[error(
        "{transport} port {port} on {ip} is in use (is another atmosphere running? choose another with --gossip-port)"
    )]
    PortInUse {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Where.
        ip: IpAddr,
        /// Which.
        port: u16,
    },
    /// It cannot be had for another reason.
    #[error("cannot listen on {transport} {address}: {source} (check the bind address and the port's privileges)")]
    Bind {
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No address is left to listen on.
    #[error("there is no address to listen on (give at least one that this machine has)")]
    NoAddress,
    /// The transport refused.
    #[error("cannot listen on {address}: {reason}")]
    Refused {
        /// Where.
        address: Multiaddr,
        /// Why.
        reason: String,
    },
}

/// Listens on this port, or on a free one for 0, on all of these addresses, and returns the port.
///
/// # Errors
///
/// When the port is taken or cannot be had. IPv6 that the system does not have is left out.
pub fn listen(swarm: &mut Swarm<Behaviour>, bind: &[IpAddr], port: u16) -> Result<u16, ListenError> {
    let mut last = ListenError::NoAddress;
    for _ in 0..if port == 0 { ATTEMPTS } else { 1 } {
        let (port, ips) = match look(bind, port) {
            Ok(found) => found,
            Err(error @ ListenError::PortInUse { .. }) => {
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        match take(swarm, &ips, port) {
            Ok(()) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on one further address.
///
/// # Errors
///
/// When the transport refuses it.
pub fn listen_on(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<ListenerId, ListenError> {
    swarm
        .listen_on(address.clone())
        .map_err(|error| ListenError::Refused { address: address.clone(), reason: error.to_string() })
}

/// Whether this port can be had now, on all of these addresses.
#[must_use]
pub fn is_free(bind: &[IpAddr], port: u16) -> bool {
    look(bind, port).is_ok()
}

fn take(swarm: &mut Swarm<Behaviour>, ips: &[IpAddr], port: u16) -> Result<(), ListenError> {
    let mut taken = Vec::new();
    let addresses = ips.iter().flat_map(|ip| {
        let base = Multiaddr::empty().with(Protocol::from(*ip));
        [base.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1), base.with(Protocol::Tcp(port))]
    });
    for address in addresses {
        match listen_on(swarm, &address) {
            Ok(listener) => taken.push(listener),
            Err(error) => {
                for listener in taken {
                    swarm.remove_listener(listener);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Looks whether the port is free, with plain sockets: libp2p shares TCP ports between processes of one user, so
/// that a second node would not notice the first. Returns the port, and the addresses that there are.
fn look(bind: &[IpAddr], port: u16) -> Result<(u16, Vec<IpAddr>), ListenError> {
    let mut port = port;
    let mut ips = Vec::new();
    for ip in bind {
        match probe(*ip, port) {
            Ok(free) => {
                port = free;
                ips.push(*ip);
            }
            Err((_, error)) if ip.is_unspecified() && *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && is_absent(&error) => {
                tracing::info!("this system has no IPv6; the mesh listens on IPv4 only");
            }
            Err((transport, error)) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::PortInUse { transport, ip: *ip, port });
            }
            Err((transport, source)) => {
                return Err(ListenError::Bind { transport, address: SocketAddr::new(*ip, port), source });
            }
        }
    }
    if ips.is_empty() { Err(ListenError::NoAddress) } else { Ok((port, ips)) }
}

fn probe(ip: IpAddr, port: u16) -> Result<u16, (&'static str, io::Error)> {
    let tcp = TcpListener::bind((ip, port)).map_err(|error| ("TCP", error))?;
    let port = tcp.local_addr().map_err(|error| ("TCP", error))?.port();
    UdpSocket::bind((ip, port)).map_err(|error| ("UDP", error))?;
    Ok(port)
}

/// Whether the system lacks the whole family of addresses.
fn is_absent(error: &io::Error) -> bool {
    /// Linux and macOS: "address family not supported".
    const FAMILY: [i32; 2] = [97, 47];
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|code| FAMILY.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let tcp = TcpListener::bind((ip, 0)).expect("a port");
        let port = tcp.local_addr().expect("an address").port();
        let error = look(&[ip], port).expect_err("taken").to_string();
        assert!(error.starts_with(&format!("TCP port {port} on 127.0.0.1 is in use")), "{error}");
        drop(tcp);
        let _udp = UdpSocket::bind((ip, port)).expect("a port");
        assert!(matches!(look(&[ip], port), Err(ListenError::PortInUse { transport: "UDP", .. })));
    }

    #[test]
    fn an_address_of_another_machine_is_no_place_to_listen() {
        let error = look(&["192.0.2.1".parse().expect("an ip")], 0).expect_err("not ours");
        assert!(matches!(error, ListenError::Bind { .. }), "{error}");
        assert!(matches!(look(&[], 0), Err(ListenError::NoAddress)));
    }
}
