//! How a newcomer gets its membership: it dials a member with an invite, passes the gate once, and hangs up.
//!
//! It needs no swarm: what it is granted in the handshake is all that it came for. So it works before the mesh is
//! started, and while the node is still in another mesh.

use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::Multiaddr;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport as _};
use tokio::sync::mpsc;

use super::address::Places;
use super::gate::{Gate, GateError, Handshakes, Joining, Membership, Refusal};
use super::identity::Identity;
use super::member::Token;
use super::transport;
use crate::capability::PeerId;
use crate::telemetry::Metrics;
use crate::wire::v1;

/// From one address to the next, while the ones before have not answered.
const STAGGER: Duration = Duration::from_millis(250);

/// Longest time for all addresses together.
const LIMIT: Duration = Duration::from_secs(15);

/// How far this machine's clock may be off before it is believed that an invite ran out.
const SKEW: Duration = Duration::from_secs(600);

/// Why a newcomer did not get in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KnockError {
    /// No member answered.
    #[error(
        "cannot reach the mesh {mesh} to join it: {why} (is atmosphere running there, and is its gossip port open?)"
    )]
    Unreachable {
        /// Which mesh.
        mesh: String,
        /// What became of each address.
        why: String,
    },
    /// A member answered, and did not let this node in.
    #[error("the mesh {mesh} does not let this node in: {why}")]
    Refused {
        /// Which mesh.
        mesh: String,
        /// Why, in the member's words.
        why: String,
    },
    /// A person there has to say yes first.
    #[error("the person at the other machine has not said yes yet to letting this node into the mesh {0}")]
    NotYet(String),
}

/// What a newcomer was granted.
#[derive(Debug, Clone)]
pub struct Granted {
    /// Its membership.
    pub membership: v1::SignedMembership,
    /// Who granted it.
    pub by: PeerId,
    /// Where.
    pub address: Multiaddr,
}

/// Knocks at the mesh of this invite, at its addresses one after the other.
///
/// # Errors
///
/// When nobody answers, or does not honour the invite.
pub async fn knock(identity: &Identity, token: &Token) -> Result<Granted, KnockError> {
    let refused = |why: String| KnockError::Refused { mesh: token.mesh_name.clone(), why };
    let unreachable = |why: String| KnockError::Unreachable { mesh: token.mesh_name.clone(), why };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if Duration::from_secs(token.expires) + SKEW < now {
        let date = super::member::date(token.expires.saturating_mul(1000));
        return Err(refused(format!("that invite ran out on {date} (ask for a new one: atmosphere invite)")));
    }
    if token.issuer == identity.peer_id() {
        return Err(refused("this node made that invite itself (use it on another machine)".into()));
    }
    if token.addresses.is_empty() {
        return Err(unreachable("the invite names no address that this version can dial".into()));
    }
    match tokio::time::timeout(LIMIT, try_all(identity, token)).await {
        Ok(Ok(granted)) => Ok(granted),
        Ok(Err(Failures { waits: true, .. })) => Err(KnockError::NotYet(token.mesh_name.clone())),
        Ok(Err(Failures { refusal: Some(why), .. })) => Err(refused(why)),
        Ok(Err(Failures { texts, .. })) => Err(unreachable(texts.join("; "))),
        Err(_) => Err(unreachable(format!("nobody answered within {} s", LIMIT.as_secs()))),
    }
}

#[derive(Default)]
struct Failures {
    /// A member said that its person has to say yes first.
    waits: bool,
    /// What a member said.
    refusal: Option<String>,
    /// What became of each address.
    texts: Vec<String>,
}

async fn try_all(identity: &Identity, token: &Token) -> Result<Granted, Failures> {
    let joining = Joining::new(token.clone());
    let mut failures = Failures::default();
    // What is measured of one knock is of no use to anybody, and nobody reads the reports.
    let metrics = Metrics::default();
    let (reports, _unread) = mpsc::channel(1);
    let gate = Gate::new(
        identity.clone(),
        token.mesh(),
        Membership::Joining(joining.clone()),
        Handshakes::register(&metrics),
        reports,
    );
    let (mut transport, _relay) = match transport::build(identity, gate, Places::default(), &metrics) {
        Ok(built) => built,
        Err(error) => {
            failures.texts.push(error.to_string());
            return Err(failures);
        }
    };
    let mut waiting = token.addresses.iter();
    let mut dials = FuturesUnordered::new();
    let mut next = tokio::time::Instant::now();
    loop {
        if dials.is_empty() && waiting.len() == 0 {
            return Err(failures);
        }
        if dials.is_empty() {
            next = tokio::time::Instant::now();
        }
        tokio::select! {
            biased;
            // Some transports move only while they are asked for events.
            () = std::future::poll_fn(|cx| {
                while std::pin::Pin::new(&mut transport).poll(cx).is_ready() {}
                Poll::Pending
            }) => {}
            Some((address, dialled)) = dials.next(), if !dials.is_empty() => match dialled {
                Ok((by, muxer)) => {
                    let muxer: StreamMuxerBox = muxer;
                    // The last word of the handshake is on its way; closing in order lets it arrive.
                    let _ = tokio::time::timeout(Duration::from_secs(1), muxer.close()).await;
                    if let Some(membership) = joining.granted() {
                        return Ok(Granted { membership, by, address });
                    }
                    failures.texts.push(format!("{address}: it granted nothing"));
                }
                Err(error) => failures.note(&address, &error),
            },
            () = tokio::time::sleep_until(next), if waiting.len() > 0 => {
                next = tokio::time::Instant::now() + STAGGER;
                let Some(address) = waiting.next() else { continue };
                let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
                match transport.dial(address.clone(), options) {
                    Ok(dial) => {
                        let address = address.clone();
                        dials.push(async move { (address, dial.await) });
                    }
                    Err(error) => failures.texts.push(format!("{address}: {error}")),
                }
            }
        }
    }
}

impl Failures {
    fn note(&mut self, address: &Multiaddr, error: &std::io::Error) {
        let gate = super::causes::causes(error).find_map(|cause| cause.downcast_ref::<GateError>());
        match gate {
            Some(GateError::Refused(Refusal::NotYet)) => self.waits = true,
            Some(GateError::Refused(Refusal::NotAdmitted(why)) | GateError::Refuses(Refusal::NotAdmitted(why))) => {
                self.refusal = Some(why.clone());
            }
            Some(GateError::Refused(Refusal::OtherMesh) | GateError::Refuses(Refusal::OtherMesh)) => {
                let why =
                    format!("at {address} answers a node of another mesh (ask for a new invite: atmosphere invite)");
                self.refusal.get_or_insert(why);
            }
            Some(error @ (GateError::Refused(_) | GateError::Refuses(_))) => {
                self.refusal.get_or_insert(error.to_string());
            }
            _ => self.texts.push(format!("{address}: {}", super::causes::root_cause(error))),
        }
    }
}
