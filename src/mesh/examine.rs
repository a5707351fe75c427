//! What can be found out about this node's place in the mesh: what it knows by itself, and what its neighbours find when they are asked.
//!
//! Only facts are gathered here. What they mean, and what to do about them, is for others to say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::Serialize;

use super::address::Interfaces;
use super::handle::Handle;
use super::multicast::{self, Mark};
use super::situation::Situation;
use super::sync;
use super::view::{LinkTransport, PathClass, PeerView};
use crate::capability::PeerId;
use crate::wire::v1;

/// Neighbours that are asked, the nearest first: they tell all there is to tell, and each dials this node twice.
const MAX_NEIGHBOURS: usize = 16;

/// Neighbours that multicast is tried with: one on each network would do.
const MAX_MULTICAST: usize = 8;

/// How long a neighbour may take. It takes seven seconds to find that nobody answers where it dials.
const ANSWER: Duration = Duration::from_secs(9);

/// What was found out.
#[derive(Debug, Clone, Default)]
pub struct Examination {
    /// What the node knows by itself.
    pub situation: Situation,
    /// What was found together with each neighbour.
    pub neighbours: Vec<Neighbour>,
    /// Neighbours that were not asked, because there are too many.
    pub not_asked: usize,
    /// Why this node itself cannot listen to multicast.
    pub multicast_trouble: Option<String>,
}

/// What was found together with one neighbour.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// Which.
    pub node: PeerId,
    /// How it is reached.
    pub view: PeerView,
    /// By how many milliseconds its clock is ahead of this node's; or why it did not tell.
    pub clock_ahead_ms: Result<i64, String>,
    /// Whether it can reach this node's port: UDP, then TCP. None where it was not asked, as through a relay.
    pub reach: Option<[(LinkTransport, Reach); 2]>,
    /// Whether multicast passes, on the same network.
    pub multicast: Option<Multicast>,
}

/// Whether a neighbour can reach this node's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It can.
    Reached,
    /// It cannot; why, in its words.
    Unreachable(String),
    /// It did not find out.
    Unknown(String),
}

/// Whether multicast passes between this node and a neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Multicast {
    /// From here to there.
    pub there: bool,
    /// From there to here.
    pub here: bool,
    /// Why one of the two could not even listen.
    pub trouble: Option<String>,
}

/// Finds out what there is to find out, with the neighbours or with one of them only. It takes ten seconds at the most.
pub async fn examine(mesh: &Handle, only: Option<PeerId>) -> Examination {
    let situation = mesh.situation().await.unwrap_or_default();
    let view = mesh.view();
    let mut near: Vec<_> = view.peers.iter().map(|(node, peer)| (*node, peer.clone())).collect();
    near.retain(|(node, _)| only.is_none_or(|only| only == *node));
    near.sort_by_key(|(_, peer)| (peer.path, peer.rtt));
    let not_asked = near.len().saturating_sub(MAX_NEIGHBOURS);
    near.truncate(MAX_NEIGHBOURS);

    let with_multicast: Vec<_> = near
        .iter()
        .filter(|(_, peer)| peer.path == PathClass::Lan)
        .take(MAX_MULTICAST)
        .map(|(node, _)| *node)
        .collect();
    let asked = join_all(near.into_iter().map(|(node, view)| ask(mesh, &situation, node, view)));
    let (mut neighbours, multicast) = futures::join!(asked, try_multicast(mesh, &with_multicast));
    let (mut heard, multicast_trouble) = multicast;
    for neighbour in &mut neighbours {
        neighbour.multicast = heard.remove(&neighbour.node);
    }
    Examination { situation, neighbours, not_asked, multicast_trouble }
}

async fn ask(mesh: &Handle, situation: &Situation, node: PeerId, view: PeerView) -> Neighbour {
    let seen_as = situation.seen_as.get(&node).filter(|_| view.path != PathClass::Relayed);
    let reach = async {
        let (ip, port) = (*seen_as?, mesh.port()?);
        let base = Multiaddr::from(ip);
        let quic = base.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1);
        let tcp = base.with(Protocol::Tcp(port));
        let (quic, tcp) = futures::join!(dial_back(mesh, node, &quic), dial_back(mesh, node, &tcp));
        Some([(LinkTransport::Quic, quic), (LinkTransport::Tcp, tcp)])
    };
    let (clock_ahead_ms, reach) = futures::join!(clock(mesh, node), reach);
    Neighbour { node, view, clock_ahead_ms, reach, multicast: None }
}

async fn answer(mesh: &Handle, node: PeerId, body: v1::sync_request::Body) -> Result<v1::sync_response::Body, String> {
    let request = v1::SyncRequest { body: Some(body) };
    // Questions take a node's connections by turns, and one that was made for a test is soon closed: once more, then.
    let twice = async {
        match mesh.ask(node, request.clone()).await {
            Err(_) => mesh.ask(node, request).await,
            answer => answer,
        }
    };
    let asked = tokio::time::timeout(ANSWER, twice).await;
    let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))?;
    answer.body.ok_or_else(|| "its version does not know the question".to_owned())
}

async fn clock(mesh: &Handle, node: PeerId) -> Result<i64, String> {
    let (sent, began) = (unix_ms(), Instant::now());
    match answer(mesh, node, v1::sync_request::Body::Ping(v1::Ping {})).await? {
        v1::sync_response::Body::Pong(pong) => Ok(ahead(sent, began.elapsed(), pong.now_ms)),
        _ => Err("its answer is not one".to_owned()),
    }
}

/// By how much a clock is ahead that told `theirs` in answer to a question of `sent` that took so long: half of that there, half back.
fn ahead(sent: u64, took: Duration, theirs: u64) -> i64 {
    let ours = sent.saturating_add(u64::try_from(took.as_millis() / 2).unwrap_or(u64::MAX));
    let difference = i128::from(theirs) - i128::from(ours);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

async fn dial_back(mesh: &Handle, node: PeerId, address: &Multiaddr) -> Reach {
    use v1::dialled_back::Outcome;
    let Some(question) = sync::dial_back_request(address).body else { return Reach::Unknown(String::new()) };
    match answer(mesh, node, question).await {
        Ok(v1::sync_response::Body::DialledBack(answer)) => match answer.outcome() {
            Outcome::Reached => Reach::Reached,
            Outcome::Unreachable => Reach::Unreachable(short(&answer.reason)),
            Outcome::Refused => Reach::Unknown(short(&answer.reason)),
        },
        Ok(_) => Reach::Unknown("its answer is not one".to_owned()),
        Err(why) => Reach::Unknown(why),
    }
}

/// Tries multicast with all of these at once: this node's packets have one mark, and those of each neighbour another.
async fn try_multicast(mesh: &Handle, nodes: &[PeerId]) -> (BTreeMap<PeerId, Multicast>, Option<String>) {
    if nodes.is_empty() {
        return (BTreeMap::new(), None);
    }
    let own: Mark = rand::random();
    let marks: BTreeMap<PeerId, Mark> = nodes.iter().map(|node| (*node, rand::random())).collect();
    let asked = marks.iter().map(|(node, mark)| async {
        let question = v1::HearMulticast { mark: own.to_vec().into(), reply_mark: mark.to_vec().into() };
        (*node, answer(mesh, *node, v1::sync_request::Body::HearMulticast(question)).await)
    });
    let listen_for = marks.values().copied().collect::<BTreeSet<_>>();
    let interfaces = Interfaces::now();
    let (answers, heard) = futures::join!(join_all(asked), multicast::exchange(own, &listen_for, &interfaces));
    let trouble = heard.as_ref().err().map(ToString::to_string);
    let heard = heard.unwrap_or_default();
    let found = answers.into_iter().map(|(node, answer)| {
        let here = marks.get(&node).is_some_and(|mark| heard.contains(mark));
        let (there, trouble) = match answer {
            Ok(v1::sync_response::Body::HeardMulticast(answer)) => {
                (answer.heard, (!answer.trouble.is_empty()).then(|| short(&answer.trouble)))
            }
            Ok(_) => (false, Some("its answer is not one".to_owned())),
            Err(why) => (false, Some(why)),
        };
        (node, Multicast { there, here, trouble })
    });
    (found.collect(), trouble)
}

/// Another node's words, as much of them as a line takes.
fn short(words: &str) -> String {
    const MAX_CHARS: usize = 200;
    words.chars().filter(|char| !char.is_control()).take(MAX_CHARS).collect()
}

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_with_the_middle_of_the_exchange() {
        let took = Duration::from_millis(80);
        assert_eq!(ahead(1_000_000, took, 1_000_040), 0);
        assert_eq!(ahead(1_000_000, took, 1_120_040), 120_000);
        assert_eq!(ahead(1_000_000, took, 940_040), -60_000);
        assert_eq!(ahead(0, took, u64::MAX), i64::MAX);
    }
}
