//! The decision itself: a function of the catalog, what was measured, an intent and the time.
//!
//! Candidates by name are looked at one by one. For `auto` and for aliases every entry of the catalog is a
//! candidate, so a [sweep](super::sweep) over the [`Facts`] sorts them into tiers, only the best tiers are scored, and only the
//! best few become [`Candidate`]s.

use std::borrow::Cow;

use super::aliases::{Alias, Prefer};
use super::choice::{Choice, World};
use super::decision::{Decision, NoRoute, Step, Weights};
use super::facts::{Fact, Facts, decodes};
use super::meaning::{self, Audience, Meant, Verdict};
use super::reason;
use super::requirements::Needs;
use super::score::Demand;
use super::speciality::Speciality;
use super::subset::Subset;
use super::sweep::{Fate, Picks, Why};
use super::target::{Among, Resolved, resolve};
use crate::capability::{Capability, Intent, Kind, Operation, Target};
use crate::catalog::{Entry, EntryId, Snapshot};

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
    let demand = Demand {
        streamed: intent.requirements.stream,
        ..Demand::new(
            intent.requirements.prompt_tokens,
            intent.requirements.max_output_tokens,
            decodes(intent.operation),
        )
    };
    let mut choice = Choice::new(world, needs, resolved.nodes.as_deref(), demand, Weights::of(prefer));
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

    /// Why there is no candidate, when nobody rests.
    fn nothing_can(&self, target: &str, resolved: &Resolved<'_>, intent: &Intent) -> NoRoute {
        let serves = |entry: &Entry| entry.capability.operations.contains(intent.operation);
        let total = match &resolved.among {
            Among::Alias(_, alias) if !alias.models.is_empty() && self.rejected_total == 0 => {
                return NoRoute::UnknownModel { name: alias.models.join(" or "), near: Vec::new() };
            }
            // What else is there does not matter to whoever has nothing of the kind yet.
            Among::Alias(..) | Among::All if !self.world.snapshot.entries().iter().any(serves) => 0,
            _ => self.rejected_total,
        };
        let why = reason::nothing_can(target, resolved.step, intent.operation, &self.rejected, total);
        NoRoute::NothingCan(why)
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
        let (best_tier, candidates) = self.best();

        let no_route = candidates.is_empty().then(|| match self.cooling {
            Some(retry_after) => NoRoute::AllCooling { retry_after },
            None => self.nothing_can(&target, resolved, intent),
        });
        let meant = best_tier == Some(TIER_MEANT);
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
                best_tier: best_tier.unwrap_or(0),
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
            weights: Some(self.weights),
            candidates_total,
            rejected: self.rejected,
            rejected_total: self.rejected_total,
            no_route,
            ..Decision::default()
        }
    }
}

impl Resolved<'_> {
    fn step_is_auto(&self) -> bool {
        matches!(self.among, Among::All)
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
