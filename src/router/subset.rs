//! Some of the entries of a snapshot: those of some groups, on some nodes.

use super::facts::{Fact, Facts, NO_CLASS};
use super::speciality::Speciality;
use crate::catalog::EntryId;

/// Those entries whose group and node are both wanted.
pub(super) struct Subset<'a> {
    facts: &'a Facts,
    /// By place in [`Facts::groups`].
    groups: Vec<bool>,
    /// By place in [`Facts::nodes`]; `None`: all of them.
    nodes: Option<&'a [bool]>,
}

impl<'a> Subset<'a> {
    pub(super) const fn new(facts: &'a Facts, groups: Vec<bool>, nodes: Option<&'a [bool]>) -> Self {
        Self { facts, groups, nodes }
    }

    /// Those of these that are of a speciality.
    pub(super) fn of(&self, speciality: Speciality) -> Self {
        self.only(|fact| fact.speciality == speciality)
    }

    /// Those of these that the classifier does not know.
    pub(super) fn unlearnt(&self) -> Self {
        self.only(|fact| fact.class == NO_CLASS)
    }

    /// Those of these whose groups are so.
    fn only(&self, is_so: impl Fn(&Fact) -> bool) -> Self {
        let groups = self.facts.groups.iter().zip(&self.groups);
        let groups = groups.map(|(group, wanted)| *wanted && is_so(&group.fact)).collect();
        Self { groups, ..*self }
    }

    /// Whether the group at this place of [`Facts::groups`] is wanted.
    pub(super) fn has_group(&self, group: u32) -> bool {
        self.groups.get(group as usize).copied().unwrap_or(false)
    }

    fn takes(&self, fact: &Fact) -> bool {
        self.has_group(fact.group) && self.has_node(fact)
    }

    fn has_node(&self, fact: &Fact) -> bool {
        self.nodes.is_none_or(|nodes| nodes.get(fact.node as usize).copied().unwrap_or(false))
    }

    /// Whether the entry at this place is among them.
    pub(super) fn has(&self, place: usize) -> bool {
        self.facts.group_of.get(place).is_some_and(|group| self.has_group(*group))
            && (self.nodes.is_none() || self.facts.entries.get(place).is_some_and(|fact| self.has_node(fact)))
    }

    /// All of them, in the order of the snapshot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EntryId, &'a Fact)> {
        let all = self.facts.entries.iter().zip(0_u32..).filter(|(fact, _)| self.takes(fact));
        all.map(|(fact, place)| (EntryId(place), fact))
    }

    /// The specialities of them.
    pub(super) fn specialities(&self) -> Vec<Speciality> {
        let mut found = Vec::new();
        for (group, wanted) in self.facts.groups.iter().zip(&self.groups) {
            let is_new = *wanted && !found.contains(&group.fact.speciality);
            if is_new && (self.nodes.is_none() || group.places.iter().any(|place| self.has(*place as usize))) {
                found.push(group.fact.speciality);
            }
        }
        found
    }
}
