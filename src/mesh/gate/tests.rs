use libp2p::identity::Keypair;
use proptest::prelude::*;
use prost::Message as _;

use super::handshake::{Handshake, Refusal, Role, Standing, Step};
use super::instance::Instance;
use super::{Admission, Membership};
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::wire::v1;
use crate::wire::v1::gate_message::Body;

struct Pair {
    keys: [Keypair; 2],
    meshes: [MeshId; 2],
    membership: Membership,
    instances: [Instance; 2],
}

fn pair() -> Pair {
    let mesh = MeshId::open("test");
    Pair {
        keys: [Keypair::generate_ed25519(), Keypair::generate_ed25519()],
        meshes: [mesh, mesh],
        membership: Membership::Open(Admission::Private),
        instances: [Instance::new([1; 32]), Instance::new([2; 32])],
    }
}

impl Pair {
    fn id(&self, side: usize) -> PeerId {
        self.keys[side].public().to_peer_id()
    }

    fn initiator(&self) -> Handshake<'_> {
        self.with(Role::Initiator, self.id(1), [1; 16])
    }

    fn responder(&self) -> Handshake<'_> {
        self.with(Role::Responder, self.id(0), [2; 16])
    }

    fn with(&self, role: Role, remote: PeerId, random: [u8; 16]) -> Handshake<'_> {
        let side = usize::from(role == Role::Responder);
        let (key, instance) = (&self.keys[side], &self.instances[side]);
        Handshake::new(role, key, self.meshes[side], &self.membership, remote, instance, random)
    }
}

/// Runs both sides to the end, with `change` applied to every message on its way.
fn run(
    mut initiator: Handshake<'_>,
    mut responder: Handshake<'_>,
    mut change: impl FnMut(usize, v1::GateMessage) -> Vec<u8>,
) -> (Standing, Standing) {
    let mut standings = [Standing::Waiting, Standing::Waiting];
    let mut message = initiator.opening().map(|opening| change(0, opening));
    for turn in 0..10 {
        let Some(bytes) = message.take() else { break };
        let to = (turn + 1) % 2;
        let Step { send, standing } = if to == 0 { initiator.receive(&bytes) } else { responder.receive(&bytes) };
        standings[to] = standing;
        message = send.map(|answer| change(turn + 1, answer));
    }
    let [first, second] = standings;
    (first, second)
}

fn as_is(_: usize, message: v1::GateMessage) -> Vec<u8> {
    message.encode_to_vec()
}

#[test]
fn two_members_admit_each_other() {
    let pair = pair();
    assert_eq!(run(pair.initiator(), pair.responder(), as_is), (Standing::Admitted, Standing::Admitted));
}

#[test]
fn a_node_of_another_mesh_is_refused_and_told() {
    let mut pair = pair();
    pair.meshes[1] = MeshId::open("other");
    let (initiator, responder) = run(pair.initiator(), pair.responder(), as_is);
    assert_eq!(initiator, Standing::Refused(Refusal::OtherMesh));
    assert_eq!(responder, Standing::Refuses(Refusal::OtherMesh));
}

#[test]
fn another_major_version_is_refused_and_another_minor_is_not() {
    let pair = pair();
    let with = |major: u32, minor: u32| {
        move |turn: usize, mut message: v1::GateMessage| {
            if let (0, Some(Body::Hello(hello))) = (turn, &mut message.body) {
                (hello.wire_major, hello.wire_minor) = (major, minor);
            }
            message.encode_to_vec()
        }
    };
    let (initiator, responder) = run(pair.initiator(), pair.responder(), with(2, 0));
    assert!(matches!(responder, Standing::Refuses(Refusal::Incompatible(_))), "{responder:?}");
    assert!(matches!(initiator, Standing::Refused(Refusal::Incompatible(_))), "{initiator:?}");
    assert_eq!(run(pair.initiator(), pair.responder(), with(1, 99)).1, Standing::Admitted);
}

#[test]
fn a_proof_by_another_key_is_refused() {
    let mut pair = pair();
    let stranger = Keypair::generate_ed25519();
    let id = pair.id(0);
    // The responder believes that it speaks with the owner of `id`, as if the transport had been fooled.
    pair.keys[0] = stranger;
    let responder = pair.with(Role::Responder, id, [2; 16]);
    let (_, standing) = run(pair.initiator(), responder, as_is);
    assert!(matches!(standing, Standing::Refuses(Refusal::NotAdmitted(_))), "{standing:?}");
}

#[test]
fn a_proof_of_another_connection_is_refused() {
    let pair = pair();
    let mut first = None;
    run(pair.initiator(), pair.responder(), |turn, message| {
        if turn == 2 {
            first = Some(message.encode_to_vec());
        }
        message.encode_to_vec()
    });
    let other_nonce = pair.with(Role::Responder, pair.id(0), [3; 16]);
    let (_, standing) = run(pair.initiator(), other_nonce, |turn, message| {
        if turn == 2 { first.clone().expect("a proof") } else { message.encode_to_vec() }
    });
    assert!(matches!(standing, Standing::Refuses(Refusal::NotAdmitted(_))), "{standing:?}");
}

#[test]
fn a_mirrored_handshake_is_refused() {
    let pair = pair();
    let mut initiator = pair.initiator();
    let own = initiator.opening().expect("a hello").encode_to_vec();
    assert!(matches!(initiator.receive(&own).standing, Standing::Refuses(Refusal::Malformed(_))));
}

#[test]
fn a_node_knows_itself_from_another_one_with_its_identity() {
    let mut pair = pair();
    pair.keys[1] = pair.keys[0].clone();
    let clash = (Standing::Refused(Refusal::IdentityClash), Standing::Refuses(Refusal::IdentityClash));
    assert_eq!(run(pair.initiator(), pair.responder(), as_is), clash);
    pair.instances[1] = pair.instances[0].clone();
    let itself = (Standing::Refused(Refusal::Itself), Standing::Refuses(Refusal::Itself));
    assert_eq!(run(pair.initiator(), pair.responder(), as_is), itself);
}

#[test]
fn an_open_mesh_takes_no_credential() {
    let pair = pair();
    let (_, standing) = run(pair.initiator(), pair.responder(), |_, mut message| {
        if let Some(Body::Proof(proof)) = &mut message.body {
            proof.credential = Some(v1::proof::Credential::Invite("x".into()));
        }
        message.encode_to_vec()
    });
    assert!(matches!(standing, Standing::Refuses(Refusal::NotAdmitted(_))), "{standing:?}");
}

#[test]
fn an_unknown_verdict_does_not_admit() {
    let pair = pair();
    let (_, standing) = run(pair.initiator(), pair.responder(), |_, mut message| {
        if let Some(Body::Verdict(verdict)) = &mut message.body {
            verdict.code = 99;
        }
        message.encode_to_vec()
    });
    assert!(matches!(standing, Standing::Refused(_)), "{standing:?}");
}

proptest! {
    #[test]
    fn random_bytes_never_admit(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)) {
        let pair = pair();
        for mut side in [pair.initiator(), pair.responder()] {
            for message in &messages {
                prop_assert_ne!(side.receive(message).standing, Standing::Admitted);
            }
        }
    }

    #[test]
    fn a_changed_message_never_admits_the_side_that_reads_it_as_other_than_sent(
        turn in 0_usize..4, at in any::<prop::sample::Index>(), flip in 1_u8..=255,
    ) {
        let pair = pair();
        let mut harmless = false;
        let (initiator, responder) = run(pair.initiator(), pair.responder(), |now, message| {
            let mut bytes = message.encode_to_vec();
            if now == turn {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                // A changed minor version or an added field that readers skip is the same message to them.
                harmless = match (v1::GateMessage::decode(&bytes[..]).ok().and_then(|read| read.body), message.body) {
                    (Some(Body::Hello(read)), Some(Body::Hello(sent))) => {
                        v1::Hello { wire_minor: sent.wire_minor, ..read } == sent
                    }
                    (read, sent) => read == sent,
                };
            }
            bytes
        });
        if !harmless {
            let reader = if turn % 2 == 0 { responder } else { initiator };
            prop_assert_ne!(reader, Standing::Admitted);
        }
    }
}
