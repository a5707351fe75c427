//! What a decision is made of while it is made: the candidates scored so far, and who was rejected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::affinity::Warm;
use super::aliases::Aliases;
use super::decision::{Candidate, MAX_CANDIDATES, MAX_REJECTED, Parts, Rejected, Weights};
use super::facts::{Fact, Facts};
use super::likeness::Prototypes;
use super::reason;
use super::requirements::Needs;
use super::score::{self, Demand, Standing};
use super::signals::{NodeSignals, Path, SignalsRead};
use super::training::Trainer;
use crate::capability::PeerId;
use crate::catalog::{Entry, EntryId, Snapshot};

/// What a decision is made from.
pub(super) struct World<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Makes the facts of the snapshot, if they are needed.
    pub(super) facts: &'a dyn Fn() -> Arc<Facts>,
    pub(super) signals: &'a SignalsRead<'a>,
    pub(super) aliases: &'a Aliases,
    pub(super) prototypes: &'a Prototypes,
    pub(super) trainer: &'a Trainer,
    /// What of the request is warm, and where.
    pub(super) warm: &'a Warm,
    /// Whether those that rest are candidates too, after all others.
    pub(super) wakes: bool,
    /// The question's vector where the facts are by the classifier of another space.
    pub(super) seen: Option<&'a [f32]>,
    pub(super) now: Instant,
}

/// Scored entries that are held before all but the best are let go.
const SCORED: usize = 4 * MAX_CANDIDATES;

/// An entry that can do it, while it is not known yet whether it is among the best.
#[derive(Debug, Clone, Copy)]
struct Scored {
    score: f64,
    quality: f32,
    entry: EntryId,
    tier: i32,
    /// Place of its parts in [`Choice::parts`]: to put these in order too would be to copy them about.
    parts: u32,
}

impl Scored {
    /// Best first. Equals in the order of the catalog, which is by node id: the same for every decision, and free.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        score::best_first((self.score, self.quality), (other.score, other.quality)).then(self.entry.cmp(&other.entry))
    }
}

/// What is known of a node, looked up once for all that it offers.
pub(super) struct NodeStanding<'a> {
    pub(super) signals: Option<&'a NodeSignals>,
    /// Whether anything of it rests.
    pub(super) any_cooling: bool,
    path: Path,
    /// The load class of its advert.
    load: u8,
}

/// A decision that is being made.
pub(super) struct Choice<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) needs: Needs<'a>,
    /// The nodes that the caller wants; `None`: any.
    pub(super) nodes: Option<&'a [PeerId]>,
    demand: Demand,
    pub(super) weights: Weights,
    scored: Vec<Scored>,
    /// What went into the scores.
    parts: Vec<Parts>,
    /// Those that can do it, scored or not.
    pub(super) candidates_total: usize,
    pub(super) rejected: Vec<Rejected>,
    pub(super) rejected_total: usize,
    /// The shortest rest of those that could otherwise.
    pub(super) cooling: Option<Duration>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(
        world: &'a World<'a>,
        needs: Needs<'a>,
        nodes: Option<&'a [PeerId]>,
        demand: Demand,
        weights: Weights,
    ) -> Self {
        Self {
            world,
            needs,
            nodes,
            demand,
            weights,
            scored: Vec::new(),
            parts: Vec::new(),
            candidates_total: 0,
            rejected: Vec::new(),
            rejected_total: 0,
            cooling: None,
        }
    }

    /// Whether the caller wants it done on this node.
    pub(super) fn wants(&self, node: &PeerId) -> bool {
        self.nodes.is_none_or(|nodes| nodes.contains(node))
    }

    /// How a node stands, if the caller wants it.
    pub(super) fn standing_of(&self, node: &PeerId, load: u8) -> Option<NodeStanding<'a>> {
        self.wants(node).then(|| self.node_standing(node, load))
    }

    pub(super) fn node_standing(&self, node: &PeerId, load: u8) -> NodeStanding<'a> {
        let all = &self.world.signals;
        let signals = all.node(node);
        let any_cooling = signals.is_some_and(|signals| signals.any_cooling(self.world.now));
        NodeStanding { signals, any_cooling, path: all.path(node), load }
    }

    /// Whether it rests; then it is rejected.
    pub(super) fn reject_cooling(&mut self, entry: &Entry, signals: Option<&NodeSignals>) -> bool {
        let cooling = signals.and_then(|signals| signals.cooling(&entry.capability.id, self.world.now));
        let Some((left, failures)) = cooling else { return false };
        self.cooling = Some(self.cooling.map_or(left, |old| old.min(left)));
        self.reject(entry, || reason::cooling(left, failures));
        true
    }

    /// Scores an entry that can do it.
    pub(super) fn weigh(
        &mut self,
        id: EntryId,
        entry: &Entry,
        fact: &Fact,
        node: &NodeStanding<'_>,
        tier: i32,
        similarity: Option<f32>,
    ) {
        let mut parts =
            score::predict(&standing(self.world, entry, fact, node), &demand_of(self.world, entry, self.demand));
        parts.similarity = similarity;
        (parts.tier, parts.cost_usd) = (tier, self.dollars(fact));
        let score = score::score(&self.weights, &parts);
        self.scored.push(Scored { score, quality: fact.quality, entry: id, tier, parts: self.parts.len() as u32 });
        self.parts.push(parts);
        if self.scored.len() >= SCORED {
            self.keep_best();
        }
    }

    /// Keeps as many as a decision lists.
    fn keep_best(&mut self) {
        if self.scored.len() > MAX_CANDIDATES {
            self.scored.select_nth_unstable_by(MAX_CANDIDATES, Scored::order);
            self.scored.truncate(MAX_CANDIDATES);
            let parts = self.scored.iter_mut().zip(0..).filter_map(|(scored, place)| {
                let old = std::mem::replace(&mut scored.parts, place);
                self.parts.get(old as usize).copied()
            });
            self.parts = parts.collect();
        }
    }

    fn dollars(&self, fact: &Fact) -> f64 {
        (self.demand.prompt_tokens * f64::from(fact.cost.0) + self.demand.answer_tokens * f64::from(fact.cost.1)) / 1e6
    }

    pub(super) fn reject(&mut self, entry: &Entry, reason: impl FnOnce() -> String) {
        self.rejected_total += 1;
        if self.rejected.len() < MAX_REJECTED {
            self.rejected.push(Rejected {
                node: entry.node,
                node_name: Arc::clone(&entry.node_name),
                capability: Arc::clone(&entry.capability),
                reason: reason(),
            });
        }
    }

    /// The candidates, best first, and the tier of the best.
    pub(super) fn best(&mut self) -> (Option<i32>, Vec<Candidate>) {
        self.keep_best();
        self.scored.sort_unstable_by(Scored::order);
        let candidates = self.scored.iter().filter_map(|scored| self.candidate(scored)).collect();
        (self.scored.first().map(|best| best.tier), candidates)
    }

    fn candidate(&self, scored: &Scored) -> Option<Candidate> {
        let entry = self.world.snapshot.entry(scored.entry)?;
        let parts = *self.parts.get(scored.parts as usize)?;
        Some(Candidate {
            node: entry.node,
            node_name: Arc::clone(&entry.node_name),
            capability: Arc::clone(&entry.capability),
            score: scored.score,
            predicted: score::predicted(&parts),
            parts,
        })
    }
}

fn standing(world: &World<'_>, entry: &Entry, fact: &Fact, node: &NodeStanding<'_>) -> Standing {
    let (path, rtt) = node.path;
    let id = &entry.capability.id;
    let guess = fact.prior;
    let prior = [score::PRIOR_OVERHEAD, f64::from(guess.prefill), f64::from(guess.decode), f64::from(guess.load)];
    let alike = world.signals.alike(id);
    let prior = alike.map_or(prior, |alike| alike.prior(prior, world.now));
    let limit = if fact.concurrency > 0 { f64::from(fact.concurrency) } else { score::USUAL_LIMIT };
    let advertised = score::calls_of_class(node.load, limit);
    let reading = node.signals.and_then(|signals| signals.capability(id));
    Standing {
        path,
        rtt,
        residency: fact.residency,
        limit,
        advertised,
        prior,
        quality: f64::from(fact.quality),
        warm_tokens: f64::from(world.warm.tokens(&entry.node, id)),
        regret: alike.map_or(0.0, |alike| alike.regret(world.now)),
        reading: reading.map(|capability| capability.reading(prior, (advertised, limit), world.now)),
    }
}

/// What the request asks of this entry: the length of its usual answers, where they are known.
fn demand_of(world: &World<'_>, entry: &Entry, demand: Demand) -> Demand {
    match world.signals.alike(&entry.capability.id) {
        Some(alike) => demand.with_usual_answer(alike.answer(score::EXPECTED_TOKENS, world.now)),
        None => demand,
    }
}
