//! The gate: a membership handshake on every new connection, before the swarm sees it.
//!
//! It wraps the finished transport, so QUIC, TCP, relayed, hole-punched and memory connections all pass through
//! this one path, and a connection that is not admitted reaches no protocol at all. On the fresh muxer the
//! initiator opens the first substream, the responder accepts it, and [`handshake`] decides.

mod admission;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod instance;
mod membership;
mod outcome;
mod pairing;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::Multiaddr;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _};
use libp2p::core::{ConnectedPoint, Endpoint};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};

use super::id::MeshId;
use super::identity::Identity;
use crate::capability::PeerId;
use crate::wire::v1;

pub use admission::Admission;
pub use handshake::Refusal;
use handshake::{Asks, Handshake, MAX_MESSAGE_BYTES, Role, Standing};
use instance::Instance;
pub use membership::{Joining, Membership};
pub use outcome::Handshakes;
use outcome::{Direction, GateOutcome};
pub use pairing::{Met, Pairing};

/// Longest handshake: three round trips over the worst path that is still of use.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How long a refused node is given to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Inbound handshakes at once. With [`TIME_LIMIT`] it bounds what strangers can make this node hold.
const MAX_INBOUND: usize = 128;

/// Refusals that are explained at once, beyond [`MAX_INBOUND`]; the rest is closed without a word.
const MAX_EXPLAINED: usize = 32;

/// A connection that was not admitted, for the owner to see.
#[derive(Debug, Clone)]
pub struct Report {
    /// The node, whose id the transport has proved.
    pub node: PeerId,
    /// Its address.
    pub address: Multiaddr,
    /// Whether it knocked here, rather than we there.
    pub inbound: bool,
    /// Whether it is known to be no member, rather than merely slow, busy or gone.
    pub not_a_member: bool,
    /// Whether it is another process with this node's identity.
    pub identity_clash: bool,
    /// Why, for a person.
    pub reason: String,
}

/// Why a connection did not pass.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// This side refused.
    #[error("this node refused the other: {0}")]
    Refuses(Refusal),
    /// The other side refused.
    #[error("the other node refused: {0}")]
    Refused(Refusal),
    /// The other side's address may not knock.
    #[error(
        "{0} is an address of the internet, and this open mesh admits private addresses only \
         (set admit = \"everybody\" on both nodes if that is what you want)"
    )]
    Address(Multiaddr),
    /// Both sides had the same spoken code: the newcomer comes again, once both people have said yes.
    #[error("both sides had the same spoken code; the newcomer comes again when both people have said yes")]
    Paired,
    /// It took too long.
    #[error("the other node did not finish the membership handshake in time (is it an atmosphere node?)")]
    TimedOut,
    /// The connection broke.
    #[error("the connection broke during the membership handshake: {0}")]
    Io(#[from] io::Error),
}

impl GateError {
    /// What either side refused for.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refuses(refusal) | Self::Refused(refusal) => Some(refusal),
            Self::Address(_) | Self::Paired | Self::TimedOut | Self::Io(_) => None,
        }
    }

    const fn outcome(&self) -> GateOutcome {
        match self {
            Self::Refuses(refusal) | Self::Refused(refusal) => match refusal {
                Refusal::OtherMesh => GateOutcome::OtherMesh,
                Refusal::Incompatible(_) => GateOutcome::Incompatible,
                Refusal::NotAdmitted(_) => GateOutcome::NotAdmitted,
                Refusal::Malformed(_) => GateOutcome::Malformed,
                Refusal::Busy => GateOutcome::Busy,
                Refusal::Itself => GateOutcome::Itself,
                Refusal::IdentityClash => GateOutcome::IdentityClash,
                Refusal::NotYet => GateOutcome::NotYet,
                Refusal::NoPairing => GateOutcome::NoPairing,
            },
            Self::Address(_) => GateOutcome::Address,
            Self::Paired => GateOutcome::Paired,
            Self::TimedOut => GateOutcome::TimedOut,
            Self::Io(_) => GateOutcome::Broken,
        }
    }
}

/// A gate's error as the transport's: libp2p's own layers show only what is below an error, so it is below this.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TurnedAway(#[source] GateError);

/// The gate of this node.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    identity: Identity,
    mesh: MeshId,
    membership: Membership,
    inbound: Semaphore,
    explained: Semaphore,
    instance: Instance,
    handshakes: Handshakes,
    reports: mpsc::Sender<Report>,
}

impl Gate {
    /// A gate for this mesh. Reports beyond the channel's capacity are dropped: a flood of strangers is no news.
    #[must_use]
    pub fn new(
        identity: Identity,
        mesh: MeshId,
        membership: Membership,
        handshakes: Handshakes,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self(Arc::new(Inner {
            identity,
            mesh,
            membership,
            inbound: Semaphore::new(MAX_INBOUND),
            explained: Semaphore::new(MAX_EXPLAINED),
            instance: Instance::new(rand::random()),
            handshakes,
            reports,
        }))
    }

    /// Lets a fresh connection pass, or closes it.
    ///
    /// # Errors
    ///
    /// When it is not admitted; see [`GateError`].
    pub async fn pass(
        self,
        node: PeerId,
        muxer: StreamMuxerBox,
        endpoint: ConnectedPoint,
    ) -> Result<(PeerId, StreamMuxerBox), TurnedAway> {
        let direction = if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound };
        match self.try_pass(node, muxer, &endpoint).await {
            Ok(muxer) => {
                self.0.handshakes.count(direction, GateOutcome::Admitted);
                Ok((node, muxer))
            }
            Err(error) => {
                self.0.handshakes.count(direction, error.outcome());
                self.report(node, &endpoint, &error);
                Err(TurnedAway(error))
            }
        }
    }

    async fn try_pass(
        &self,
        node: PeerId,
        mut muxer: StreamMuxerBox,
        endpoint: &ConnectedPoint,
    ) -> Result<StreamMuxerBox, GateError> {
        let gate = &self.0;
        let address = endpoint.get_remote_address();
        // The rule of libp2p's own upgrades: on a hole-punched dial one side takes the other's role.
        let role = match endpoint {
            ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. } => Role::Initiator,
            _ => Role::Responder,
        };
        // The far end of a circuit shows no address of its own: a member relays it.
        if !endpoint.is_relayed() && !gate.membership.admission().admits(address, endpoint.is_dialer()) {
            if role == Role::Responder {
                let why = "its address is not one of a private network, and this open mesh admits no others";
                self.explain(muxer, Refusal::NotAdmitted(why.into())).await;
            }
            return Err(GateError::Address(address.clone()));
        }
        let place = match role {
            Role::Initiator => None,
            Role::Responder => match gate.inbound.try_acquire() {
                Ok(place) => Some(place),
                Err(_) => {
                    self.explain(muxer, Refusal::Busy).await;
                    return Err(GateError::Refuses(Refusal::Busy));
                }
            },
        };
        let nearby = !endpoint.is_relayed() && Admission::Private.admits(address, false);
        let shaken = tokio::time::timeout(TIME_LIMIT, self.shake(node, &mut muxer, role, nearby)).await;
        drop(place);
        match shaken {
            Ok(Ok(())) => Ok(muxer),
            Ok(Err(error)) => {
                close(muxer).await;
                Err(error)
            }
            Err(_) => Err(GateError::TimedOut),
        }
    }

    async fn shake(&self, node: PeerId, muxer: &mut StreamMuxerBox, role: Role, nearby: bool) -> Result<(), GateError> {
        let gate = &self.0;
        let mut stream = first_stream(muxer, role).await?;
        let key = gate.identity.keypair();
        let mut handshake =
            Handshake::new(role, key, gate.mesh, &gate.membership, node, &gate.instance, rand::random()).nearby(nearby);
        let talk = async {
            if let Some(opening) = handshake.opening() {
                write_message(&mut stream, &opening).await?;
            }
            loop {
                let message = read_message(&mut stream).await?;
                let mut step = handshake.receive(&message);
                if let Standing::Asks(asks) = step.standing {
                    step = handshake.granted(self.redeem(node, *asks).await);
                }
                if let Some(answer) = &step.send {
                    write_message(&mut stream, answer).await?;
                }
                match step.standing {
                    Standing::Waiting | Standing::Asks(_) => {}
                    Standing::Admitted => {
                        // Closed for order; the other side may be through already and have dropped its end.
                        let _ = stream.close().await;
                        return Ok(());
                    }
                    Standing::Refuses(refusal) => {
                        linger(&mut stream).await;
                        return Err(GateError::Refuses(refusal));
                    }
                    Standing::Refused(refusal) => return Err(GateError::Refused(refusal)),
                    Standing::Paired => {
                        linger(&mut stream).await;
                        return Err(GateError::Paired);
                    }
                }
            }
        };
        drive(muxer, talk).await?
    }

    /// Honours an invite, or says why not.
    async fn redeem(&self, node: PeerId, asks: Asks) -> Result<v1::Grant, Refusal> {
        let Membership::Closed(closed) = &self.0.membership else {
            return Err(Refusal::NotAdmitted("this mesh takes no invites".into()));
        };
        let closed = closed.clone();
        // One that comes of a spoken code waits for its person.
        closed.of_pairing(&node, &asks.invite, &asks.joiner)?;
        // It waits for the disk: a use must be counted before anybody hears that it was honoured.
        let redeemed =
            tokio::task::spawn_blocking(move || closed.redeem(node, &asks.invite, &asks.joiner, &asks.issuer)).await;
        let redeemed = redeemed.map_err(|_| Refusal::NotAdmitted("this node failed to honour the invite".into()))?;
        redeemed.map_err(|error| Refusal::NotAdmitted(error.to_string()))
    }

    /// Tells a node why it is refused, without a handshake, if there is room for that.
    async fn explain(&self, mut muxer: StreamMuxerBox, refusal: Refusal) {
        let Ok(_place) = self.0.explained.try_acquire() else { return };
        let told = async {
            let mut stream = first_stream(&mut muxer, Role::Responder).await?;
            let tell = async {
                read_message(&mut stream).await?;
                write_message(&mut stream, &refusal.to_message()).await?;
                linger(&mut stream).await;
                io::Result::Ok(())
            };
            drive(&mut muxer, tell).await?
        };
        // Whether it heard is its own affair.
        let _ = tokio::time::timeout(REFUSAL_TIME, told).await;
    }

    fn report(&self, node: PeerId, endpoint: &ConnectedPoint, error: &GateError) {
        let not_a_member = match error.refusal() {
            Some(Refusal::Busy | Refusal::Itself | Refusal::IdentityClash | Refusal::NotYet | Refusal::NoPairing) => {
                false
            }
            Some(_) => true,
            None => matches!(error, GateError::Address(_)),
        };
        let report = Report {
            node,
            address: endpoint.get_remote_address().clone(),
            inbound: endpoint.is_listener(),
            not_a_member,
            identity_clash: error.refusal() == Some(&Refusal::IdentityClash),
            reason: error.to_string(),
        };
        tracing::debug!(%node, address = %report.address, inbound = report.inbound, reason = %report.reason, "gate");
        let _ = self.0.reports.try_send(report);
    }
}

/// The first substream of a fresh connection.
async fn first_stream(
    muxer: &mut StreamMuxerBox,
    role: Role,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    poll_fn(|cx| {
        let stream = match role {
            Role::Initiator => muxer.poll_outbound_unpin(cx),
            Role::Responder => muxer.poll_inbound_unpin(cx),
        };
        if let Poll::Ready(stream) = stream {
            return Poll::Ready(stream);
        }
        while let Poll::Ready(event) = muxer.poll_unpin(cx) {
            event?;
        }
        Poll::Pending
    })
    .await
}

/// Runs I/O on a substream while it keeps its muxer going; yamux streams move in no other way.
async fn drive<T>(muxer: &mut StreamMuxerBox, io: impl Future<Output = T>) -> io::Result<T> {
    let mut io = pin!(io);
    poll_fn(|cx| {
        if let Poll::Ready(done) = io.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        loop {
            match muxer.poll_unpin(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
                // The last words may be in the stream still: a refusal, then the end.
                Poll::Ready(Err(error)) => {
                    return match io.as_mut().poll(cx) {
                        Poll::Ready(done) => Poll::Ready(Ok(done)),
                        Poll::Pending => Poll::Ready(Err(error)),
                    };
                }
            }
        }
    })
    .await
}

/// Waits until the other side has read the refusal and closed, so that closing first does not cut it off.
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let _ = stream.close().await;
    let mut rest = [0_u8; 64];
    let drained = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(REFUSAL_TIME, drained).await;
}

async fn close(muxer: StreamMuxerBox) {
    let _ = tokio::time::timeout(REFUSAL_TIME, muxer.close()).await;
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &v1::GateMessage) -> io::Result<()> {
    let body = message.encode_to_vec();
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut len = [0_u8; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too long"));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
