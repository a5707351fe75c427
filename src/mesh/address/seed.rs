//! A seed as its owner writes it: `host:port`, `[v6]:port` or a multiaddress, with or without `/p2p/<id>`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::scope::{Scope, scope};
use crate::capability::PeerId;

/// The port of the mesh, UDP and TCP, unless told otherwise.
pub const DEFAULT_GOSSIP_PORT: u16 = 11450;

/// Where to find a first node of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    text: String,
    addresses: Vec<Multiaddr>,
    node: Option<PeerId>,
}

impl Seed {
    /// Where to dial, the better transport first. One or two, without the node's id.
    #[must_use]
    pub fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// The node that must answer there, where the owner said so.
    #[must_use]
    pub const fn node(&self) -> Option<PeerId> {
        self.node
    }

    /// As its owner wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The port to ask about when it does not answer.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.addresses.first()?.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Not a seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed:?} is not an address: {why} (write host:port such as nas.local:11450, [v6]:port, or a multiaddress)"
)]
pub struct SeedError {
    seed: String,
    why: String,
}

impl SeedError {
    /// What is wrong, and what to write instead.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// Reads an address at which a node is reached from elsewhere: one with a host, a transport and a port.
///
/// # Errors
///
/// With what is wrong.
pub fn external_address(text: &str) -> Result<Multiaddr, String> {
    let text = text.trim();
    if !text.starts_with('/') {
        return Err("it is not a multiaddress, which begins with /ip4, /ip6 or /dns".into());
    }
    if text.len() > MAX_LEN {
        return Err("it is too long".into());
    }
    let (mut addresses, node) = from_multiaddr(text)?;
    let address = addresses.pop().ok_or("it is empty")?;
    if address.iter().any(|part| matches!(part, Protocol::P2pCircuit)) {
        return Err("a way through a relay is found by the node itself".into());
    }
    if node.is_some() {
        return Err("leave out /p2p/<id> at its end: it is this node that is reached there".into());
    }
    match address.iter().next() {
        Some(Protocol::Dnsaddr(_)) => Err("a /dnsaddr name stands for other addresses; give those".into()),
        Some(Protocol::Memory(_)) => Err("it is within this program".into()),
        _ => Ok(address),
    }
}

/// Longest seed: a DNS name and a circuit through two peers fit several times.
const MAX_LEN: usize = 1024;

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let text = text.trim();
        let fail = |why: String| SeedError { seed: text.chars().take(MAX_LEN).collect(), why };
        if text.is_empty() {
            return Err(fail("it is empty".into()));
        }
        if text.len() > MAX_LEN {
            return Err(fail("it is too long".into()));
        }
        if text.contains(char::is_whitespace) {
            return Err(fail("it has a blank in it; give one seed at a time".into()));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let authority = rest.split('/').next().unwrap_or(rest);
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            return Err(fail(format!(
                "it is a URL; leave out {:?} and give the node's gossip port: {host}:{DEFAULT_GOSSIP_PORT}",
                format!("{}://", scheme.chars().take(16).collect::<String>())
            )));
        }
        let (addresses, node) =
            if text.starts_with('/') { from_multiaddr(text) } else { from_host_port(text) }.map_err(fail)?;
        Ok(Self { text: text.to_owned(), addresses, node })
    }
}

type Parts = (Vec<Multiaddr>, Option<PeerId>);

fn from_host_port(text: &str) -> Result<Parts, String> {
    let (place, node) = match text.split_once("/p2p/") {
        Some((place, id)) => (place, Some(id.parse::<PeerId>().map_err(|_| format!("{id:?} is not a node id"))?)),
        None => (text, None),
    };
    let (host, port) = split_port(place)?;
    let port: u16 = match port.parse() {
        Ok(0) | Err(_) => return Err(format!("{port:?} is not a port from 1 to 65535")),
        Ok(port) => port,
    };
    let host = if let Ok(ip) = host.parse::<IpAddr>() {
        if scope(ip) == Scope::Nowhere {
            return Err(format!("no node can answer at {ip}"));
        }
        Protocol::from(ip)
    } else {
        check_name(host)?;
        Protocol::Dns(host.to_owned().into())
    };
    let base = Multiaddr::empty().with(host);
    let quic = base.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1);
    Ok((vec![quic, base.with(Protocol::Tcp(port))], node))
}

fn split_port(place: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the closing bracket is missing")?;
        host.parse::<Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        let port = rest.strip_prefix(':').ok_or("the port is missing")?;
        return Ok((host, port));
    }
    if place.parse::<Ipv6Addr>().is_ok() {
        return Err(format!(
            "the port is missing, and an IPv6 address with a port needs brackets: [{place}]:{DEFAULT_GOSSIP_PORT}"
        ));
    }
    match place.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err("it has too many colons".into()),
        Some((host, port)) if !host.is_empty() => Ok((host, port)),
        Some(_) => Err("the host is missing".into()),
        None => Err(format!("the port is missing; give the node's gossip port: {place}:{DEFAULT_GOSSIP_PORT}")),
    }
}

/// Letters, digits, hyphens, underscores and dots, as in names that people have; at most 253 bytes (RFC 1035).
fn check_name(name: &str) -> Result<(), String> {
    let sound = name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && name.split('.').all(|label| (1..=63).contains(&label.len()));
    // A name of digits and dots is a mistyped IPv4 address.
    let mistyped = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if sound && !mistyped { Ok(()) } else { Err(format!("{name:?} is neither an IP address nor a host name")) }
}

fn from_multiaddr(text: &str) -> Result<Parts, String> {
    let mut address: Multiaddr = text.parse().map_err(|error| format!("{error}"))?;
    let mut node = None;
    if let Some(Protocol::P2p(id)) = address.iter().last() {
        node = Some(id);
        address.pop();
    }
    let parts: Vec<_> = address.iter().collect();
    match parts.first() {
        Some(Protocol::Ip4(ip)) if scope((*ip).into()) == Scope::Nowhere => {
            return Err(format!("no node can answer at {ip}"));
        }
        Some(Protocol::Ip6(ip)) if scope((*ip).into()) == Scope::Nowhere => {
            return Err(format!("no node can answer at {ip}"));
        }
        Some(Protocol::Memory(_)) => return Ok((vec![address.clone()], node)),
        Some(
            Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
            | Protocol::Dnsaddr(_),
        ) => {}
        _ => return Err("it must begin with /ip4, /ip6, /dns, /dns4, /dns6 or /dnsaddr".into()),
    }
    match &parts[1..] {
        [] if matches!(parts[0], Protocol::Dnsaddr(_)) => {}
        [Protocol::Tcp(0) | Protocol::Udp(0), ..] => return Err("0 is not a port to dial".into()),
        [Protocol::Tcp(_)] | [Protocol::Udp(_), Protocol::QuicV1] => {}
        [Protocol::Tcp(_), Protocol::P2p(_), Protocol::P2pCircuit]
        | [Protocol::Udp(_), Protocol::QuicV1, Protocol::P2p(_), Protocol::P2pCircuit] => {
            if node.is_none() {
                return Err("a circuit must end with /p2p/<id> of the node behind the relay".into());
            }
        }
        [Protocol::Udp(_)] => return Err("after /udp/<port> comes /quic-v1".into()),
        _ => return Err("after the host comes /tcp/<port> or /udp/<port>/quic-v1".into()),
    }
    Ok((vec![address], node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn addresses(text: &str) -> Vec<String> {
        let seed: Seed = text.parse().unwrap_or_else(|error| panic!("{error}"));
        seed.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_and_port_stand_for_quic_and_tcp() {
        assert_eq!(addresses("10.0.0.7:11450"), ["/ip4/10.0.0.7/udp/11450/quic-v1", "/ip4/10.0.0.7/tcp/11450"]);
        assert_eq!(addresses("[fd00::7]:1"), ["/ip6/fd00::7/udp/1/quic-v1", "/ip6/fd00::7/tcp/1"]);
        assert_eq!(addresses(" nas.local:1 "), ["/dns/nas.local/udp/1/quic-v1", "/dns/nas.local/tcp/1"]);
        let with_node: Seed = format!("nas:1/p2p/{NODE}").parse().expect("a seed");
        assert_eq!(with_node.node().map(|node| node.to_base58()), Some(NODE.to_owned()));
        assert_eq!(with_node.port(), Some(1));
    }

    #[test]
    fn a_multiaddress_stands_for_itself() {
        for text in ["/ip4/10.0.0.7/tcp/1", "/dns4/nas/udp/1/quic-v1", "/dnsaddr/mesh.example", "/memory/5"] {
            assert_eq!(addresses(text), [text]);
            assert_eq!(addresses(&format!("{text}/p2p/{NODE}")), [text]);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "empty"),
            ("nas", "port is missing"),
            ("nas:", "not a port"),
            ("nas:0", "not a port"),
            ("nas:99999", "not a port"),
            (":11450", "host is missing"),
            ("fd00::7", "brackets"),
            ("[fd00::7]", "port is missing"),
            ("[fd00::7:1", "closing bracket"),
            ("[nas]:1", "not an IPv6"),
            ("a:b:1", "too many colons"),
            ("10.0.0:1", "neither"),
            ("a b:1", "one seed at a time"),
            ("http://me:pw@nas:11451/v1", ": nas:11450"),
            ("nas", "nas:11450"),
            ("fd00::7", "[fd00::7]:11450"),
            ("0.0.0.0:1", "no node can answer"),
            ("nas:1/p2p/x", "not a node id"),
            ("/ip4/10.0.0.7", "after the host"),
            ("/ip4/10.0.0.7/udp/1", "quic-v1"),
            ("/ip4/0.0.0.0/tcp/1", "no node can answer"),
            ("/ip4/10.0.0.7/tcp/0", "not a port"),
            ("/unix/x", "must begin"),
            ("/nonsense", "is not an address"),
        ] {
            let error = text.parse::<Seed>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_for_others_has_a_transport_and_no_node() {
        for good in ["/ip4/203.0.113.5/udp/11450/quic-v1", "/dns4/home.example.net/tcp/11450", "/ip6/2001:db8::7/tcp/1"]
        {
            assert_eq!(external_address(good).map(|address| address.to_string()).as_deref(), Ok(good));
        }
        for (text, why) in [
            ("a:1", "not a multiaddress"),
            ("/ip4/203.0.113.5", "after the host"),
            ("/ip4/203.0.113.5/udp/1", "quic-v1"),
            ("/ip4/203.0.113.5/tcp/70000", "too large"),
            ("/ip4/0.0.0.0/tcp/1", "no node can answer"),
            ("/dnsaddr/mesh.example", "stands for other addresses"),
            ("/memory/5", "within this program"),
        ] {
            let error = external_address(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        let error = external_address(&format!("/ip4/203.0.113.5/tcp/1/p2p/{NODE}")).expect_err("a node");
        assert!(error.contains("leave out /p2p"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_written_makes_it_panic(text in ".{0,80}") {
            let _ = text.parse::<Seed>();
        }

        #[test]
        fn nothing_like_an_address_makes_it_panic(text in "[\\[\\]:./a-z0-9]{0,40}") {
            let _ = text.parse::<Seed>();
        }
    }
}
