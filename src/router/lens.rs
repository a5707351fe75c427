//! What this mesh is about, learnt by the vectors of another embedder.
//!
//! A [`Lens`] is made of the same [`Lesson`] as the router's own classifier, with each text read by whoever is asked about
//! doubtful questions. Where the vector of a question comes from, and whether it comes at all, is dispatch's business:
//! the router only decides with it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::classifier::Text;
use super::facts::Facts;
use super::lesson::{Lesson, Taught};
use crate::catalog::Snapshot;

/// What this mesh is about, by the vectors of another embedder.
pub struct Lens {
    taught: Arc<Taught>,
    facts: ArcSwap<Facts>,
}

impl std::fmt::Debug for Lens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lens").field("classes", &self.taught.classes.len()).finish_non_exhaustive()
    }
}

impl Lens {
    /// Learns a lesson by these texts: each of the lesson's as the other embedder reads it. It takes a second or more.
    ///
    /// `None` when a text is missing, or `unwanted` says so meanwhile.
    pub fn grind(lesson: Lesson, read: impl Fn(&str) -> Option<Text>, unwanted: impl Fn() -> bool) -> Option<Self> {
        if lesson.texts().any(|text| read(text).is_none()) {
            return None;
        }
        let nothing = Text::new("", Vec::new());
        let taught = lesson.learn(|text| read(text).unwrap_or_else(|| nothing.clone()), unwanted)?;
        Some(Self { taught: Arc::new(taught), facts: ArcSwap::default() })
    }

    /// The share of the lesson's texts that it takes for what they are when they are held back from it.
    #[must_use]
    pub fn right(&self) -> f32 {
        self.taught.classifier.right_of_held()
    }

    pub(super) fn taught(&self) -> &Taught {
        &self.taught
    }

    pub(super) fn facts_of(&self, snapshot: &Arc<Snapshot>) -> Arc<Facts> {
        Facts::current(&self.facts, snapshot, Some(Arc::clone(&self.taught)))
    }
}
