use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::io::Cursor;
use libp2p::identity::Keypair;
use libp2p::request_response::Codec as _;
use proptest::prelude::*;

use super::super::statement::Signer;
use super::*;
use crate::capability::{Advert, Capability, Kind};

const MESH: [u8; 32] = [7; 32];

fn verify(mesh: &[u8; 32], wire: v1::SignedStatement) -> Result<Statement, StatementError> {
    statement::verify(mesh, wire)
}

fn answer(register: &mut Register, request: v1::SyncRequest, now: Instant) -> Option<Answer> {
    super::answer(register, &MESH, &verify, request, now, 42)
}

fn absorb(register: &mut Register, delta: v1::SyncDelta, now: Instant) -> Absorbed {
    super::absorb(register, &MESH, &verify, delta, now)
}

fn signer() -> Signer {
    Signer::new(Keypair::generate_ed25519(), MESH).expect("a signer")
}

fn advert(node: PeerId, epoch: u64, text: &str) -> Advert {
    let mut capability = Capability::new("ollama", Kind::LLM_CHAT, "m");
    capability.examples = vec![text.to_owned(); 4];
    Advert {
        node,
        epoch,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: "n".into(),
        version: "1".into(),
        addresses: vec![],
        capabilities: [Arc::new(capability)].into(),
        load: 0,
        relay: false,
    }
}

/// A register that knows itself and `count` others, with texts of this length.
fn register(count: usize, text: usize, now: Instant) -> (Register, Signer) {
    let own = signer();
    let mut register = Register::new(own.node());
    register.apply_own(own.advert(&advert(own.node(), 1000, "own")).expect("signs").statement, now);
    for _ in 0..count {
        let other = signer();
        let signed = other.advert(&advert(other.node(), 1000, &"x".repeat(text))).expect("signs");
        register.apply(signed.statement, Source::Gossip, now);
    }
    (register, own)
}

fn delta(answer: Answer) -> v1::SyncDelta {
    match answer.response.body {
        Some(v1::sync_response::Body::Delta(delta)) => delta,
        other => panic!("{other:?} is no delta"),
    }
}

/// Syncs as two drivers do; returns the rounds.
fn sync(asker: &mut Register, answerer: &mut Register, now: Instant) -> usize {
    let mut request = first_request(asker);
    for round in 1..=MAX_ROUNDS {
        assert!(request.encoded_len() <= MESSAGE_BYTES);
        let answer = answer(answerer, request, now).expect("answered");
        assert_eq!(answer.taken.fault, None);
        assert!(answer.response.encoded_len() <= MESSAGE_BYTES);
        let absorbed = absorb(asker, delta(answer), now);
        assert_eq!(absorbed.taken.fault, None);
        match absorbed.next {
            Some(next) => request = next,
            None => return round,
        }
    }
    MAX_ROUNDS
}

#[test]
fn after_a_sync_both_know_what_either_knew() {
    let now = Instant::now();
    let (mut newcomer, _) = register(3, 10, now);
    let (mut old, _) = register(20, 1000, now);
    assert_eq!(sync(&mut newcomer, &mut old, now), 2, "one page each way, and a last look");
    assert_eq!(newcomer.adverts(), old.adverts());
    assert_eq!(newcomer.adverts().len(), 25);
    assert_eq!(sync(&mut newcomer, &mut old, now), 1, "nothing more to say");
}

#[test]
fn a_hello_costs_next_to_nothing_while_both_know_the_same() {
    let now = Instant::now();
    let (mut one, _) = register(30, 10, now);
    let (mut other, _) = register(0, 0, now);
    let greeted = answer(&mut other, hello(&one), now).expect("answered");
    assert!(hello(&one).encoded_len() + greeted.response.encoded_len() < 64);
    let next = absorb(&mut one, delta(greeted), now).next.expect("they know different things");
    let answered = answer(&mut other, next, now).expect("answered");
    let next = absorb(&mut one, delta(answered), now).next.expect("a push");
    let answered = answer(&mut other, next, now).expect("answered");
    assert!(absorb(&mut one, delta(answered), now).next.is_none());
    assert_eq!(one.adverts(), other.adverts());
    let greeted = answer(&mut other, hello(&one), now).expect("answered");
    assert!(absorb(&mut one, delta(greeted), now).next.is_none(), "they know the same");
}

#[test]
fn a_life_is_proved_by_the_beat_that_comes_with_a_copy() {
    let now = Instant::now();
    let (mut near, _) = register(0, 0, now);
    let (mut far, _) = register(0, 0, now);
    let passed = Arc::new(AtomicU64::new(0));
    let clock = {
        let passed = Arc::clone(&passed);
        move || {
            let passed = passed.load(Ordering::Relaxed);
            (5_000_000 + passed, now + Duration::from_millis(passed))
        }
    };
    let key = Signer::with_clock(Keypair::generate_ed25519(), MESH, Box::new(clock)).expect("a signer");
    let said = key.advert(&advert(key.node(), 1000, "x")).expect("signs");
    near.apply(said.statement.clone(), Source::Gossip, now);
    far.apply(said.statement.clone(), Source::Gossip, now);
    let healed = now + Duration::from_secs(61);
    assert_eq!(far.expire(healed).departed, [key.node()]);
    near.vouch(&key.node(), healed);
    sync(&mut far, &mut near, healed);
    assert!(!far.adverts().contains_key(&key.node()), "nobody else's word is enough");
    passed.store(61_000, Ordering::Relaxed);
    let beat = key.alive(said.statement.position, Duration::from_secs(60), 0).expect("signs");
    near.apply(beat.statement, Source::Direct, healed);
    sync(&mut far, &mut near, healed);
    assert!(far.adverts().contains_key(&key.node()), "its own is");
}

#[test]
fn more_than_a_page_takes_more_rounds() {
    let now = Instant::now();
    let (mut newcomer, _) = register(0, 0, now);
    let (mut old, _) = register(70, 2000, now);
    assert!(sync(&mut newcomer, &mut old, now) > 2);
    assert_eq!(newcomer.adverts(), old.adverts());
    let (mut another, _) = register(0, 0, now);
    assert!(sync(&mut old, &mut another, now) > 2, "the other way round too");
    assert_eq!(another.adverts(), old.adverts());
}

#[test]
fn a_forged_statement_stops_the_page_and_does_nothing() {
    let now = Instant::now();
    let (mut victim, _) = register(0, 0, now);
    let (other, later) = (signer(), signer());
    let mut forged = other.advert(&advert(other.node(), 1000, "x")).expect("signs").wire;
    forged.body = Bytes::from_static(b"other");
    let good = later.advert(&advert(later.node(), 1000, "x")).expect("signs").wire;
    let aged = |wire| v1::AgedStatement { statement: Some(wire), ..Default::default() };
    let push = vec![aged(forged), aged(good)];
    let digest = v1::SyncDigest { push, ..Default::default() };
    let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
    let answer = answer(&mut victim, request, now).expect("answered");
    assert!(answer.taken.fault.is_some() && answer.taken.outcomes.is_empty());
    assert_eq!(victim.adverts().len(), 1);
}

#[test]
fn a_node_that_came_back_with_an_older_epoch_is_told() {
    let now = Instant::now();
    let key = signer();
    let (mut other, _) = register(0, 0, now);
    let late = key.advert(&advert(key.node(), 9000, "x")).expect("signs");
    other.apply(late.statement, Source::Gossip, now);
    let mut back = Register::new(key.node());
    back.apply_own(key.advert(&advert(key.node(), 5000, "x")).expect("signs").statement, now);

    let ahead = (key.node(), Outcome::OwnAhead(Position { epoch: 9000, seq: 1 }));
    let told = |back: &mut Register, other: &mut Register, now| {
        let request = first_request(back);
        let answer = answer(other, request, now).expect("answered");
        absorb(back, delta(answer), now).taken.outcomes
    };
    assert!(told(&mut back, &mut other, now).contains(&ahead), "by its own live statement");
    let later = now + Duration::from_secs(61);
    other.expire(later);
    assert!(told(&mut back, &mut other, later).contains(&ahead), "by its grave");

    // And when the other asks.
    let (mut other, _) = register(0, 0, now);
    let late = key.advert(&advert(key.node(), 9000, "x")).expect("signs");
    other.apply(late.statement, Source::Gossip, now);
    let answer = answer(&mut back, first_request(&other), now).expect("answered");
    assert!(answer.taken.outcomes.contains(&ahead));
}

#[test]
fn bodies_and_clocks_are_told_on_request() {
    let now = Instant::now();
    let (mut register, own) = register(0, 0, now);
    let body = crate::catalog::register::Body::of(&advert(own.node(), 1, "own").capabilities).expect("a body");
    let ask = |register: &mut Register, request| answer(register, request, now).expect("answered").response.body;
    let found = ask(&mut register, body_request(&body.hash()));
    assert!(matches!(found, Some(v1::sync_response::Body::FoundBody(found)) if found.data == body.bytes()));
    let found = ask(&mut register, body_request(b"nothing"));
    assert!(matches!(found, Some(v1::sync_response::Body::FoundBody(found)) if found.data.is_empty()));
    let ping = v1::SyncRequest { body: Some(v1::sync_request::Body::Ping(v1::Ping {})) };
    assert!(matches!(ask(&mut register, ping), Some(v1::sync_response::Body::Pong(v1::Pong { now_ms: 42 }))));
    assert!(answer(&mut register, v1::SyncRequest { body: None }, now).is_none());
}

#[test]
fn messages_are_bounded_on_the_stream() {
    let protocol = StreamProtocol::new("/sync/1");
    let request = body_request(&[7; 32]);
    futures::executor::block_on(async {
        let mut wire = Cursor::new(Vec::new());
        SyncCodec.write_request(&protocol, &mut wire, request.clone()).await.expect("written");
        let mut wire = Cursor::new(wire.into_inner());
        assert_eq!(SyncCodec.read_request(&protocol, &mut wire).await.expect("read"), request);
        let mut large = Cursor::new(vec![0; MESSAGE_BYTES + 1]);
        assert!(SyncCodec.read_response(&protocol, &mut large).await.is_err());
        let too_large = body_request(&vec![0; MESSAGE_BYTES]);
        assert!(SyncCodec.write_request(&protocol, &mut Cursor::new(Vec::new()), too_large).await.is_err());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let now = Instant::now();
        let (mut register, _) = register(0, 0, now);
        if let Ok(request) = v1::SyncRequest::decode(bytes.as_slice()) {
            let _ = answer(&mut register, request, now);
        }
        if let Ok(delta) = v1::SyncDelta::decode(bytes.as_slice()) {
            let _ = absorb(&mut register, delta, now);
        }
    }
}
