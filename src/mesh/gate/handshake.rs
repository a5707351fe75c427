//! The membership handshake as a pure state machine: messages in, messages and a verdict out.
//!
//! `proto/atmosphere/v1/gate.proto` draws the exchange. The transport has already proved both PeerIds; each side
//! signs a transcript with both of them and both nonces by its node key, so a proof is of no use on any other
//! connection, and relaying it gains nothing.

use libp2p::identity::{Keypair, PublicKey};
use prost::Message as _;

use super::instance::Instance;
use super::membership::{Membership, Shown};
use super::pairing::Pairing;
use crate::capability::PeerId;
use crate::mesh::id::MeshId;
use crate::mesh::identity::public_key;
use crate::mesh::member::Closed;
use crate::mesh::pair::{Away, Parties, Said, Session, Started};
use crate::wire::v1;
use crate::wire::v1::gate_message::Body;
use crate::wire::v1::verdict::Code;
use crate::wire::{MAJOR, MINOR};

/// Largest message; a membership with its signatures fits several times.
pub(super) const MAX_MESSAGE_BYTES: usize = 4096;

/// Separates these signatures from every other use of a node key.
const DOMAIN: &[u8] = b"atmosphere-gate-v1";

/// Longest explanation that is taken from the other side.
const MAX_EXPLANATION_CHARS: usize = 200;

/// Longest name of a newcomer.
const MAX_NAME_BYTES: usize = 256;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Speaks first.
    Initiator,
    /// Answers.
    Responder,
}

impl Role {
    const fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Initiator => 1,
            Self::Responder => 2,
        }
    }
}

/// Why a connection is not admitted, by whichever side found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The other side is of another mesh.
    #[error(
        "one of the two belongs to another mesh than the other (start both with the same --mesh; a closed \
         mesh is joined with an invite: atmosphere join TOKEN)"
    )]
    OtherMesh,
    /// The other side speaks another major version of the contract.
    #[error("it speaks an incompatible version of the protocol: {0} (update the older of the two)")]
    Incompatible(String),
    /// The other side may not be a member.
    #[error("it is not admitted: {0}")]
    NotAdmitted(String),
    /// The other side does not keep to the protocol.
    #[error("its handshake is malformed: {0}")]
    Malformed(String),
    /// Too many handshakes are under way.
    #[error("it is busy with other handshakes")]
    Busy,
    /// The other side is this very process.
    #[error("it is this node itself")]
    Itself,
    /// The other side is another process with this node's identity.
    #[error(
        "another node runs with this node's identity: was its data directory copied? (give one of the two a data \
         directory of its own)"
    )]
    IdentityClash,
    /// A person has to say yes first.
    #[error("the person at the other machine has not said yes yet")]
    NotYet,
    /// The other side shows no code with that number.
    #[error("it shows no spoken code with that number")]
    NoPairing,
}

impl From<Away> for Refusal {
    fn from(away: Away) -> Self {
        match away {
            Away::Unknown => Self::NoPairing,
            Away::NotYet => Self::NotYet,
            Away::Closed(_) | Away::Wrong(_) => Self::NotAdmitted(away.to_string()),
        }
    }
}

impl Refusal {
    /// The message that tells the other side.
    #[must_use]
    pub fn to_message(&self) -> v1::GateMessage {
        let code = match self {
            Self::OtherMesh => Code::OtherMesh,
            Self::Incompatible(_) => Code::Incompatible,
            Self::NotAdmitted(_) => Code::NotAdmitted,
            Self::Malformed(_) => Code::Malformed,
            Self::Busy => Code::Busy,
            Self::Itself => Code::Itself,
            Self::IdentityClash => Code::IdentityClash,
            Self::NotYet => Code::Wait,
            Self::NoPairing => Code::NoPairing,
        };
        let message = match self {
            Self::OtherMesh | Self::Busy | Self::Itself | Self::IdentityClash | Self::NotYet | Self::NoPairing => {
                String::new()
            }
            Self::Incompatible(text) | Self::NotAdmitted(text) | Self::Malformed(text) => text.clone(),
        };
        v1::GateMessage { body: Some(Body::Verdict(v1::Verdict { code: code.into(), message, revocation: None })) }
    }

    fn from_verdict(verdict: v1::Verdict) -> Option<Self> {
        let code = verdict.code();
        // It is shown to people, so it is cut and cleaned.
        let text: String =
            verdict.message.chars().filter(|char| !char.is_control()).take(MAX_EXPLANATION_CHARS).collect();
        match code {
            // An unknown code decodes as the default; the raw number tells them apart.
            Code::Admitted if verdict.code == i32::from(Code::Admitted) => None,
            Code::Admitted | Code::NotAdmitted => Some(Self::NotAdmitted(text)),
            Code::OtherMesh => Some(Self::OtherMesh),
            Code::Incompatible => Some(Self::Incompatible(text)),
            Code::Malformed => Some(Self::Malformed(text)),
            Code::Busy => Some(Self::Busy),
            Code::Itself => Some(Self::Itself),
            Code::IdentityClash => Some(Self::IdentityClash),
            Code::Wait => Some(Self::NotYet),
            Code::NoPairing => Some(Self::NoPairing),
        }
    }
}

/// How it stands after a message.
#[derive(Debug, PartialEq)]
pub enum Standing {
    /// The other side's turn.
    Waiting,
    /// Both sides have proved themselves.
    Admitted,
    /// This side refuses; the message that comes with it says so.
    Refuses(Refusal),
    /// The other side has refused.
    Refused(Refusal),
    /// An invite was shown; [`Handshake::granted`] takes what comes of it.
    Asks(Box<Asks>),
    /// Both sides had the same spoken code. The connection has served its purpose, and leads to no protocol.
    Paired,
}

/// An invite that a newcomer shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Asks {
    /// The invite, and the newcomer's proof.
    pub invite: v1::InviteProof,
    /// The newcomer's transcript.
    pub joiner: [u8; 32],
    /// This side's transcript.
    pub issuer: [u8; 32],
}

/// What to do after a message: send first, then act on the standing.
#[derive(Debug)]
pub struct Step {
    /// To be sent.
    pub send: Option<v1::GateMessage>,
    /// How it stands.
    pub standing: Standing,
}

/// One side of one handshake.
#[derive(Debug)]
pub struct Handshake<'a> {
    role: Role,
    key: &'a Keypair,
    membership: &'a Membership,
    mesh: MeshId,
    remote: PeerId,
    remote_key: Option<PublicKey>,
    instance: &'a Instance,
    nonce: [u8; 32],
    nearby: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitsHello,
    AwaitsProof {
        remote_nonce: [u8; 32],
    },
    AwaitsGrant {
        remote_nonce: [u8; 32],
    },
    AwaitsVerdict,
    /// A newcomer with a spoken code, before the other side's half of the exchange.
    AwaitsPairReply(Box<Started>),
    /// The same, after it.
    AwaitsPairOffer(Session),
    /// The admin's node, before the newcomer's proof.
    AwaitsPairProof(Session),
    /// A newcomer that has told its no.
    AwaitsNotice,
    Over,
}

impl<'a> Handshake<'a> {
    /// A handshake with the node `remote`, whose id the transport has proved. `random` must be fresh.
    #[must_use]
    pub fn new(
        role: Role,
        key: &'a Keypair,
        mesh: MeshId,
        membership: &'a Membership,
        remote: PeerId,
        instance: &'a Instance,
        random: [u8; 16],
    ) -> Self {
        let remote_key = public_key(&remote);
        let nonce = instance.nonce(random);
        let state = match membership {
            Membership::Pairing(pairing) => match pairing.start(key.public().to_peer_id(), remote) {
                Some(started) => State::AwaitsPairReply(Box::new(started)),
                None => State::AwaitsNotice,
            },
            _ => State::AwaitsHello,
        };
        Self { role, key, membership, mesh, remote, remote_key, instance, nonce, nearby: false, state }
    }

    /// The other side is on this machine or network, so that it may try a spoken code.
    #[must_use]
    pub fn nearby(self, nearby: bool) -> Self {
        Self { nearby, ..self }
    }

    /// What the initiator says first; the responder says nothing yet.
    #[must_use]
    pub fn opening(&self) -> Option<v1::GateMessage> {
        if self.role == Role::Responder {
            return None;
        }
        let body = match (&self.state, self.membership) {
            (State::AwaitsPairReply(started), Membership::Pairing(pairing)) => Body::PairStart(v1::PairStart {
                wire_major: MAJOR,
                wire_minor: MINOR,
                nonce: self.nonce.to_vec().into(),
                number: pairing.number(),
                element: started.element().to_vec().into(),
            }),
            (State::AwaitsNotice, Membership::Pairing(pairing)) => Body::PairDecline(pairing.decline()?),
            _ => return Some(self.hello()),
        };
        Some(v1::GateMessage { body: Some(body) })
    }

    /// Takes one message.
    pub fn receive(&mut self, bytes: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        let body = match v1::GateMessage::decode(bytes).map(|message| message.body) {
            Ok(Some(body)) => body,
            Ok(None) | Err(_) => return refuse(Refusal::Malformed("a message cannot be decoded".into())),
        };
        match (state, body) {
            (State::Over, _) => refuse(Refusal::Malformed("a message after the end".into())),
            (state, Body::Verdict(verdict)) => self.on_verdict(&state, verdict),
            (State::AwaitsHello, Body::Hello(hello)) => self.on_hello(&hello),
            (State::AwaitsProof { remote_nonce }, Body::Proof(proof)) => self.on_proof(&proof, &remote_nonce),
            (state, body) => self.on_pairing(state, body).unwrap_or_else(refuse),
        }
    }

    /// Takes a message of a pairing.
    fn on_pairing(&mut self, state: State, body: Body) -> Result<Step, Refusal> {
        match (state, body, self.membership) {
            (State::AwaitsHello, Body::PairStart(start), membership) if self.role == Role::Responder => {
                self.on_pair_start(&start, membership)
            }
            (State::AwaitsHello, Body::PairDecline(decline), Membership::Closed(closed))
                if self.role == Role::Responder =>
            {
                let known = closed.desk().declined(&self.remote, &decline.mac);
                Err(if known { Refusal::NotAdmitted("it is noted".into()) } else { Refusal::NoPairing })
            }
            (State::AwaitsPairProof(session), Body::PairProof(proof), Membership::Closed(closed)) => {
                self.on_pair_proof(closed, &session, &proof)
            }
            (State::AwaitsPairReply(started), Body::PairReply(reply), Membership::Pairing(pairing)) => {
                self.on_pair_reply(pairing, *started, &reply)
            }
            (State::AwaitsPairOffer(session), Body::PairOffer(offer), Membership::Pairing(pairing)) => {
                pairing.take(self.remote, &session, &offer).map_err(Refusal::NotAdmitted)?;
                Ok(Step { send: None, standing: Standing::Paired })
            }
            _ => Err(Refusal::Malformed("a message out of order".into())),
        }
    }

    /// The other side's nonce, if it is one.
    fn nonce_of(&self, bytes: &[u8]) -> Result<[u8; 32], Refusal> {
        let nonce = <[u8; 32]>::try_from(bytes).map_err(|_| Refusal::Malformed("a nonce is not 32 bytes".into()))?;
        if nonce == self.nonce { Err(Refusal::Malformed("our own nonce came back".into())) } else { Ok(nonce) }
    }

    /// A newcomer begins with a spoken code.
    fn on_pair_start(&mut self, start: &v1::PairStart, membership: &Membership) -> Result<Step, Refusal> {
        if start.wire_major != MAJOR {
            return Err(Refusal::Incompatible(format!("{} meets {}", start.wire_major, MAJOR)));
        }
        let Membership::Closed(closed) = membership else { return Err(Refusal::NoPairing) };
        if !self.nearby || self.has_own_id() {
            return Err(Refusal::NoPairing);
        }
        let nonce = self.nonce_of(&start.nonce)?;
        let parties = Parties { joiner: self.remote, issuer: self.key.public().to_peer_id() };
        let started = closed.desk().begins(start.number, parties)?;
        let element = started.element().to_vec().into();
        let session = started.finish(&start.element, &nonce, &self.nonce).map_err(Refusal::Malformed)?;
        let reply = v1::PairReply { nonce: self.nonce.to_vec().into(), element };
        Ok(self.go_on(v1::GateMessage { body: Some(Body::PairReply(reply)) }, State::AwaitsPairProof(session)))
    }

    /// The admin's node answers with its half: the newcomer proves first.
    fn on_pair_reply(&mut self, pairing: &Pairing, started: Started, reply: &v1::PairReply) -> Result<Step, Refusal> {
        let nonce = self.nonce_of(&reply.nonce)?;
        let session = started.finish(&reply.element, &self.nonce, &nonce).map_err(Refusal::Malformed)?;
        let proof = pairing.proof(self.remote, &session);
        let proof = proof.ok_or_else(|| Refusal::NotAdmitted("others have this newcomer's proof already".into()))?;
        Ok(self.go_on(v1::GateMessage { body: Some(Body::PairProof(proof)) }, State::AwaitsPairOffer(session)))
    }

    /// A newcomer proves that it had the right code, or fails to.
    fn on_pair_proof(&self, closed: &Closed, session: &Session, proof: &v1::PairProof) -> Result<Step, Refusal> {
        if proof.name.len() > MAX_NAME_BYTES {
            return Err(Refusal::Malformed("its name is too long".into()));
        }
        let terms = closed.desk().proves(self.remote, &proof.name, &proof.mac, session)?;
        let terms = v1::PairTerms {
            root_key: closed.root().to_bytes().to_vec().into(),
            mesh_name: closed.name().to_owned(),
            role: terms.role.to_wire(),
            expires: terms.expires,
            name: terms.name,
        }
        .encode_to_vec();
        let mac = session.prove(Said::Issuer(&terms)).as_bytes().to_vec().into();
        let offer = v1::PairOffer { terms: terms.into(), mac };
        Ok(Step { send: Some(v1::GateMessage { body: Some(Body::PairOffer(offer)) }), standing: Standing::Paired })
    }

    fn on_hello(&mut self, hello: &v1::Hello) -> Step {
        if hello.wire_major != MAJOR {
            return refuse(Refusal::Incompatible(format!("{} meets {}", hello.wire_major, MAJOR)));
        }
        if hello.mesh_id.as_ref() != self.mesh.as_bytes() {
            return refuse(Refusal::OtherMesh);
        }
        let Ok(remote_nonce) = <[u8; 32]>::try_from(hello.nonce.as_ref()) else {
            return refuse(Refusal::Malformed("a nonce is not 32 bytes".into()));
        };
        if remote_nonce == self.nonce {
            return refuse(Refusal::Malformed("our own nonce came back".into()));
        }
        if self.has_own_id() {
            return refuse(if self.instance.made(&remote_nonce) { Refusal::Itself } else { Refusal::IdentityClash });
        }
        let answer = match self.role {
            Role::Initiator => self.proof(&remote_nonce, None),
            Role::Responder => Ok(self.hello()),
        };
        match answer {
            Ok(answer) => self.go_on(answer, State::AwaitsProof { remote_nonce }),
            Err(refusal) => refuse(refusal),
        }
    }

    fn on_proof(&mut self, proof: &v1::Proof, remote_nonce: &[u8; 32]) -> Step {
        let Some(key) = &self.remote_key else {
            return refuse(Refusal::NotAdmitted("a node id must be that of an Ed25519 key".into()));
        };
        if !key.verify(&self.transcript(self.role.other(), remote_nonce), &proof.signature) {
            return refuse(Refusal::NotAdmitted("the signature does not prove the node".into()));
        }
        let own = self.key.public().to_peer_id();
        let transcript = self.transcript(self.role.other(), remote_nonce);
        match self.membership.admits(&own, &self.remote, proof, &transcript) {
            Ok(Shown::Member) => {}
            Ok(Shown::Invite(invite)) if self.role == Role::Responder => {
                self.state = State::AwaitsGrant { remote_nonce: *remote_nonce };
                let issuer = self.transcript(self.role, remote_nonce);
                let asks = Asks { invite, joiner: transcript, issuer };
                return Step { send: None, standing: Standing::Asks(Box::new(asks)) };
            }
            Ok(Shown::Invite(_)) => return refuse(Refusal::NotAdmitted("only who dials can present an invite".into())),
            Err(why) => return self.not_admitted(why),
        }
        match self.role {
            Role::Responder => match self.proof(remote_nonce, None) {
                Ok(answer) => self.go_on(answer, State::AwaitsVerdict),
                Err(refusal) => refuse(refusal),
            },
            Role::Initiator => {
                let verdict = v1::Verdict { code: Code::Admitted.into(), ..Default::default() };
                Step {
                    send: Some(v1::GateMessage { body: Some(Body::Verdict(verdict)) }),
                    standing: Standing::Admitted,
                }
            }
        }
    }

    /// What came of the invite that was asked about.
    pub fn granted(&mut self, grant: Result<v1::Grant, Refusal>) -> Step {
        let State::AwaitsGrant { remote_nonce } = std::mem::replace(&mut self.state, State::Over) else {
            return refuse(Refusal::Malformed("nobody asked for a grant".into()));
        };
        match grant.and_then(|grant| self.proof(&remote_nonce, Some(grant))) {
            Ok(answer) => self.go_on(answer, State::AwaitsVerdict),
            Err(refusal) => refuse(refusal),
        }
    }

    /// Refuses, and proves it to a node that was revoked.
    fn not_admitted(&self, why: String) -> Step {
        let mut step = refuse(Refusal::NotAdmitted(why));
        if let (Membership::Closed(closed), Some(message)) = (self.membership, &step.send)
            && let Some(Body::Verdict(verdict)) = &message.body
            && let Some(revocation) = closed.revocation_of(&self.remote)
        {
            let verdict = v1::Verdict { revocation: Some(revocation), ..verdict.clone() };
            let message = v1::GateMessage { body: Some(Body::Verdict(verdict)) };
            if message.encoded_len() <= MAX_MESSAGE_BYTES {
                step.send = Some(message);
            }
        }
        step
    }

    fn on_verdict(&mut self, state: &State, mut verdict: v1::Verdict) -> Step {
        if let (Some(revocation), Membership::Closed(closed)) = (verdict.revocation.take(), self.membership) {
            // It proves itself, whoever tells; a faulty one is of no account.
            let record = v1::roster_record::Record::Revocation(revocation);
            let _ = closed.merge(vec![v1::RosterRecord { record: Some(record) }]);
        }
        let standing = match (Refusal::from_verdict(verdict), state) {
            // Only a node with this node's id can say so.
            (Some(Refusal::Itself | Refusal::IdentityClash), _) if !self.has_own_id() => {
                Standing::Refused(Refusal::Malformed("it takes this node for another one".into()))
            }
            (Some(refusal), _) => Standing::Refused(refusal),
            (None, State::AwaitsVerdict) => Standing::Admitted,
            (None, _) => return refuse(Refusal::Malformed("admitted before a proof".into())),
        };
        Step { send: None, standing }
    }

    fn has_own_id(&self) -> bool {
        self.remote == self.key.public().to_peer_id()
    }

    fn go_on(&mut self, answer: v1::GateMessage, state: State) -> Step {
        self.state = state;
        Step { send: Some(answer), standing: Standing::Waiting }
    }

    fn hello(&self) -> v1::GateMessage {
        let hello = v1::Hello {
            wire_major: MAJOR,
            wire_minor: MINOR,
            mesh_id: self.mesh.as_bytes().to_vec().into(),
            nonce: self.nonce.to_vec().into(),
        };
        v1::GateMessage { body: Some(Body::Hello(hello)) }
    }

    fn proof(&self, remote_nonce: &[u8; 32], grant: Option<v1::Grant>) -> Result<v1::GateMessage, Refusal> {
        let transcript = self.transcript(self.role, remote_nonce);
        let signature =
            self.key.sign(&transcript).map_err(|_| Refusal::NotAdmitted("this node's key cannot sign".into()))?;
        let credential = self.membership.credential(&transcript);
        let proof = v1::Proof { credential, signature: signature.into(), grant };
        Ok(v1::GateMessage { body: Some(Body::Proof(proof)) })
    }

    /// What `signer` signs.
    fn transcript(&self, signer: Role, remote_nonce: &[u8; 32]) -> [u8; 32] {
        let own = (self.key.public().to_peer_id(), &self.nonce);
        let remote = (self.remote, remote_nonce);
        let (initiator, responder) = match self.role {
            Role::Initiator => (own, remote),
            Role::Responder => (remote, own),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(self.mesh.as_bytes());
        // The ids of Ed25519 keys all have one length, so nothing can slide from one field into the next.
        hasher.update(&initiator.0.to_bytes());
        hasher.update(&responder.0.to_bytes());
        hasher.update(initiator.1);
        hasher.update(responder.1);
        hasher.update(&[signer.tag()]);
        *hasher.finalize().as_bytes()
    }
}

fn refuse(refusal: Refusal) -> Step {
    Step { send: Some(refusal.to_message()), standing: Standing::Refuses(refusal) }
}
