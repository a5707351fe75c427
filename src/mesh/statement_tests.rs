use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::capability::{Capability, Kind};
use crate::catalog::register::{INLINE_BODY_BYTES, Outcome, Register};

const MESH: [u8; 32] = [7; 32];
const TTL: Duration = Duration::from_secs(60);

fn signer() -> Signer {
    Signer::new(Keypair::generate_ed25519(), MESH).expect("a signer")
}

fn advert(node: PeerId, models: usize) -> Advert {
    let capability = |n| Arc::new(Capability::new("ollama", Kind::LLM_CHAT, &format!("model-{n}")));
    Advert {
        node,
        epoch: 1000,
        seq: 1,
        ttl: TTL,
        name: "attic".into(),
        version: "0.1.0".into(),
        addresses: vec!["/ip4/10.0.0.7/udp/11450/quic-v1".into()],
        capabilities: (0..models).map(capability).collect(),
        load: 2,
        relay: true,
    }
}

/// A statement signed as `signer` would, whatever is in it.
fn forged(signer: &Signer, change: impl FnOnce(&mut v1::Statement)) -> v1::SignedStatement {
    let good = signer.advert(&advert(signer.node(), 1)).expect("signs").wire;
    let mut statement = v1::Statement::decode(good.statement).expect("decodes");
    change(&mut statement);
    let statement = Bytes::from(statement.encode_to_vec());
    let signature = signer.key.sign(&signed_bytes(&signer.mesh, &statement)).expect("signs").into();
    v1::SignedStatement { statement, signature, ..good }
}

fn forged_advert(signer: &Signer, change: impl FnOnce(&mut v1::Advert)) -> v1::SignedStatement {
    forged(signer, |statement| match &mut statement.content {
        Some(v1::statement::Content::Advert(advert)) => change(advert),
        _ => unreachable!("an advert"),
    })
}

#[test]
fn a_statement_is_believed_as_it_was_made() {
    let signer = signer();
    let advert = advert(signer.node(), 2);
    let signed = signer.advert(&advert).expect("signs");
    let statement = verify(&MESH, signed.wire.clone()).expect("believed");
    assert_eq!(statement, signed.statement);
    let (mut register, now) = (Register::new(PeerId::random()), Instant::now());
    let source = crate::catalog::register::Source::Gossip;
    assert_eq!(register.apply(statement, source, now), Outcome::Changed);
    assert_eq!(*register.adverts()[&signer.node()], advert);
    let claim = peek(&signed.wire).expect("it can be read");
    assert_eq!((claim.node, claim.position), (signer.node(), Position { epoch: 1000, seq: 1 }));
    assert_eq!(claim.issued_at_ms, signed.statement.issued_at_ms);

    let alive = signer.alive(Position { epoch: 1000, seq: 1 }, TTL, 3).expect("signs");
    assert_eq!(verify(&MESH, alive.wire).expect("believed").content, Content::Alive { load: 3 });
    let leave = signer.leave(Position { epoch: 1000, seq: 2 }, TTL).expect("signs");
    assert_eq!(verify(&MESH, leave.wire).expect("believed").content, Content::Leave);
    assert!(leave.statement.issued_at_ms > alive.statement.issued_at_ms, "later ones are later, whatever the clock");
}

#[test]
fn a_large_body_stays_behind_and_the_own_register_has_it() {
    let signer = signer();
    let signed = signer.advert(&advert(signer.node(), 400)).expect("signs");
    let Content::Advert(head, Some(body)) = &signed.statement.content else { panic!("with its body") };
    assert!(body.bytes().len() > INLINE_BODY_BYTES);
    assert!(signed.wire.body.is_empty());
    let Content::Advert(other, None) = verify(&MESH, signed.wire).expect("believed").content else {
        panic!("without a body")
    };
    assert_eq!(&other, head);
    assert!(!signer.advert(&advert(signer.node(), 0)).expect("signs").wire.statement.is_empty());
}

#[test]
fn an_advert_of_nothing_needs_no_body() {
    let signer = signer();
    let wire = signer.advert(&advert(signer.node(), 0)).expect("signs").wire;
    assert!(wire.body.is_empty());
    assert!(matches!(verify(&MESH, wire).expect("believed").content, Content::Advert(_, Some(_))));
}

#[test]
fn another_nodes_word_and_another_meshs_are_refused() {
    let (signer, other) = (signer(), signer());
    let wire = signer.advert(&advert(signer.node(), 1)).expect("signs").wire;
    assert_eq!(verify(&[8; 32], wire.clone()), Err(StatementError::BadSignature));
    let stolen = v1::SignedStatement { node: other.node().to_bytes().into(), ..wire.clone() };
    assert_eq!(verify(&MESH, stolen), Err(StatementError::BadSignature));
    let unsigned = v1::SignedStatement { signature: Bytes::new(), ..wire.clone() };
    assert_eq!(verify(&MESH, unsigned), Err(StatementError::BadSignature));
    for node in [PeerId::random().to_bytes(), vec![], b"node".to_vec(), vec![0, 36]] {
        let nobody = v1::SignedStatement { node: node.into(), ..wire.clone() };
        assert_eq!(verify(&MESH, nobody), Err(StatementError::NotANode));
    }
    assert!(signer.advert(&advert(other.node(), 1)).is_err(), "nobody signs for another");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_decoded() {
    let signer = signer();
    let wire = signer.advert(&advert(signer.node(), 1)).expect("signs").wire;
    let refused = |wire| verify(&MESH, wire).expect_err("refused");
    let large = |len| Bytes::from(vec![0; len]);
    assert_eq!(
        refused(v1::SignedStatement { statement: large(STATEMENT_BYTES + 1), ..wire.clone() }),
        StatementError::TooLarge("statement")
    );
    assert_eq!(
        refused(v1::SignedStatement { body: large(limits::BODY_BYTES + 1), ..wire.clone() }),
        StatementError::TooLarge("body")
    );
    assert_eq!(
        refused(v1::SignedStatement { node: large(NODE_BYTES + 1), ..wire }),
        StatementError::TooLarge("node id")
    );
    assert!(peek(&v1::SignedStatement { statement: large(STATEMENT_BYTES + 1), ..Default::default() }).is_none());
}

#[test]
fn a_signed_statement_beyond_the_limits_is_refused() {
    let signer = signer();
    let refused = |wire| verify(&MESH, wire).expect_err("refused");
    let bad = |change: fn(&mut v1::Statement)| refused(forged(&signer, change));
    assert_eq!(bad(|s| s.ttl_ms = 0), StatementError::Bad("time to live"));
    assert_eq!(bad(|s| s.ttl_ms = u64::MAX), StatementError::Bad("time to live"));
    assert_eq!(bad(|s| s.epoch = u64::MAX), StatementError::Bad("epoch or sequence number"));
    assert_eq!(bad(|s| s.content = None), StatementError::Unknown);
    assert!(!StatementError::Unknown.is_fault(), "a newer node is nobody's fault");
    let bad_body = "body (of something that has none)";
    assert_eq!(bad(|s| s.content = Some(v1::statement::Content::Leave(v1::Leave {}))), StatementError::Bad(bad_body));

    let bad = |change: fn(&mut v1::Advert)| refused(forged_advert(&signer, change));
    assert_eq!(bad(|a| a.name.clear()), StatementError::Bad("node name"));
    assert_eq!(bad(|a| a.name = "bell\u{7}".into()), StatementError::Bad("node name"));
    assert_eq!(bad(|a| a.version = "9".repeat(300)), StatementError::Bad("version"));
    assert_eq!(bad(|a| a.addresses = vec!["/ip4/1.2.3.4".into(); 17]), StatementError::TooLarge("addresses"));
    assert_eq!(bad(|a| a.addresses = vec!["/".repeat(300)]), StatementError::TooLarge("addresses"));
    assert_eq!(bad(|a| a.body_hash = Bytes::from_static(b"short")), StatementError::Bad("body hash"));
    assert_eq!(bad(|a| a.body_len = u32::MAX), StatementError::TooLarge("body"));
    assert_eq!(bad(|a| a.body_len += 1), StatementError::Body(BodyError::Mismatch));
    assert_eq!(bad(|a| a.body_hash = vec![0; 32].into()), StatementError::Body(BodyError::Mismatch));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_byte_is_refused(place in any::<proptest::sample::Index>(), flip in 1..=255u8) {
        let signer = signer();
        let wire = signer.advert(&advert(signer.node(), 1)).expect("signs").wire;
        let mut fields = [&wire.node, &wire.statement, &wire.signature, &wire.body].map(|field| field.to_vec());
        let mut place = place.index(fields.iter().map(Vec::len).sum());
        for field in &mut fields {
            if place < field.len() {
                field[place] ^= flip;
                break;
            }
            place -= field.len();
        }
        let [node, statement, signature, body] = fields.map(Bytes::from);
        let changed = v1::SignedStatement { node, statement, signature, body };
        prop_assert!(verify(&MESH, changed).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(wire) = v1::SignedStatement::decode(bytes.as_slice()) {
            let _ = verify(&MESH, wire.clone());
            let _ = peek(&wire);
        }
        let signer = signer();
        let statement = Bytes::from(bytes);
        let signature = signer.key.sign(&signed_bytes(&MESH, &statement)).expect("signs").into();
        let node = signer.node().to_bytes().into();
        let _ = verify(&MESH, v1::SignedStatement { node, statement, signature, body: Bytes::new() });
    }
}
