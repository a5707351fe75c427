//! Which capabilities a question means, and when it means none in particular.
//!
//! Two things are compared. The catalog says which capabilities with a field of their own (a domain, a
//! project) have texts like the question. Prototypes, a few phrases for each thing that people do with a
//! language model, say whether it looks like programming, reasoning, summarising or like anything at all.
//! A speciality is chosen only if it is near enough and clearly nearer than general conversation. How near that is
//! depends on what is compared, so the bars stand on the [`Scale`] of the embedding space, or of words. Otherwise the router abstains: a general model answers everything a little,
//! a wrong expert answers wrongly.

use crate::catalog::{EntryId, Snapshot};

use super::decision::MAX_CANDIDATES;
use super::facts::Speciality;
use super::likeness::{Prototypes, Scale};

/// Where on a [`Scale`] the similarity to a capability's texts stands at which it is meant. This and the next three
/// were chosen on the labelled phrases of this module's test, in the space of the built-in embedder, where they come to
/// similarities of 0.36, 0.38, 0.03 and 0.02. Wrong on all 68 phrases with them: built-in 1, the same vectors with a
/// shared offset (unrelated texts 0.85 alike) 1, words 5.
const MEANT: f32 = 1.13;
/// Where the similarity to the phrases of a speciality stands. Prototypes are many and broad, so that something a
/// little like the question is always among them, and the bar is higher.
const SPECIAL: f32 = 1.29;
/// How much nearer than general conversation it must be.
const MARGIN: f32 = 0.24;
/// Hits this close to the best mean the same: copies of one project, two projects on one subject.
const TIE: f32 = 0.16;

/// What similarities a meaning takes, in the numbers of one way of comparing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bars {
    entry: f32,
    special: f32,
    margin: f32,
    tie: f32,
}

impl Bars {
    /// The bars on this scale.
    pub(super) fn on(scale: Scale) -> Self {
        Self { entry: scale.at(MEANT), special: scale.at(SPECIAL), margin: scale.step(MARGIN), tie: scale.step(TIE) }
    }
}

/// What a question means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// What it means; `None`: nothing in particular.
    pub(super) meant: Option<Meant>,
    /// The speciality nearest to it, meant or not, and how near.
    pub(super) nearest: Option<(Nearest, f32)>,
    /// How near general conversation is.
    pub(super) general: f32,
    /// The similarity that the nearest needs to be meant.
    pub(super) needed: f32,
}

/// What is near to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nearest {
    /// A capability with a field of its own.
    Entry(EntryId),
    /// All capabilities of a speciality.
    Speciality(Speciality),
}

/// What a question means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Meant {
    /// These capabilities with a field of their own, by place, and how near each is.
    Entries(Vec<(EntryId, f32)>),
    /// All capabilities of a speciality.
    Speciality(Speciality, f32),
}

/// What the question means.
///
/// `own_field` says, by place, which entries have a field of their own and can do it; `has` whether anybody who can
/// do it is of a speciality.
pub(super) fn judge(
    query: &str,
    snapshot: &Snapshot,
    prototypes: &Prototypes,
    own_field: &[bool],
    has: impl Fn(Speciality) -> bool,
) -> Verdict {
    // The prototypes are in the catalog's embedding space, so that one embedding does for both.
    let (question, scale) = prototypes.question(query, snapshot);
    let likeness = prototypes.likeness(&question);
    let hits = snapshot.search_kept(&question, MAX_CANDIDATES, own_field);
    let special = [
        (Speciality::Code, likeness.code),
        (Speciality::Reasoning, likeness.reasoning),
        (Speciality::Summarize, likeness.summarize),
    ];
    let special = special.into_iter().filter(|(kind, _)| has(*kind)).max_by(|a, b| a.1.total_cmp(&b.1));
    let hits: Vec<_> = hits.iter().map(|hit| (hit.entry, hit.similarity)).collect();
    decide(&hits, special, likeness.general, Bars::on(scale))
}

/// The rule, on similarities alone. `hits` are best first.
fn decide(hits: &[(EntryId, f32)], special: Option<(Speciality, f32)>, general: f32, bars: Bars) -> Verdict {
    let entry = hits.first().copied();
    let clear = |similarity: f32, threshold: f32| similarity >= threshold && similarity >= general + bars.margin;
    let entry_meant = entry.filter(|(_, similarity)| clear(*similarity, bars.entry));
    let special_meant = special.filter(|(_, similarity)| clear(*similarity, bars.special));
    let meant = match (entry_meant, special_meant) {
        // A field of its own is the more particular of two that are equally near.
        (Some((_, entry)), Some((kind, special))) if special > entry => Some(Meant::Speciality(kind, special)),
        (Some((_, best)), _) => {
            let mut entries: Vec<_> = hits.iter().copied().filter(|(_, s)| *s >= best - bars.tie).collect();
            entries.sort_unstable_by_key(|(id, _)| *id);
            Some(Meant::Entries(entries))
        }
        (None, Some((kind, special))) => Some(Meant::Speciality(kind, special)),
        (None, None) => None,
    };
    let entry = entry.map(|(id, similarity)| (Nearest::Entry(id), similarity));
    let special = special.map(|(kind, similarity)| (Nearest::Speciality(kind), similarity));
    let nearest = entry.into_iter().chain(special).max_by(|a, b| a.1.total_cmp(&b.1));
    let threshold = match nearest {
        Some((Nearest::Speciality(_), _)) => bars.special,
        _ => bars.entry,
    };
    Verdict { meant, nearest, general, needed: threshold.max(general + bars.margin) }
}

#[cfg(test)]
#[path = "meaning_tests.rs"]
mod tests;
