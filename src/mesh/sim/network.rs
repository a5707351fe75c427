//! What lies between the nodes: dials, connections, gossip, requests. As libp2p does it, in short: a message goes to
//! every neighbour of whoever made it, to those in the mesh of gossip from then on, and what is lost is asked for later.

use libp2p::swarm::ConnectionId;
use prost::Message as _;
use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::node::{End, State};
use super::world::{Event, Message, TICK_MS, World};
use crate::catalog::register::Content;
use crate::mesh::behaviour::{GOSSIP_DEGREE, GOSSIP_LAZY, PING_INTERVAL, PING_SILENCE};
use crate::mesh::connections::TARGET;
use crate::mesh::telling::{Asked, Effect, Verdict};
use crate::wire::v1;

/// Topic, frame and multiplexing around a gossip message; encryption and packet beside it.
const GOSSIP_OVERHEAD: u64 = 90;
/// The same for a request or a response, with the negotiation of its stream.
const SYNC_OVERHEAD: u64 = 150;
/// Bytes of the identifier of a message in a list of them, and of the list itself.
const ID_BYTES: u64 = 18;
const LIST_BYTES: u64 = 110;
/// A ping, its answer, and what is around them, at one end.
const PING_BYTES: u64 = 180;
/// Messages stay in the lists for so long.
const LIST_MS: u64 = 3000;
/// How long a request may take.
const REQUEST_MS: u64 = 10_000;
/// A dial into nothing.
const DIAL_MS: u64 = 5000;
/// A killed process is noticed by its neighbours.
const SILENCE_MS: u64 = 5000;

impl World {
    /// Lets everything happen that happens until then.
    pub(super) fn run_until(&mut self, until_ms: u64) {
        while let Some(event) = self.next(until_ms) {
            self.happen(event);
        }
        self.time.set(until_ms);
    }

    fn happen(&mut self, event: Event) {
        let at = match &event {
            Event::Tick(node) => *node,
            Event::Gossip { to, .. }
            | Event::Request { to, .. }
            | Event::Response { to, .. }
            | Event::Failed { to, .. } => *to,
            Event::Dialled { from, .. } => *from,
            Event::Closed { at, .. } | Event::Listens { at, .. } => *at,
        };
        match (self.nodes[at].state, event) {
            (State::Gone(_), Event::Tick(node)) => self.at(self.time.ms() + TICK_MS, Event::Tick(node)),
            // The connection breaks, and the asker knows.
            (State::Gone(_), Event::Request { from, what, .. }) => self.soon(Event::Failed { to: from, what }),
            (State::Gone(_), _) => {}
            // Whoever stands still finds it in the buffers later; a tick first, as the real loop looks at the time first.
            (State::Frozen(until), event) if until > self.time.ms() => {
                let later = u64::from(!matches!(event, Event::Tick(_)));
                self.at(until + later, event);
            }
            (State::Frozen(_), event) => {
                self.nodes[at].state = State::Up;
                self.nodes[at].up_since_ms = self.time.ms();
                self.happen_at(at, event);
            }
            (State::Up, event) => self.happen_at(at, event),
        }
    }

    fn happen_at(&mut self, at: usize, event: Event) {
        let now = self.time.now();
        match event {
            Event::Tick(node) => self.tick(node),
            Event::Gossip { to, from, message } => self.hear(to, from, message),
            Event::Request { to, from, request, what } => {
                let from_id = self.nodes[from].id;
                let node = &mut self.nodes[to];
                let response = node.teller.on_request(request, from_id, now, 0);
                let bytes = response.as_ref().map_or(0, |response| response.encoded_len() as u64 + SYNC_OVERHEAD);
                node.sent_bytes += bytes;
                match response.filter(|_| self.reaches(to, from) && !self.lost()) {
                    Some(response) => self.soon(Event::Response { to: from, from: to, response, what }),
                    None => self.at(self.time.ms() + REQUEST_MS, Event::Failed { to: from, what }),
                }
            }
            Event::Response { to, from, response, what } => {
                let from = self.nodes[from].id;
                self.nodes[to].teller.on_response(what, response, from, now);
            }
            Event::Failed { to, what } => self.nodes[to].teller.on_failure(what, now),
            Event::Dialled { from, to } => self.dialled(from, to),
            Event::Closed { at, id, other } => {
                if self.nodes[at].ends.iter().any(|end| end.id == id) {
                    let jitter = self.rng.random_range(0.0..1.0);
                    self.nodes[at].close(id, other, now, jitter);
                }
            }
            Event::Listens { at, other, id } => {
                if self.nodes[at].ends.iter().any(|end| end.id == id) {
                    let other = self.nodes[other].id;
                    self.nodes[at].teller.on_listener(other, now);
                }
            }
        }
        self.perform(at);
    }

    fn tick(&mut self, place: usize) {
        let (now, ms) = (self.time.now(), self.time.ms());
        self.at(ms + TICK_MS, Event::Tick(place));
        let node = &mut self.nodes[place];
        if node.teller.advert_is_due(now) {
            let profile = node.profile();
            node.teller.announce(profile, now);
        }
        node.teller.tick(now);
        if ms / TICK_MS % (PING_INTERVAL.as_secs() * 1000 / TICK_MS) == place as u64 % 10 {
            self.ping(place);
        }
        if (ms / TICK_MS + place as u64).is_multiple_of(2) {
            self.gossip_beat(place);
        }
        self.close_what_is_silent(place);
        self.dial(place);
    }

    fn ping(&mut self, place: usize) {
        let now = self.time.now();
        for end in self.nodes[place].ends.clone() {
            let other = self.nodes[end.other].id;
            self.nodes[place].sent_bytes += PING_BYTES;
            let answers = self.reaches(place, end.other)
                && self.nodes[end.other].is_up()
                && self.nodes[end.other].ends.iter().any(|theirs| theirs.id == end.id);
            if answers && !self.lost() {
                let node = &mut self.nodes[place];
                node.connections.measured(&other, ConnectionId::new_unchecked(end.id), std::time::Duration::ZERO, now);
                node.teller.answered(other, now);
            }
        }
    }

    fn close_what_is_silent(&mut self, place: usize) {
        let now = self.time.now();
        let node = &self.nodes[place];
        let kept =
            |id: &crate::capability::PeerId| node.ends.iter().any(|end| end.in_mesh && self.nodes[end.other].id == *id);
        let surplus = node.connections.surplus(now, |_, _| false, kept);
        let mut closed = node.connections.silent(now, PING_SILENCE);
        closed.extend(surplus.iter().copied());
        let duplicates = node.connections.duplicates(now, |_, _| false);
        for (id, _) in surplus {
            self.nodes[place].connections.let_go(id, now);
        }
        let mut ids: Vec<ConnectionId> = closed.into_iter().map(|(_, id)| id).collect();
        ids.extend(duplicates);
        let ends: Vec<End> = self.nodes[place].ends.clone();
        for end in ends.iter().filter(|end| ids.contains(&ConnectionId::new_unchecked(end.id))) {
            self.close(place, *end);
        }
    }

    /// One end closes: it knows at once, the other one soon, if it can hear of it.
    fn close(&mut self, place: usize, end: End) {
        let now = self.time.now();
        let (own, other) = (self.nodes[place].id, self.nodes[end.other].id);
        let jitter = self.rng.random_range(0.0..1.0);
        self.nodes[place].close(end.id, other, now, jitter);
        let closed = Event::Closed { at: end.other, id: end.id, other: own };
        if self.reaches(place, end.other) {
            self.soon(closed);
        } else {
            self.at(self.time.ms() + SILENCE_MS, closed);
        }
    }

    /// A process ends, and its neighbours notice: at once when it says so.
    pub(super) fn end(&mut self, place: usize, in_order: bool) {
        let ms = self.time.ms();
        let own = self.nodes[place].id;
        for end in std::mem::take(&mut self.nodes[place].ends) {
            let delay = if in_order { 50 } else { self.rng.random_range(SILENCE_MS / 2..SILENCE_MS) };
            self.at(ms + delay, Event::Closed { at: end.other, id: end.id, other: own });
        }
        self.nodes[place].state = State::Gone(ms);
    }

    fn dial(&mut self, place: usize) {
        let now = self.time.now();
        let adverts = self.nodes[place].teller.register().adverts();
        if self.nodes[place].connections.len() < TARGET {
            let mut known: Vec<_> = adverts.keys().copied().collect();
            rand::seq::SliceRandom::shuffle(&mut known[..], &mut self.rng);
            for id in self.nodes[place].connections.to_dial(known.iter().copied(), now) {
                self.nodes[place].connections.dialling(id, now);
                let processes = self.by_id.get(&id).cloned().unwrap_or_default();
                if let Some(to) = processes.into_iter().filter(|to| *to != place).choose(&mut self.rng) {
                    self.start_dial(place, to);
                }
            }
        }
        if self.nodes[place].connections.looks_for_the_lost(now) {
            let mut lost: Vec<usize> = self.nodes[place].book.clone();
            lost.retain(|other| !adverts.contains_key(&self.nodes[*other].id) && *other != place);
            rand::seq::SliceRandom::shuffle(&mut lost[..], &mut self.rng);
            let ids: Vec<_> = lost.iter().map(|other| self.nodes[*other].id).collect();
            if let Some(id) = self.nodes[place].connections.lost_to_dial(ids, now) {
                self.nodes[place].connections.dialling(id, now);
                let to = lost.into_iter().find(|other| self.nodes[*other].id == id).expect("it is among them");
                self.start_dial(place, to);
            }
        }
    }

    fn start_dial(&mut self, from: usize, to: usize) {
        let dialled = Event::Dialled { from, to };
        if self.reaches(from, to) && self.nodes[to].is_up() {
            self.soon(dialled);
        } else {
            self.at(self.time.ms() + DIAL_MS, dialled);
        }
    }

    fn dialled(&mut self, from: usize, to: usize) {
        let now = self.time.now();
        let (own, other) = (self.nodes[from].id, self.nodes[to].id);
        // The gate lets nobody in who has the same identity.
        if !self.reaches(from, to) || !self.nodes[to].is_up() || own == other {
            let jitter = self.rng.random_range(0.0..1.0);
            self.nodes[from].connections.unreachable(other, now, jitter);
            return;
        }
        self.connections += 1;
        let id = self.connections;
        let end = |other| End { id, other, in_mesh: false };
        self.nodes[from].open(end(to), other, true, now);
        self.nodes[to].open(end(from), own, false, now);
        if !self.nodes[from].book.contains(&to) {
            self.nodes[from].book.push(to);
        }
        self.soon(Event::Listens { at: from, other: to, id });
        self.soon(Event::Listens { at: to, other: from, id });
        self.perform(to);
    }

    /// Once a second: the mesh of gossip is mended, and others are told what there was.
    fn gossip_beat(&mut self, place: usize) {
        let degree = GOSSIP_DEGREE;
        let in_mesh = self.nodes[place].ends.iter().filter(|end| end.in_mesh).count();
        if in_mesh < degree.low || in_mesh > degree.high {
            let change = in_mesh.abs_diff(degree.target);
            let wanted = in_mesh > degree.high;
            let ends: Vec<End> = self.nodes[place].ends.iter().copied().filter(|end| end.in_mesh == wanted).collect();
            for end in ends.into_iter().sample(&mut self.rng, change) {
                if self.reaches(place, end.other) {
                    for at in [place, end.other] {
                        let mut ends = self.nodes[at].ends.iter_mut();
                        if let Some(mine) = ends.find(|mine| mine.id == end.id) {
                            mine.in_mesh = !wanted;
                        }
                    }
                }
            }
        }
        let since = self.time.ms().saturating_sub(LIST_MS);
        let first = self.messages.iter().rposition(|message| message.at_ms < since).map_or(0, |last| last + 1);
        let recent = first..self.messages.len();
        let ends: Vec<End> = self.nodes[place].ends.iter().copied().filter(|end| !end.in_mesh).collect();
        for end in ends.into_iter().sample(&mut self.rng, GOSSIP_LAZY) {
            let listed: Vec<usize> = recent.clone().filter(|message| self.messages[*message].seen_by(place)).collect();
            if listed.is_empty() {
                continue;
            }
            self.nodes[place].sent_bytes += LIST_BYTES + ID_BYTES * listed.len() as u64;
            for message in listed {
                if !self.messages[message].seen_by(end.other) && self.reaches(place, end.other) && !self.lost() {
                    self.send(place, end.other, message);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: usize) {
        self.nodes[from].sent_bytes += self.messages[message].data.len() as u64 + GOSSIP_OVERHEAD;
        if self.messages[message].seen_by(to) || !self.reaches(from, to) || self.lost() {
            return;
        }
        self.soon(Event::Gossip { to, from, message });
        // Now and then one comes twice, or long after.
        if self.loss > 0.0 && self.rng.random_bool(0.01) {
            let late = self.time.ms() + self.rng.random_range(1000..20_000);
            self.at(late, Event::Gossip { to, from, message });
        }
    }

    fn hear(&mut self, to: usize, from: usize, message: usize) {
        // Between the processes there was a connection when it was sent.
        let again = !self.messages[message].see(to);
        if again && !self.rng.random_bool(0.02) {
            return;
        }
        let now = self.time.now();
        let from_id = self.nodes[from].id;
        let data = std::mem::take(&mut self.messages[message].data);
        let verdict = self.nodes[to].teller.on_gossip(&data, from_id, now);
        self.messages[message].data = data;
        assert_ne!(verdict, Verdict::Reject, "seed {}: an honest statement was refused", self.seed);
        if verdict == Verdict::Accept {
            let ends: Vec<End> = self.nodes[to].ends.iter().copied().filter(|end| end.in_mesh).collect();
            for end in ends {
                if end.other != from {
                    self.send(to, end.other, message);
                }
            }
        }
    }

    /// Does what a node's teller wants done.
    pub(super) fn perform(&mut self, place: usize) {
        for effect in self.nodes[place].teller.take_effects() {
            match effect {
                Effect::Gossip(wire) => self.publish(place, wire),
                Effect::Ask { node, request, what } => self.request(place, node, request, what),
                Effect::Clash { position, .. } => {
                    let World { nodes, time, rng, .. } = self;
                    nodes[place].clashes += 1;
                    // A few, so that two of them now and then meet.
                    let step = rng.random_range(1..=20);
                    let epoch = nodes[place].next_epoch(position.epoch, step, time);
                    nodes[place].teller.begin_run(epoch, time.now());
                }
                Effect::Count(_) | Effect::Stranger { .. } | Effect::Returned { .. } => {}
            }
        }
    }

    fn publish(&mut self, place: usize, mut wire: v1::SignedStatement) {
        let statement = self.statement(&wire);
        let ttl_ms = u64::try_from(statement.ttl.as_millis()).expect("short");
        self.nodes[place].ttl_ms = self.nodes[place].ttl_ms.max(ttl_ms);
        if self.nodes[place].is_large && matches!(statement.content, Content::Advert(..)) {
            wire.body.clear();
        }
        let ends = self.nodes[place].ends.clone();
        if ends.is_empty() {
            self.nodes[place].teller.nobody_heard();
            return;
        }
        let mut message = Message::new(wire.encode_to_vec(), self.time.ms(), self.nodes.len());
        message.see(place);
        self.messages.push(message);
        for end in ends {
            self.send(place, end.other, self.messages.len() - 1);
        }
    }

    fn request(&mut self, place: usize, node: crate::capability::PeerId, request: v1::SyncRequest, what: Asked) {
        let ms = self.time.ms();
        self.nodes[place].asked += 1;
        let turn = self.nodes[place].asked;
        let ends: Vec<usize> =
            self.nodes[place].ends.iter().map(|end| end.other).filter(|other| self.nodes[*other].id == node).collect();
        let Some(to) = ends.get(usize::try_from(turn).unwrap_or(0) % ends.len().max(1)).copied() else {
            self.at(ms, Event::Failed { to: place, what });
            return;
        };
        self.nodes[place].sent_bytes += request.encoded_len() as u64 + SYNC_OVERHEAD;
        if self.reaches(place, to) && !self.lost() {
            self.soon(Event::Request { to, from: place, request, what });
        } else {
            self.at(ms + REQUEST_MS, Event::Failed { to: place, what });
        }
    }
}
