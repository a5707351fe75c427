//! Digest sync: how a newcomer learns what gossip told before it came, and how two halves of a mesh heal.
//!
//! Two parts, both without a swarm. [`SyncCodec`] puts the messages of `sync.proto` on a stream of libp2p's
//! `request_response`, with a limit on their size. [`first_request`], [`answer`] and [`absorb`] are what the two
//! sides do with their registers:
//!
//! ```text
//! asker                                  answerer
//!   first_request: my positions  ─────▶
//!                                ◀─────  answer: what you lack; what I want
//!   absorb: positions again, and
//!   the wanted statements        ─────▶
//!                                ◀─────  answer: the next page …
//! ```
//!
//! The asker goes on while [`absorb`] returns a next request, for [`MAX_ROUNDS`] at the most. Where both probably know
//! the same, it begins with [`hello`] instead: a fingerprint, whose answer says whether a digest is worth its bytes.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{PeerId, StreamProtocol, request_response};
use prost::Message;

use super::statement::{self, StatementError};
use crate::catalog::register::{Outcome, Position, Register, Source, Statement};
use crate::wire::v1;

/// Bytes of a request or a response: a digest of 240 KiB and a page of 256 KiB.
pub const MESSAGE_BYTES: usize = 512 * 1024;

/// Rounds of one sync. A mesh of 500 nodes takes some 20 pages; what is left waits for the next sync.
pub const MAX_ROUNDS: usize = 32;

/// Checks a statement that came from the network: [`statement::verify`], unless somebody has a faster way to know.
pub type Verify = dyn Fn(&[u8; 32], v1::SignedStatement) -> Result<Statement, StatementError> + Send + Sync;

/// Messages of `sync.proto` on a stream, each of [`MESSAGE_BYTES`] at the most and ended by the end of the stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncCodec;

impl request_response::Codec for SyncCodec {
    type Protocol = StreamProtocol;
    type Request = v1::SyncRequest;
    type Response = v1::SyncResponse;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<v1::SyncRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<v1::SyncResponse>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: v1::SyncRequest) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: v1::SyncResponse) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &response).await
    }
}

async fn read<T: AsyncRead + Unpin + Send, M: Message + Default>(io: &mut T) -> io::Result<M> {
    let mut bytes = Vec::new();
    io.take(MESSAGE_BYTES as u64 + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "sync message is larger than 512 KiB"));
    }
    M::decode(Bytes::from(bytes)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn write<T: AsyncWrite + Unpin + Send, M: Message>(io: &mut T, message: &M) -> io::Result<()> {
    if message.encoded_len() > MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "sync message is larger than 512 KiB"));
    }
    io.write_all(&message.encode_to_vec()).await?;
    io.close().await
}

/// What statements from another register did to ours.
#[derive(Debug, Default)]
pub struct Taken {
    /// What came of each statement that was worth a look, in their order.
    pub outcomes: Vec<(PeerId, Outcome)>,
    /// The statement that no honest node would have passed on. Those after it were not looked at.
    pub fault: Option<StatementError>,
}

impl Taken {
    fn has_news(&self) -> bool {
        let is_news = |outcome: &Outcome| matches!(outcome, Outcome::Changed | Outcome::NeedBody(_) | Outcome::Left);
        self.outcomes.iter().any(|(_, outcome)| is_news(outcome))
    }
}

/// What to answer, and what the request's own statements did.
#[derive(Debug)]
pub struct Answer {
    /// To be sent back.
    pub response: v1::SyncResponse,
    /// What was pushed.
    pub taken: Taken,
}

/// What a response did, and how to go on.
#[derive(Debug)]
pub struct Absorbed {
    /// What came.
    pub taken: Taken,
    /// The next round; `None` when both know the same.
    pub next: Option<v1::SyncRequest>,
}

/// The request that begins a sync.
#[must_use]
pub fn first_request(register: &Register) -> v1::SyncRequest {
    digest_request(register, Vec::new())
}

/// The request that begins a sync with somebody who probably knows the same.
#[must_use]
pub fn hello(register: &Register) -> v1::SyncRequest {
    let fingerprint = Bytes::copy_from_slice(&register.fingerprint());
    let digest = v1::SyncDigest { fingerprint, ..Default::default() };
    v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) }
}

/// The request for the advert body with this hash; the response is for [`Register::body`].
#[must_use]
pub fn body_request(hash: &[u8]) -> v1::SyncRequest {
    let body = v1::sync_request::Body::FetchBody(v1::FetchBody { hash: Bytes::copy_from_slice(hash) });
    v1::SyncRequest { body: Some(body) }
}

/// The request that the node dials this one at this address.
#[must_use]
pub fn dial_back_request(address: &libp2p::Multiaddr) -> v1::SyncRequest {
    let body = v1::sync_request::Body::DialBack(v1::DialBack { address: address.to_string() });
    v1::SyncRequest { body: Some(body) }
}

/// Answers a request that the register or the clock can answer. `now_ms` is this node's clock in Unix milliseconds, for those who ask. `None` for a request
/// that this version does not know, and for those that take more than a look.
#[must_use]
pub fn answer(
    register: &mut Register,
    mesh: &[u8; 32],
    verify: &Verify,
    request: v1::SyncRequest,
    now: Instant,
    now_ms: u64,
) -> Option<Answer> {
    let mut taken = Taken::default();
    let body = match request.body? {
        v1::sync_request::Body::Digest(digest) if !digest.fingerprint.is_empty() => {
            let same = register.fingerprint() == *digest.fingerprint;
            v1::sync_response::Body::Delta(v1::SyncDelta { same, ask_again: !same, ..Default::default() })
        }
        v1::sync_request::Body::Digest(digest) => {
            taken = take(register, mesh, verify, digest.push, now);
            let delta = register.delta(&digest.positions, now);
            if let Some(position) = delta.own_ahead {
                taken.outcomes.push((register.own(), Outcome::OwnAhead(position)));
            }
            v1::sync_response::Body::Delta(v1::SyncDelta {
                statements: delta.statements,
                want: delta.want.into_iter().map(|node| node.to_bytes().into()).collect(),
                more: delta.more,
                beyond: delta.beyond,
                ..Default::default()
            })
        }
        v1::sync_request::Body::FetchBody(fetch) => {
            let data = register.body_bytes(&fetch.hash).unwrap_or_default();
            v1::sync_response::Body::FoundBody(v1::FoundBody { data })
        }
        // Only a member of a closed mesh answers these, and it does so before it comes here.
        v1::sync_request::Body::Roster(_) | v1::sync_request::Body::Renew(_) => return None,
        v1::sync_request::Body::Ping(v1::Ping {}) => v1::sync_response::Body::Pong(v1::Pong { now_ms }),
        v1::sync_request::Body::DialBack(_) | v1::sync_request::Body::HearMulticast(_) => return None,
    };
    Some(Answer { response: v1::SyncResponse { body: Some(body) }, taken })
}

/// Takes in the answer to a digest, and says how to go on.
#[must_use]
pub fn absorb(
    register: &mut Register,
    mesh: &[u8; 32],
    verify: &Verify,
    delta: v1::SyncDelta,
    now: Instant,
) -> Absorbed {
    if delta.ask_again {
        return Absorbed { taken: Taken::default(), next: Some(first_request(register)) };
    }
    let mut taken = take(register, mesh, verify, delta.statements, now);
    let own = register.own().to_bytes();
    let beyond = delta.beyond.iter().filter(|position| position.node == own);
    let beyond = beyond.map(|position| Position { epoch: position.epoch, seq: position.seq });
    if let Some(position) = beyond.max().filter(|position| *position >= register.own_position()) {
        taken.outcomes.push((register.own(), Outcome::OwnAhead(position)));
    }
    let want = delta.want.iter().filter_map(|node| PeerId::from_bytes(node).ok());
    let push = register.statements_of(want, now);
    let goes_on = taken.fault.is_none() && (!push.is_empty() || (delta.more && taken.has_news()));
    let next = goes_on.then(|| digest_request(register, push));
    Absorbed { taken, next }
}

fn digest_request(register: &Register, push: Vec<v1::AgedStatement>) -> v1::SyncRequest {
    let digest = v1::SyncDigest { positions: register.digest(), push, ..Default::default() };
    v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) }
}

/// Adds to the ages of what was passed on: so long it may have been on the way.
pub fn grow_older(statements: &mut [v1::AgedStatement], by: Duration) {
    let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    for aged in statements {
        aged.age_ms = aged.age_ms.saturating_add(by_ms);
        aged.issued_ago_ms = aged.issued_ago_ms.saturating_add(by_ms);
    }
}

/// Verifies and applies statements, only those that may be news. It stops at the first that is a fault, so
/// that a hostile page costs one verification.
fn take(
    register: &mut Register,
    mesh: &[u8; 32],
    verify: &Verify,
    statements: Vec<v1::AgedStatement>,
    now: Instant,
) -> Taken {
    let mut taken = Taken::default();
    for aged in statements {
        match take_one(register, mesh, verify, aged, now) {
            Ok(Some(outcome)) => taken.outcomes.push(outcome),
            Ok(None) => {}
            Err(error) if error.is_fault() => {
                taken.fault = Some(error);
                break;
            }
            Err(_) => {}
        }
    }
    taken
}

fn take_one(
    register: &mut Register,
    mesh: &[u8; 32],
    verify: &Verify,
    aged: v1::AgedStatement,
    now: Instant,
) -> Result<Option<(PeerId, Outcome)>, StatementError> {
    let v1::AgedStatement { statement, age_ms, beat, issued_ago_ms } = aged;
    let source = Source::Sync { age: Duration::from_millis(age_ms), issued_ago: Duration::from_millis(issued_ago_ms) };
    // What cannot even be read is for the verification to refuse.
    let is_news = statement.as_ref().is_some_and(|wire| {
        statement::peek(wire).is_none_or(|claim| register.is_news(&claim.node, claim.position, now))
    });
    let is_life =
        |claim: statement::Claim| is_news || register.is_news_of_life(&claim.node, claim.position, claim.issued_at_ms);
    let beat = match beat.filter(|wire| statement::peek(wire).is_none_or(is_life)) {
        Some(wire) => Some(verify(mesh, wire)?),
        None => None,
    };
    // A beat may let an advert in that is no news by itself.
    let Some(wire) = statement.filter(|_| is_news || beat.is_some()) else {
        return Ok(beat.map(|beat| (beat.node, register.apply(beat, source, now))));
    };
    let statement = verify(mesh, wire)?;
    Ok(Some((statement.node, register.apply_copy(statement, beat, source, now))))
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
