//! What this node has measured of the others: how near they are, how fast, how busy, and who has failed.
//!
//! Dispatch reports each call here; the router reads. Nothing is guessed: where nothing was measured the
//! reader brings a prior. Every function that depends on time takes `now`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use parking_lot::{RwLock, RwLockReadGuard};

use super::cooldown::Cooldown;
use super::decision::Candidate;
use super::estimate::{self, Estimate, Rate, Surprise};
use super::regret::Regret;
use crate::capability::{CapabilityId, Load, PeerId};
use crate::mesh::{MeshView, PathClass};

/// Capabilities of a node of which measurements are kept: twice what an advert may hold would be a leak.
const MAX_CAPABILITIES: usize = crate::capability::limits::CAPABILITIES;
/// Nodes of which measurements are kept: ten times a large mesh. Only nodes that were called are kept at all.
const MAX_NODES: usize = 4096;
/// A reported load loses half its weight in this time: a call takes seconds.
const LOAD_HALF_LIFE: Duration = Duration::from_secs(5);
/// Prompts up to this many tokens tell the fixed cost of a first chunk; longer ones tell the rate.
const SHORT_PROMPT: f64 = 256.0;
/// Share of what was read before that is found in a backend's cache, when it does not tell.
pub(super) const CACHE_SHARE: f64 = 0.7;
/// Fewer tokens that were read before say nothing of a cache: a template has as many.
const LEAST_WARM: f64 = 64.0;
/// Weight of the newest call in the share that a cache keeps.
const NEWEST_SHARE: f64 = 0.25;

/// What this node has measured of the others.
#[derive(Debug)]
pub struct Signals {
    own: PeerId,
    nodes: RwLock<HashMap<PeerId, NodeSignals>>,
    /// What was measured of capabilities of one name, wherever: what to expect of one that was not.
    alike: RwLock<HashMap<CapabilityId, Alike>>,
}

/// What was measured of capabilities of one name, wherever they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Alike {
    prefill: Estimate,
    decode: Estimate,
    /// Tokens of an answer.
    answer: Estimate,
    regret: Regret,
}

impl Alike {
    /// Rates to expect where nothing was measured, between the best guess by size and what others of the name do.
    pub(super) fn prior(&self, prior: [f64; 4], now: Instant) -> [f64; 4] {
        let [overhead, prefill, decode, load] = prior;
        [
            overhead,
            (prefill * self.prefill.value(prefill, now)).sqrt(),
            (decode * self.decode.value(decode, now)).sqrt(),
            load,
        ]
    }

    fn learn(&mut self, seen: &Observation, now: Instant) {
        let slowdown = estimate::slowdown(seen.company);
        let (prompt, answer) = (seen.prompt_tokens as f64, seen.completion_tokens as f64);
        if answer >= 1.0 {
            self.answer.observe(answer, now);
        }
        if seen.streamed && answer >= 8.0 && !seen.rest.is_zero() {
            self.decode.observe((answer - 1.0) / seen.rest.as_secs_f64() * slowdown, now);
        }
        if prompt > SHORT_PROMPT
            && seen.streamed
            && seen.cached_tokens.is_none_or(|cached| cached == 0)
            && seen.warm_tokens == 0.0
        {
            self.prefill.observe(prompt / seen.first_chunk.as_secs_f64().max(1e-3) * slowdown, now);
        }
    }

    /// Seconds that requests have lost because it is not loaded on one more machine.
    pub(super) fn regret(&self, now: Instant) -> f64 {
        self.regret.seconds(now)
    }

    /// Tokens of an answer whose length nobody limited.
    pub(super) fn answer(&self, prior: f64, now: Instant) -> f64 {
        self.answer.value(prior, now)
    }
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
    prefill: Rate,
    decode: Rate,
    /// Seconds of a call, queueing and loading aside.
    service: Estimate,
    load_time: Estimate,
    /// How far the first content comes from when it was predicted.
    first: Surprise,
    /// Share of what it had read before that was still in its cache, as far as it told.
    cache_share: Option<f64>,
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
    /// Tokens of the prompt as they were estimated before the call: rates are learnt in the unit in which they are asked for,
    /// whatever the model makes of the text.
    pub prompt_tokens: u64,
    /// Tokens of the answer; 0 when unknown.
    pub completion_tokens: u64,
    /// Whether it came piece by piece. Otherwise the first chunk was the whole answer.
    pub streamed: bool,
    /// Whether the answer was written token by token at all.
    pub decodes: bool,
    /// The time to the first content, over what was predicted for it.
    pub first_ratio: Option<f64>,
    /// Of these tokens, those that were in a cache of the backend, where it told.
    pub cached_tokens: Option<u64>,
    /// Tokens of the prompt that this backend had read before, as far as this node knows.
    pub warm_tokens: f64,
    /// Calls that ran beside it, on average.
    pub company: f64,
}

/// What is known of one capability of one node now, priors filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    pub(super) in_flight: u32,
    /// Calls at the callee, by its last report and what was sent since.
    pub(super) outstanding: f64,
    /// Calls that run at once.
    pub(super) limit: f64,
    pub(super) overhead: f64,
    pub(super) prefill: f64,
    pub(super) decode: f64,
    /// The rates of a call that has the machine for itself.
    pub(super) prefill_alone: f64,
    pub(super) decode_alone: f64,
    pub(super) load: f64,
    /// Seconds of a usual call, queueing and loading aside; `None` before one was seen.
    pub(super) service: Option<f64>,
    /// Since its last answer, which tells that it was in memory.
    pub(super) idle: Option<Duration>,
    pub(super) measured: bool,
    /// In 95 of 100 cases a first content takes no more than so many times what is predicted.
    pub(super) surprise: f64,
    /// Share of what it has read before that its cache keeps.
    pub(super) cache_share: f64,
}

impl Signals {
    /// Nothing measured yet, by this node.
    #[must_use]
    pub fn new(own: PeerId) -> Self {
        Self { own, nodes: RwLock::default(), alike: RwLock::default() }
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

    /// Forgets all nodes but these, the ones with a live advert, and those that are connected or have work to do.
    pub fn retain(&self, live: &HashSet<PeerId>) {
        self.nodes.write().retain(|node, signals| {
            live.contains(node)
                || signals.path.is_some()
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
        if let Some(seen) = seen.filter(|seen| seen.decodes) {
            self.learn_alike(capability, &seen, now);
        }
    }

    /// A request goes to the first of these candidates.
    pub(super) fn choose(&self, candidates: &[Candidate], now: Instant) {
        // Where nothing is left to be loaded, there is nothing to regret.
        if let Some(chosen) = candidates.first()
            && candidates.iter().any(|candidate| candidate.parts.load_ms > 0.0)
        {
            self.with_alike(&chosen.capability.id, |alike| alike.regret.choose(candidates, now));
        }
    }

    fn with_alike(&self, capability: &CapabilityId, run: impl FnOnce(&mut Alike)) {
        let mut alike = self.alike.write();
        if alike.len() >= MAX_CAPABILITIES && !alike.contains_key(capability) {
            // Names that come and go for ever: what is learnt is learnt again in a few calls.
            alike.clear();
        }
        run(alike.entry(capability.clone()).or_default());
    }

    fn learn_alike(&self, capability: &CapabilityId, seen: &Observation, now: Instant) {
        self.with_alike(capability, |alike| alike.learn(seen, now));
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

    /// The node has begun a new run: what failed before says nothing of it.
    pub fn began_anew(&self, node: &PeerId, now: Instant) {
        if let Some(signals) = self.nodes.write().get_mut(node) {
            signals.cooldown.forgive(now);
            signals.capabilities.values_mut().for_each(|capability| capability.cooldown.forgive(now));
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
        SignalsRead { own: self.own, nodes: self.nodes.read(), alike: self.alike.read() }
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
    alike: RwLockReadGuard<'a, HashMap<CapabilityId, Alike>>,
}

impl SignalsRead<'_> {
    pub(super) fn node(&self, node: &PeerId) -> Option<&NodeSignals> {
        self.nodes.get(node)
    }

    /// What was measured of capabilities of that name, wherever they are.
    pub(super) fn alike(&self, capability: &CapabilityId) -> Option<&Alike> {
        if self.alike.is_empty() { None } else { self.alike.get(capability) }
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
    /// What is known now, with priors (overhead, prefill, decode, load; of a call alone) for the rest. `advertised`: calls that
    /// its node is said to be busy with, and those that run at once there.
    pub(super) fn reading(&self, prior: [f64; 4], advertised: (f64, f64), now: Instant) -> Reading {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let (advertised, usual_limit) = advertised;
        let (outstanding, limit) = match self.load {
            None => (advertised, usual_limit),
            Some((load, at, ours)) => {
                // A report is exact and ages; what the node tells everybody is coarse and stays.
                let fresh = (-now.saturating_duration_since(at).as_secs_f64() / LOAD_HALF_LIFE.as_secs_f64()).exp2();
                let total = f64::from(load.running) + f64::from(load.queued);
                // What was sent since the report is not in it.
                let since = f64::from(in_flight.saturating_sub(ours));
                let limit = if load.limit > 0 { f64::from(load.limit) } else { usual_limit };
                (total * fresh + advertised * (1.0 - fresh) + since, limit)
            }
        };
        let outstanding = outstanding.max(f64::from(in_flight));
        let company = outstanding.min(limit - 1.0).max(0.0);
        let [overhead, prefill, decode, load] = prior;
        Reading {
            in_flight,
            outstanding,
            limit,
            overhead: self.overhead.value(overhead, now),
            prefill: self.prefill.value(prefill, company, now),
            decode: self.decode.value(decode, company, now),
            prefill_alone: self.prefill.value(prefill, 0.0, now),
            decode_alone: self.decode.value(decode, 0.0, now),
            load: self.load_time.value(load, now),
            service: self.service.is_measured(now).then(|| self.service.value(1.0, now)),
            idle: self.answered.map(|at| now.saturating_duration_since(at)),
            measured: self.overhead.is_measured(now) || self.prefill.is_measured(now) || self.decode.is_measured(now),
            surprise: self.first.p95(),
            cache_share: self.cache_share.unwrap_or(CACHE_SHARE),
        }
    }

    /// One call gives one equation for two or three unknowns: a short prompt tells the fixed cost, a long one
    /// the prefill rate, and what came after the first chunk the decode rate.
    fn learn(&mut self, seen: &Observation, now: Instant) {
        if let Some(loading) = seen.loading {
            self.load_time.observe(loading.as_secs_f64(), now);
        }
        if let Some(ratio) = seen.first_ratio {
            self.first.observe(ratio);
        }
        let first = seen.first_chunk.as_secs_f64();
        let company = seen.company;
        self.service.observe(first + seen.rest.as_secs_f64(), now);
        if let Some(cached) = seen.cached_tokens
            && seen.warm_tokens >= LEAST_WARM
        {
            let share = (cached as f64 / seen.warm_tokens).clamp(0.0, 1.0);
            let old = self.cache_share.unwrap_or(CACHE_SHARE);
            self.cache_share = Some(old + (share - old) * NEWEST_SHARE);
        }
        // What was in the cache was not read.
        let cached =
            seen.cached_tokens.map_or(seen.warm_tokens * self.cache_share.unwrap_or(CACHE_SHARE), |it| it as f64);
        let prompt = (seen.prompt_tokens as f64 - cached).max(0.0);
        let answer = seen.completion_tokens as f64;
        let mut reading = first;
        if seen.decodes && !seen.streamed {
            // All came at once: take the prompt's expected share away, and no more than half.
            let expected = prompt / self.prefill.value(2000.0, company, now) + self.overhead.value(0.05, now);
            let writing = (first - expected).max(first * 0.5);
            if answer >= 4.0 {
                self.decode.observe(answer / writing, company, now);
            }
            reading = first - writing;
            if reading < expected * 0.5 {
                return;
            }
        }
        if prompt <= SHORT_PROMPT {
            let read = prompt / self.prefill.value(2000.0, company, now);
            self.overhead.observe((reading - read).max(reading * 0.25), now);
        } else {
            let read = (reading - self.overhead.value(0.05, now)).max(reading * 0.25);
            self.prefill.observe(prompt / read, company, now);
        }
        // The first token came with the first chunk; a handful of tokens says nothing of a rate.
        let rest = seen.rest.as_secs_f64();
        if seen.streamed && answer >= 8.0 && rest > 0.0 {
            self.decode.observe((answer - 1.0) / rest, company, now);
        }
    }
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
