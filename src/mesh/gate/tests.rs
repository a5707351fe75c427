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

/// A spoken code at the gate.
mod spoken {
    use std::time::Duration;

    use super::*;
    use crate::mesh::Identity;
    use crate::mesh::gate::Pairing;
    use crate::mesh::member::{Closed, Role as MemberRole};
    use crate::mesh::pair::{Code, PairStage};

    struct Desks {
        admin: Identity,
        newcomer: Identity,
        closed: Closed,
        id: String,
        code: Code,
        instances: [Instance; 2],
    }

    fn desks() -> Desks {
        let (admin, newcomer) = (Identity::generate(), Identity::generate());
        let closed = Closed::create(None, &admin, "home").expect("made");
        let offered = closed.desk().offer(MemberRole::Member, Duration::from_secs(60), "nas".into());
        let code = offered.code.and_then(|code| code.parse().ok()).expect("a code");
        let instances = [Instance::new([1; 32]), Instance::new([2; 32])];
        Desks { admin, newcomer, closed, id: offered.id, code, instances }
    }

    impl Desks {
        fn stage(&self) -> PairStage {
            self.closed.desk().view(&self.id).expect("known").stage
        }

        /// One handshake, with `change` applied to every message on its way.
        fn meet(
            &self,
            pairing: &Pairing,
            nearby: bool,
            change: impl FnMut(usize, v1::GateMessage) -> Vec<u8>,
        ) -> (Standing, Standing) {
            let newcomer = Membership::Pairing(pairing.clone());
            let admin = Membership::Closed(self.closed.clone());
            let (mesh, nowhere) = (self.closed.mesh(), MeshId::open(""));
            let (there, here) = (self.admin.peer_id(), self.newcomer.peer_id());
            let key = self.newcomer.keypair();
            let initiator =
                Handshake::new(Role::Initiator, key, nowhere, &newcomer, there, &self.instances[0], [1; 16]);
            let key = self.admin.keypair();
            let responder = Handshake::new(Role::Responder, key, mesh, &admin, here, &self.instances[1], [2; 16]);
            run(initiator, responder.nearby(nearby), change)
        }
    }

    /// Another code with the same number.
    fn wrong(code: &Code) -> Code {
        let number = code.number();
        let codes = [format!("{number}-otter-lamp"), format!("{number}-lamp-otter")];
        let other = codes.into_iter().find(|text| *text != code.to_string()).expect("one of them");
        other.parse().expect("a code")
    }

    #[test]
    fn who_has_the_code_is_met_and_is_not_let_in() {
        let desks = desks();
        let pairing = Pairing::new(desks.code.clone(), "laptop");
        assert_eq!(desks.meet(&pairing, true, as_is), (Standing::Paired, Standing::Paired));
        let met = pairing.met().expect("met");
        assert_eq!((met.node, met.terms.mesh_name.as_str()), (desks.admin.peer_id(), "home"));
        let view = desks.closed.desk().view(&desks.id).expect("known");
        assert_eq!((view.stage, view.node_name.as_deref()), (PairStage::Asking, Some("laptop")));
        assert_eq!(view.check, Some(met.session.check()));
        assert!(desks.closed.role_of(&desks.newcomer.peer_id()).is_err(), "nobody said yes");
        // And the newcomer's no is heard.
        let (told, _) = desks.meet(&Pairing::declining(&met.session), true, as_is);
        assert!(matches!(told, Standing::Refused(Refusal::NotAdmitted(_))), "{told:?}");
        assert_eq!(desks.stage(), PairStage::Ended);
    }

    #[test]
    fn wrong_codes_void_it_and_other_numbers_do_not_count() {
        let desks = desks();
        let elsewhere: Code = format!("{}-otter-lamp", 1 + desks.code.number() % 99).parse().expect("a code");
        let (told, _) = desks.meet(&Pairing::new(elsewhere, "x"), true, as_is);
        assert_eq!(told, Standing::Refused(Refusal::NoPairing));
        for left in [2, 1, 0] {
            let pairing = Pairing::new(wrong(&desks.code), "x");
            let (told, _) = desks.meet(&pairing, true, as_is);
            assert!(matches!(&told, Standing::Refused(Refusal::NotAdmitted(why)) if why.contains("not the code")));
            assert!(pairing.met().is_none());
            let view = desks.closed.desk().view(&desks.id).expect("known");
            assert_eq!(view.attempts_left, Some(left));
        }
        let (told, _) = desks.meet(&Pairing::new(desks.code.clone(), "x"), true, as_is);
        assert!(matches!(&told, Standing::Refused(Refusal::NotAdmitted(why)) if why.contains("void")), "{told:?}");
    }

    #[test]
    fn a_code_is_of_no_use_from_far_away_nor_at_an_open_mesh() {
        let desks = desks();
        let (told, _) = desks.meet(&Pairing::new(desks.code.clone(), "x"), false, as_is);
        assert_eq!(told, Standing::Refused(Refusal::NoPairing));
        let open = pair();
        let pairing = Membership::Pairing(Pairing::new(desks.code.clone(), "x"));
        let initiator = Handshake::new(
            Role::Initiator,
            &open.keys[0],
            open.meshes[0],
            &pairing,
            open.id(1),
            &open.instances[0],
            [1; 16],
        );
        let (told, _) = run(initiator, open.responder().nearby(true), as_is);
        assert_eq!(told, Standing::Refused(Refusal::NoPairing));
        assert_eq!(desks.stage(), PairStage::Waiting);
    }

    #[test]
    fn replayed_mirrored_and_changed_messages_lead_to_nothing() {
        // What one newcomer said, said again in another handshake.
        let desks = desks();
        let mut said = Vec::new();
        desks.meet(&Pairing::new(desks.code.clone(), "x"), true, |turn, message| {
            said.push((turn, message.encode_to_vec()));
            message.encode_to_vec()
        });
        let fresh = desks_again(&desks);
        let (_, standing) = fresh.meet(&Pairing::new(fresh.code.clone(), "x"), true, |turn, message| {
            let old = said.iter().find(|(then, _)| *then == turn && turn % 2 == 0);
            old.map_or_else(|| message.encode_to_vec(), |(_, bytes)| bytes.clone())
        });
        assert!(matches!(standing, Standing::Refuses(Refusal::NotAdmitted(_))), "{standing:?}");
        assert_eq!(fresh.stage(), PairStage::Waiting);
        // Every byte of every message.
        for turn in 0..4 {
            let desks = self::desks();
            let pairing = Pairing::new(desks.code.clone(), "x");
            let (initiator, responder) = desks.meet(&pairing, true, |now, message| {
                let mut bytes = message.encode_to_vec();
                if now == turn {
                    let last = bytes.len() - 1;
                    bytes[last] ^= 1;
                }
                bytes
            });
            let reader = if turn % 2 == 0 { responder } else { initiator };
            assert_ne!(reader, Standing::Paired, "turn {turn}");
        }
        let pairing = Membership::Pairing(Pairing::new(desks.code.clone(), "x"));
        let (there, key) = (desks.admin.peer_id(), desks.newcomer.keypair());
        let mesh = MeshId::open("");
        let mut initiator = Handshake::new(Role::Initiator, key, mesh, &pairing, there, &desks.instances[0], [1; 16]);
        let own = initiator.opening().expect("a start").encode_to_vec();
        assert!(matches!(initiator.receive(&own).standing, Standing::Refuses(Refusal::Malformed(_))));
    }

    /// The same nodes and the same code, offered anew.
    fn desks_again(before: &Desks) -> Desks {
        let closed = Closed::create(None, &before.admin, "home").expect("made");
        loop {
            let offered = closed.desk().offer(MemberRole::Member, Duration::from_secs(60), "nas".into());
            let code: Code = offered.code.and_then(|code| code.parse().ok()).expect("a code");
            // The number is all that must be the same for a replay to get as far as its proof.
            if code.number() == before.code.number() {
                let (admin, newcomer) = (before.admin.clone(), before.newcomer.clone());
                let instances = [Instance::new([3; 32]), Instance::new([4; 32])];
                return Desks { admin, newcomer, closed, id: offered.id, code, instances };
            }
        }
    }
}
