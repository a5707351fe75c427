use std::time::{Duration, Instant};

use libp2p::identity::Keypair;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::capability::PeerId;
use crate::catalog::register::Outcome;
use crate::mesh::statement::{self, Signer};
use crate::mesh::sync::{self, Verify};
use crate::wire::v1;

const MESH: [u8; 32] = [3; 32];
const TTL: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_millis(250);

/// A node whose time passes as the test says.
fn teller(start: Instant) -> (Teller, std::sync::Arc<parking_lot::Mutex<Duration>>) {
    let passed = std::sync::Arc::new(parking_lot::Mutex::new(Duration::ZERO));
    let clock = {
        let passed = std::sync::Arc::clone(&passed);
        move || {
            let passed = *passed.lock();
            (9_000_000 + u64::try_from(passed.as_millis()).expect("short"), start + passed)
        }
    };
    let signer = Signer::with_clock(Keypair::generate_ed25519(), MESH, Box::new(clock)).expect("a signer");
    let verify: Box<Verify> = Box::new(statement::verify);
    (Teller::new(signer, verify, 1000, TTL, StdRng::seed_from_u64(1), start), passed)
}

fn profile() -> Profile {
    Profile { name: "n".into(), version: "1".into(), addresses: Vec::new(), relay: false }
}

fn gossip(effects: Vec<Effect>) -> Vec<v1::SignedStatement> {
    let said = |effect| if let Effect::Gossip(wire) = effect { Some(wire) } else { None };
    effects.into_iter().filter_map(said).collect()
}

/// Another node's advert, and its beats until `until`, each as it was made.
fn life(start: Instant, until: Duration) -> (PeerId, Vec<(Duration, v1::SignedStatement)>) {
    let (mut other, passed) = teller(start);
    let mut said = Vec::new();
    let mut at = Duration::ZERO;
    while at < until {
        *passed.lock() = at;
        let now = start + at;
        if other.advert_is_due(now) {
            other.announce(profile(), now);
        }
        other.tick(now);
        said.extend(gossip(other.take_effects()).into_iter().map(|wire| (at, wire)));
        at += TICK;
    }
    (other.register().own(), said)
}

fn lists(teller: &Teller, node: &PeerId) -> bool {
    teller.register().adverts().contains_key(node)
}

#[test]
fn a_node_that_stood_still_hears_what_came_before_it_judges() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let from = PeerId::random();
    let (node, said) = life(start, Duration::from_secs(20));
    let mut at = Duration::ZERO;
    let hear = |own: &mut Teller, range: std::ops::Range<Duration>, now| {
        for (_, wire) in said.iter().filter(|(made, _)| range.contains(made)) {
            own.on_gossip(&wire.encode_to_vec(), from, now);
        }
    };
    while at < Duration::from_secs(5) {
        own.tick(start + at);
        hear(&mut own, at..at + TICK, start + at);
        at += TICK;
    }
    assert!(lists(&own, &node));
    // It stands still for longer than a life. The first thing it does then is to look at the time.
    let thawed = Duration::from_secs(15);
    own.tick(start + thawed);
    assert!(lists(&own, &node), "it has not heard yet what came");
    hear(&mut own, at..thawed, start + thawed);
    own.tick(start + thawed + TICK);
    own.tick(start + thawed + TICK * 4);
    assert!(lists(&own, &node), "it beat all the time");
    // And one that died in the meantime is gone, whatever came late.
    let (mut own, _) = teller(start);
    own.tick(start);
    hear(&mut own, Duration::ZERO..Duration::from_secs(2), start + Duration::from_secs(2));
    own.tick(start + Duration::from_secs(2));
    let thawed = Duration::from_secs(11);
    own.tick(start + thawed);
    hear(&mut own, Duration::from_secs(2)..Duration::from_secs(4), start + thawed);
    own.tick(start + thawed + Duration::from_secs(1));
    assert!(!lists(&own, &node), "its last beat is older than a life");
}

#[test]
fn a_machine_that_is_always_late_still_buries_the_dead() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let (node, said) = life(start, Duration::from_secs(1));
    for (_, wire) in said {
        own.on_gossip(&wire.encode_to_vec(), PeerId::random(), start);
    }
    for look in 0..8 {
        own.tick(start + Duration::from_secs(2) * look);
    }
    assert!(!lists(&own, &node));
}

#[test]
fn what_a_sync_brought_of_others_is_passed_on_and_what_is_known_is_not() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let (mut far, _) = teller(start);
    own.announce(profile(), start);
    far.announce(profile(), start);
    let (far_id, own_id) = (far.register().own(), own.register().own());
    let (third, said) = life(start, Duration::from_secs(1));
    for (_, wire) in &said {
        far.on_gossip(&wire.encode_to_vec(), third, start);
    }
    let others: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
    for other in &others {
        own.connected(*other, false, start);
    }
    own.take_effects();
    own.connected(far_id, true, start);
    far.connected(own_id, false, start);
    // One sync, to its end.
    loop {
        let asked = own.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Ask { node, request, what } if node == far_id => Some((request, what)),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            break;
        }
        for (request, what) in asked {
            let response = far.on_request(request, own_id, start, 0).expect("answered");
            own.on_response(what, response, far_id, start);
        }
    }
    assert!(lists(&own, &third) && lists(&own, &far_id));
    own.tick(start + Duration::from_secs(1));
    let greeted = |effects: Vec<Effect>| {
        let to = |effect| if let Effect::Ask { node, .. } = effect { Some(node) } else { None };
        effects.into_iter().filter_map(to).collect::<Vec<_>>()
    };
    assert_eq!(greeted(own.take_effects()).len(), 3, "a few hear at once that there is something new");
    own.tick(start + Duration::from_secs(2));
    assert!(greeted(own.take_effects()).is_empty(), "and once");
}

#[test]
fn a_neighbour_that_answers_and_is_not_known_is_asked() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let neighbour = PeerId::random();
    own.connected(neighbour, false, start);
    own.answered(neighbour, start);
    assert!(matches!(&own.take_effects()[..], [Effect::Ask { node, .. }] if *node == neighbour));
}

#[test]
fn no_neighbour_can_make_this_node_look_at_more_than_its_share() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let from = PeerId::random();
    let looked = (0..5000).filter(|_| own.on_gossip(b"nonsense", from, start) == Verdict::Reject).count();
    assert!((1000..1100).contains(&looked), "{looked}");
    let all: usize = (0..20)
        .map(|_| {
            let from = PeerId::random();
            (0..1000).filter(|_| own.on_gossip(b"nonsense", from, start) == Verdict::Reject).count()
        })
        .sum();
    assert!(all < 5000, "and all together no more than can be verified: {all}");
}

#[test]
fn syncs_are_rationed() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    for _ in 0..100 {
        own.connected(PeerId::random(), true, start);
    }
    let begun = own.take_effects().iter().filter(|effect| matches!(effect, Effect::Ask { .. })).count();
    assert!((10..80).contains(&begun), "{begun}");
    let mut later = 0;
    for tick in 1..40 {
        own.tick(start + TICK * tick);
        later += own.take_effects().iter().filter(|effect| matches!(effect, Effect::Ask { .. })).count();
    }
    assert!((1..=20).contains(&later), "what there was no token for is made up for: {later} in ten seconds");
}

#[test]
fn outcomes_are_counted() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let (_, said) = life(start, Duration::from_secs(1));
    own.on_gossip(&said[0].1.encode_to_vec(), PeerId::random(), start);
    own.on_gossip(b"nonsense", PeerId::random(), start);
    let counted: Vec<Counted> = own
        .take_effects()
        .into_iter()
        .filter_map(|effect| if let Effect::Count(counted) = effect { Some(counted) } else { None })
        .collect();
    assert_eq!(counted, [Counted::Judged(Outcome::Changed), Counted::Refused]);
}

#[test]
fn a_neighbour_that_comes_back_beside_its_old_connection_is_noticed_when_it_tells_by_sync() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let (mut other, _) = teller(start);
    let node = other.register().own();
    let mut told_by_sync = |own: &mut Teller| {
        other.announce(profile(), start);
        // A digest of nothing is answered with all there is.
        let asked = other.on_request(sync::first_request(own.register()), own.register().own(), start, 0);
        own.on_response(Asked::Round(1, start), asked.expect("an answer"), node, start);
        other.begin_run(other.register().own_position().epoch + 1, start);
        own.take_effects()
            .iter()
            .filter(|effect| matches!(effect, Effect::Returned { node: back } if *back == node))
            .count()
    };
    own.connected(node, false, start);
    assert_eq!(told_by_sync(&mut own), 0, "its first run");
    assert_eq!(told_by_sync(&mut own), 0, "one connection: it is the new one");
    own.connected(node, false, start);
    assert_eq!(told_by_sync(&mut own), 1);
}

#[test]
fn it_is_noticed_too_when_somebody_else_tells_of_it_first_and_asks_for_no_more_than_is_its_share() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    let (mut other, _) = teller(start);
    let (node, third) = (other.register().own(), PeerId::random());
    for neighbour in [node, node, third] {
        own.connected(neighbour, false, start);
    }
    let (mut returned, mut asked) = (0, 0);
    for run in 0..200 {
        other.begin_run(2000 + run, start);
        other.announce(profile(), start);
        for wire in gossip(other.take_effects()) {
            own.on_gossip(&wire.encode_to_vec(), third, start);
        }
        for effect in own.take_effects() {
            match effect {
                Effect::Returned { node: back } => returned += usize::from(back == node),
                Effect::Ask { node: whom, .. } => asked += usize::from(whom == node),
                _ => {}
            }
        }
    }
    assert!(returned > 10, "{returned}");
    assert!((2..=64).contains(&asked), "{asked}");
}

#[test]
fn a_node_that_has_said_nothing_in_this_run_says_goodbye_for_the_last_one() {
    let start = Instant::now();
    let (mut own, _) = teller(start);
    own.say_goodbye(start);
    assert!(gossip(own.take_effects()).is_empty(), "nobody is there");
    let (mut own, _) = teller(start);
    own.connected(PeerId::random(), false, start);
    own.say_goodbye(start);
    assert_eq!((gossip(own.take_effects()).len(), own.farewells()), (1, 1));
}
