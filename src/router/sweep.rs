//! Every entry of the catalog, group by group: which tier each is of, and how many can do it. Only the best tiers are
//! looked at one by one: as many as it takes to fill the list of candidates. A better tier is a better score whatever else
//! there is, so the rest could not get into it.

use std::cmp::Reverse;

use super::choice::{Choice, NodeStanding, World};
use super::decision::{MAX_CANDIDATES, MAX_REJECTED};
use super::facts::{Fact, Facts};
use super::subset::Subset;
use crate::capability::Capability;
use crate::catalog::{Entry, EntryId};

/// What becomes of the entries of a group that can do it.
pub(super) enum Fate {
    /// All are of this tier, and so near.
    In(i32, Option<f32>),
    /// Those that were [picked](Picks) are of their tier. The others are of this one, or are left out.
    Picked(Result<i32, Why>),
    /// They are left out.
    Out(Why),
}

/// Why an entry is not among the candidates of a sweep; the sentence is only made for those that are listed.
#[derive(Clone, Copy)]
pub(super) enum Why {
    Lacks,
    Kind,
    OneField,
    OtherField,
}

/// Entries that have a tier of their own.
#[derive(Default)]
pub(super) struct Picks {
    pub(super) tier: i32,
    /// With how near each is, ascending by place.
    pub(super) entries: Vec<(EntryId, Option<f32>)>,
}

impl Picks {
    fn has(&self, place: u32) -> bool {
        self.entries.binary_search_by_key(&place, |(id, _)| id.0).is_ok()
    }
}

/// Some entries of a group.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// Places of all entries of the group.
    all: &'a [u32],
    which: Which<'a>,
}

#[derive(Clone, Copy)]
enum Which<'a> {
    All(Option<f32>),
    Picked(&'a [(EntryId, Option<f32>)]),
    /// All but so many that were picked.
    Rest(usize),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self.which {
            Which::All(_) => self.all.len(),
            Which::Picked(picked) => picked.len(),
            Which::Rest(picked) => self.all.len().saturating_sub(picked),
        }
    }

    /// Gives each entry and how near it is, until there was enough.
    fn each(&self, picks: &Picks, mut look: impl FnMut(EntryId, Option<f32>) -> bool) {
        let _ = match self.which {
            Which::All(near) => self.all.iter().all(|place| look(EntryId(*place), near)),
            Which::Picked(picked) => picked.iter().all(|(id, near)| look(*id, *near)),
            Which::Rest(_) => {
                self.all.iter().filter(|place| !picks.has(**place)).all(|place| look(EntryId(*place), None))
            }
        };
    }
}

/// An entry and its node, if it is one that the caller wants.
fn on_wanted_node<'a>(
    world: &'a World<'_>,
    facts: &'a Facts,
    nodes: &'a [Option<NodeStanding<'a>>],
    id: EntryId,
) -> Option<(&'a Entry, &'a Fact, &'a NodeStanding<'a>)> {
    let (fact, entry) = facts.at(id.0).zip(world.snapshot.entry(id))?;
    Some((entry, fact, nodes.get(fact.node as usize)?.as_ref()?))
}

impl Choice<'_> {
    /// Counts, scores and rejects the entries of all groups.
    pub(super) fn sweep(
        &mut self,
        facts: &Facts,
        able: &Subset<'_>,
        picks: &Picks,
        fate: impl Fn(&Fact) -> Fate,
        reason: impl Fn(Why, &Capability) -> String,
    ) {
        let nodes: Vec<_> = facts.nodes.iter().map(|(node, load)| self.standing_of(node, *load)).collect();
        let mut by_group = picks.entries.clone();
        let group_of = |id: EntryId| facts.at(id.0).map_or(u32::MAX, |fact| fact.group);
        by_group.sort_by_key(|(id, _)| group_of(*id));
        let picked_of = |group: u32| {
            let start = by_group.partition_point(|(id, _)| group_of(*id) < group);
            let end = by_group.partition_point(|(id, _)| group_of(*id) <= group);
            &by_group[start..end]
        };

        let (mut parts, mut left_out) = (Vec::new(), Vec::new());
        for (group, number) in facts.groups.iter().zip(0_u32..) {
            let part = |which| Part { all: &group.places, which };
            let fate = if able.has_group(number) { fate(&group.fact) } else { Fate::Out(Why::Lacks) };
            match fate {
                Fate::In(tier, near) => parts.push((tier, part(Which::All(near)))),
                Fate::Out(why) => left_out.push((why, part(Which::All(None)))),
                Fate::Picked(rest) => {
                    let picked = picked_of(number);
                    parts.push((picks.tier, part(Which::Picked(picked))));
                    let others = part(Which::Rest(picked.len()));
                    match rest {
                        Ok(tier) => parts.push((tier, others)),
                        Err(why) => left_out.push((why, others)),
                    }
                }
            }
        }
        parts.sort_by_key(|(tier, _)| Reverse(*tier));
        for tier in parts.chunk_by(|(a, _), (b, _)| a == b) {
            let is_scored = self.candidates_total < MAX_CANDIDATES;
            for (tier, part) in tier {
                self.admit(facts, &nodes, picks, *part, is_scored.then_some(*tier));
            }
        }
        for (why, part) in left_out {
            self.leave_out(facts, &nodes, picks, part, |choice, capability| match why {
                Why::Lacks => choice.needs.why_not(capability).unwrap_or_else(|| "it cannot do this".to_owned()),
                _ => reason(why, capability),
            });
        }
    }

    /// Counts the entries of a part that can do it now, and scores them where a tier is given.
    fn admit(
        &mut self,
        facts: &Facts,
        nodes: &[Option<NodeStanding<'_>>],
        picks: &Picks,
        part: Part<'_>,
        tier: Option<i32>,
    ) {
        let all_count = || nodes.iter().all(|node| node.as_ref().is_some_and(|node| !node.any_cooling));
        if tier.is_none() && all_count() {
            self.candidates_total += part.len();
            return;
        }
        part.each(picks, |id, near| {
            let Some((entry, fact, node)) = on_wanted_node(self.world, facts, nodes, id) else { return true };
            if !(node.any_cooling && self.reject_cooling(entry, node.signals)) {
                self.candidates_total += 1;
                if let Some(tier) = tier {
                    self.weigh(id, entry, fact, node, tier, near);
                }
            }
            true
        });
    }

    /// Rejects the entries of a part that are on nodes that the caller wants.
    fn leave_out(
        &mut self,
        facts: &Facts,
        nodes: &[Option<NodeStanding<'_>>],
        picks: &Picks,
        part: Part<'_>,
        reason: impl Fn(&Self, &Capability) -> String,
    ) {
        let all_wanted = self.nodes.is_none();
        let before = self.rejected_total;
        part.each(picks, |id, _| {
            if let Some((entry, ..)) = on_wanted_node(self.world, facts, nodes, id) {
                let reason = (self.rejected.len() < MAX_REJECTED).then(|| reason(self, &entry.capability));
                self.reject(entry, || reason.unwrap_or_default());
            }
            // All others count too, and none of them is listed.
            !all_wanted || self.rejected.len() < MAX_REJECTED
        });
        if all_wanted {
            self.rejected_total = before + part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use proptest::prelude::*;

    use crate::capability::{Capability, CapabilityId, Kind, PeerId, Target};
    use crate::router::decision::{MAX_CANDIDATES, MAX_REJECTED};
    use crate::router::testing::{catalog, chat_model, intent};
    use crate::router::{Router, Settings, Signals};

    /// What an entry may be: its kind, whether it has a field of its own, its context length.
    fn offer() -> impl Strategy<Value = (usize, bool, u32)> {
        (0_usize..4, any::<bool>(), prop_oneof![Just(0_u32), Just(2_000), Just(90_000)])
    }

    fn capability(number: usize, (kind, own_field, context): (usize, bool, u32)) -> Capability {
        let mut model = chat_model(&format!("m{number}"), 1 + number as u64 % 9);
        model.kind = [Kind::LLM_CHAT, Kind::LLM_CODE, Kind::LLM_REASONING, Kind::LLM_CHAT][kind].clone();
        model.id = CapabilityId::new("test", &model.kind, &model.name);
        model.context_length = (context > 0).then_some(context);
        if own_field {
            model.domain = Some(["cooking", "llamas"][number % 2].to_owned());
            model.description = "Knows everything about soup and about llamas.".to_owned();
        }
        model
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_entry_is_a_candidate_or_rejected_and_the_best_are_listed(
            offers in prop::collection::vec(prop::collection::vec(offer(), 0..60), 1..4),
            prompt_tokens in prop_oneof![Just(10_u32), Just(50_000)],
            target in prop_oneof![Just("auto"), Just("auto@n0"), Just("best-code"), Just("best-chat")],
            domain in prop::option::of(prop_oneof![Just("cooking"), Just("law")]),
            rests in any::<bool>(),
        ) {
            let ids: Vec<PeerId> = offers.iter().map(|_| PeerId::random()).collect();
            let names = ["n0", "n1", "n2"];
            let mut number = 0;
            let nodes = offers.iter().enumerate().map(|(at, offers)| {
                let all = offers.iter().map(|offer| { number += 1; capability(number, *offer) }).collect();
                (ids[at], names[at], all)
            });
            let catalog = catalog(nodes.collect());
            let own = PeerId::random();
            let router = Router::new(Arc::clone(&catalog), Arc::new(Signals::new(own)), Settings::default(), own);
            let mut asked = intent(Some(target));
            asked.target = Target::from_model(Some(target));
            asked.query = Some("how hot must soup be?".to_owned());
            asked.requirements.prompt_tokens = prompt_tokens;
            asked.requirements.domain = domain.map(str::to_owned);
            let now = Instant::now();
            if rests {
                for _ in 0..3 {
                    router.signals().fail_node(&ids[0], now, now);
                }
            }
            let decision = router.decide_at(&asked, now);
            let wanted = |node: &PeerId| !target.ends_with("@n0") || *node == ids[0];
            let snapshot = catalog.snapshot();
            let all: Vec<_> = snapshot.entries().iter().filter(|entry| wanted(&entry.node)).collect();
            prop_assert_eq!(decision.candidates_total + decision.rejected_total, all.len(), "{:?}", decision);
            prop_assert_eq!(decision.candidates.len(), decision.candidates_total.min(MAX_CANDIDATES));
            prop_assert_eq!(decision.rejected.len(), decision.rejected_total.min(MAX_REJECTED));
            prop_assert!(decision.candidates.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for candidate in &decision.candidates {
                prop_assert!(wanted(&candidate.node) && !(rests && candidate.node == ids[0]));
                prop_assert!(candidate.capability.context_length.is_none_or(|context| context >= prompt_tokens));
                let twice = decision.rejected.iter().any(|rejected| rejected.capability.id == candidate.capability.id);
                prop_assert!(!twice, "{}", candidate.capability.name);
            }
            for rejected in &decision.rejected {
                prop_assert!(!rejected.reason.is_empty());
            }
        }
    }
}
