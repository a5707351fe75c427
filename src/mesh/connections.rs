//! The live connections: which of a node's is best, which are one too many, and whom to connect to. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

use super::address::{ip_of, relay_of};
use super::view::{LinkTransport, PathClass, PeerView};
use crate::capability::PeerId;

/// Nodes that this one keeps connected; beyond it, nodes are dialled when they are called. A small mesh is
/// fully connected by it, a large one still gossips over a well-connected graph.
pub const TARGET: usize = 12;

/// More connections than this are too many: others hold on to this node, and those that are of no use are let go. It
/// leaves room for the dials of others, of which a node gets as many as it makes itself, and for a seed some more.
pub const HIGH_WATER: usize = 64;

/// Connections that are let go at one look, so that a node that was met by hundreds does not drop them all at once.
const PRUNED_AT_ONCE: usize = 4;

/// A connection lives so long whatever there is: until the first sync is done.
const PRUNE_GRACE: Duration = Duration::from_secs(5);

/// A node that was let go is not dialled for so long.
const PRUNED_REST: Duration = Duration::from_secs(120);

/// Dials that are made at one look. Newcomers thus meet over seconds, and those that dial them count already.
const DIALS_AT_ONCE: usize = 2;

/// How long a connection may live beside a better one, so that what is being opened on it can come to an end.
const DUPLICATE_GRACE: Duration = Duration::from_secs(10);

/// The same for one that was made to see whether a node can be reached: after some round trips it has done what it was for.
const TEST_GRACE: Duration = Duration::from_secs(3);

/// A node that is started anew sooner than this after it was connected is not taken for one.
const SHORTEST_RUN: Duration = Duration::from_secs(2);

/// First wait before a node that could not be reached is dialled again.
const REDIAL_MIN: Duration = Duration::from_secs(1);

/// Longest wait for a node that is known to live.
const REDIAL_MAX: Duration = Duration::from_secs(30);

/// How long a node is reached through a relay before a direct connection is tried anew; doubled with each time.
const DETOUR_MIN: Duration = Duration::from_secs(30);

/// Longest time between two such tries. Each costs a circuit and some packets, and NATs change with the network.
const DETOUR_MAX: Duration = Duration::from_secs(900);
/// Between two attempts at nodes that are known no more. Where a mesh was cut in two, one of them heals it.
const LOST_INTERVAL: Duration = Duration::from_secs(2);

/// Longest wait for one such node while it may be behind a cut.
const LOST_MAX: Duration = Duration::from_secs(6);

/// After this it has more likely gone, and is tried as rarely as [`LOST_REST`] says.
const LOST_FOR: Duration = Duration::from_secs(600);

/// Longest wait for a node that has been gone for long.
const LOST_REST: Duration = Duration::from_secs(300);

/// A dial's outcome is known by then: the transport's own limit, and some more.
const DIAL_LIMIT: Duration = Duration::from_secs(12);

/// One live connection.
#[derive(Debug, Clone)]
pub struct Link {
    /// Which.
    pub id: ConnectionId,
    /// How near its far end is.
    pub path: PathClass,
    /// What carries it.
    pub transport: LinkTransport,
    /// Whether this node dialled.
    pub dialled: bool,
    /// Its far end.
    pub address: String,
    /// Since when.
    pub since: Instant,
    /// When it was made, or when a ping on it was last answered.
    pub heard: Instant,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// Whether it left by the port that this node listens on, or came in by it.
    pub own_port: bool,
    /// Where its far end sees this node.
    pub seen_as: Option<IpAddr>,
}

/// All live connections, and what is known of nodes that could not be reached.
#[derive(Debug)]
pub struct Connections {
    own: PeerId,
    links: BTreeMap<PeerId, Vec<Link>>,
    unreachable: HashMap<PeerId, Redial>,
    /// Nodes that are reached through a relay, and when that was last tried to be changed.
    detours: HashMap<PeerId, Detour>,
    next_lost: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Redial {
    failures: u32,
    /// The first and the last failure in a row.
    since: Instant,
    last: Instant,
    /// Part of the longest wait that is waited.
    jitter: f64,
    held_until: Instant,
    /// It is held because it is being dialled.
    dialling: bool,
}

/// A node that is reached through a relay only.
#[derive(Debug, Clone, Copy)]
struct Detour {
    failures: u32,
    not_before: Instant,
}

impl Redial {
    const fn none(now: Instant) -> Self {
        Self { failures: 0, since: now, last: now, jitter: 1.0, held_until: now, dialling: false }
    }

    fn is_due(&self, longest: Duration, now: Instant) -> bool {
        let wait = match self.failures {
            0 => Duration::ZERO,
            failures => REDIAL_MIN.saturating_mul(1 << (failures - 1).min(10)).min(longest).mul_f64(self.jitter),
        };
        self.held_until <= now && self.last + wait <= now
    }
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(own: PeerId) -> Self {
        Self { own, links: BTreeMap::new(), unreachable: HashMap::new(), detours: HashMap::new(), next_lost: None }
    }

    /// A connection was made. Returns whether it is the first to this node.
    pub fn opened(&mut self, node: PeerId, link: Link) -> bool {
        self.unreachable.remove(&node);
        let links = self.links.entry(node).or_default();
        links.push(link);
        links.len() == 1
    }

    /// A connection is gone. Returns whether it was the last to this node.
    pub fn closed(&mut self, node: &PeerId, id: ConnectionId) -> bool {
        let Some(links) = self.links.get_mut(node) else { return false };
        links.retain(|link| link.id != id);
        if links.is_empty() {
            self.links.remove(node);
            return true;
        }
        false
    }

    /// A round trip was measured. Returns whether it is worth showing: the first, or a tenth off the last.
    pub fn measured(&mut self, node: &PeerId, id: ConnectionId, rtt: Duration, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(node).and_then(|links| links.iter_mut().find(|link| link.id == id)) else {
            return false;
        };
        link.heard = now;
        let before = link.rtt.replace(rtt);
        before.is_none_or(|before| before.abs_diff(rtt) > before / 10)
    }

    /// The far end of a connection told where it sees this node.
    pub fn seen_as(&mut self, node: &PeerId, id: ConnectionId, ip: IpAddr) {
        if let Some(link) = self.links.get_mut(node).and_then(|links| links.iter_mut().find(|link| link.id == id)) {
            link.seen_as = Some(ip);
        }
    }

    /// The nodes that relay connections of this one.
    #[must_use]
    pub fn relays_in_use(&self) -> HashSet<PeerId> {
        let relayed = self.links.values().flatten().filter(|link| link.path == PathClass::Relayed);
        relayed.filter_map(|link| relay_of(&link.address.parse().ok()?)).collect()
    }

    /// Whether a connection left by the port that this node listens on, or came in by it.
    #[must_use]
    pub fn is_from_own_port(&self, node: &PeerId, id: ConnectionId) -> bool {
        self.links.get(node).is_some_and(|links| links.iter().any(|link| link.id == id && link.own_port))
    }

    /// The IP address at the far end of a connection; none through a relay.
    #[must_use]
    pub fn direct_ip(&self, node: &PeerId, id: ConnectionId) -> Option<IpAddr> {
        let link = self.links.get(node)?.iter().find(|link| link.id == id)?;
        if link.path == PathClass::Relayed {
            return None;
        }
        ip_of(&link.address.parse::<Multiaddr>().ok()?)
    }

    /// Nodes to be dialled anew, because they have been reached through a relay for long enough since that was last tried. Only
    /// the side that dialled does so. A new circuit is made with what both know of their outer addresses by now, and each punches
    /// with these; an address that is open by now is dialled as well.
    pub fn detours_due(&mut self, now: Instant) -> Vec<PeerId> {
        let detours = &mut self.detours;
        let mut due = Vec::new();
        let mut still = HashSet::new();
        for (node, links) in &self.links {
            if links.iter().any(|link| link.path != PathClass::Relayed) || !links.iter().any(|link| link.dialled) {
                continue;
            }
            still.insert(*node);
            let detour = detours.entry(*node).or_insert(Detour { failures: 0, not_before: now + DETOUR_MIN });
            if detour.not_before <= now {
                detour.failures = detour.failures.saturating_add(1);
                let wait = DETOUR_MIN.saturating_mul(1 << detour.failures.min(10)).min(DETOUR_MAX);
                detour.not_before = now + wait;
                due.push(*node);
            }
        }
        detours.retain(|node, _| still.contains(node));
        due
    }

    /// Whether a node is connected.
    #[must_use]
    pub fn is_connected(&self, node: &PeerId) -> bool {
        self.links.contains_key(node)
    }

    /// The connected nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &PeerId> {
        self.links.keys()
    }

    /// How many nodes are connected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// The connection to a node that calls take.
    #[must_use]
    pub fn best(&self, node: &PeerId) -> Option<&Link> {
        self.links.get(node)?.iter().min_by_key(|link| self.rank(node, link))
    }

    /// Lower is better, and both ends come to the same order: direct before relayed, one that stays before one that was made to
    /// see whether a node can be reached, QUIC before TCP, dialled by the smaller id, the newer one: when a node was killed and comes back, its old connection is dead
    /// and does not know it yet.
    fn rank(&self, node: &PeerId, link: &Link) -> (bool, bool, u8, bool, Reverse<Instant>) {
        let transport = match link.transport {
            LinkTransport::Memory => 0,
            LinkTransport::Quic => 1,
            LinkTransport::Tcp => 2,
            LinkTransport::Relay => 3,
        };
        let dialled_by_smaller = link.dialled == (self.own < *node);
        (link.path == PathClass::Relayed, !link.own_port, transport, !dialled_by_smaller, Reverse(link.since))
    }

    /// Connections that live beside a better one for long enough, and carry nothing.
    #[must_use]
    pub fn duplicates(&self, now: Instant, is_used: impl Fn(&PeerId, &Link) -> bool) -> Vec<ConnectionId> {
        let mut superfluous = Vec::new();
        for (node, links) in &self.links {
            let Some(best) = self.best(node).filter(|_| links.len() > 1) else { continue };
            let others = links.iter().filter(|link| link.id != best.id);
            superfluous.extend(
                others
                    .filter(|link| {
                        let grace = if link.own_port { DUPLICATE_GRACE } else { TEST_GRACE };
                        now.saturating_duration_since(link.since.max(best.since)) >= grace && !is_used(node, link)
                    })
                    .map(|link| link.id),
            );
        }
        superfluous
    }

    /// Connections on which nothing was heard for so long.
    #[must_use]
    pub fn silent(&self, now: Instant, longest: Duration) -> Vec<(PeerId, ConnectionId)> {
        let all = self.links.iter().flat_map(|(node, links)| links.iter().map(|link| (*node, link)));
        all.filter(|(_, link)| now.saturating_duration_since(link.heard) > longest)
            .map(|(node, link)| (node, link.id))
            .collect()
    }

    /// Nodes whose every connection is older than that, and which have been answering on one for at least half of it: a
    /// node that cannot even do that is busy, and will come to the rest later.
    #[must_use]
    pub fn settled(&self, now: Instant, age: Duration) -> Vec<PeerId> {
        let old = |link: &Link| now.saturating_duration_since(link.since) > age;
        let answers = |link: &Link| link.heard.saturating_duration_since(link.since) >= age / 2;
        let settled = self.links.iter().filter(|(_, links)| links.iter().all(old) && links.iter().any(answers));
        settled.map(|(node, _)| *node).collect()
    }

    /// Whether a node that began a new run has a connection that is left of the run before: one that is much older than the
    /// latest. Two that are made at once are those of two nodes that dialled each other.
    #[must_use]
    pub fn outlives_a_run(&self, node: &PeerId) -> bool {
        let since = || self.links.get(node).into_iter().flatten().map(|link| link.since);
        since().max().zip(since().min()).is_some_and(|(latest, oldest)| latest - oldest > SHORTEST_RUN)
    }

    /// Connections to let go because there are too many: first relayed ones beside direct ones, then those to nodes that
    /// `is_kept` does not name, the relayed and the latest first.
    #[must_use]
    pub fn surplus(
        &self,
        now: Instant,
        is_used: impl Fn(&PeerId, ConnectionId) -> bool,
        is_kept: impl Fn(&PeerId) -> bool,
    ) -> Vec<(PeerId, ConnectionId)> {
        let total: usize = self.links.values().map(Vec::len).sum();
        let over = total.saturating_sub(HIGH_WATER).min(PRUNED_AT_ONCE);
        if over == 0 {
            return Vec::new();
        }
        let mut relayed_beside = Vec::new();
        let mut rest = Vec::new();
        for (node, links) in &self.links {
            let best = self.best(node).map(|link| link.id);
            let kept = is_kept(node);
            for link in links.iter().filter(|link| !is_used(node, link.id)) {
                let relayed = link.path == PathClass::Relayed;
                if relayed && best != Some(link.id) {
                    relayed_beside.push((*node, link.id));
                } else if !kept && now.saturating_duration_since(link.since) >= PRUNE_GRACE {
                    rest.push((Reverse(relayed), Reverse(link.since), *node, link.id));
                }
            }
        }
        rest.sort_unstable_by_key(|(relayed, since, node, _)| (*relayed, *since, *node));
        relayed_beside.into_iter().chain(rest.into_iter().map(|(.., node, id)| (node, id))).take(over).collect()
    }

    /// Path and transport of every connection.
    pub fn kinds(&self) -> impl Iterator<Item = (PathClass, LinkTransport)> {
        self.links.values().flatten().map(|link| (link.path, link.transport))
    }

    /// A node could not be reached, or was lost. `jitter` is between 0 and 1.
    pub fn unreachable(&mut self, node: PeerId, now: Instant, jitter: f64) {
        let redial = self.unreachable.entry(node).or_insert(Redial::none(now));
        if redial.failures == 0 {
            redial.since = now;
        }
        redial.failures = redial.failures.saturating_add(1);
        redial.last = now;
        redial.jitter = jitter.clamp(0.1, 1.0);
        redial.held_until = now;
        redial.dialling = false;
    }

    /// A node is being dialled: not again before the outcome is known.
    pub fn dialling(&mut self, node: PeerId, now: Instant) {
        let redial = self.unreachable.entry(node).or_insert(Redial::none(now));
        redial.held_until = now + DIAL_LIMIT;
        redial.dialling = true;
    }

    /// A node was let go: this one does not call it back.
    pub fn let_go(&mut self, node: PeerId, now: Instant) {
        let redial = self.unreachable.entry(node).or_insert(Redial::none(now));
        redial.held_until = now + PRUNED_REST;
        redial.dialling = false;
    }

    /// Leaves a node that was never tried alone until then, because it is expected to dial first.
    pub fn hold(&mut self, node: PeerId, until: Instant) {
        self.unreachable.entry(node).or_insert(Redial::none(until));
    }

    /// Which of these known nodes to dial now, so that the target is met.
    #[must_use]
    pub fn to_dial(&self, known: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<PeerId> {
        // On a busy machine a handshake takes seconds: what is under way counts, or all would be dialled meanwhile.
        let pending = self.unreachable.values().filter(|redial| redial.dialling && redial.held_until > now).count();
        let room = TARGET.saturating_sub(self.links.len() + pending).min(DIALS_AT_ONCE);
        let may = |node: &PeerId| {
            *node != self.own
                && !self.is_connected(node)
                && self.unreachable.get(node).is_none_or(|redial| redial.is_due(REDIAL_MAX, now))
        };
        known.into_iter().filter(may).take(room).collect()
    }

    /// Whether it is time for [`lost_to_dial`](Self::lost_to_dial).
    #[must_use]
    pub fn looks_for_the_lost(&self, now: Instant) -> bool {
        self.next_lost.is_none_or(|next| next <= now)
    }

    /// Which of these nodes, known from before and not heard of any more, to dial now. A node that is alone is in a hurry.
    pub fn lost_to_dial(&mut self, lost: impl IntoIterator<Item = PeerId>, now: Instant) -> Option<PeerId> {
        self.next_lost = (!self.links.is_empty()).then(|| now + LOST_INTERVAL);
        let due = |redial: &Redial| {
            let for_long = now.saturating_duration_since(redial.since) > LOST_FOR;
            redial.is_due(if for_long { LOST_REST } else { LOST_MAX }, now)
        };
        let may =
            |node: &PeerId| *node != self.own && !self.is_connected(node) && self.unreachable.get(node).is_none_or(due);
        lost.into_iter().find(may)
    }

    /// Forgets what is known of nodes that are known no more.
    pub fn forget_all_but(&mut self, known: &HashSet<PeerId>) {
        self.unreachable.retain(|node, _| known.contains(node));
    }

    /// As the rest of the program sees them.
    #[must_use]
    pub fn views(&self) -> BTreeMap<PeerId, PeerView> {
        let view = |(node, links): (&PeerId, &Vec<Link>)| {
            let best = self.best(node)?;
            let view = PeerView {
                path: best.path,
                transport: best.transport,
                rtt: best.rtt,
                address: best.address.clone(),
                connections: u32::try_from(links.len()).unwrap_or(u32::MAX),
            };
            Some((*node, view))
        };
        self.links.iter().filter_map(view).collect()
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
