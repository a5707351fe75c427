//! One simulated node: what decides, and the little that the driver would add.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::identity::Keypair;
use libp2p::swarm::ConnectionId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::capability::{Capability, Kind, PeerId};
use crate::mesh::connections::{Connections, Link};
use crate::mesh::statement::Signer;
use crate::mesh::sync::Verify;
use crate::mesh::telling::{Profile, Teller};
use crate::mesh::view::{LinkTransport, PathClass};

pub(super) const MESH: [u8; 32] = [9; 32];

/// The world's time.
#[derive(Debug, Clone)]
pub(super) struct Time {
    pub(super) start: Instant,
    now_ms: Arc<AtomicU64>,
}

impl Time {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), now_ms: Arc::default() }
    }

    pub(super) fn ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, ms: u64) {
        self.now_ms.store(ms, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms())
    }
}

/// What befell a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    /// It stands still until then.
    Frozen(u64),
    /// It has been gone since then.
    Gone(u64),
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) id: usize,
    /// Which process is at the other end.
    pub(super) other: usize,
    /// Whether gossip passes every message on here.
    pub(super) in_mesh: bool,
}

/// Longer than any node stands still.
pub(super) const MAX_STANDSTILL_MS: i64 = 60_000;

/// One process.
pub(super) struct Node {
    pub(super) key: Keypair,
    pub(super) id: PeerId,
    pub(super) state: State,
    pub(super) side: bool,
    pub(super) teller: Teller,
    pub(super) connections: Connections,
    pub(super) ends: Vec<End>,
    /// Processes that were connected before: the peer book.
    pub(super) book: Vec<usize>,
    pub(super) last_epoch: u64,
    /// Its wall clock minus the world's.
    pub(super) skew_ms: Arc<AtomicI64>,
    /// What that was since it was started, before its clock was set. What others know of a node's time they forget when it
    /// is started again.
    pub(super) earlier_skews_ms: Vec<i64>,
    /// Its advert is too large for gossip, and its body is fetched.
    pub(super) is_large: bool,
    /// How long others may believe that it lives, after they last heard it: the most that it ever said, since those who did not
    /// hear what it said later prolong what it said in a larger mesh, or before it was restarted.
    pub(super) ttl_ms: u64,
    pub(super) up_since_ms: u64,
    pub(super) asked: u64,
    pub(super) clashes: usize,
    pub(super) sent_bytes: u64,
}

impl Node {
    pub(super) fn new(key: Keypair, time: &Time, verify: Box<Verify>, rng: &mut StdRng) -> Self {
        let skew_ms = Arc::new(AtomicI64::new(rng.random_range(-7_200_000..7_200_000)));
        let id = key.public().to_peer_id();
        let teller = teller(&key, 1, &skew_ms, time, verify, rng);
        let mut node = Self {
            key,
            id,
            state: State::Up,
            side: rng.random(),
            teller,
            connections: Connections::new(id),
            ends: Vec::new(),
            book: Vec::new(),
            last_epoch: 0,
            skew_ms,
            earlier_skews_ms: Vec::new(),
            is_large: rng.random_bool(0.1),
            ttl_ms: 0,
            up_since_ms: time.ms(),
            asked: 0,
            clashes: 0,
            sent_bytes: 0,
        };
        let epoch = node.next_epoch(0, 1, time);
        node.teller.begin_run(epoch, time.now());
        node
    }

    /// As `mesh::epoch` does it.
    pub(super) fn next_epoch(&mut self, beyond: u64, step: u64, time: &Time) -> u64 {
        let clock = wall_ms(time.ms(), &self.skew_ms);
        self.last_epoch = clock.max(self.last_epoch + 1).max(beyond + step);
        self.last_epoch
    }

    /// A new process in the same place.
    pub(super) fn restart(&mut self, time: &Time, verify: Box<Verify>, rng: &mut StdRng) {
        let epoch = self.next_epoch(0, 1, time);
        self.teller = teller(&self.key, epoch, &self.skew_ms, time, verify, rng);
        self.connections = Connections::new(self.id);
        self.ends.clear();
        self.earlier_skews_ms.clear();
        self.state = State::Up;
        self.up_since_ms = time.ms();
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Somebody sets its clock, by about so much.
    ///
    /// A clock that is set forwards by no more than a hearer stood still cannot be told from news that took that much less:
    /// its node may be listed for so much longer. Steps are larger, also when several of them are taken together. All other
    /// steps are noticed.
    pub(super) fn set_clock(&mut self, mut step_ms: i64) {
        let now = self.skew_ms.load(Ordering::Relaxed);
        self.earlier_skews_ms.push(now);
        let is_small =
            |skew: i64| self.earlier_skews_ms.iter().any(|old| (1..MAX_STANDSTILL_MS).contains(&(skew - old)));
        while is_small(now + step_ms) {
            step_ms += step_ms.signum() * MAX_STANDSTILL_MS;
        }
        self.skew_ms.store(now + step_ms, Ordering::Relaxed);
    }

    /// Changes what it can do.
    pub(super) fn change(&mut self, time: &Time, rng: &mut StdRng) {
        let name = format!("model-{}", rng.random_range(0..1_000_000));
        self.teller.set(vec![Arc::new(Capability::new("sim", Kind::LLM_CHAT, &name))], 0, time.now());
    }

    pub(super) fn profile(&self) -> Profile {
        let addresses = vec!["/ip4/192.168.100.200/udp/11450/quic-v1".parse().expect("an address")];
        Profile { name: "simulated-node".into(), version: "0.1.0".into(), addresses, relay: false }
    }

    pub(super) fn open(&mut self, end: End, other: PeerId, dialled: bool, now: Instant) {
        let link = Link {
            id: ConnectionId::new_unchecked(end.id),
            path: PathClass::Lan,
            transport: LinkTransport::Quic,
            dialled,
            address: String::new(),
            since: now,
            heard: now,
            rtt: None,
            own_port: true,
            seen_as: None,
        };
        self.connections.opened(other, link);
        self.ends.push(end);
        self.teller.connected(other, dialled, now);
    }

    pub(super) fn close(&mut self, id: usize, other: PeerId, now: Instant, jitter: f64) {
        self.ends.retain(|end| end.id != id);
        if self.connections.closed(&other, ConnectionId::new_unchecked(id)) {
            self.connections.unreachable(other, now, jitter);
        }
        self.teller.disconnected(&other);
    }
}

fn teller(
    key: &Keypair,
    epoch: u64,
    skew_ms: &Arc<AtomicI64>,
    time: &Time,
    verify: Box<Verify>,
    rng: &mut StdRng,
) -> Teller {
    let clock = {
        let (time, skew_ms) = (time.clone(), Arc::clone(skew_ms));
        move || (wall_ms(time.ms(), &skew_ms), time.now())
    };
    let signer = Signer::with_clock(key.clone(), MESH, Box::new(clock)).expect("a signer");
    let rng = StdRng::seed_from_u64(rng.random());
    Teller::new(signer, verify, epoch, crate::mesh::DEFAULT_ADVERT_TTL, rng, time.now())
}

/// The clock on a node's wall: the world began long ago.
fn wall_ms(now_ms: u64, skew_ms: &AtomicI64) -> u64 {
    (1_700_000_000_000 + now_ms).saturating_add_signed(skew_ms.load(Ordering::Relaxed))
}
