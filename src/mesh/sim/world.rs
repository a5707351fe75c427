//! Everything there is, and the order in which it happens.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use libp2p::identity::Keypair;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::node::{Node, State, Time};
use crate::capability::PeerId;
use crate::catalog::register::{Content, Statement};
use crate::mesh::statement;
use crate::mesh::sync::Verify;
use crate::mesh::telling::Asked;
use crate::wire::v1;

/// How often each node looks at the time.
pub(super) const TICK_MS: u64 = 500;

/// What happens at some time.
pub(super) enum Event {
    Tick(usize),
    /// The message of this number comes to a process by way of another.
    Gossip {
        to: usize,
        from: usize,
        message: usize,
    },
    Request {
        to: usize,
        from: usize,
        request: v1::SyncRequest,
        what: Asked,
    },
    Response {
        to: usize,
        from: usize,
        response: v1::SyncResponse,
        what: Asked,
    },
    Failed {
        to: usize,
        what: Asked,
    },
    /// A dial comes to its end.
    Dialled {
        from: usize,
        to: usize,
    },
    /// The end of a connection at this process is known to be closed.
    Closed {
        at: usize,
        id: usize,
        other: PeerId,
    },
    /// The other one listens to gossip.
    Listens {
        at: usize,
        other: usize,
        id: usize,
    },
}

/// A gossip message, and who has it.
pub(super) struct Message {
    pub(super) data: Vec<u8>,
    pub(super) at_ms: u64,
    seen: Vec<u64>,
}

impl Message {
    pub(super) fn new(data: Vec<u8>, at_ms: u64, nodes: usize) -> Self {
        Self { data, at_ms, seen: vec![0; nodes.div_ceil(64)] }
    }

    pub(super) fn seen_by(&self, node: usize) -> bool {
        self.seen[node / 64] & (1 << (node % 64)) != 0
    }

    /// False when it was seen before.
    pub(super) fn see(&mut self, node: usize) -> bool {
        let news = !self.seen_by(node);
        self.seen[node / 64] |= 1 << (node % 64);
        news
    }
}

/// Statements that were verified once. Five hundred nodes would do nothing else.
type Verified = Arc<Mutex<HashMap<Bytes, Statement>>>;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) time: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) messages: Vec<Message>,
    /// The mesh is in two halves.
    pub(super) is_cut: bool,
    /// Chance that a message is lost.
    pub(super) loss: f64,
    pub(super) by_id: HashMap<PeerId, Vec<usize>>,
    pub(super) connections: usize,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: HashMap<usize, Event>,
    serial: usize,
    verified: Verified,
}

impl World {
    pub(super) fn new(seed: u64, count: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let time = Time::new();
        let verified = Verified::default();
        let mut nodes = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Keypair::ed25519_from_bytes(rng.random::<[u8; 32]>()).expect("a key");
            nodes.push(Node::new(key, &time, verify(&verified), &mut rng));
        }
        let mut world = Self {
            seed,
            rng,
            time,
            nodes,
            messages: Vec::new(),
            is_cut: false,
            loss: 0.0,
            by_id: HashMap::new(),
            connections: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            serial: 0,
            verified,
        };
        for node in 0..count {
            world.by_id.entry(world.nodes[node].id).or_default().push(node);
            // All of them know a few that are older; all start within ten seconds.
            let mut older: Vec<usize> = (0..node).collect();
            older.shuffle(&mut world.rng);
            older.truncate(3);
            world.nodes[node].book = older;
            let at = world.rng.random_range(0..10_000);
            world.at(at, Event::Tick(node));
            let World { nodes, time, rng, .. } = &mut world;
            nodes[node].change(time, rng);
        }
        world
    }

    /// One more process with the identity of a node, as from a copied directory.
    pub(super) fn add_double(&mut self, of: usize) -> usize {
        let verify = verify(&self.verified);
        let original = &self.nodes[of];
        let (key, id, book) = (original.key.clone(), original.id, original.book.clone());
        let (last_epoch, side) = (original.last_epoch, original.side);
        let mut double = Node::new(key, &self.time, verify, &mut self.rng);
        (double.book, double.side) = (book, side);
        double.last_epoch = last_epoch;
        double.change(&self.time, &mut self.rng);
        self.nodes.push(double);
        let place = self.nodes.len() - 1;
        for message in &mut self.messages {
            message.seen.resize(self.nodes.len().div_ceil(64), 0);
        }
        self.by_id.entry(id).or_default().push(place);
        self.at(self.time.ms(), Event::Tick(place));
        place
    }

    pub(super) fn restart(&mut self, node: usize) {
        let verify = verify(&self.verified);
        let World { nodes, time, rng, .. } = self;
        nodes[node].restart(time, verify, rng);
        nodes[node].change(time, rng);
    }

    /// What a statement says, from those that were verified.
    pub(super) fn statement(&self, wire: &v1::SignedStatement) -> Statement {
        verify(&self.verified)(&super::node::MESH, wire.clone()).expect("a node's own statement")
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((at_ms, self.serial as u64, self.serial)));
        self.events.insert(self.serial, event);
    }

    /// After a delay of the network.
    pub(super) fn soon(&mut self, event: Event) {
        // Mostly milliseconds, now and then half a second.
        let delay = if self.rng.random_bool(0.02) { 500 } else { 40 };
        let at = self.time.ms() + self.rng.random_range(1..=delay);
        self.at(at, event);
    }

    /// The next thing that happens until then.
    pub(super) fn next(&mut self, until_ms: u64) -> Option<Event> {
        let Reverse((at, _, _)) = *self.queue.peek()?;
        if at > until_ms {
            return None;
        }
        let Reverse((at, _, serial)) = self.queue.pop()?;
        self.time.set(at);
        self.events.remove(&serial)
    }

    /// Whether what one sends comes to the other.
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let gone = |node: usize| matches!(self.nodes[node].state, State::Gone(_));
        !gone(from) && !gone(to) && (!self.is_cut || self.nodes[from].side == self.nodes[to].side)
    }

    pub(super) fn lost(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }
}

fn verify(verified: &Verified) -> Box<Verify> {
    let verified = Arc::clone(verified);
    Box::new(move |mesh, wire| {
        let known = verified.lock().get(&wire.signature).cloned();
        let mut statement = match known {
            Some(statement) => statement,
            None => {
                let statement = statement::verify(mesh, wire.clone())?;
                let has_body = !matches!(statement.content, Content::Advert(_, None));
                if has_body {
                    verified.lock().insert(wire.signature.clone(), statement.clone());
                }
                statement
            }
        };
        if let Content::Advert(head, body) = &mut statement.content
            && head.body_len > 0
            && wire.body.is_empty()
        {
            *body = None;
        }
        Ok(statement)
    })
}
