//! Whether multicast passes: packets with a mark on the group and port of mDNS, looked for at the other end.
//!
//! The packets are mDNS questions for a name that nobody has, so that whatever else listens there understands and ignores
//! them. They take the way that mDNS takes, and whatever stops it stops them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::address::Interfaces;

/// The group and port of mDNS.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// How long both sides listen.
pub const LISTEN: Duration = Duration::from_secs(2);

/// Between two packets: a lost one or two decide nothing.
const INTERVAL: Duration = Duration::from_millis(250);

/// Largest packet that is looked at; ours are far smaller.
const PACKET_BYTES: usize = 1500;

/// What packets are told apart by.
pub type Mark = [u8; 16];

/// Sends packets with one mark, and returns which of the others it heard meanwhile. It ends as soon as it has heard all of
/// them, but sends to the end, for the others to hear.
///
/// # Errors
///
/// When the system lets nobody listen there, or no interface takes multicast.
pub async fn exchange(send: Mark, listen_for: &BTreeSet<Mark>, interfaces: &Interfaces) -> io::Result<BTreeSet<Mark>> {
    let ips = lan_addresses(interfaces);
    let socket = open(&ips)?;
    let packet = question(&send);
    let end = Instant::now() + LISTEN;
    let mut next_send = Instant::now();
    let mut heard = BTreeSet::new();
    let mut buffer = [0_u8; PACKET_BYTES];
    while Instant::now() < end {
        if next_send <= Instant::now() {
            next_send += INTERVAL;
            for ip in &ips {
                // An interface that is down sends nothing; the others may.
                if SockRef::from(&socket).set_multicast_if_v4(ip).is_ok() {
                    let _ = socket.send_to(&packet, (GROUP, PORT)).await;
                }
            }
        }
        match tokio::time::timeout_at(next_send.min(end), socket.recv_from(&mut buffer)).await {
            Ok(Ok((length, _))) => {
                let carries = |mark: &&Mark| find(&buffer[..length], &label(mark));
                heard.extend(listen_for.iter().filter(carries).copied());
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(heard)
}

/// IPv4 addresses of the interfaces behind which other machines are.
fn lan_addresses(interfaces: &Interfaces) -> Vec<Ipv4Addr> {
    let virtual_ones = interfaces.virtual_addresses();
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) if !ip.is_loopback() && !virtual_ones.contains(&ip.into()) => Some(ip),
        _ => None,
    };
    interfaces.addresses().into_iter().filter_map(v4).collect()
}

fn open(ips: &[Ipv4Addr]) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Others listen there too: the node's own mDNS, the system's.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    let joined = ips.iter().filter(|ip| socket.join_multicast_v4(&GROUP, ip).is_ok()).count();
    if joined == 0 {
        return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no network interface takes multicast"));
    }
    UdpSocket::from_std(socket.into())
}

/// The mark as a DNS label: 32 hex digits.
fn label(mark: &Mark) -> Vec<u8> {
    mark.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// An mDNS question for `<mark>._atmosphere-probe._udp.local` (RFC 6762, 18).
fn question(mark: &Mark) -> Vec<u8> {
    // No id, no flags; one question, nothing else.
    let mut packet = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [&label(mark)[..], b"_atmosphere-probe", b"_udp", b"local"] {
        packet.push(u8::try_from(label.len()).expect("labels are short"));
        packet.extend_from_slice(label);
    }
    // The root; type PTR, class IN.
    packet.extend_from_slice(&[0, 0, 12, 0, 1]);
    packet
}

fn find(packet: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(packet, what).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_a_question_that_carries_its_mark_and_no_other() {
        let packet = question(&[7; 16]);
        assert_eq!(
            &packet[12..],
            b"\x2007070707070707070707070707070707\x11_atmosphere-probe\x04_udp\x05local\0\0\x0c\0\x01"
        );
        assert!(find(&packet, &label(&[7; 16])) && !find(&packet, &label(&[8; 16])));
    }
}
