use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::reservations::WANTED;
use super::*;

const CIRCUIT: &str = "/ip4/8.8.8.8/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
const OUTER: &str = "/ip4/8.8.8.8/udp/11450/quic-v1";

fn address(text: &str) -> Multiaddr {
    text.parse().expect("an address")
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(9, 9, 9, last).into()
}

fn node() -> Reachability {
    Reachability::new(RelayServer::Auto, &[])
}

/// What happens to a node.
type Happening = fn(&mut Reachability);

#[test]
fn each_rung_of_the_ladder_counts_for_what_it_is() {
    let now = Instant::now();
    let nothing: Happening = |_: &mut Reachability| {};
    let seen: Happening = |node: &mut Reachability| node.seen(address(OUTER), ip(1), Instant::now());
    let one: Happening = |node: &mut Reachability| {
        node.seen(address(OUTER), ip(1), Instant::now());
        node.tested(&address(OUTER), ip(1), true, Instant::now());
    };
    let two: Happening = |node: &mut Reachability| {
        node.seen(address(OUTER), ip(1), Instant::now());
        node.tested(&address(OUTER), ip(1), true, Instant::now());
        node.tested(&address(OUTER), ip(2), true, Instant::now());
    };
    let mapped: Happening = |node: &mut Reachability| node.mapped(&address(OUTER), true);
    let refuted: Happening = |node: &mut Reachability| {
        node.mapped(&address(OUTER), true);
        node.tested(&address(OUTER), ip(1), false, Instant::now());
        node.tested(&address(OUTER), ip(2), false, Instant::now());
    };
    let own: Happening = |node: &mut Reachability| node.listens(&address(OUTER), true);
    let own_v6: Happening = |node: &mut Reachability| node.listens(&address("/ip6/2001:4860::1/tcp/1"), true);
    let private: Happening = |node: &mut Reachability| node.listens(&address("/ip4/192.168.1.1/tcp/1"), true);
    let mapped_private: Happening = |node: &mut Reachability| node.mapped(&address("/ip4/192.168.1.1/tcp/1"), true);
    let by_circuit: Happening = |node: &mut Reachability| node.listens(&address(CIRCUIT), true);
    let by_neighbour: Happening = |node: &mut Reachability| {
        node.seen(address(OUTER), IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7)), Instant::now());
        node.tested(&address(OUTER), IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7)), true, Instant::now());
    };
    type Case = (&'static str, Happening, Option<Source>);
    let cases: [Case; 12] = [
        ("nothing is known", nothing, None),
        ("a member sees it there", seen, None),
        ("one member got through", one, None),
        ("two members at different addresses got through", two, Some(Source::Autonat)),
        ("the router forwards it", mapped, Some(Source::Upnp)),
        ("the router says so, and two members find it closed", refuted, None),
        ("an interface has it", own, Some(Source::Interface)),
        ("an interface has an IPv6 address, as behind any home router", own_v6, None),
        ("an interface has a private one", private, None),
        ("the router forwards a private one, for it is behind another", mapped_private, None),
        ("a circuit through a public node", by_circuit, None),
        ("a member of the same network says so", by_neighbour, None),
    ];
    for (what, happens, public) in cases {
        let mut node = node();
        happens(&mut node);
        assert_eq!(node.public_by(now), public, "{what}");
        assert_eq!(node.relays(now), public.is_some(), "{what}");
    }
    for external in [OUTER, "/dns4/home.example.net/tcp/11450"] {
        let node = Reachability::new(RelayServer::Auto, &[address(external)]);
        assert_eq!(node.public_by(now), Some(Source::Operator), "{external}");
    }
}

#[test]
fn the_owner_has_the_last_word_on_relaying() {
    let now = Instant::now();
    assert!(Reachability::new(RelayServer::On, &[]).relays(now));
    assert!(!Reachability::new(RelayServer::Off, &[address(OUTER)]).relays(now));
}

#[test]
fn a_proof_runs_out_when_it_is_not_renewed() {
    let start = Instant::now();
    let mut node = node();
    node.seen(address(OUTER), ip(1), start);
    node.tested(&address(OUTER), ip(1), true, start);
    node.tested(&address(OUTER), ip(2), true, start);
    assert!(node.public_by(start + Duration::from_secs(600)).is_some());
    assert_eq!(node.public_by(start + Duration::from_secs(1201)), None);
    assert!(node.addresses(start + Duration::from_secs(1201)).is_empty());
}

#[test]
fn one_lost_packet_takes_nothing_back_and_two_failures_do() {
    let now = Instant::now();
    let mut node = node();
    node.seen(address(OUTER), ip(1), now);
    node.tested(&address(OUTER), ip(1), true, now);
    node.tested(&address(OUTER), ip(2), true, now);
    node.tested(&address(OUTER), ip(2), false, now);
    assert_eq!(node.public_by(now), Some(Source::Autonat));
    node.tested(&address(OUTER), ip(2), false, now);
    assert_eq!(node.public_by(now), None);
}

#[test]
fn members_are_asked_by_turns_and_never_one_behind_the_same_nat() {
    let start = Instant::now();
    let mut node = node();
    node.seen(address(OUTER), ip(1), start);
    let neighbour = Tester { node: PeerId::random(), ip: Ipv4Addr::new(8, 8, 8, 8).into() };
    let (one, two) = (Tester { node: PeerId::random(), ip: ip(1) }, Tester { node: PeerId::random(), ip: ip(2) });
    assert_eq!(node.next_test(&[neighbour], start), None);
    let testers = [neighbour, one, two];
    let first = node.next_test(&testers, start).expect("a test");
    assert_eq!(first.address, address(OUTER));
    assert_eq!(node.next_test(&testers, start), None, "one at a time");
    node.tested(&address(OUTER), if first.node == one.node { ip(1) } else { ip(2) }, true, start);
    let soon = start + Duration::from_secs(10);
    let second = node.next_test(&testers, soon).expect("the other one");
    assert_ne!(second.node, first.node);
    node.tested(&address(OUTER), if second.node == one.node { ip(1) } else { ip(2) }, true, soon);
    assert_eq!(node.next_test(&testers, soon + Duration::from_secs(299)), None);
    let again = node.next_test(&testers, soon + Duration::from_secs(300)).expect("asked again");
    assert_eq!(again.node, first.node, "whose word is the oldest");
}

#[test]
fn the_kind_of_nat_is_told_from_where_members_see_it() {
    let now = Instant::now();
    let seen = |ports: [u16; 2]| {
        let mut node = node();
        for (port, by) in ports.into_iter().zip([1, 2]) {
            node.seen(address(&format!("/ip4/8.8.8.8/udp/{port}/quic-v1")), ip(by), now);
        }
        node.nat()
    };
    assert_eq!(seen([11450, 11450]), Some(Nat::Cone));
    assert_eq!(seen([40001, 50002]), Some(Nat::Symmetric));
    let mut node = node();
    node.seen(address(OUTER), ip(1), now);
    assert_eq!(node.nat(), None, "one member's word tells nothing");
}

#[test]
fn two_relays_are_held_and_a_lost_one_is_replaced() {
    let now = Instant::now();
    let relays: Vec<_> = (0..3).map(|_| PeerId::random()).collect();
    let mut node = node();
    let first = node.to_reserve(relays.clone(), now);
    assert_eq!(first, relays[..2]);
    for relay in &first {
        node.reserving(*relay, now);
        node.reserved(*relay, now);
    }
    assert!(node.to_reserve(relays.clone(), now).is_empty());
    node.reservation_lost(relays[0], now);
    assert_eq!(node.to_reserve(relays.clone(), now), [relays[2]]);
    node.reserving(relays[2], now);
    node.reservation_lost(relays[1], now);
    assert_eq!(node.to_reserve(relays[..2].to_vec(), now + Duration::from_secs(5)).len(), 1, "it has rested");
    // The third never answered, and the reservations of the others are not renewed.
    assert_eq!(node.to_end(now + Duration::from_secs(15)), [relays[2]]);
    node.mapped(&address(OUTER), true);
    assert!(node.to_reserve(relays.clone(), now).is_empty(), "a public node needs none");
    assert_eq!(node.to_end(now), [relays[2]]);
    node.reservation_lost(relays[2], now);
    assert!(node.to_end(now).is_empty());
}

/// A network as it might be, from a seed: relays that refuse and vanish, members that lie, a NAT that opens and closes.
struct World {
    rng: StdRng,
    now: Instant,
    node: Reachability,
    relays: Vec<(PeerId, bool)>,
    testers: Vec<Tester>,
    open: bool,
    held: HashSet<PeerId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let relays = (0..rng.random_range(2..6)).map(|_| (PeerId::random(), true)).collect();
        let testers = (0..rng.random_range(2..8)).map(|last| Tester { node: PeerId::random(), ip: ip(last) }).collect();
        let open = rng.random_bool(0.5);
        Self { rng, now: Instant::now(), node: node(), relays, testers, open, held: HashSet::new() }
    }

    /// One turn of the driver, and of the network if it is `troubled`.
    fn turn(&mut self, troubled: bool) {
        self.now += Duration::from_millis(self.rng.random_range(250..4000));
        let now = self.now;
        if troubled {
            match self.rng.random_range(0..40) {
                0 => self.open = !self.open,
                1 => {
                    let which = self.rng.random_range(0..self.relays.len());
                    self.relays[which].1 = !self.relays[which].1;
                }
                2 => self.node.listens(&address("/ip4/192.168.1.9/tcp/1"), true),
                // Claims of addresses that nobody has.
                3..8 => {
                    let port = self.rng.random_range(1..60_000);
                    let by = ip(self.rng.random_range(0..250));
                    self.node.seen(address(&format!("/ip4/8.8.8.8/udp/{port}/quic-v1")), by, now);
                }
                _ => {}
            }
        }
        for tester in &self.testers {
            self.node.seen(address(OUTER), tester.ip, now);
        }
        if let Some(test) = self.node.next_test(&self.testers, now) {
            let by = self.testers.iter().find(|tester| tester.node == test.node).expect("a member").ip;
            let lost = troubled && self.rng.random_bool(0.1);
            let reached = self.open && test.address == address(OUTER) && !lost;
            self.node.tested(&test.address, by, reached, now);
        }
        for relay in self.node.to_end(now) {
            self.held.remove(&relay);
            self.node.reservation_lost(relay, now);
        }
        for (relay, _) in self.relays.iter().filter(|(relay, up)| !up && self.held.contains(relay)) {
            self.node.reservation_lost(*relay, now);
        }
        self.held.retain(|relay| self.relays.iter().any(|(node, up)| node == relay && *up));
        for relay in self.node.to_reserve(self.relays.iter().map(|(node, _)| *node), now) {
            self.node.reserving(relay, now);
            if self.relays.iter().any(|(node, up)| *node == relay && *up) {
                self.node.reserved(relay, now);
                self.held.insert(relay);
            } else {
                self.node.reservation_lost(relay, now);
            }
        }
        assert_eq!(self.node.reserved_with().collect::<HashSet<_>>(), self.held);
        assert!(self.held.len() <= WANTED);
        assert!(self.node.evidence.len() <= 32, "what others claim is bounded");
    }
}

#[test]
fn after_any_trouble_a_node_is_public_or_holds_two_relays() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.turn(true);
        }
        world.relays.iter_mut().for_each(|(_, up)| *up = true);
        let calm = world.now;
        // Longer than anything rests, and than what was proved before counts.
        while world.now < calm + Duration::from_secs(4000) {
            world.turn(false);
        }
        let standing = (world.node.public_by(world.now), world.held.len());
        let expected = if world.open { (Some(Source::Autonat), 0) } else { (None, WANTED) };
        assert_eq!(standing, expected, "seed {seed}, open: {}", world.open);
        let sources: BTreeSet<_> = world.node.addresses(world.now).into_keys().collect();
        assert!(sources.iter().all(|found| *found == address(OUTER)), "seed {seed}: {sources:?}");
    }
}
