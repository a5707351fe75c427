use std::collections::HashSet;
use std::net::IpAddr;

use libp2p::Multiaddr;

use super::*;
use crate::capability::limits;
use crate::mesh::view::{LinkTransport, PathClass};

fn address(text: &str) -> Multiaddr {
    text.parse().expect("a multiaddress")
}

#[test]
fn every_ip_has_its_scope() {
    for (ip, expected) in [
        ("0.0.0.0", Scope::Nowhere),
        ("255.255.255.255", Scope::Nowhere),
        ("224.0.0.251", Scope::Nowhere),
        ("::", Scope::Nowhere),
        ("ff02::fb", Scope::Nowhere),
        ("::ffff:0.0.0.0", Scope::Nowhere),
        ("127.0.0.1", Scope::Loopback),
        ("::1", Scope::Loopback),
        ("::ffff:127.0.0.1", Scope::Loopback),
        ("169.254.1.1", Scope::LinkLocal),
        ("fe80::1", Scope::LinkLocal),
        ("10.1.2.3", Scope::Private),
        ("172.31.0.1", Scope::Private),
        ("192.168.1.1", Scope::Private),
        ("100.64.0.1", Scope::Private),
        ("fd00::1", Scope::Private),
        ("100.128.0.1", Scope::Global),
        ("172.32.0.1", Scope::Global),
        ("8.8.8.8", Scope::Global),
        ("2001:4860::1", Scope::Global),
    ] {
        assert_eq!(scope(ip.parse().expect("an ip")), expected, "{ip}");
    }
}

#[test]
fn an_address_tells_path_and_transport() {
    let own: HashSet<IpAddr> = ["192.168.1.5".parse().expect("an ip")].into();
    let relay = "/ip4/8.8.8.8/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
    for (text, path, transport) in [
        ("/ip4/127.0.0.1/udp/1/quic-v1", PathClass::Local, LinkTransport::Quic),
        ("/ip4/192.168.1.5/tcp/1", PathClass::Local, LinkTransport::Tcp),
        ("/ip4/192.168.1.6/tcp/1", PathClass::Lan, LinkTransport::Tcp),
        ("/ip6/fe80::1/udp/1/quic-v1", PathClass::Lan, LinkTransport::Quic),
        ("/ip4/8.8.8.8/udp/1/quic-v1", PathClass::Wan, LinkTransport::Quic),
        ("/dns/nas.example/tcp/1", PathClass::Wan, LinkTransport::Tcp),
        ("/memory/7", PathClass::Local, LinkTransport::Memory),
        (relay, PathClass::Relayed, LinkTransport::Relay),
    ] {
        assert_eq!((path_class(&address(text), &own), link_transport(&address(text))), (path, transport), "{text}");
    }
}

#[test]
fn others_cannot_make_us_dial_names_or_nowhere() {
    for bad in [
        "/dns/example.com/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/10.0.0.1/tcp/0",
        "/ip4/224.0.0.1/udp/1/quic-v1",
        "/ip6/fe80::1/tcp/1",
    ] {
        assert!(!is_dialable_for_others(&address(bad)), "{bad}");
    }
    for good in ["/ip4/10.0.0.1/tcp/1", "/ip6/2001:db8::1/udp/1/quic-v1", "/memory/3"] {
        assert!(is_dialable_for_others(&address(good)), "{good}");
    }
}

#[test]
fn own_addresses_are_told_best_first_and_containers_last() {
    let interfaces = Interfaces(vec![
        ("172.17.0.1".parse().expect("an ip"), "docker0".into()),
        ("192.168.1.5".parse().expect("an ip"), "eth0".into()),
        ("100.64.0.9".parse().expect("an ip"), "tailscale0".into()),
    ]);
    let told = rank_own(
        [
            "/ip4/172.17.0.1/udp/1/quic-v1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/100.64.0.9/udp/1/quic-v1",
            "/ip4/192.168.1.5/tcp/1",
            "/ip4/192.168.1.5/udp/1/quic-v1",
        ]
        .map(address),
        &interfaces,
    );
    let told: Vec<_> = told.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "/ip4/192.168.1.5/udp/1/quic-v1",
            "/ip4/192.168.1.5/tcp/1",
            "/ip4/100.64.0.9/udp/1/quic-v1",
            "/ip4/172.17.0.1/udp/1/quic-v1"
        ]
    );
    let alone = rank_own(["/ip4/127.0.0.1/tcp/1"].map(address), &interfaces);
    assert_eq!(alone.len(), 1, "with nothing else, loopback is told");
}

#[test]
fn no_more_addresses_are_told_than_fit() {
    let many = (1..100).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}")));
    assert_eq!(rank_own(many, &Interfaces::default()).len(), limits::ADDRESSES);
}

#[test]
fn addresses_of_made_up_shapes_are_not_dialled() {
    const RELAY: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    for plain in
        ["/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/udp/1/quic-v1", "/dns/nas/tcp/1", "/memory/1", "/dnsaddr/mesh.example"]
    {
        for end in [String::new(), format!("/p2p/{RELAY}"), format!("/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}")] {
            assert!(is_plain(&address(&format!("{plain}{end}"))), "{plain}{end}");
        }
    }
    for odd in
        ["/ip4/10.0.0.1", "/ip4/10.0.0.1/tcp/1/ws", "/ip4/10.0.0.1/tcp/1/tcp/1", "/unix/x", "/ip4/10.0.0.1/udp/1"]
    {
        assert!(!is_plain(&address(odd)) && !is_dialable_for_others(&address(odd)), "{odd}");
    }
}

#[test]
fn networks_are_ranked_by_what_they_are_and_relays_always_find_room() {
    const RELAY: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let virtual_ones = (0..40).map(|number| (format!("172.20.{number}.1"), format!("br-{number}")));
    let real = [
        ("192.168.1.5", "eth0"),
        ("8.8.8.8", "eth1"),
        // A Tailscale interface of macOS, and one of WireGuard with an address of the owner's choice.
        ("100.100.1.1", "utun3"),
        ("fd7a:115c:a1e0::5", "utun3"),
        ("10.9.0.2", "wg0"),
        ("169.254.3.3", "eth2"),
    ];
    let all: Vec<(String, String)> =
        real.into_iter().map(|(ip, name)| (ip.to_owned(), name.to_owned())).chain(virtual_ones).collect();
    let interfaces = Interfaces(all.iter().map(|(ip, name)| (ip.parse().expect("an ip"), name.clone())).collect());
    let base = |ip: &str| if ip.contains(':') { format!("/ip6/{ip}") } else { format!("/ip4/{ip}") };
    let own = all.iter().rev().map(|(ip, _)| address(&format!("{}/udp/1/quic-v1", base(ip))));
    let circuit = format!("/ip4/9.9.9.9/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit");
    let told = rank_own(own.chain([address(&circuit)]), &interfaces);
    assert_eq!(told.len(), limits::ADDRESSES);
    let first: Vec<_> = told.iter().take(7).map(ToString::to_string).collect();
    let expected = [
        "/ip4/192.168.1.5/udp/1/quic-v1",
        "/ip4/8.8.8.8/udp/1/quic-v1",
        "/ip4/10.9.0.2/udp/1/quic-v1",
        "/ip4/100.100.1.1/udp/1/quic-v1",
        "/ip6/fd7a:115c:a1e0::5/udp/1/quic-v1",
        "/ip4/169.254.3.3/udp/1/quic-v1",
        circuit.as_str(),
    ];
    assert_eq!(first, expected);
    assert!(told[7..].iter().all(|one| one.to_string().starts_with("/ip4/172.20.")), "containers come last: {told:?}");
}
