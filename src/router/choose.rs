//! The decision itself: a function of the catalog, what was measured, an intent and the time.
//!
//! Candidates by name are looked at one by one. For `auto` and for aliases every entry of the catalog is a
//! candidate, so a [sweep](super::sweep) over the [`Facts`] sorts them into tiers, only the best tiers are scored, and only the
//! best few become [`Candidate`]s.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::affinity::Warm;
use super::aliases::{Alias, Aliases, Prefer};
use super::decision::{Candidate, Decision, MAX_CANDIDATES, MAX_REJECTED, NoRoute, Parts, Rejected, Step};
use super::facts::{Fact, Facts, decodes};
use super::likeness::Prototypes;
use super::meaning::{self, Audience, Meant, Verdict};
use super::reason;
use super::requirements::Needs;
use super::score::{self, Demand, Standing, Weights};
use super::signals::{NodeSignals, Path, SignalsRead};
use super::speciality::Speciality;
use super::subset::Subset;
use super::sweep::{Fate, Picks, Why};
use super::target::{Among, Resolved, resolve};
use super::training::Trainer;
use crate::capability::{Capability, Intent, Kind, Operation, PeerId, Target};
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

/// Tiers of `auto`: what was meant, then what answers anything, then the rest, as a last resort.
const TIER_MEANT: i32 = 3;
const TIER_GENERAL: i32 = 2;
const TIER_OTHER_KIND: i32 = 1;
const TIER_OTHER_DOMAIN: i32 = 0;

/// Decides, but for the decision's id and its own duration.
pub(super) fn decide(world: &World<'_>, intent: &Intent) -> Decision {
    let target = match &intent.target {
        Target::Auto => "auto".to_owned(),
        Target::Named(name) => name.clone(),
    };
    let resolved = match resolve(&intent.target, world.snapshot, world.aliases) {
        Ok(resolved) => resolved,
        Err(no_route) => {
            let reason = no_route.to_string();
            return Decision { target, step: Step::Unknown, reason, no_route: Some(no_route), ..Decision::default() };
        }
    };
    let mut needs = Needs::of(intent);
    let mut prefer = Prefer::from(intent.preference);
    if let Among::Alias(_, alias) = resolved.among {
        needs = needs.and(alias.features, alias.modalities);
        if prefer == Prefer::Balanced {
            prefer = alias.prefer;
        }
    }
    let mut choice = Choice {
        world,
        needs,
        nodes: resolved.nodes.as_deref(),
        demand: Demand {
            streamed: intent.requirements.stream,
            ..Demand::new(
                intent.requirements.prompt_tokens,
                intent.requirements.max_output_tokens,
                decodes(intent.operation),
            )
        },
        weights: Weights::of(prefer),
        scored: Vec::new(),
        candidates_total: 0,
        rejected: Vec::new(),
        rejected_total: 0,
        cooling: None,
    };
    let verdict = match &resolved.among {
        Among::Entries(ids) => {
            choice.weights = Weights::same_model(prefer);
            choice.by_name(ids);
            None
        }
        Among::Alias(_, alias) if !alias.models.is_empty() => {
            choice.by_models(&alias.models);
            None
        }
        Among::Alias(name, alias) => {
            choice.by_alias(name, alias);
            None
        }
        Among::All => choice.by_meaning(intent),
    };
    choice.finish(target, &resolved, verdict, intent)
}

/// An entry that can do it, while it is not known yet whether it is among the best.
#[derive(Debug, Clone, Copy)]
struct Scored {
    score: f64,
    quality: f32,
    parts: Parts,
    entry: EntryId,
    tier: i32,
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
    weights: Weights,
    scored: Vec<Scored>,
    /// Those that can do it, scored or not.
    pub(super) candidates_total: usize,
    pub(super) rejected: Vec<Rejected>,
    pub(super) rejected_total: usize,
    /// The shortest rest of those that could otherwise.
    cooling: Option<Duration>,
}

impl<'a> Choice<'a> {
    fn by_name(&mut self, ids: &[EntryId]) {
        for id in ids {
            self.consider(*id, 0);
        }
    }

    /// The models of an alias, best first; a model is one tier.
    fn by_models(&mut self, models: &[String]) {
        let snapshot = self.world.snapshot;
        for (place, model) in models.iter().enumerate() {
            let tier = i32::try_from(models.len() - place).unwrap_or(i32::MAX);
            let exact = snapshot.by_model(model);
            for id in if exact.is_empty() { snapshot.by_project(model) } else { exact } {
                self.consider(*id, tier);
            }
        }
    }

    fn by_alias(&mut self, name: &str, alias: &Alias) {
        let facts = (self.world.facts)();
        let nodes = self.wanted_nodes(&facts);
        let able = self.able(&facts, nodes.as_deref());
        let fate = |fact: &Fact| match fact.speciality {
            _ if facts.kind(fact).is_some_and(|kind| alias.kinds.contains(kind)) && !fact.own_field => {
                Fate::In(1, None)
            }
            Speciality::Domain => Fate::Out(Why::OneField),
            Speciality::General => Fate::In(0, None),
            _ if alias.kinds.is_empty() => Fate::In(0, None),
            _ => Fate::Out(Why::Kind),
        };
        self.sweep(&facts, &able, &Picks::default(), fate, |why, capability| match why {
            Why::OneField => format!("it is made for one field; {name} is for general models, so name it to use it"),
            _ => format!("its kind is {}, and {name} wants {}", capability.kind, kinds(&alias.kinds)),
        });
    }

    /// By place in [`Facts::nodes`]: whether the caller wants it. `None` when any will do.
    fn wanted_nodes(&self, facts: &Facts) -> Option<Vec<bool>> {
        self.nodes.map(|_| facts.nodes.iter().map(|(node, _)| self.wants(node)).collect())
    }

    /// The entries that can do it, on the nodes that the caller wants.
    fn able<'f>(&self, facts: &'f Facts, nodes: Option<&'f [bool]>) -> Subset<'f> {
        let fits = |fact: &Fact| {
            self.needs.meets(fact) && self.needs.kind().is_none_or(|wanted| facts.kind(fact) == Some(wanted))
        };
        Subset::new(facts, facts.groups.iter().map(|group| fits(&group.fact)).collect(), nodes)
    }

    /// How a node stands, if the caller wants it.
    pub(super) fn standing_of(&self, node: &PeerId, load: u8) -> Option<NodeStanding<'a>> {
        self.wants(node).then(|| self.node_standing(node, load))
    }

    fn wants(&self, node: &PeerId) -> bool {
        self.nodes.is_none_or(|nodes| nodes.contains(node))
    }

    fn node_standing(&self, node: &PeerId, load: u8) -> NodeStanding<'a> {
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

    /// Looks at one entry by itself.
    fn consider(&mut self, id: EntryId, tier: i32) {
        let Some(entry) = self.world.snapshot.entry(id) else { return };
        if !self.wants(&entry.node) {
            return;
        }
        if let Some(reason) = self.needs.why_not(&entry.capability) {
            return self.reject(entry, || reason);
        }
        let load = self.world.snapshot.advert(&entry.node).map_or(0, |advert| advert.load);
        let node = self.node_standing(&entry.node, load);
        let rests = self.reject_cooling(entry, node.signals);
        if !rests || self.world.wakes {
            let tier = if rests { tier - 1 } else { tier };
            self.weigh(id, entry, &Fact::of(&entry.capability), &node, tier, None);
            self.candidates_total += 1;
        }
    }

    /// Every entry of the catalog, by what the question means.
    fn by_meaning(&mut self, intent: &Intent) -> Option<Verdict> {
        let facts = (self.world.facts)();
        let talks = matches!(intent.operation, Operation::Chat | Operation::Complete);
        let domain = intent.requirements.domain.as_deref();
        let nodes = self.wanted_nodes(&facts);
        let able = self.able(&facts, nodes.as_deref());
        if !talks {
            let stable =
                (intent.operation == Operation::Embed).then(|| best_model(self.world.snapshot, &able)).flatten();
            let entries =
                able.iter().filter(|(_, fact)| stable == Some(fact.model)).map(|(id, _)| (id, None)).collect();
            let picks = Picks { tier: 1, entries };
            self.sweep(&facts, &able, &picks, |_| Fate::Picked(Ok(0)), |_, _| String::new());
            return None;
        }
        let verdict = self.judge(intent, domain, &facts, &able);
        let meant = verdict.as_ref().and_then(|verdict| verdict.meant.as_ref());
        let picks = match meant {
            Some(Meant::Entries(hits)) => hits.iter().map(|(id, similarity)| (*id, Some(*similarity))).collect(),
            _ => Vec::new(),
        };
        let picks = Picks { tier: TIER_MEANT, entries: picks };
        let fate = |fact: &Fact| match (meant, fact.speciality) {
            (_, Speciality::Domain) if domain.is_some() => Fate::Picked(Err(Why::OtherField)),
            (_, Speciality::Domain) => Fate::Picked(Ok(TIER_OTHER_DOMAIN)),
            (Some(Meant::Speciality(kind, similarity)), its) if its == *kind => Fate::In(TIER_MEANT, Some(*similarity)),
            (_, Speciality::General) => Fate::In(TIER_GENERAL, None),
            _ => Fate::In(TIER_OTHER_KIND, None),
        };
        self.sweep(&facts, &able, &picks, fate, |_, capability| {
            let its = capability.domain.as_deref().or(capability.project.as_deref()).unwrap_or_default();
            format!("its field is {its}, not {}", domain.unwrap_or_default())
        });
        verdict
    }

    /// What the question means; with a domain, whoever bears its name is meant without more ado.
    fn judge(&self, intent: &Intent, domain: Option<&str>, facts: &Facts, able: &Subset<'_>) -> Option<Verdict> {
        let World { snapshot, prototypes, seen, .. } = *self.world;
        if let Some(domain) = domain {
            let is_named = |id: EntryId| snapshot.entry(id).is_some_and(|entry| is_of_domain(entry, domain));
            let named: Vec<_> = able.iter().filter(|(id, _)| is_named(*id)).map(|(id, _)| (id, 1.0)).collect();
            if let Some(first) = named.first() {
                let nearest = Some((meaning::Nearest::Entry(first.0), 1.0));
                let meant = Some(Meant::Entries(named));
                let (general, needed) = (0.0, 1.0);
                return Some(Verdict { meant, nearest, general, needed, taken: None, doubtful: false });
            }
        }
        let query = question_of(intent)?;
        self.world.trainer.asked(snapshot);
        let (own_field, present) = (able.of(Speciality::Domain), able.specialities());
        let audience = Audience { snapshot, facts, prototypes, own_field: &own_field, present: &present, seen };
        Some(meaning::judge(&query, &audience))
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
        let score = score::score(&self.weights, tier, &parts, node.path.0, self.dollars(fact));
        self.scored.push(Scored { score, quality: fact.quality, parts, entry: id, tier });
        if self.scored.len() >= SCORED {
            self.keep_best();
        }
    }

    /// Keeps as many as a decision lists.
    fn keep_best(&mut self) {
        if self.scored.len() > MAX_CANDIDATES {
            self.scored.select_nth_unstable_by(MAX_CANDIDATES, Scored::order);
            self.scored.truncate(MAX_CANDIDATES);
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

    fn finish(
        mut self,
        target: String,
        resolved: &Resolved<'_>,
        verdict: Option<Verdict>,
        intent: &Intent,
    ) -> Decision {
        let snapshot = self.world.snapshot;
        let candidates_total = self.candidates_total;
        self.keep_best();
        self.scored.sort_unstable_by(Scored::order);
        let candidates: Vec<_> = self.scored.iter().filter_map(|scored| self.candidate(scored)).collect();

        let no_route = candidates.is_empty().then(|| match self.cooling {
            Some(retry_after) => NoRoute::AllCooling { retry_after },
            None => NoRoute::NothingCan(reason::nothing_can(
                &target,
                resolved.step,
                intent.operation,
                &self.rejected,
                self.rejected_total,
            )),
        });
        let meant = self.scored.first().is_some_and(|best| best.tier == TIER_MEANT);
        let abstained = resolved.step_is_auto() && verdict.is_some() && !meant && no_route.is_none();
        // Where there is nobody else, it makes no difference.
        let doubtful = candidates_total > 1 && verdict.as_ref().is_some_and(|verdict| verdict.doubtful);
        let reason = match &no_route {
            Some(no_route) => no_route.to_string(),
            None => reason::chosen(&reason::Grounds {
                target: &target,
                resolved,
                verdict: verdict.as_ref(),
                meant,
                snapshot,
                best_tier: self.scored.first().map_or(0, |best| best.tier),
                candidates: &candidates,
                candidates_total,
                operation: intent.operation,
            }),
        };
        Decision {
            target,
            step: resolved.step,
            reason,
            taken: verdict.and_then(|verdict| verdict.taken),
            doubtful,
            abstained,
            candidates,
            candidates_total,
            rejected: self.rejected,
            rejected_total: self.rejected_total,
            no_route,
            ..Decision::default()
        }
    }

    fn candidate(&self, scored: &Scored) -> Option<Candidate> {
        let entry = self.world.snapshot.entry(scored.entry)?;
        Some(Candidate {
            node: entry.node,
            node_name: Arc::clone(&entry.node_name),
            capability: Arc::clone(&entry.capability),
            score: scored.score,
            predicted: score::predicted(&scored.parts),
            parts: scored.parts,
        })
    }
}

impl Resolved<'_> {
    fn step_is_auto(&self) -> bool {
        matches!(self.among, Among::All)
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

/// The text whose meaning is matched: what the caller asks, with the domain that they say it is of.
pub(super) fn question_of(intent: &Intent) -> Option<Cow<'_, str>> {
    match (intent.requirements.domain.as_deref(), intent.query.as_deref()) {
        (Some(domain), Some(query)) => Some(Cow::Owned(format!("{domain}: {query}"))),
        (Some(text), None) | (None, Some(text)) => Some(Cow::Borrowed(text)),
        (None, None) => None,
    }
}

/// The model that `auto` embeds with: vectors of two models cannot be compared, so it must not depend on who is
/// busy. Text embedders before those of the ML engine, then quality, then the name.
fn best_model(snapshot: &Snapshot, able: &Subset<'_>) -> Option<u32> {
    let all = able.iter().filter_map(|(id, fact)| Some((&snapshot.entry(id)?.capability, fact)));
    let best = all.min_by(|(a, fact_a), (b, fact_b)| {
        let text = |capability: &Capability| capability.kind == Kind::LLM_EMBED;
        text(b).cmp(&text(a)).then(fact_b.quality.total_cmp(&fact_a.quality)).then_with(|| a.name.cmp(&b.name))
    });
    best.map(|(_, fact)| fact.model)
}

fn is_of_domain(entry: &Entry, domain: &str) -> bool {
    let capability = &entry.capability;
    capability.domain.as_deref().is_some_and(|its| its.eq_ignore_ascii_case(domain))
        || ((capability.domain.is_some() || capability.project.is_some())
            && capability.topics.iter().any(|topic| topic.eq_ignore_ascii_case(domain)))
}

fn kinds(kinds: &[Kind]) -> String {
    kinds.iter().map(Kind::as_str).collect::<Vec<_>>().join(" or ")
}
