//! What this node has measured of the others: how near they are, how fast, how busy, and who has failed.
//!
//! Dispatch reports each call here; the router reads. Nothing is guessed: where nothing was measured the
//! reader brings a prior. Every function that depends on time takes `now`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockReadGuard};

use super::cooldown::Cooldown;
use super::estimate::Estimate;
use crate::capability::{CapabilityId, Load, PeerId};
use crate::mesh::{MeshView, PathClass};

/// Capabilities of a node of which measurements are kept: twice what an advert may hold would be a leak.
const MAX_CAPABILITIES: usize = crate::capability::limits::CAPABILITIES;
/// Nodes of which measurements are kept: ten times a large mesh. Only nodes that were called are kept at all.
const MAX_NODES: usize = 4096;
/// A reported load loses half its weight in this time: a call takes seconds.
const LOAD_HALF_LIFE: Duration = Duration::from_secs(5);
/// Backends keep an idle model in memory for minutes (Ollama: five), so one that has just answered is warm.
const STAYS_WARM: Duration = Duration::from_secs(240);
/// Prompts up to this many tokens tell the fixed cost of a first chunk; longer ones tell the rate.
const SHORT_PROMPT: f64 = 256.0;

/// What this node has measured of the others.
#[derive(Debug)]
pub struct Signals {
    own: PeerId,
    nodes: RwLock<HashMap<PeerId, NodeSignals>>,
}

/// What was measured of one node.
#[derive(Debug, Default)]
pub(super) struct NodeSignals {
    path: Option<(PathClass, Option<Duration>)>,
    cooldown: Cooldown,
    capabilities: HashMap<CapabilityId, CapabilitySignals>,
}

/// What was measured of one capability of one node.
#[derive(Debug, Default)]
pub(super) struct CapabilitySignals {
    in_flight: Arc<AtomicU32>,
    /// Seconds to the first chunk besides reading the prompt.
    overhead: Estimate,
    prefill: Estimate,
    decode: Estimate,
    load_time: Estimate,
    /// The last reported load, when, and how many calls of ours it had in it.
    load: Option<(Load, Instant, u32)>,
    answered: Option<Instant>,
    cooldown: Cooldown,
}

/// Counts a call as under way until it is dropped.
#[derive(Debug)]
#[must_use = "the call counts as under way only while this lives"]
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a finished call tells of speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// From admission, queueing and loading aside, to the first chunk.
    pub first_chunk: Duration,
    /// From the first chunk to the end.
    pub rest: Duration,
    /// Loading the weights, when it was seen.
    pub loading: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer; 0 when unknown.
    pub completion_tokens: u64,
    /// Whether it came piece by piece. Otherwise the first chunk was the whole answer.
    pub streamed: bool,
    /// Whether the answer was written token by token at all.
    pub decodes: bool,
}

/// What is known of one capability of one node now, priors filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    pub(super) in_flight: u32,
    /// Calls at the callee, by its last report and what was sent since.
    pub(super) outstanding: f64,
    /// Calls that run at once, if reported.
    pub(super) limit: Option<u32>,
    pub(super) overhead: f64,
    pub(super) prefill: f64,
    pub(super) decode: f64,
    pub(super) load: f64,
    /// Known to be in memory.
    pub(super) warm: bool,
    pub(super) measured: bool,
}

impl Signals {
    /// Nothing measured yet, by this node.
    #[must_use]
    pub fn new(own: PeerId) -> Self {
        Self { own, nodes: RwLock::default() }
    }

    /// Takes in the paths to the nodes that are connected now.
    pub fn update_paths(&self, view: &MeshView) {
        let mut nodes = self.nodes.write();
        for (node, signals) in nodes.iter_mut() {
            if !view.peers.contains_key(node) {
                signals.path = None;
            }
        }
        for (node, peer) in &view.peers {
            if nodes.len() < MAX_NODES || nodes.contains_key(node) {
                nodes.entry(*node).or_default().path = Some((peer.path, peer.rtt));
            }
        }
    }

    /// Forgets all nodes but these: the ones with a live advert.
    pub fn retain(&self, live: &HashSet<PeerId>) {
        self.nodes.write().retain(|node, signals| {
            live.contains(node)
                || signals.capabilities.values().any(|capability| capability.in_flight.load(Ordering::Relaxed) > 0)
        });
    }

    /// A call is about to be sent.
    pub fn begin(&self, node: &PeerId, capability: &CapabilityId) -> InFlight {
        let counter = self
            .with(node, capability, |signals| Arc::clone(&signals.in_flight))
            .unwrap_or_else(|| Arc::new(AtomicU32::new(0)));
        counter.fetch_add(1, Ordering::Relaxed);
        InFlight(counter)
    }

    /// The callee told its load.
    pub fn observe_load(&self, node: &PeerId, capability: &CapabilityId, load: Load, now: Instant) {
        self.with(node, capability, |signals| {
            signals.load = Some((load, now, signals.in_flight.load(Ordering::Relaxed)));
        });
    }

    /// A call succeeded: its node and capability are well, and this fast.
    pub fn succeed(&self, node: &PeerId, capability: &CapabilityId, seen: Option<Observation>, now: Instant) {
        if let Some(signals) = self.nodes.write().get_mut(node) {
            signals.cooldown.succeed();
        }
        self.with(node, capability, |signals| {
            signals.cooldown.succeed();
            signals.answered = Some(now);
            if let Some(seen) = seen {
                signals.learn(&seen, now);
            }
        });
    }

    /// A call that began at `began` failed at the capability or its backend.
    pub fn fail_capability(&self, node: &PeerId, capability: &CapabilityId, began: Instant, now: Instant) {
        let own = self.own;
        self.with(node, capability, |signals| signals.cooldown.fail(began, now, (own, node, capability)));
    }

    /// A call that began at `began` was answered with an error that may be the request's own fault.
    pub fn doubt_capability(&self, node: &PeerId, capability: &CapabilityId, began: Instant, now: Instant) {
        let own = self.own;
        self.with(node, capability, |signals| signals.cooldown.doubt(began, now, (own, node, capability)));
    }

    /// The capability said when to come again. Client faults are none of this module's business.
    pub fn rest_capability(&self, node: &PeerId, capability: &CapabilityId, wait: Duration, now: Instant) {
        self.with(node, capability, |signals| signals.cooldown.rest(now, wait));
    }

    /// A call that began at `began` did not reach the node, or the node fell silent.
    pub fn fail_node(&self, node: &PeerId, began: Instant, now: Instant) {
        let mut nodes = self.nodes.write();
        if nodes.len() < MAX_NODES || nodes.contains_key(node) {
            nodes.entry(*node).or_default().cooldown.fail(began, now, (self.own, node));
        }
    }

    /// Calls of this node that are under way at that capability.
    #[must_use]
    pub fn in_flight(&self, node: &PeerId, capability: &CapabilityId) -> u32 {
        let nodes = self.nodes.read();
        let signals = nodes.get(node).and_then(|signals| signals.capabilities.get(capability));
        signals.map_or(0, |signals| signals.in_flight.load(Ordering::Relaxed))
    }

    /// How long a node, or this capability of it, rests still after failing, and after how many failures.
    #[must_use]
    pub fn cooling(&self, node: &PeerId, capability: &CapabilityId, now: Instant) -> Option<(Duration, u32)> {
        self.read().node(node).and_then(|signals| signals.cooling(capability, now))
    }

    pub(super) fn read(&self) -> SignalsRead<'_> {
        SignalsRead { own: self.own, nodes: self.nodes.read() }
    }

    /// Runs on the signals of a capability, unless there are too many already.
    fn with<T>(
        &self,
        node: &PeerId,
        capability: &CapabilityId,
        run: impl FnOnce(&mut CapabilitySignals) -> T,
    ) -> Option<T> {
        let mut nodes = self.nodes.write();
        if nodes.len() >= MAX_NODES && !nodes.contains_key(node) {
            return None;
        }
        let capabilities = &mut nodes.entry(*node).or_default().capabilities;
        if let Some(signals) = capabilities.get_mut(capability) {
            return Some(run(signals));
        }
        if capabilities.len() >= MAX_CAPABILITIES {
            // A node that renames its capabilities for ever: keep those that are in use.
            capabilities.retain(|_, signals| signals.in_flight.load(Ordering::Relaxed) > 0);
            if capabilities.len() >= MAX_CAPABILITIES {
                return None;
            }
        }
        Some(run(capabilities.entry(capability.clone()).or_default()))
    }
}

/// How near a node is, and its round trip, each if known.
pub(super) type Path = (Option<PathClass>, Option<Duration>);

/// The signals of one moment. Writers wait while it lives, so it must not live long.
pub(super) struct SignalsRead<'a> {
    own: PeerId,
    nodes: RwLockReadGuard<'a, HashMap<PeerId, NodeSignals>>,
}

impl SignalsRead<'_> {
    pub(super) fn node(&self, node: &PeerId) -> Option<&NodeSignals> {
        self.nodes.get(node)
    }

    /// How near a node is, and its round trip if measured.
    pub(super) fn path(&self, node: &PeerId) -> Path {
        if *node == self.own {
            return (Some(PathClass::Itself), Some(Duration::ZERO));
        }
        match self.nodes.get(node).and_then(|signals| signals.path) {
            Some((class, rtt)) => (Some(class), rtt),
            None => (None, None),
        }
    }
}

impl NodeSignals {
    /// How long it rests still, and after how many failures.
    pub(super) fn cooling(&self, capability: &CapabilityId, now: Instant) -> Option<(Duration, u32)> {
        let of = |cooldown: &Cooldown| cooldown.remaining(now).map(|left| (left, cooldown.failures()));
        let capability = self.capabilities.get(capability).and_then(|signals| of(&signals.cooldown));
        of(&self.cooldown).max(capability)
    }

    /// Whether it or any of its capabilities rests: then each must be asked.
    pub(super) fn any_cooling(&self, now: Instant) -> bool {
        let rests = |cooldown: &Cooldown| cooldown.remaining(now).is_some();
        rests(&self.cooldown) || self.capabilities.values().any(|signals| rests(&signals.cooldown))
    }

    /// Whether there is anything of any capability.
    pub(super) fn capability(&self, id: &CapabilityId) -> Option<&CapabilitySignals> {
        if self.capabilities.is_empty() { None } else { self.capabilities.get(id) }
    }
}

impl CapabilitySignals {
    /// What is known now, with priors (overhead, prefill, decode, load) for the rest.
    pub(super) fn reading(&self, prior: [f64; 4], now: Instant) -> Reading {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let (reported, limit) = match self.load {
            None => (0.0, None),
            Some((load, at, ours)) => {
                let age = now.saturating_duration_since(at).as_secs_f64() / LOAD_HALF_LIFE.as_secs_f64();
                let total = f64::from(load.running) + f64::from(load.queued);
                // What was sent since the report is not in it.
                let since = f64::from(in_flight.saturating_sub(ours));
                (total * (-age).exp2() + since, (load.limit > 0).then_some(load.limit))
            }
        };
        let [overhead, prefill, decode, load] = prior;
        Reading {
            in_flight,
            outstanding: reported.max(f64::from(in_flight)),
            limit,
            overhead: self.overhead.value(overhead, now),
            prefill: self.prefill.value(prefill, now),
            decode: self.decode.value(decode, now),
            load: self.load_time.value(load, now),
            warm: self.answered.is_some_and(|at| now.saturating_duration_since(at) < STAYS_WARM),
            measured: self.overhead.is_measured(now) || self.prefill.is_measured(now) || self.decode.is_measured(now),
        }
    }

    /// One call gives one equation for two or three unknowns: a short prompt tells the fixed cost, a long one
    /// the prefill rate, and what came after the first chunk the decode rate.
    fn learn(&mut self, seen: &Observation, now: Instant) {
        if let Some(loading) = seen.loading {
            self.load_time.observe(loading.as_secs_f64(), now);
        }
        let first = seen.first_chunk.as_secs_f64();
        let prompt = seen.prompt_tokens as f64;
        let answer = seen.completion_tokens as f64;
        let mut reading = first;
        if seen.decodes && !seen.streamed {
            // All came at once: take the prompt's expected share away, and no more than half.
            let expected = prompt / self.prefill.value(2000.0, now) + self.overhead.value(0.05, now);
            let writing = (first - expected).max(first * 0.5);
            if answer >= 4.0 {
                self.decode.observe(answer / writing, now);
            }
            reading = first - writing;
            if reading < expected * 0.5 {
                return;
            }
        }
        if prompt <= SHORT_PROMPT {
            self.overhead.observe((reading - prompt / self.prefill.value(2000.0, now)).max(reading * 0.25), now);
        } else {
            self.prefill.observe(prompt / (reading - self.overhead.value(0.05, now)).max(reading * 0.25), now);
        }
        // The first token came with the first chunk; a handful of tokens says nothing of a rate.
        let rest = seen.rest.as_secs_f64();
        if seen.streamed && answer >= 8.0 && rest > 0.0 {
            self.decode.observe((answer - 1.0) / rest, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{LinkTransport, PeerView};

    fn view(peers: &[(PeerId, PathClass, u64)]) -> MeshView {
        MeshView {
            mesh_id: String::new(),
            mesh_name: String::new(),
            membership: None,
            node: PeerId::random(),
            listening: Vec::new(),
            peers: peers
                .iter()
                .map(|(node, path, rtt)| {
                    let rtt = Some(Duration::from_millis(*rtt));
                    let transport = LinkTransport::Quic;
                    (*node, PeerView { path: *path, transport, rtt, address: String::new(), connections: 1 })
                })
                .collect(),
            seeds: Vec::new(),
        }
    }

    const PRIOR: [f64; 4] = [0.05, 1000.0, 20.0, 5.0];

    fn reading(signals: &Signals, node: &PeerId, id: &CapabilityId, now: Instant) -> Option<Reading> {
        let read = signals.read();
        read.node(node).and_then(|node| node.capability(id)).map(|capability| capability.reading(PRIOR, now))
    }

    #[test]
    fn a_call_counts_while_its_guard_lives() {
        let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
        let first = signals.begin(&node, &id);
        let second = signals.begin(&node, &id);
        assert_eq!(signals.in_flight(&node, &id), 2);
        drop(first);
        drop(second);
        assert_eq!(signals.in_flight(&node, &id), 0);
    }

    #[test]
    fn own_calls_since_the_report_are_added_to_it_and_the_report_fades() {
        let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
        let now = Instant::now();
        let _one = signals.begin(&node, &id);
        signals.observe_load(&node, &id, Load { running: 3, queued: 1, limit: 4 }, now);
        let _two = signals.begin(&node, &id);
        let fresh = reading(&signals, &node, &id, now).expect("known");
        assert_eq!((fresh.outstanding, fresh.limit), (5.0, Some(4)));
        let old = reading(&signals, &node, &id, now + Duration::from_secs(60)).expect("known");
        assert_eq!(old.outstanding, 2.0, "what is surely there is our own");
    }

    #[test]
    fn rates_are_learnt_from_streams_and_from_whole_answers() {
        let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
        let now = Instant::now();
        let streamed = Observation {
            first_chunk: Duration::from_millis(4000),
            rest: Duration::from_secs(2),
            loading: None,
            prompt_tokens: 4000,
            completion_tokens: 101,
            streamed: true,
            decodes: true,
        };
        for _ in 0..8 {
            signals.succeed(&node, &id, Some(streamed), now);
        }
        let seen = reading(&signals, &node, &id, now).expect("known");
        assert!(seen.measured && seen.warm);
        assert!((45.0..=51.0).contains(&seen.decode), "{seen:?}");
        assert!((900.0..=1100.0).contains(&seen.prefill), "{seen:?}");

        let id = CapabilityId::from("b");
        let whole = Observation { rest: Duration::ZERO, streamed: false, prompt_tokens: 10, ..streamed };
        for _ in 0..8 {
            signals.succeed(&node, &id, Some(whole), now);
        }
        let seen = reading(&signals, &node, &id, now).expect("known");
        assert!((22.0..=30.0).contains(&seen.decode), "101 tokens in 4 s: {seen:?}");
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten_and_paths_follow_the_view() {
        let signals = Signals::new(PeerId::random());
        let (a, b) = (PeerId::random(), PeerId::random());
        signals.update_paths(&view(&[(a, PathClass::Lan, 3), (b, PathClass::Wan, 80)]));
        assert_eq!(signals.read().path(&b), (Some(PathClass::Wan), Some(Duration::from_millis(80))));
        signals.update_paths(&view(&[(a, PathClass::Lan, 3)]));
        assert_eq!(signals.read().path(&b), (None, None));
        signals.retain(&HashSet::from([a]));
        assert!(signals.read().node(&b).is_none());
        assert!(signals.read().node(&a).is_some());
    }

    #[test]
    fn measurements_are_bounded() {
        let (signals, node) = (Signals::new(PeerId::random()), PeerId::random());
        let now = Instant::now();
        for index in 0..MAX_CAPABILITIES * 3 {
            signals.fail_capability(&node, &CapabilityId::from(format!("c{index}").as_str()), now, now);
        }
        assert!(signals.nodes.read()[&node].capabilities.len() <= MAX_CAPABILITIES);
    }

    #[test]
    fn the_longer_rest_of_node_and_capability_counts() {
        let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
        let now = Instant::now();
        signals.rest_capability(&node, &id, Duration::from_secs(9), now);
        signals.fail_node(&node, now, now);
        assert_eq!(signals.cooling(&node, &id, now).map(|(left, _)| left), Some(Duration::from_secs(9)));
        assert!(signals.cooling(&node, &CapabilityId::from("b"), now).is_some());
        signals.succeed(&node, &id, None, now);
        assert_eq!(signals.cooling(&node, &id, now), None);
    }
}
