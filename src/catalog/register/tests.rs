use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::capability::{Capability, Kind, PeerId};
use crate::wire::v1;

const TTL: Duration = Duration::from_secs(60);

fn sample(node: PeerId, epoch: u64, seq: u64, issued_at_ms: u64, content: Content) -> Statement {
    let signed = Arc::new(v1::SignedStatement {
        node: node.to_bytes().into(),
        statement: Bytes::from(format!("{epoch}/{seq}/{issued_at_ms}")),
        ..Default::default()
    });
    Statement { node, position: Position { epoch, seq }, issued_at_ms, ttl: TTL, content, signed }
}

fn body(model: &str) -> (AdvertHead, Body) {
    let capabilities: Arc<[_]> = [Arc::new(Capability::new("test", Kind::LLM_CHAT, model))].into();
    let body = Body::of(&capabilities).expect("a body");
    let head = AdvertHead {
        name: "node".into(),
        version: "1".into(),
        addresses: vec![],
        body_hash: body.hash(),
        body_len: u32::try_from(body.bytes().len()).expect("short"),
        load: 0,
        relay: false,
    };
    (head, body)
}

fn leave() -> Content {
    Content::Leave
}

fn advert(node: PeerId, epoch: u64, seq: u64) -> Statement {
    let (head, body) = body(&format!("m{epoch}.{seq}"));
    sample(node, epoch, seq, seq * 10, Content::Advert(head, Some(body)))
}

fn bodiless(node: PeerId, epoch: u64, seq: u64) -> (Statement, Body) {
    let (head, body) = body(&format!("m{epoch}.{seq}"));
    (sample(node, epoch, seq, seq * 10, Content::Advert(head, None)), body)
}

fn alive(node: PeerId, epoch: u64, seq: u64, issued_at_ms: u64) -> Statement {
    sample(node, epoch, seq, issued_at_ms, Content::Alive { load: 1 })
}

/// The position of the visible advert of a node.
fn seen(register: &Register, node: &PeerId) -> Option<(u64, u64)> {
    register.adverts().get(node).map(|advert| (advert.epoch, advert.seq))
}

fn register() -> (Register, PeerId, Instant) {
    (Register::new(PeerId::random()), PeerId::random(), Instant::now())
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn the_greater_position_wins_in_any_order() {
    let (mut register, node, now) = register();
    assert_eq!(register.apply(advert(node, 1, 2), Source::Gossip, now), Outcome::Changed);
    assert_eq!(register.apply(advert(node, 1, 1), Source::Gossip, now), Outcome::Stale);
    assert_eq!(register.apply(advert(node, 1, 2), Source::Gossip, now), Outcome::Stale);
    assert_eq!(seen(&register, &node), Some((1, 2)));
    assert_eq!(register.apply(advert(node, 2, 0), Source::Gossip, now), Outcome::Changed);
    assert_eq!(register.apply(advert(node, 1, 9), Source::Gossip, now), Outcome::Stale);
    assert_eq!(seen(&register, &node), Some((2, 0)));
}

#[test]
fn a_node_that_falls_silent_is_gone_within_its_ttl_and_an_alive_prolongs() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    assert_eq!(register.expire(after(start, 30)).next, Some(after(start, 60)));
    // The load of the Alive is another one, so the advert changes with it.
    assert_eq!(register.apply(alive(node, 1, 1, 30_010), Source::Gossip, after(start, 30)), Outcome::Changed);
    assert_eq!(register.adverts()[&node].load, 1);
    assert_eq!(register.apply(alive(node, 1, 1, 31_010), Source::Gossip, after(start, 31)), Outcome::Prolonged);
    // Replayed ones do not count.
    assert_eq!(register.apply(alive(node, 1, 1, 31_010), Source::Gossip, after(start, 80)), Outcome::Stale);
    assert_eq!(register.expire(after(start, 90)).departed, []);
    assert_eq!(register.expire(after(start, 91)).departed, [node]);
    assert_eq!(seen(&register, &node), None);
}

#[test]
fn what_a_node_that_stood_still_passes_on_late_does_not_lengthen_a_life() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    assert_eq!(register.apply(alive(node, 1, 1, 15_010), Source::Gossip, after(start, 15)), Outcome::Changed);
    // Made at 30 s, and held up for 20.
    assert_eq!(register.apply(alive(node, 1, 1, 30_010), Source::Gossip, after(start, 50)), Outcome::Prolonged);
    let next = register.expire(after(start, 89)).next.expect("it lives");
    assert!(next - after(start, 90) < Duration::from_millis(100), "a life from when it was made");
    assert_eq!(register.expire(after(start, 91)).departed, [node]);
    // Held up for longer than a life: it says nothing of today.
    assert_eq!(register.apply(alive(node, 1, 1, 45_010), Source::Gossip, after(start, 110)), Outcome::Stale);
    assert_eq!(register.apply(advert(node, 1, 2), Source::Gossip, after(start, 110)), Outcome::Stale);
    assert_eq!(seen(&register, &node), None);
}

#[test]
fn a_neighbour_that_answers_lives_although_its_beats_are_lost() {
    let (mut register, node, start) = register();
    assert_eq!(register.vouch(&node, start), Outcome::NeedSync, "it is not known");
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    assert_eq!(register.vouch(&node, after(start, 50)), Outcome::Prolonged);
    assert_eq!(register.expire(after(start, 109)).departed, []);
    assert_eq!(register.expire(after(start, 110)).departed, [node], "nothing was heard of it since");
    assert_eq!(register.vouch(&node, after(start, 111)), Outcome::NeedSync);
    register.apply(sample(node, 1, 2, 99, leave()), Source::Gossip, after(start, 111));
    assert_eq!(register.vouch(&node, after(start, 112)), Outcome::Stale, "it said goodbye");
}

/// What `from` passes on to whoever knows nothing, as statements of these.
fn copies(from: &Register, known: &[Statement], now: Instant) -> Vec<(Statement, Option<Statement>, Source)> {
    let find = |wire: &v1::SignedStatement| {
        known.iter().find(|known| known.signed.statement == wire.statement).expect("it was said").clone()
    };
    let copy = |aged: v1::AgedStatement| {
        let source = Source::Sync {
            age: Duration::from_millis(aged.age_ms),
            issued_ago: Duration::from_millis(aged.issued_ago_ms),
        };
        (find(&aged.statement.expect("always there")), aged.beat.as_ref().map(find), source)
    };
    from.delta(&[], now).statements.into_iter().map(copy).collect()
}

#[test]
fn a_beat_that_is_passed_on_brings_back_whoever_was_thought_dead_at_once() {
    let (mut near, node, start) = register();
    let mut far = Register::new(PeerId::random());
    let (said, beat) = (advert(node, 5, 3), alive(node, 5, 3, 70_030));
    for register in [&mut near, &mut far] {
        register.apply(said.clone(), Source::Gossip, start);
    }
    // A cut: one hears it beat, the other buries it.
    assert_eq!(near.expire(after(start, 50)).departed, []);
    near.apply(alive(node, 5, 3, 50_030), Source::Gossip, after(start, 50));
    near.apply(beat.clone(), Source::Gossip, after(start, 70));
    assert_eq!(far.expire(after(start, 61)).departed, [node]);
    let healed = after(start, 80);
    for (statement, beat, source) in copies(&near, &[said.clone(), beat.clone()], healed) {
        assert_eq!(far.apply_copy(statement, beat, source, healed), Outcome::Changed);
    }
    let next = far.expire(healed).next.expect("it lives");
    assert!(next <= after(start, 130) + Duration::from_millis(100), "for as long as its beat says");
    assert_eq!(far.apply_copy(said, Some(beat), Source::Direct, healed), Outcome::Stale, "and only once");
}

#[test]
fn a_register_that_missed_beats_is_told_the_newest() {
    let (mut well, node, start) = register();
    let mut deaf = Register::new(PeerId::random());
    for register in [&mut well, &mut deaf] {
        register.apply(advert(node, 1, 1), Source::Gossip, start);
    }
    well.apply(alive(node, 1, 1, 10_010), Source::Gossip, after(start, 10));
    assert!(well.delta(&deaf.digest(), after(start, 11)).statements.is_empty(), "that one is on its way");
    assert!(deaf.delta(&well.digest(), after(start, 11)).want.is_empty());
    well.apply(alive(node, 1, 1, 40_010), Source::Gossip, after(start, 40));
    assert_eq!(well.fingerprint(), deaf.fingerprint(), "no advert changed");
    let delta = well.delta(&deaf.digest(), after(start, 41));
    assert!(matches!(&delta.statements[..], [v1::AgedStatement { statement: None, beat: Some(_), .. }]), "{delta:?}");
    assert_eq!(deaf.delta(&well.digest(), after(start, 41)).want, [node]);
    well.apply(advert(node, 1, 2), Source::Gossip, after(start, 41));
    assert_ne!(well.fingerprint(), deaf.fingerprint());
}

#[test]
fn the_expired_come_back_only_by_their_own_newer_word() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 5, 3), Source::Gossip, start);
    register.apply(alive(node, 5, 3, 100), Source::Gossip, start);
    let late = after(start, 61);
    assert_eq!(register.expire(late).departed, [node]);
    let fresh_copy = Source::Sync { age: Duration::ZERO, issued_ago: Duration::ZERO };
    assert_eq!(register.apply(advert(node, 5, 3), fresh_copy, late), Outcome::Stale);
    assert_eq!(register.apply(advert(node, 5, 3), Source::Gossip, late), Outcome::Stale);
    assert_eq!(register.apply(alive(node, 5, 3, 100), Source::Gossip, late), Outcome::Stale);
    assert_eq!(seen(&register, &node), None);

    // It lived on behind a partition: its later Alive lets copies of its advert in again.
    assert_eq!(register.apply(alive(node, 5, 3, 61_100), Source::Gossip, late), Outcome::NeedSync);
    let old_copy = Source::Sync { age: Duration::from_secs(50), issued_ago: Duration::from_secs(70) };
    assert_eq!(register.apply(advert(node, 5, 3), old_copy, after(start, 70)), Outcome::Changed);
    assert_eq!(register.expire(after(start, 120)).departed, [], "the Alive counts, not the age of the copy");
    assert_eq!(register.expire(after(start, 121)).departed, [node]);

    assert_eq!(register.apply(advert(node, 5, 4), fresh_copy, after(start, 122)), Outcome::Changed);
}

#[test]
fn a_tombstone_beats_every_older_copy() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    assert_eq!(register.apply(sample(node, 1, 2, 50, leave()), Source::Gossip, start), Outcome::Left);
    assert_eq!(seen(&register, &node), None);
    assert_eq!(register.apply(advert(node, 1, 1), Source::Gossip, start), Outcome::Stale);
    assert_eq!(register.apply(alive(node, 1, 2, 99), Source::Gossip, start), Outcome::Stale);
    assert_eq!(register.apply(advert(node, 1, 2), Source::Gossip, start), Outcome::Stale);
    assert_eq!(register.digest().len(), 1, "the tombstone is passed on");
    register.expire(after(start, 119));
    assert_eq!(register.digest().len(), 1, "for twice its ttl");
    register.expire(after(start, 120));
    assert_eq!(register.digest().len(), 0);
    assert_eq!(register.apply(advert(node, 1, 1), Source::Gossip, after(start, 500)), Outcome::Stale);
    assert_eq!(register.apply(advert(node, 2, 1), Source::Gossip, after(start, 500)), Outcome::Changed);
}

#[test]
fn a_leave_that_comes_before_its_advert_wins() {
    let (mut register, node, now) = register();
    assert_eq!(register.apply(sample(node, 1, 2, 50, leave()), Source::Gossip, now), Outcome::Left);
    assert_eq!(register.apply(advert(node, 1, 1), Source::Gossip, now), Outcome::Stale);
}

#[test]
fn copies_carry_their_age_and_never_lengthen_a_life() {
    let (mut register, node, start) = register();
    let copy = |age| Source::Sync { age: Duration::from_secs(age), issued_ago: Duration::from_secs(age) };
    assert_eq!(register.apply(advert(node, 1, 1), copy(60), start), Outcome::Stale, "its life is over");
    assert_eq!(register.apply(advert(node, 1, 1), copy(40), start), Outcome::Changed);
    register.apply(advert(node, 1, 1), copy(0), start);
    assert_eq!(register.expire(start).next, Some(after(start, 20)));
    register.apply(advert(node, 1, 1), copy(50), start);
    assert_eq!(register.expire(start).next, Some(after(start, 10)));
    register.apply(alive(node, 1, 1, 40_010), Source::Gossip, start);
    register.apply(advert(node, 1, 1), copy(59), start);
    assert_eq!(register.expire(after(start, 59)).departed, [], "the node's own word counts more");
    assert_eq!(register.expire(after(start, 60)).departed, [node]);
}

#[test]
fn what_is_passed_on_never_gains_life() {
    let (mut first, node, start) = register();
    first.apply(advert(node, 1, 1), Source::Gossip, start);
    for hop in 1..=3 {
        let now = start + Duration::from_micros(19_999_999 * hop);
        let mut second = Register::new(PeerId::random());
        for (statement, beat, source) in copies(&first, &[advert(node, 1, 1)], now) {
            second.apply_copy(statement, beat, source, now);
        }
        assert!(second.expire(now).next <= Some(after(start, 60)), "hop {hop}");
        first = second;
    }
    assert!(first.delta(&[], after(start, 60)).statements.is_empty(), "the dead are not passed on");
}

#[test]
fn an_advert_is_visible_once_its_body_came_and_the_older_one_until_then() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    let (second, body) = bodiless(node, 1, 2);
    assert_eq!(register.apply(second, Source::Gossip, start), Outcome::NeedBody(body.hash()));
    assert_eq!(seen(&register, &node), Some((1, 1)));
    assert_eq!(register.missing_bodies().collect::<Vec<_>>(), [(node, body.hash())]);
    assert_eq!(register.body(body.hash(), Bytes::from_static(b"other")), Err(BodyError::Mismatch));
    assert_eq!(register.body(body.hash(), body.bytes().clone()), Ok(Outcome::Changed));
    assert_eq!(seen(&register, &node), Some((1, 2)));
    assert_eq!(register.missing_bodies().count(), 0);
    assert_eq!(register.body_bytes(&body.hash()).as_ref(), Some(body.bytes()));
    assert_eq!(register.body_bytes(b"short"), None);
    // The same body under a newer advert need not come again.
    let (mut third, _) = bodiless(node, 1, 2);
    third.position.seq = 3;
    assert_eq!(register.apply(third, Source::Gossip, start), Outcome::Changed);
}

#[test]
fn an_older_advert_does_not_outlive_itself_while_a_body_is_missing() {
    let (mut register, node, start) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, start);
    let (second, body) = bodiless(node, 1, 2);
    register.apply(second, Source::Gossip, after(start, 30));
    register.apply(alive(node, 1, 2, 59_020), Source::Gossip, after(start, 59));
    assert_eq!(register.expire(after(start, 60)).departed, []);
    assert_eq!(seen(&register, &node), None);
    assert_eq!(register.body(body.hash(), body.bytes().clone()), Ok(Outcome::Changed));
    assert_eq!(seen(&register, &node), Some((1, 2)));
}

#[test]
fn a_body_that_the_node_signed_and_nobody_can_read_is_not_asked_for_again() {
    let (mut register, node, now) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, now);
    let garbage = Bytes::from_static(&[0xff; 7]);
    let (mut head, _) = body("x");
    head.body_hash = blake3::hash(&garbage).into();
    head.body_len = 7;
    register.apply(sample(node, 1, 2, 20, Content::Advert(head.clone(), None)), Source::Gossip, now);
    assert!(matches!(register.body(head.body_hash, garbage), Err(BodyError::Malformed(_))));
    assert_eq!(seen(&register, &node), None, "what it said before no longer holds");
    assert_eq!(register.missing_bodies().count(), 0);
}

#[test]
fn ages_are_those_of_the_advert_whatever_ttl_a_later_beat_has() {
    for (of_advert, of_beat) in [(80, 60), (60, 80)] {
        let ((mut first, node, start), mut second) = (register(), Register::new(PeerId::random()));
        let ttl = |statement: Statement, seconds| Statement { ttl: Duration::from_secs(seconds), ..statement };
        first.apply(ttl(advert(node, 1, 1), of_advert), Source::Gossip, start);
        first.apply(ttl(alive(node, 1, 1, 10_010), of_beat), Source::Gossip, after(start, 10));
        let (by_beat, end) = (10 + of_beat, of_advert.max(10 + of_beat));
        let now = after(start, 40);
        let aged = first.statements_of([node], now).remove(0);
        let (age, issued_ago) = (Duration::from_millis(aged.age_ms), Duration::from_millis(aged.issued_ago_ms));
        let source = Source::Sync { age, issued_ago };
        // The beat may have been heard there long ago, and be no news.
        let beat = ttl(alive(node, 1, 1, 10_010), of_beat);
        second.apply_copy(ttl(advert(node, 1, 1), of_advert), (of_beat > of_advert).then_some(beat), source, now);
        second.expire(after(start, by_beat - 1));
        assert!(seen(&second, &node).is_some(), "{of_advert} {of_beat}");
        second.expire(after(start, end + 1));
        assert!(seen(&second, &node).is_none(), "{of_advert} {of_beat}");
    }
}

#[test]
fn an_alive_of_an_unknown_or_newer_advert_asks_for_a_sync() {
    let (mut register, node, now) = register();
    assert_eq!(register.apply(alive(node, 1, 1, 5), Source::Gossip, now), Outcome::NeedSync);
    register.apply(advert(node, 1, 1), Source::Gossip, now);
    assert_eq!(register.apply(alive(node, 1, 2, 25), Source::Gossip, now), Outcome::NeedSync);
    assert_eq!(register.apply(alive(node, 0, 9, 25), Source::Gossip, now), Outcome::Stale);
}

#[test]
fn a_node_that_meets_its_own_newer_statement_is_told_to_go_past_it() {
    let (mut register, _, now) = register();
    let own = register.own();
    assert_eq!(register.apply_own(advert(own, 7, 1), now), Outcome::Changed);
    assert_eq!(register.apply(advert(own, 7, 1), Source::Gossip, now), Outcome::Stale, "an echo");
    assert_eq!(
        register.apply(advert(own, 9, 4), Source::Gossip, now),
        Outcome::OwnAhead(Position { epoch: 9, seq: 4 })
    );
    assert_eq!(seen(&register, &own), Some((7, 1)));
    assert_eq!(register.expire(after(now, 1000)).departed, [], "this node does not expire for itself");
    assert_eq!(register.apply_own(sample(own, 7, 2, 99, leave()), now), Outcome::Left);
    assert_eq!(seen(&register, &own), None);
    assert_eq!(register.digest().len(), 1, "its tombstone is passed on");

    // Others remember it from a later epoch, and have no statement any more.
    let mut other = Register::new(PeerId::random());
    other.apply(advert(own, 8, 1), Source::Gossip, now);
    other.expire(after(now, 61));
    let delta = other.delta(&register.digest(), now);
    assert_eq!((delta.beyond.len(), delta.beyond[0].epoch), (1, 8));
}

#[test]
fn what_is_handed_out_never_changes() {
    let (mut register, node, now) = register();
    register.apply(advert(node, 1, 1), Source::Gossip, now);
    let (before, revision) = (register.adverts(), register.revision());
    register.apply(advert(node, 1, 2), Source::Gossip, now);
    assert_eq!(before[&node].seq, 1);
    assert!(register.revision() > revision);
}

#[test]
fn nodes_graves_and_bodies_are_bounded() {
    let now = Instant::now();
    let body_bytes = body("m1.1").1.bytes().len() * 3;
    let mut register = Register::with_bounds(PeerId::random(), Bounds { nodes: 4, graves: 2, body_bytes });
    let nodes: Vec<_> = (0..5).map(|_| PeerId::random()).collect();
    for node in &nodes[..3] {
        assert_eq!(register.apply(advert(*node, 1, 1), Source::Gossip, now), Outcome::Changed);
    }
    assert_eq!(register.apply(advert(nodes[3], 1, 1), Source::Gossip, now), Outcome::Full, "bodies");
    assert!(matches!(register.apply(bodiless(nodes[3], 2, 1).0, Source::Gossip, now), Outcome::NeedBody(_)));
    let body = bodiless(nodes[3], 2, 1).1;
    assert_eq!(register.body(body.hash(), body.bytes().clone()), Ok(Outcome::Full));
    assert_eq!(register.apply(advert(nodes[4], 1, 1), Source::Gossip, now), Outcome::Full, "nodes");
    assert_eq!(register.apply(advert(nodes[0], 1, 2), Source::Gossip, now), Outcome::Changed, "not for the known");
    for (index, node) in nodes.iter().enumerate() {
        register.apply(sample(*node, 1, 9, 99, leave()), Source::Gossip, after(now, index as u64));
    }
    assert_eq!(register.graves(), 2);
    assert_eq!(register.position_of(&nodes[0]), None, "the longest gone is forgotten");
    assert!(register.position_of(&nodes[4]).is_some());
}

#[test]
fn a_delta_is_what_the_other_lacks_page_by_page() {
    let now = Instant::now();
    let mut full = Register::new(PeerId::random());
    let mut empty = Register::new(PeerId::random());
    let mut known = std::collections::HashMap::new();
    for _ in 0..300 {
        let node = PeerId::random();
        let (head, body) = body(&"m".repeat(200));
        let mut statement = sample(node, 1, 1, 10, Content::Advert(head, Some(body)));
        let padding = vec![7; 3000];
        statement.signed =
            v1::SignedStatement { signature: padding.into(), ..v1::SignedStatement::clone(&statement.signed) }.into();
        known.insert(node.to_bytes(), statement.clone());
        full.apply(statement, Source::Gossip, now);
    }
    let mut pages = 0;
    loop {
        let delta = full.delta(&empty.digest(), now);
        let bytes: usize = delta.statements.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= PAGE_BYTES && delta.want.is_empty());
        for aged in delta.statements {
            let statement = aged.statement.expect("always there");
            assert!(!statement.body.is_empty(), "small bodies travel along");
            let source = Source::Sync { age: Duration::ZERO, issued_ago: Duration::ZERO };
            empty.apply(known[&statement.node.to_vec()].clone(), source, now);
        }
        pages += 1;
        if !delta.more {
            break;
        }
    }
    assert!(pages > 2);
    assert_eq!(*full.adverts(), *empty.adverts());
    let lone = PeerId::random();
    empty.apply(advert(lone, 1, 1), Source::Gossip, now);
    let delta = full.delta(&empty.digest(), now);
    assert_eq!((delta.want, delta.statements.len()), (vec![lone], 0));
    let junk = v1::Position { node: Bytes::from_static(b"junk"), epoch: 1, seq: 1, issued_at_ms: 0 };
    assert!(full.delta(&[junk], now).want.is_empty());
}

/// What one of a few nodes may say.
#[derive(Debug, Clone)]
enum Said {
    Advert { node: usize, epoch: u64, seq: u64, age: Option<u64> },
    Leave { node: usize, epoch: u64, seq: u64 },
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        4 => (0..3usize, 1..4u64, 0..4u64, proptest::option::of(0..50u64))
            .prop_map(|(node, epoch, seq, age)| Said::Advert { node, epoch, seq: seq * 2, age }),
        // A Leave has a position of its own.
        1 => (0..3usize, 1..4u64, 0..4u64).prop_map(|(node, epoch, seq)| Said::Leave { node, epoch, seq: seq * 2 + 1 }),
    ]
}

fn told(register: &mut Register, nodes: &[PeerId], said: &Said, now: Instant) {
    match *said {
        Said::Advert { node, epoch, seq, age } => {
            let source = age.map_or(Source::Gossip, |age| Source::Sync {
                age: Duration::from_secs(age),
                issued_ago: Duration::ZERO,
            });
            register.apply(advert(nodes[node], epoch, seq), source, now);
        }
        Said::Leave { node, epoch, seq } => {
            register.apply(sample(nodes[node], epoch, seq, 99, leave()), Source::Gossip, now);
        }
    }
}

proptest! {
    #[test]
    fn merging_is_commutative_and_idempotent(
        history in proptest::collection::vec(said(), 1..24),
        order in any::<proptest::sample::Index>(),
    ) {
        let now = Instant::now();
        let own = PeerId::random();
        let nodes = [PeerId::random(), PeerId::random(), PeerId::random()];
        let mut first = Register::new(own);
        let mut second = Register::new(own);
        for said in &history {
            told(&mut first, &nodes, said, now);
        }
        // The other hears it rotated, backwards, and everything twice.
        let turn = order.index(history.len());
        for said in history[turn..].iter().chain(&history[..turn]).rev().chain(&history) {
            told(&mut second, &nodes, said, now);
        }
        prop_assert_eq!(&*first.adverts(), &*second.adverts());
        prop_assert_eq!(first.digest(), second.digest());
        // Ages too: what they pass on is alike.
        prop_assert_eq!(first.delta(&[], now).statements, second.delta(&[], now).statements);
    }
}
