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
pub const TARGET: usize = 16;

/// How long a connection may live beside a better one, so that what is being opened on it can come to an end.
const DUPLICATE_GRACE: Duration = Duration::from_secs(10);

/// The same for one that was made to see whether a node can be reached: after some round trips it has done what it was for.
const TEST_GRACE: Duration = Duration::from_secs(3);

/// First wait before a node that could not be reached is dialled again.
const REDIAL_MIN: Duration = Duration::from_secs(1);

/// Longest wait; its advert has usually run out by then.
const REDIAL_MAX: Duration = Duration::from_secs(30);

/// How long a node is reached through a relay before a direct connection is tried anew; doubled with each time.
const DETOUR_MIN: Duration = Duration::from_secs(30);

/// Longest time between two such tries. Each costs a circuit and some packets, and NATs change with the network.
const DETOUR_MAX: Duration = Duration::from_secs(900);

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
    detours: HashMap<PeerId, Redial>,
}

#[derive(Debug, Clone, Copy)]
struct Redial {
    failures: u32,
    not_before: Instant,
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(own: PeerId) -> Self {
        Self { own, links: BTreeMap::new(), unreachable: HashMap::new(), detours: HashMap::new() }
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
            let detour = detours.entry(*node).or_insert(Redial { failures: 0, not_before: now + DETOUR_MIN });
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

    /// How many connections there are to a node.
    #[must_use]
    pub fn count(&self, node: &PeerId) -> usize {
        self.links.get(node).map_or(0, Vec::len)
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

    /// Nodes whose every connection is older than that.
    #[must_use]
    pub fn all_older_than(&self, now: Instant, age: Duration) -> Vec<PeerId> {
        let old = |link: &Link| now.saturating_duration_since(link.since) > age;
        self.links.iter().filter(|(_, links)| links.iter().all(old)).map(|(node, _)| *node).collect()
    }

    /// Path and transport of every connection.
    pub fn kinds(&self) -> impl Iterator<Item = (PathClass, LinkTransport)> {
        self.links.values().flatten().map(|link| (link.path, link.transport))
    }

    /// A node could not be reached, or was lost. `jitter` is between 0 and 1.
    pub fn unreachable(&mut self, node: PeerId, now: Instant, jitter: f64) {
        let redial = self.unreachable.entry(node).or_insert(Redial { failures: 0, not_before: now });
        let longest = REDIAL_MIN.saturating_mul(1 << redial.failures.min(10)).min(REDIAL_MAX);
        redial.failures = redial.failures.saturating_add(1);
        redial.not_before = now + longest.mul_f64(jitter.clamp(0.1, 1.0));
    }

    /// Leaves a node that was never tried alone until then, because it is expected to dial first.
    pub fn hold(&mut self, node: PeerId, until: Instant) {
        self.unreachable.entry(node).or_insert(Redial { failures: 0, not_before: until });
    }

    /// Which of these known nodes to dial now, so that the target is met.
    #[must_use]
    pub fn to_dial(&self, known: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<PeerId> {
        let room = TARGET.saturating_sub(self.links.len());
        let may = |node: &PeerId| {
            *node != self.own
                && !self.is_connected(node)
                && self.unreachable.get(node).is_none_or(|redial| redial.not_before <= now)
        };
        known.into_iter().filter(may).take(room).collect()
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
mod tests {
    use super::*;

    fn link(id: usize, path: PathClass, transport: LinkTransport, dialled: bool, since: Instant) -> Link {
        Link {
            id: ConnectionId::new_unchecked(id),
            path,
            transport,
            dialled,
            address: String::new(),
            since,
            heard: since,
            rtt: None,
            own_port: true,
            seen_as: None,
        }
    }

    fn two_ids() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        if a < b { (a, b) } else { (b, a) }
    }

    #[test]
    fn direct_beats_relayed_and_quic_beats_tcp_and_both_ends_agree() {
        let (smaller, greater) = two_ids();
        let now = Instant::now();
        for (own, other, own_dials) in [(smaller, greater, true), (greater, smaller, false)] {
            let mut connections = Connections::new(own);
            let id = |connections: &Connections| connections.best(&other).map(|link| link.id);
            let best = |id: usize| Some(ConnectionId::new_unchecked(id));
            connections.opened(other, link(1, PathClass::Relayed, LinkTransport::Relay, true, now));
            assert_eq!(id(&connections), best(1));
            connections.opened(other, link(2, PathClass::Wan, LinkTransport::Tcp, true, now));
            assert_eq!(id(&connections), best(2));
            connections.opened(other, link(3, PathClass::Wan, LinkTransport::Quic, !own_dials, now));
            assert_eq!(id(&connections), best(3));
            connections.opened(other, link(4, PathClass::Wan, LinkTransport::Quic, own_dials, now));
            assert_eq!(id(&connections), best(4), "the smaller id dialled it");
            assert_eq!(connections.views()[&other].connections, 4);
        }
    }

    #[test]
    fn a_duplicate_is_closed_after_its_grace_when_it_carries_nothing() {
        let (own, other) = two_ids();
        let now = Instant::now();
        let mut connections = Connections::new(own);
        assert!(connections.opened(other, link(1, PathClass::Lan, LinkTransport::Tcp, true, now)));
        assert!(connections.duplicates(now + DUPLICATE_GRACE * 2, |_, _| false).is_empty());
        assert!(!connections.opened(other, link(2, PathClass::Lan, LinkTransport::Quic, true, now + DUPLICATE_GRACE)));
        let later = now + DUPLICATE_GRACE * 2;
        assert!(connections.duplicates(later - Duration::from_millis(1), |_, _| false).is_empty());
        assert!(connections.duplicates(later, |_, _| true).is_empty());
        assert_eq!(connections.duplicates(later, |_, _| false), [ConnectionId::new_unchecked(1)]);
        assert!(!connections.closed(&other, ConnectionId::new_unchecked(1)));
        assert!(connections.closed(&other, ConnectionId::new_unchecked(2)));
    }

    #[test]
    fn a_connection_without_answers_to_pings_is_silent() {
        let (own, other) = two_ids();
        let (now, longest) = (Instant::now(), Duration::from_secs(10));
        let mut connections = Connections::new(own);
        connections.opened(other, link(1, PathClass::Lan, LinkTransport::Tcp, true, now));
        connections.opened(other, link(2, PathClass::Lan, LinkTransport::Quic, true, now));
        assert!(connections.silent(now + longest, longest).is_empty());
        let id = ConnectionId::new_unchecked(2);
        connections.measured(&other, id, Duration::from_millis(1), now + longest / 2);
        let later = now + longest + Duration::from_millis(1);
        assert_eq!(connections.silent(later, longest), [(other, ConnectionId::new_unchecked(1))]);
        assert_eq!(connections.all_older_than(later, longest), [other]);
        connections.opened(other, link(3, PathClass::Lan, LinkTransport::Quic, true, later));
        assert!(connections.all_older_than(later, longest).is_empty());
    }

    #[test]
    fn known_nodes_are_dialled_up_to_the_target_and_failures_wait() {
        let (own, bad) = two_ids();
        let now = Instant::now();
        let mut connections = Connections::new(own);
        connections.unreachable(bad, now, 1.0);
        assert!(connections.to_dial([own, bad], now).is_empty());
        assert_eq!(connections.to_dial([bad], now + REDIAL_MIN), [bad]);
        for _ in 0..50 {
            connections.unreachable(bad, now, 1.0);
        }
        assert_eq!(connections.to_dial([bad], now + REDIAL_MAX), [bad], "the wait is bounded");
        let many: Vec<_> = (0..TARGET + 5).map(|_| PeerId::random()).collect();
        assert_eq!(connections.to_dial(many, now).len(), TARGET);
    }

    #[test]
    fn a_connection_that_tested_reachability_is_never_the_best_and_is_soon_closed() {
        let start = Instant::now();
        let (own, other) = two_ids();
        let mut connections = Connections::new(own);
        connections.opened(other, link(1, PathClass::Wan, LinkTransport::Tcp, true, start));
        let test = link(2, PathClass::Wan, LinkTransport::Quic, true, start);
        connections.opened(other, Link { own_port: false, ..test });
        assert_eq!(connections.best(&other).map(|best| best.id), Some(ConnectionId::new_unchecked(1)));
        assert!(connections.duplicates(start, |_, _| false).is_empty());
        assert_eq!(connections.duplicates(start + TEST_GRACE, |_, _| false), [ConnectionId::new_unchecked(2)]);
    }

    #[test]
    fn a_detour_is_tried_to_be_cut_short_ever_more_rarely_and_by_one_side() {
        let start = Instant::now();
        let (own, other) = two_ids();
        let mut connections = Connections::new(own);
        connections.opened(other, link(1, PathClass::Relayed, LinkTransport::Relay, true, start));
        let mut tries = Vec::new();
        for second in 0..4000 {
            if !connections.detours_due(start + Duration::from_secs(second)).is_empty() {
                tries.push(second);
            }
        }
        assert_eq!(tries, [30, 90, 210, 450, 930, 1830, 2730, 3630]);
        connections.opened(other, link(2, PathClass::Wan, LinkTransport::Quic, true, start));
        assert!(connections.detours_due(start + Duration::from_secs(9000)).is_empty(), "there is a direct one");
        connections.closed(&other, ConnectionId::new_unchecked(2));
        assert!(connections.detours_due(start + Duration::from_secs(9000)).is_empty(), "it begins anew");

        let mut other_side = Connections::new(other);
        other_side.opened(own, link(1, PathClass::Relayed, LinkTransport::Relay, false, start));
        assert!(other_side.detours_due(start + Duration::from_secs(9000)).is_empty());
    }
}
