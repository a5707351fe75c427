//! Bytes that were once on the wire are understood for ever: every vector in `tests/vectors` reads as it was meant.
//!
//! `tests/vectors/README.md` says how vectors are made and why they are never changed.

use std::fmt::Debug;
use std::path::PathBuf;

use atmosphere::capability::{Frame, PeerId};
use atmosphere::catalog::register::Content;
use atmosphere::mesh::{MeshId, statement};
use atmosphere::wire::{body_from_wire, body_to_wire, call_from_wire, frame_from_wire, v1};
use bytes::Bytes;
use libp2p::identity::Keypair;
use prost::Message;

#[path = "vectors/expected.rs"]
mod expected;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn vector(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|e| panic!("{name}: {pair}: {e}"))).collect()
}

/// A field and a message that no version has, of each kind that protobuf has.
fn unknown_fields() -> Vec<u8> {
    let mut bytes = Vec::new();
    let number = 15_000_u32;
    prost::encoding::uint64::encode(number, &7, &mut bytes);
    prost::encoding::bytes::encode(number + 1, &b"from a later version".to_vec(), &mut bytes);
    prost::encoding::fixed32::encode(number + 2, &7, &mut bytes);
    prost::encoding::fixed64::encode(number + 3, &7, &mut bytes);
    bytes
}

fn reads_as<M: Message + Default + PartialEq + Debug>(name: &str, meant: &M) {
    let bytes = vector(name);
    assert_eq!(&M::decode(bytes.as_slice()).unwrap_or_else(|e| panic!("{name}: {e}")), meant, "{name}");
    let later = [bytes, unknown_fields()].concat();
    assert_eq!(
        &M::decode(later.as_slice()).unwrap_or_else(|e| panic!("{name}: {e}")),
        meant,
        "{name} of a later version"
    );
}

/// Calls `with` for every vector that there must be, with what it means.
macro_rules! every_vector {
    ($with:ident) => {
        expected::calls().iter().for_each(|(name, meant)| $with(name, meant));
        expected::frames().iter().for_each(|(name, meant)| $with(name, meant));
        expected::gate().iter().for_each(|(name, meant)| $with(name, meant));
        expected::sync_requests().iter().for_each(|(name, meant)| $with(name, meant));
        expected::sync_responses().iter().for_each(|(name, meant)| $with(name, meant));
        expected::bodies().iter().for_each(|(name, meant)| $with(name, meant));
        expected::says_membership().iter().for_each(|(name, meant)| $with(name, meant));
        expected::revocations().iter().for_each(|(name, meant)| $with(name, meant));
        expected::credentials().iter().for_each(|(name, meant)| $with(name, meant));
        expected::invite_proofs().iter().for_each(|(name, meant)| $with(name, meant));
        expected::invite_tokens().iter().for_each(|(name, meant)| $with(name, meant));
        expected::pair_terms().iter().for_each(|(name, meant)| $with(name, meant));
    };
}

#[test]
fn every_message_reads_as_it_was_meant_with_and_without_fields_of_a_later_version() {
    every_vector!(reads_as);
}

#[test]
fn no_vector_is_without_a_meaning() {
    let mut known: Vec<String> = expected::STATEMENTS.iter().map(|name| format!("{name}.hex")).collect();
    let mut add = |name: &str| known.push(format!("{name}.hex"));
    expected::calls().iter().for_each(|(name, _)| add(name));
    expected::frames().iter().for_each(|(name, _)| add(name));
    expected::gate().iter().for_each(|(name, _)| add(name));
    expected::sync_requests().iter().for_each(|(name, _)| add(name));
    expected::sync_responses().iter().for_each(|(name, _)| add(name));
    expected::bodies().iter().for_each(|(name, _)| add(name));
    expected::says_membership().iter().for_each(|(name, _)| add(name));
    expected::revocations().iter().for_each(|(name, _)| add(name));
    expected::credentials().iter().for_each(|(name, _)| add(name));
    expected::invite_proofs().iter().for_each(|(name, _)| add(name));
    expected::invite_tokens().iter().for_each(|(name, _)| add(name));
    expected::pair_terms().iter().for_each(|(name, _)| add(name));
    known.sort();
    let mut found: Vec<String> = std::fs::read_dir(directory())
        .expect("the directory is there")
        .map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".hex"))
        .collect();
    found.sort();
    assert_eq!(found, known);
}

#[test]
fn calls_frames_and_bodies_become_nouns() {
    for (name, meant) in expected::calls() {
        let call = call_from_wire(v1::CallRequest::decode(vector(name).as_slice()).expect(name)).expect(name);
        assert_eq!((call.id.as_str(), call.capability.as_str()), (meant.id.as_str(), meant.capability.as_str()));
    }
    for (name, _) in expected::frames() {
        let frame = frame_from_wire(v1::Frame::decode(vector(name).as_slice()).expect(name)).expect(name);
        assert!(frame.is_some(), "{name}");
    }
    for (name, _) in expected::bodies() {
        let capabilities = body_from_wire(&vector(name).into()).expect(name);
        assert_eq!(capabilities.len(), 2, "{name}");
        // What is understood is told on as it came.
        assert_eq!(body_from_wire(&body_to_wire(&capabilities)).expect(name), capabilities);
    }
}

#[test]
fn a_frame_of_a_later_version_is_ignored() {
    // A body that this version does not have is none, and so is an empty frame.
    for bytes in [unknown_fields(), Vec::new()] {
        let frame = v1::Frame::decode(bytes.as_slice()).expect("it is well formed");
        assert_eq!(frame_from_wire(frame), Ok(None::<Frame>));
    }
}

fn mesh() -> MeshId {
    MeshId::open("vectors")
}

/// Never used for anything else.
fn key() -> Keypair {
    Keypair::ed25519_from_bytes([7_u8; 32]).expect("any 32 bytes are a secret")
}

#[test]
fn statements_are_believed_with_the_signatures_that_they_were_made_with() {
    let node = PeerId::from(key().public());
    for name in expected::STATEMENTS {
        let wire = v1::SignedStatement::decode(vector(name).as_slice()).expect(name);
        let read = statement::verify(mesh().as_bytes(), wire.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((read.node, read.position.epoch, read.position.seq), (node, 1_700_000_000_000, 3), "{name}");
        assert_eq!((read.issued_at_ms, read.ttl.as_secs()), (1_700_000_000_123, 60), "{name}");
        match (name, read.content) {
            ("statement-advert" | "statement-advert-later", Content::Advert(head, body)) => {
                assert_eq!(
                    (head.name.as_str(), head.version.as_str(), head.load, head.relay),
                    ("gpu", "0.1.0", 2, true)
                );
                assert_eq!(head.addresses, expected::addresses());
                assert!(body.is_some(), "the body came along");
            }
            ("statement-alive", Content::Alive { load }) => assert_eq!(load, 1),
            ("statement-leave", Content::Leave) => {}
            (name, content) => panic!("{name} reads as {content:?}"),
        }
        let other = MeshId::open("another");
        assert!(statement::verify(other.as_bytes(), wire).is_err(), "{name} is believed in another mesh");
    }
}

fn signed(name: &str) -> v1::SignedStatement {
    let mut statement = expected::statement(name).encode_to_vec();
    if name.ends_with("-later") {
        statement.extend(unknown_fields());
    }
    let domain: &[u8] = b"atmosphere-statement-v1";
    let signature = key().sign(&[domain, mesh().as_bytes(), &statement].concat()).expect("the key signs");
    let node = PeerId::from(key().public()).to_bytes();
    let body = if name.contains("advert") { expected::body().encode_to_vec() } else { Vec::new() };
    v1::SignedStatement {
        node: node.into(),
        statement: statement.into(),
        signature: signature.into(),
        body: body.into(),
    }
}

fn write_if_new<M: Message>(name: &str, message: &M) {
    let path = directory().join(format!("{name}.hex"));
    let bytes = Bytes::from(message.encode_to_vec());
    let lines: Vec<String> =
        bytes.chunks(48).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>()).collect();
    let file = std::fs::File::create_new(&path);
    match file {
        Ok(mut file) => std::io::Write::write_all(&mut file, format!("{}\n", lines.join("\n")).as_bytes()).expect(name),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
#[ignore = "writes the vectors that are not there yet, and changes none"]
fn write_new_vectors() {
    every_vector!(write_if_new);
    expected::STATEMENTS.iter().for_each(|name| write_if_new(name, &signed(name)));
}
