//! How a newcomer with a spoken code finds the node that shows it, and makes the exchange with it.
//!
//! It looks at the places that it is given, and by mDNS at all nodes of the network. Each is asked at the gate whether it
//! shows a code with that number, which most do not. Like a knock it needs no swarm, so it works before the mesh is
//! started and while the node is in another one.

use std::collections::{HashSet, VecDeque};
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport as _};
use libp2p::identity::ed25519;
use libp2p::mdns;
use libp2p::swarm::{NetworkBehaviour as _, ToSwarm};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::address::{Places, Seed, is_dialable_for_others, without_peer};
use super::causes::{causes, root_cause};
use super::gate::{Gate, GateError, Handshakes, Membership, Met, Pairing, Refusal};
use super::id::MeshId;
use super::identity::Identity;
use super::member::{Role, Token};
use super::pair::{Code, Session, clean_name};
use super::transport;
use crate::capability::PeerId;
use crate::telemetry::Metrics;
use crate::wire::v1;

/// How long to look for the other machine. mDNS answers within a second where it passes at all.
const LOOK: Duration = Duration::from_secs(12);

/// How long to look on after a node said that the code is wrong: it may be another one than was meant.
const LOOK_ON: Duration = Duration::from_secs(2);

/// Longest time for one address.
const DIAL: Duration = Duration::from_secs(6);

/// Dials at once.
const DIALS: usize = 8;

/// Addresses that are tried in all: those of a large network.
const MAX_PLACES: usize = 256;

/// How often the network is asked.
const MDNS_INTERVAL: Duration = Duration::from_secs(1);

/// Where to look for the other machine.
#[derive(Debug, Clone, Default)]
pub struct Nearby {
    /// Places that the owner named.
    pub seeds: Vec<Seed>,
    /// Whether to look by mDNS.
    pub mdns: bool,
}

/// Why a newcomer did not come together with a nearby machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NearbyError {
    /// Nobody shows such a code.
    #[error(
        "no machine nearby shows a code with the number {number}: {why} (is `atmosphere invite --nearby` still open there? \
         where multicast does not pass, say where it is: --peer HOST:11450)"
    )]
    Nobody {
        /// The code's number.
        number: u32,
        /// What became of the search.
        why: String,
    },
    /// Somebody does, and did not take this one.
    #[error("the other machine did not take the code: {0}")]
    Refused(String),
    /// What it offered makes no sense.
    #[error(
        "the other machine offers something that this version does not understand: {0} (update the older of the two)"
    )]
    Strange(&'static str),
}

/// The other machine, and what comes of it when both people say yes.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The admin's node.
    pub node: PeerId,
    /// What it calls itself.
    pub node_name: String,
    /// The number that both screens show.
    pub check: String,
    /// The invite that both have derived. It is honoured once the person at the other machine has said yes.
    pub token: Token,
    session: Session,
}

/// Finds the machine that shows this code. `own_name` is what this one calls itself.
///
/// # Errors
///
/// When there is none, or it does not take the code.
pub async fn meet(
    identity: &Identity,
    code: &Code,
    own_name: &str,
    nearby: &Nearby,
) -> Result<Introduction, NearbyError> {
    let pairing = Pairing::new(code.clone(), &clean_name(own_name));
    let mut search = Search::default();
    for seed in &nearby.seeds {
        for address in seed.addresses() {
            search.add(None, address);
        }
    }
    let met = search.run(identity, &pairing, nearby.mdns).await;
    match met {
        Some((met, address)) => introduce(met, address),
        None => Err(match search.refusal {
            Some(why) => NearbyError::Refused(why),
            None => NearbyError::Nobody { number: code.number(), why: search.summary(nearby.mdns) },
        }),
    }
}

impl Introduction {
    /// Tells the other machine that the person here said no. It need not be heard.
    pub async fn decline(&self, identity: &Identity) {
        let pairing = Pairing::declining(&self.session);
        let mut search = Search::default();
        for address in &self.token.addresses {
            search.add(Some(self.node), address);
        }
        search.run(identity, &pairing, false).await;
    }
}

fn introduce(met: Met, address: Multiaddr) -> Result<Introduction, NearbyError> {
    let Met { node, session, terms } = met;
    let v1::PairTerms { root_key, mesh_name, role, expires, name } = terms;
    let strange = NearbyError::Strange;
    let root = <[u8; 32]>::try_from(root_key.as_ref()).map_err(|_| strange("its mesh"))?;
    let root = ed25519::PublicKey::try_from_bytes(&root).map_err(|_| strange("its mesh"))?;
    let role = Role::of_wire(role).ok_or(strange("the role"))?;
    let mesh_name = clean_name(&mesh_name);
    if mesh_name.is_empty() {
        return Err(strange("the name of its mesh"));
    }
    let (id, secret) = session.invite();
    let token = Token::new(root, id, secret, mesh_name, expires, node, vec![address], role);
    Ok(Introduction { node, node_name: clean_name(&name), check: session.check(), token, session })
}

/// What is tried, and what became of it.
#[derive(Debug, Default)]
struct Search {
    waiting: VecDeque<(Option<PeerId>, Multiaddr)>,
    seen: HashSet<Multiaddr>,
    /// Nodes that have answered for good.
    answered: HashSet<PeerId>,
    /// Nodes that are being dialled: one address at a time, so that none gets two proofs.
    busy: HashSet<PeerId>,
    /// What a node said about the code.
    refusal: Option<String>,
    /// Whether somebody answered who shows no such code.
    others: bool,
    /// What became of the addresses that do not answer.
    texts: Vec<String>,
}

impl Search {
    fn add(&mut self, node: Option<PeerId>, address: &Multiaddr) {
        let address = without_peer(address);
        if self.seen.len() < MAX_PLACES && self.seen.insert(address.clone()) {
            self.waiting.push_back((node, address));
        }
    }

    /// The next address that may be dialled now.
    fn next(&mut self) -> Option<(Option<PeerId>, Multiaddr)> {
        let (answered, busy) = (&self.answered, &self.busy);
        self.waiting.retain(|(node, _)| node.is_none_or(|node| !answered.contains(&node)));
        let may = |node: &Option<PeerId>| node.is_none_or(|node| !busy.contains(&node));
        let place = self.waiting.iter().position(|(node, _)| may(node))?;
        let next = self.waiting.remove(place)?;
        self.busy.extend(next.0);
        Some(next)
    }

    async fn run(&mut self, identity: &Identity, pairing: &Pairing, mdns: bool) -> Option<(Met, Multiaddr)> {
        let metrics = Metrics::default();
        let (reports, _unread) = mpsc::channel(1);
        let membership = Membership::Pairing(pairing.clone());
        // Which mesh is said by nobody in this exchange.
        let gate = Gate::new(identity.clone(), MeshId::open(""), membership, Handshakes::register(&metrics), reports);
        let (mut transport, _relay) = match transport::build(identity, gate, Places::default(), &metrics) {
            Ok(built) => built,
            Err(error) => {
                self.texts.push(error.to_string());
                return None;
            }
        };
        let own = identity.peer_id();
        let mut network = if mdns { browse(own, &mut self.texts) } else { None };
        let mut deadline = Instant::now() + LOOK;
        let mut dials = FuturesUnordered::new();
        loop {
            while dials.len() < DIALS
                && let Some((node, address)) = self.next()
            {
                let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
                match transport.dial(address.clone(), options) {
                    Ok(dial) => {
                        dials.push(async move { (node, address, tokio::time::timeout(DIAL, dial).await) });
                    }
                    Err(error) => {
                        self.texts.push(format!("{address}: {error}"));
                        self.release(node);
                    }
                }
            }
            if dials.is_empty() && self.waiting.is_empty() && network.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                // Some transports move only while they are asked for events.
                () = std::future::poll_fn(|cx| {
                    while std::pin::Pin::new(&mut transport).poll(cx).is_ready() {}
                    Poll::Pending
                }) => {}
                Some((node, address, dialled)) = dials.next(), if !dials.is_empty() => {
                    self.release(node);
                    match dialled {
                        // The same node may have been dialled at another address, too: that one led to nothing.
                        Ok(Err(error)) if is_paired(&error) => {
                            if let Some(met) = pairing.met() {
                                return Some((met, address));
                            }
                        }
                        Ok(Err(error)) => self.note(node, &address, &error, pairing),
                        Ok(Ok(_)) => self.texts.push(format!("{address}: it let this node in without a code")),
                        Err(_) => self.texts.push(format!("{address}: no answer in time")),
                    }
                    if self.refusal.is_some() {
                        deadline = deadline.min(Instant::now() + LOOK_ON);
                    }
                }
                found = discovered(&mut network) => {
                    for (node, address) in found.into_iter().filter(|(node, _)| *node != own) {
                        if is_dialable_for_others(&without_peer(&address)) {
                            self.add(Some(node), &address);
                        }
                    }
                }
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    fn release(&mut self, node: Option<PeerId>) {
        if let Some(node) = node {
            self.busy.remove(&node);
        }
    }

    fn note(&mut self, node: Option<PeerId>, address: &Multiaddr, error: &std::io::Error, pairing: &Pairing) {
        let gate = causes(error).find_map(|cause| cause.downcast_ref::<GateError>());
        let refusal = match gate {
            Some(GateError::Refused(refusal)) => refusal,
            // A second way to a node that has its proof already.
            Some(GateError::Refuses(Refusal::NotAdmitted(_))) => return,
            _ => {
                self.texts.push(format!("{address}: {}", root_cause(error)));
                return;
            }
        };
        match refusal {
            // The second is what a version says that knows no spoken codes.
            Refusal::NoPairing | Refusal::Malformed(_) | Refusal::OtherMesh | Refusal::Itself => self.others = true,
            Refusal::NotAdmitted(why) => {
                self.refusal.get_or_insert(why.clone());
            }
            refusal => self.texts.push(format!("{address}: {refusal}")),
        }
        if let Some(node) = node
            && (pairing.has_proved_to(&node) || !matches!(refusal, Refusal::Busy))
        {
            self.answered.insert(node);
        }
    }

    /// What became of it all, in a few words.
    fn summary(&self, mdns: bool) -> String {
        let mut parts = Vec::new();
        if self.others {
            parts.push("whoever answered shows none".to_owned());
        } else if mdns {
            parts.push("no node answered on this network".to_owned());
        }
        parts.extend(self.texts.iter().take(3).cloned());
        if parts.is_empty() { "there was no place to look at".to_owned() } else { parts.join("; ") }
    }
}

fn is_paired(error: &std::io::Error) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(GateError::Paired)))
}

fn browse(own: PeerId, texts: &mut Vec<String>) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: MDNS_INTERVAL, ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, own)
        .map_err(|error| texts.push(format!("mDNS does not work here: {error}")))
        .ok()
}

/// The next nodes that mDNS finds; never, without it.
async fn discovered(network: &mut Option<mdns::tokio::Behaviour>) -> Vec<(PeerId, Multiaddr)> {
    let Some(network) = network else { return std::future::pending().await };
    std::future::poll_fn(|cx| {
        loop {
            match network.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(mdns::Event::Discovered(found))) => return Poll::Ready(found),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
