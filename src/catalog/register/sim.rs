//! Hundreds of registers that gossip and sync in simulated time: loss, duplicates, delay, partition and
//! heal, churn, restarts with an older epoch, clocks that disagree by hours.
//!
//! A run is a function of its seed, so a failing one can be repeated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::tests::{body, leave, sample};
use super::{Content, Outcome, Position, Register, Source, Statement};
use crate::capability::PeerId;
use crate::wire::v1;

const STEP_MS: u64 = 1000;
const TTL_MS: u64 = 60_000;
const ALIVE_MS: u64 = 15_000;
const SYNC_MS: u64 = 30_000;
const DELAY_MAX_MS: u64 = 3_000;
/// Chance that a message is lost, and that it comes twice.
const LOSS: f64 = 0.1;
const TWICE: f64 = 0.05;
const PARTED: std::ops::Range<u64> = 60_000..200_000;
const CHURN_END_MS: u64 = 240_000;
const END_MS: u64 = 340_000;

struct Node {
    id: PeerId,
    register: Register,
    up: bool,
    side: bool,
    gone_at_ms: u64,
    clock_ms: u64,
    position: Position,
    alive_at_ms: u64,
    sync_at_ms: u64,
    change_at_ms: u64,
    issued_ms: u64,
}

struct Sim {
    rng: StdRng,
    start: Instant,
    now_ms: u64,
    nodes: Vec<Node>,
    /// Every statement that was ever made; the wire carries its place here.
    log: Vec<Statement>,
    flight: BTreeMap<(u64, u64), (usize, usize, usize, bool)>,
    sent: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = if seed == 0 { 100 } else { rng.random_range(50..=60) };
        let nodes = (0..count)
            .map(|_| {
                // A multihash of 32 bytes that are the hash themselves.
                let id = [&[0, 32][..], &rng.random::<[u8; 32]>()].concat();
                let id = PeerId::from_bytes(&id).expect("a multihash");
                Node {
                    id,
                    register: Register::new(id),
                    up: true,
                    side: rng.random(),
                    gone_at_ms: 0,
                    clock_ms: rng.random_range(1_000_000..100_000_000),
                    position: Position::default(),
                    alive_at_ms: 0,
                    sync_at_ms: rng.random_range(0..SYNC_MS),
                    change_at_ms: 0,
                    issued_ms: 0,
                }
            })
            .collect();
        let mut sim =
            Self { rng, start: Instant::now(), now_ms: 0, nodes, log: Vec::new(), flight: BTreeMap::new(), sent: 0 };
        for node in 0..count {
            sim.boot(node, false);
        }
        sim
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    /// Starts a node with an empty register; from a backup, its epoch is an older one.
    fn boot(&mut self, node: usize, from_backup: bool) {
        let now_ms = self.now_ms;
        let this = &mut self.nodes[node];
        this.register = Register::new(this.id);
        this.up = true;
        let epoch = if from_backup { this.position.epoch.saturating_sub(5000) } else { this.clock_ms + now_ms };
        this.position = Position { epoch, seq: 0 };
        this.sync_at_ms = now_ms;
        self.change(node);
    }

    fn issue(&mut self, node: usize, content: Content) -> Statement {
        let now_ms = self.now_ms;
        let this = &mut self.nodes[node];
        this.issued_ms = (this.clock_ms + now_ms).max(this.issued_ms + 1);
        let mut statement = sample(this.id, this.position.epoch, this.position.seq, this.issued_ms, content);
        statement.ttl = Duration::from_millis(TTL_MS);
        let place = u64::try_from(self.log.len()).expect("a count");
        statement.signed =
            v1::SignedStatement { statement: Bytes::copy_from_slice(&place.to_be_bytes()), ..Default::default() }
                .into();
        self.log.push(statement.clone());
        statement
    }

    /// The node makes a new advert, and tells.
    fn change(&mut self, node: usize) {
        self.nodes[node].position.seq += 1;
        let name = format!("model-{}", self.rng.random_range(0..1_000_000));
        let (head, body) = body(&name);
        let statement = self.issue(node, Content::Advert(head, Some(body)));
        self.tell_own(node, statement);
        let wait = self.rng.random_range(30_000..120_000);
        self.nodes[node].change_at_ms = self.now_ms + wait;
    }

    fn alive(&mut self, node: usize) {
        let statement = self.issue(node, Content::Alive { load: 0 });
        self.tell_own(node, statement);
    }

    fn tell_own(&mut self, node: usize, statement: Statement) {
        let now = self.now();
        self.nodes[node].register.apply_own(statement, now);
        let place = self.log.len() - 1;
        // A large body does not travel with its advert.
        let with_body = self.rng.random_bool(0.6);
        self.gossip(node, place, with_body);
        let jitter = self.rng.random_range(ALIVE_MS * 4 / 5..ALIVE_MS * 6 / 5);
        self.nodes[node].alive_at_ms = self.now_ms + jitter;
    }

    fn gossip(&mut self, from: usize, place: usize, with_body: bool) {
        for to in 0..self.nodes.len() {
            for _ in 0..if self.rng.random_bool(TWICE) { 2 } else { 1 } {
                if to != from && !self.lost() {
                    self.sent += 1;
                    let at = self.now_ms + self.rng.random_range(0..DELAY_MAX_MS);
                    self.flight.insert((at, self.sent), (from, to, place, with_body));
                }
            }
        }
    }

    /// In the end messages arrive, so that a false alarm of the last seconds is not taken for a lasting one.
    fn lost(&mut self) -> bool {
        self.now_ms < CHURN_END_MS && self.rng.random_bool(LOSS)
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let together = !PARTED.contains(&self.now_ms) || self.nodes[a].side == self.nodes[b].side;
        self.nodes[a].up && self.nodes[b].up && together
    }

    fn take(&mut self, node: usize, place: usize, with_body: bool, source: Source) {
        let now = self.now();
        let mut statement = self.log[place].clone();
        if let Content::Advert(_, body) = &mut statement.content
            && !with_body
        {
            *body = None;
        }
        let outcome = self.nodes[node].register.apply(statement, source, now);
        self.act(node, outcome);
    }

    fn act(&mut self, node: usize, outcome: Outcome) {
        match outcome {
            Outcome::NeedSync => {
                self.nodes[node].sync_at_ms = self.nodes[node].sync_at_ms.min(self.now_ms + STEP_MS);
            }
            Outcome::OwnAhead(position) if position >= self.nodes[node].position => {
                self.nodes[node].position.epoch = position.epoch + 1;
                self.nodes[node].position.seq = 0;
                self.change(node);
            }
            _ => {}
        }
    }

    fn neighbour(&mut self, node: usize) -> Option<usize> {
        let others: Vec<_> = (0..self.nodes.len()).filter(|o| *o != node && self.connected(node, *o)).collect();
        others.into_iter().choose(&mut self.rng)
    }

    fn sync(&mut self, node: usize) {
        self.nodes[node].sync_at_ms = self.now_ms + self.rng.random_range(SYNC_MS / 2..SYNC_MS);
        let Some(other) = self.neighbour(node) else { return };
        let now = self.now();
        let delta = self.nodes[other].register.delta(&self.nodes[node].register.digest(), now);
        if self.lost() {
            return;
        }
        let own = self.nodes[node].id.to_bytes();
        if let Some(beyond) = delta.beyond.iter().find(|p| p.node == own) {
            self.act(node, Outcome::OwnAhead(Position { epoch: beyond.epoch, seq: beyond.seq }));
        }
        if let Some(position) = delta.own_ahead {
            self.act(other, Outcome::OwnAhead(position));
        }
        self.take_page(node, delta.statements);
        if self.lost() {
            return;
        }
        let push = self.nodes[node].register.statements_of(delta.want, now);
        self.take_page(other, push);
    }

    fn take_page(&mut self, node: usize, page: Vec<v1::AgedStatement>) {
        for aged in page {
            let wire = aged.statement.expect("always there");
            let place = u64::from_be_bytes(wire.statement.as_ref().try_into().expect("a place"));
            let source = Source::Sync { age: Duration::from_millis(aged.age_ms) };
            let with_body = self.rng.random_bool(0.6);
            self.take(node, usize::try_from(place).expect("a place"), with_body, source);
        }
    }

    fn fetch_bodies(&mut self, node: usize) {
        let missing: Vec<_> = self.nodes[node].register.missing_bodies().map(|(_, hash)| hash).collect();
        for hash in missing {
            let Some(other) = self.neighbour(node) else { return };
            if let Some(bytes) = self.nodes[other].register.body_bytes(&hash)
                && !self.lost()
            {
                self.nodes[node].register.body(hash, bytes).expect("the body");
            }
        }
    }

    fn churn(&mut self) {
        if !self.rng.random_bool(0.3) {
            return;
        }
        let node = self.rng.random_range(0..self.nodes.len());
        let up = self.nodes.iter().filter(|n| n.up).count();
        if !self.nodes[node].up {
            if self.now_ms > self.nodes[node].gone_at_ms + 5_000 {
                let from_backup = self.rng.random_bool(0.3);
                self.boot(node, from_backup);
            }
        } else if up > self.nodes.len() / 2 {
            if self.rng.random_bool(0.5) {
                self.nodes[node].position.seq += 1;
                let statement = self.issue(node, leave());
                let now = self.now();
                self.nodes[node].register.apply_own(statement, now);
                let place = self.log.len() - 1;
                self.gossip(node, place, false);
            }
            self.nodes[node].up = false;
            self.nodes[node].gone_at_ms = self.now_ms;
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        while let Some(entry) = self.flight.first_entry()
            && entry.key().0 <= self.now_ms
        {
            let (from, to, place, with_body) = entry.remove();
            // A message that is on its way arrives although its sender has gone.
            let together = !PARTED.contains(&self.now_ms) || self.nodes[from].side == self.nodes[to].side;
            if self.nodes[to].up && together {
                self.take(to, place, with_body, Source::Gossip);
            }
        }
        if self.now_ms < CHURN_END_MS {
            self.churn();
        }
        let now = self.now();
        for node in 0..self.nodes.len() {
            if !self.nodes[node].up {
                continue;
            }
            self.nodes[node].register.expire(now);
            if self.now_ms >= self.nodes[node].change_at_ms && self.now_ms < CHURN_END_MS {
                self.change(node);
            }
            if self.now_ms >= self.nodes[node].alive_at_ms {
                self.alive(node);
            }
            if self.now_ms >= self.nodes[node].sync_at_ms {
                self.sync(node);
            }
            self.fetch_bodies(node);
        }
    }

    fn assert_no_zombies(&self, seed: u64) {
        for gone in self.nodes.iter().filter(|n| !n.up && self.now_ms > n.gone_at_ms + TTL_MS + DELAY_MAX_MS + STEP_MS)
        {
            for node in self.nodes.iter().filter(|n| n.up) {
                assert!(
                    !node.register.adverts().contains_key(&gone.id),
                    "seed {seed}, at {} ms: a node that went at {} ms is still seen",
                    self.now_ms,
                    gone.gone_at_ms
                );
            }
        }
    }

    fn assert_converged(&self, seed: u64) {
        let live: BTreeMap<_, _> = self.nodes.iter().filter(|n| n.up).map(|n| (n.id, n.position)).collect();
        for node in self.nodes.iter().filter(|n| n.up) {
            let adverts = node.register.adverts();
            let seen: BTreeMap<_, _> =
                adverts.values().map(|a| (a.node, Position { epoch: a.epoch, seq: a.seq })).collect();
            assert_eq!(seen, live, "seed {seed}: seen by {}", node.id);
        }
    }
}

#[test]
fn registers_converge_and_never_raise_the_dead() {
    for seed in 0..8 {
        let mut sim = Sim::new(seed);
        while sim.now_ms < END_MS {
            sim.step();
            if sim.now_ms.is_multiple_of(5_000) {
                sim.assert_no_zombies(seed);
            }
        }
        sim.assert_converged(seed);
    }
}
