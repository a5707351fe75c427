//! The decision itself: a function of the catalog, what was measured, an intent and the time.
//!
//! Candidates by name are looked at one by one. For `auto` and for aliases every entry of the catalog is a
//! candidate, so the scan works on [`Facts`] and only the best few become [`Candidate`]s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aliases::{Alias, Aliases, Prefer};
use super::decision::{Candidate, Decision, MAX_CANDIDATES, MAX_REJECTED, NoRoute, Rejected, Step};
use super::facts::{Fact, Facts, Speciality, decodes};
use super::likeness::Prototypes;
use super::meaning::{self, Meant, Verdict};
use super::reason;
use super::requirements::Needs;
use super::score::{self, Demand, Standing, Weights};
use super::signals::{NodeSignals, Path, SignalsRead};
use super::target::{Among, Resolved, resolve};
use crate::capability::{Intent, Kind, Operation, Target};
use crate::catalog::{Entry, EntryId, Snapshot};

/// What a decision is made from.
pub(super) struct World<'a> {
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Makes the facts of the snapshot, if they are needed.
    pub(super) facts: &'a dyn Fn() -> Arc<Facts>,
    pub(super) signals: &'a SignalsRead<'a>,
    pub(super) aliases: &'a Aliases,
    pub(super) prototypes: &'a Prototypes,
    pub(super) now: Instant,
}

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
        demand: Demand::new(
            intent.requirements.prompt_tokens,
            intent.requirements.max_output_tokens,
            decodes(intent.operation),
        ),
        weights: Weights::of(prefer),
        scored: Vec::new(),
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
    similarity: Option<f32>,
    entry: EntryId,
    tier: i32,
}

struct Choice<'a> {
    world: &'a World<'a>,
    needs: Needs<'a>,
    nodes: Option<&'a [crate::capability::PeerId]>,
    demand: Demand,
    weights: Weights,
    scored: Vec<Scored>,
    rejected: Vec<Rejected>,
    rejected_total: usize,
    /// The shortest rest of those that could otherwise.
    cooling: Option<Duration>,
}

impl Choice<'_> {
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
        let snapshot = self.world.snapshot;
        for (place, entry) in snapshot.entries().iter().enumerate() {
            let capability = &entry.capability;
            let tier = match super::facts::speciality(capability) {
                _ if alias.kinds.contains(&capability.kind)
                    && capability.project.is_none()
                    && capability.domain.is_none() =>
                {
                    1
                }
                Speciality::Domain => {
                    self.reject(entry, || {
                        format!("it is made for one field; {name} is for general models, so name it to use it")
                    });
                    continue;
                }
                Speciality::General => 0,
                _ if alias.kinds.is_empty() => 0,
                _ => {
                    self.reject(entry, || {
                        format!("its kind is {}, and {name} wants {}", capability.kind, kinds(&alias.kinds))
                    });
                    continue;
                }
            };
            self.consider(id_at(place), tier);
        }
    }

    /// Looks at one entry by itself.
    fn consider(&mut self, id: EntryId, tier: i32) {
        let Some(entry) = self.world.snapshot.entry(id) else { return };
        if self.nodes.is_some_and(|nodes| !nodes.contains(&entry.node)) {
            return;
        }
        if let Some(reason) = self.needs.why_not(&entry.capability) {
            return self.reject(entry, || reason);
        }
        let fact = Fact::of(&entry.capability);
        let load = self.world.snapshot.advert(&entry.node).map_or(0, |advert| advert.load);
        let signals = self.world.signals.node(&entry.node);
        let path = self.world.signals.path(&entry.node);
        self.weigh(id, entry, &fact, load, signals, path, tier, None);
    }

    /// Every entry of the catalog, by what the question means.
    fn by_meaning(&mut self, intent: &Intent) -> Option<Verdict> {
        let snapshot = Arc::clone(self.world.snapshot);
        let facts = (self.world.facts)();
        let talks = matches!(intent.operation, Operation::Chat | Operation::Complete);
        let domain = intent.requirements.domain.as_deref();
        let node_allowed: Vec<bool> =
            facts.nodes.iter().map(|(node, _)| self.nodes.is_none_or(|nodes| nodes.contains(node))).collect();
        // What each entry can do is asked twice, by the search and by the scan: keep the answer.
        let eligible: Vec<bool> = facts
            .entries
            .iter()
            .enumerate()
            .map(|(place, fact)| {
                node_allowed.get(fact.node as usize).copied().unwrap_or(false)
                    && self.needs.meets(fact)
                    && self.needs.kind().is_none_or(|kind| {
                        snapshot.entry(id_at(place)).is_some_and(|entry| entry.capability.kind == *kind)
                    })
            })
            .collect();
        let verdict = talks.then(|| self.judge(intent, domain, &snapshot, &facts, &eligible)).flatten();
        let stable = (intent.operation == Operation::Embed).then(|| best_model(&snapshot, &facts, &eligible)).flatten();

        let mut last: Option<(u32, Option<&NodeSignals>, Path)> = None;
        let signals = self.world.signals;
        for (place, fact) in facts.entries.iter().enumerate() {
            let Some(entry) = snapshot.entries().get(place) else { break };
            if !eligible[place] {
                if !node_allowed.get(fact.node as usize).copied().unwrap_or(false) {
                    continue;
                }
                if self.rejected.len() < MAX_REJECTED {
                    let reason = self.needs.why_not(&entry.capability);
                    self.reject(entry, || reason.unwrap_or_else(|| "it cannot do this".to_owned()));
                } else {
                    self.rejected_total += 1;
                }
                continue;
            }
            let id = id_at(place);
            let (tier, similarity) = match verdict.as_ref().map(|verdict| &verdict.meant) {
                _ if !talks => (i32::from(stable == Some(fact.model)), None),
                Some(Some(Meant::Entries(hits))) if fact.speciality == Speciality::Domain => {
                    match hits.binary_search_by_key(&id, |(hit, _)| *hit) {
                        Ok(found) => (TIER_MEANT, Some(hits[found].1)),
                        Err(_) => (TIER_OTHER_DOMAIN, None),
                    }
                }
                Some(Some(Meant::Speciality(kind, similarity))) if fact.speciality == *kind => {
                    (TIER_MEANT, Some(*similarity))
                }
                _ => match fact.speciality {
                    Speciality::General => (TIER_GENERAL, None),
                    Speciality::Domain => (TIER_OTHER_DOMAIN, None),
                    _ => (TIER_OTHER_KIND, None),
                },
            };
            if domain.is_some() && tier == TIER_OTHER_DOMAIN && talks {
                let its =
                    entry.capability.domain.as_deref().or(entry.capability.project.as_deref()).unwrap_or_default();
                let wanted = domain.unwrap_or_default();
                self.reject(entry, || format!("its field is {its}, not {wanted}"));
                continue;
            }
            let (node_signals, path) = match last {
                Some((node, node_signals, path)) if node == fact.node => (node_signals, path),
                _ => {
                    let found = (signals.node(&entry.node), signals.path(&entry.node));
                    last = Some((fact.node, found.0, found.1));
                    found
                }
            };
            let load = facts.nodes.get(fact.node as usize).map_or(0, |(_, load)| *load);
            self.weigh(id, entry, fact, load, node_signals, path, tier, similarity);
        }
        verdict
    }

    /// What the question means; with a domain, whoever bears its name is meant without more ado.
    fn judge(
        &self,
        intent: &Intent,
        domain: Option<&str>,
        snapshot: &Snapshot,
        facts: &Facts,
        eligible: &[bool],
    ) -> Option<Verdict> {
        if let Some(domain) = domain {
            let named: Vec<_> = snapshot
                .entries()
                .iter()
                .enumerate()
                .filter(|(place, entry)| eligible[*place] && is_of_domain(entry, domain))
                .map(|(place, _)| (id_at(place), 1.0))
                .collect();
            if let Some(first) = named.first() {
                let nearest = Some((meaning::Nearest::Entry(first.0), 1.0));
                return Some(Verdict { meant: Some(Meant::Entries(named)), nearest, general: 0.0, needed: 1.0 });
            }
        }
        let query = match (domain, intent.query.as_deref()) {
            (Some(domain), Some(query)) => format!("{domain}: {query}"),
            (Some(text), None) | (None, Some(text)) => text.to_owned(),
            (None, None) => return None,
        };
        let has = |speciality| {
            facts.entries.iter().zip(eligible).any(|(fact, eligible)| *eligible && fact.speciality == speciality)
        };
        Some(meaning::judge(
            &query,
            snapshot,
            facts,
            self.world.prototypes,
            |place| eligible.get(place).copied().unwrap_or(false),
            has,
        ))
    }

    #[allow(clippy::too_many_arguments, reason = "the inner loop: a struct would only be taken apart again")]
    fn weigh(
        &mut self,
        id: EntryId,
        entry: &Entry,
        fact: &Fact,
        load_class: u8,
        signals: Option<&NodeSignals>,
        path: Path,
        tier: i32,
        similarity: Option<f32>,
    ) {
        let now = self.world.now;
        if let Some((left, failures)) = signals.and_then(|signals| signals.cooling(&entry.capability.id, now)) {
            self.cooling = Some(self.cooling.map_or(left, |old| old.min(left)));
            return self.reject(entry, || reason::cooling(left, failures));
        }
        let standing = standing(entry, fact, load_class, signals, path, now);
        let parts = score::predict(&standing, &self.demand);
        let score = score::score(&self.weights, tier, &parts, path.0, self.dollars(fact));
        self.scored.push(Scored { score, quality: fact.quality, similarity, entry: id, tier });
    }

    fn dollars(&self, fact: &Fact) -> f64 {
        (self.demand.prompt_tokens * f64::from(fact.cost.0) + self.demand.answer_tokens * f64::from(fact.cost.1)) / 1e6
    }

    fn reject(&mut self, entry: &Entry, reason: impl FnOnce() -> String) {
        if self.nodes.is_some_and(|nodes| !nodes.contains(&entry.node)) {
            return;
        }
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
        // Equals in the order of the catalog, which is by node id: the same for every decision, and free.
        let order = |a: &Scored, b: &Scored| {
            score::best_first((a.score, a.quality), (b.score, b.quality)).then(a.entry.cmp(&b.entry))
        };
        let candidates_total = self.scored.len();
        if candidates_total > MAX_CANDIDATES {
            self.scored.select_nth_unstable_by(MAX_CANDIDATES, order);
            self.scored.truncate(MAX_CANDIDATES);
        }
        self.scored.sort_unstable_by(order);
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
        let world = self.world;
        let entry = world.snapshot.entry(scored.entry)?;
        let fact = Fact::of(&entry.capability);
        let load = world.snapshot.advert(&entry.node).map_or(0, |advert| advert.load);
        let (signals, path) = (world.signals.node(&entry.node), world.signals.path(&entry.node));
        let mut parts = score::predict(&standing(entry, &fact, load, signals, path, world.now), &self.demand);
        parts.similarity = scored.similarity;
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

impl Resolved<'_> {
    fn step_is_auto(&self) -> bool {
        matches!(self.among, Among::All)
    }
}

fn standing(
    entry: &Entry,
    fact: &Fact,
    load_class: u8,
    signals: Option<&NodeSignals>,
    (path, rtt): Path,
    now: Instant,
) -> Standing {
    let prior = fact.prior;
    let reading = signals.and_then(|signals| signals.capability(&entry.capability.id)).map(|capability| {
        let prior = [score::PRIOR_OVERHEAD, f64::from(prior.prefill), f64::from(prior.decode), f64::from(prior.load)];
        capability.reading(prior, now)
    });
    Standing {
        path,
        rtt,
        residency: fact.residency,
        concurrency: fact.concurrency,
        load_class,
        prior,
        quality: f64::from(fact.quality),
        reading,
    }
}

/// The model that `auto` embeds with: vectors of two models cannot be compared, so it must not depend on who is
/// busy. Text embedders before those of the ML engine, then quality, then the name.
fn best_model(snapshot: &Snapshot, facts: &Facts, eligible: &[bool]) -> Option<u32> {
    let all = snapshot.entries().iter().zip(&facts.entries).zip(eligible).filter(|(_, eligible)| **eligible);
    let best = all.min_by(|((a, fact_a), _), ((b, fact_b), _)| {
        let text = |entry: &Entry| entry.capability.kind == Kind::LLM_EMBED;
        text(b)
            .cmp(&text(a))
            .then(fact_b.quality.total_cmp(&fact_a.quality))
            .then_with(|| a.capability.name.cmp(&b.capability.name))
    });
    best.map(|((_, fact), _)| fact.model)
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

fn id_at(place: usize) -> EntryId {
    EntryId(u32::try_from(place).unwrap_or(u32::MAX))
}
