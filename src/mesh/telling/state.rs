//! What the teller holds, and the passing of time. The files beside this one are what it does.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::announcer::Announcer;
use super::effect::{Counted, Effect};
use super::rate::{Bucket, Rate, Rates};
use crate::capability::PeerId;
use crate::catalog::register::{BodyHash, Guard, Outcome, Register};
use crate::mesh::statement::Signer;
use crate::mesh::sync::Verify;

/// Statements of one node: a burst of changes, then more than an honest node ever makes.
const BY_ORIGIN: Rate = Rate { burst: 20, per_second: 4 };

/// Statements that one neighbour passes on: what a mesh of hundreds of nodes says, and no more than what can be
/// verified beside everything else.
const BY_NEIGHBOUR: Rate = Rate { burst: 1024, per_second: 256 };

/// Statements in all: a mesh that starts at once, then a hundredth of a core to verify them.
const STATEMENTS: Rate = Rate { burst: 4096, per_second: 512 };

/// Requests of one node: a few syncs and the bodies of a large mesh.
const REQUESTS: Rate = Rate { burst: 128, per_second: 32 };

/// How often a random neighbour is synced with, give or take a fifth: it heals what gossip lost.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(30);

/// Syncs that this node begins: enough for a seed that a whole mesh meets at once, then what a slow uplink can bear.
pub(super) const SYNCS: Rate = Rate { burst: 64, per_second: 2 };

/// A longer rest between two looks at the time means that this node stood still.
const STALL: Duration = Duration::from_secs(1);

/// After so long a rest the age of what lies in the buffers cannot be told any more. A machine that is only busy never
/// rests for so long, and must not distrust everything that it hears.
const LONG_STALL: Duration = Duration::from_secs(4);

/// After a stall, what came in the meantime is heard first: whoever lives has said so in it.
const HEARING: Duration = Duration::from_millis(500);

/// A body that is being fetched, or was and nobody had it.
#[derive(Debug)]
pub(super) struct Fetch {
    /// Whom else to ask.
    pub(super) others: Vec<PeerId>,
    /// When it may be forgotten, answered or not, and begun anew.
    pub(super) rest_until: Instant,
}

/// What a node says, and what it makes of what others say.
pub struct Teller {
    pub(super) own: PeerId,
    pub(super) mesh: [u8; 32],
    pub(super) signer: Signer,
    pub(super) verify: Box<Verify>,
    pub(super) rng: StdRng,
    pub(super) register: Register,
    pub(super) announcer: Announcer,
    pub(super) effects: Vec<Effect>,

    /// Connected nodes, and by how many connections.
    pub(super) neighbours: BTreeMap<PeerId, usize>,
    /// Nobody heard what was said last.
    pub(super) alone: bool,
    /// The goodbye has been said: nothing is said any more.
    pub(super) departed: bool,
    pub(super) farewells: usize,

    pub(super) origins: Rates,
    pub(super) passers: Rates,
    pub(super) statements: Bucket,
    pub(super) requests: Rates,

    pub(super) syncing: HashMap<PeerId, Instant>,
    pub(super) sync_tokens: Bucket,
    pub(super) next_sync: Instant,
    /// When to pass on what a sync brought of third nodes.
    pub(super) spread_at: Option<Instant>,
    pub(super) fetches: HashMap<BodyHash, Fetch>,
    pub(super) lacks_bodies: bool,

    last_tick: Instant,
    judges_from: Instant,
    catches_up_until: Instant,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("own", &self.own).field("neighbours", &self.neighbours).finish_non_exhaustive()
    }
}

impl Teller {
    /// A node that has said nothing and heard nothing. `ttl` is how long it is to be believed.
    #[must_use]
    pub fn new(signer: Signer, verify: Box<Verify>, epoch: u64, ttl: Duration, rng: StdRng, now: Instant) -> Self {
        let own = signer.node();
        Self {
            own,
            mesh: *signer.mesh(),
            signer,
            verify,
            rng,
            register: Register::new(own),
            announcer: Announcer::new(epoch, ttl, now),
            effects: Vec::new(),
            neighbours: BTreeMap::new(),
            alone: true,
            departed: false,
            farewells: 0,
            origins: Rates::new(BY_ORIGIN),
            passers: Rates::new(BY_NEIGHBOUR),
            statements: Bucket::full(STATEMENTS, now),
            requests: Rates::new(REQUESTS),
            syncing: HashMap::new(),
            sync_tokens: Bucket::full(SYNCS, now),
            next_sync: now + SYNC_INTERVAL,
            spread_at: None,
            fetches: HashMap::new(),
            lacks_bodies: false,
            last_tick: now,
            judges_from: now,
            catches_up_until: now,
        }
    }

    /// The same, with a register that admits what this guard does only.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.register = self.register.guarded(guard);
        self
    }

    /// Buries the nodes that the guard admits no more.
    pub fn evict(&mut self, now: Instant) {
        self.register.evict(now);
    }

    /// What is known of all nodes.
    #[must_use]
    pub const fn register(&self) -> &Register {
        &self.register
    }

    /// What is to be done, in this order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A connection was made; `dialled` when this node made it.
    pub fn connected(&mut self, node: PeerId, dialled: bool, now: Instant) {
        *self.neighbours.entry(node).or_default() += 1;
        if dialled {
            self.sync_with(node, now);
        }
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, node: &PeerId) {
        if let Some(count) = self.neighbours.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                self.neighbours.remove(node);
            }
        }
    }

    /// A neighbour answered a ping: it is alive, and its beats may be late as they will. After a stall nobody knows how long
    /// the answer has lain here, and who gave it may be gone.
    pub fn answered(&mut self, node: PeerId, now: Instant) {
        if self.is_catching_up(now) {
            return;
        }
        if self.register.vouch(&node, now) == Outcome::NeedSync {
            self.sync_with(node, now);
        }
    }

    /// When [`tick`](Self::tick) or an advert is due next, if it is not when somebody looks anyway.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let own = [self.announcer.advert_due(), self.announcer.beat_due()];
        let own = own.into_iter().flatten().filter(|_| !self.departed);
        own.chain(self.spread_at).chain([self.next_sync]).min()
    }

    /// Does what is due by now. To be called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        let rest = now.saturating_duration_since(self.last_tick);
        let stood_still = rest > STALL;
        if rest > LONG_STALL && self.catches_up_until <= self.last_tick {
            self.catches_up_until = now + HEARING;
        }
        // A machine that is always late must not keep the dead for ever.
        if stood_still && self.judges_from <= self.last_tick {
            self.judges_from = now + HEARING;
        }
        self.last_tick = now;
        if self.judges_from <= now {
            self.register.expire(now);
        }
        self.beat_if_due(now);
        self.sync_if_due(now);
        self.fetch_missing(now);
    }

    /// Whether this node has just stood still, and hears what came in the meantime.
    pub(super) fn is_catching_up(&self, now: Instant) -> bool {
        now < self.catches_up_until || now.saturating_duration_since(self.last_tick) > LONG_STALL
    }

    pub(super) fn count(&mut self, counted: Counted) {
        self.effects.push(Effect::Count(counted));
    }

    /// Whether one more statement that this neighbour passed on may be looked at.
    pub(super) fn may_look(&mut self, from: PeerId, now: Instant) -> bool {
        self.passers.take(from, now) && self.statements.take(STATEMENTS, now)
    }
}
