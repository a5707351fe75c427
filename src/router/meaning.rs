//! Which capabilities a question means, and when it means none in particular.
//!
//! Two things are compared. The catalog says which capabilities with a field of their own (a domain, a
//! project) have texts like the question. Prototypes, a few phrases for each thing that people do with a
//! language model, say whether it looks like programming, reasoning, summarising or like anything at all.
//! A speciality is chosen only if it is near enough ([`THRESHOLD`]) and clearly nearer than general
//! conversation ([`MARGIN`]). Otherwise the router abstains: a general model answers everything a little,
//! a wrong expert answers wrongly.

use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Advert, Capability, PeerId};
use crate::catalog::{Catalog, EntryId, Question, Snapshot};

use super::decision::MAX_CANDIDATES;
use super::facts::Speciality;
use super::prototypes;

/// Least similarity to a capability's texts at which it is meant. Chosen on the labelled phrases of this
/// module's test.
pub(super) const THRESHOLD: f32 = 0.36;
/// Least similarity to the phrases of a speciality. Prototypes are many and broad, so that something a little
/// like the question is always among them, and the bar is higher.
pub(super) const PROTOTYPE_THRESHOLD: f32 = 0.38;
/// How much nearer than general conversation it must be.
pub(super) const MARGIN: f32 = 0.03;
/// Hits this close to the best mean the same: copies of one project, two projects on one subject.
const TIE: f32 = 0.02;

/// What a question means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// What it means; `None`: nothing in particular.
    pub(super) meant: Option<Meant>,
    /// The speciality nearest to it, meant or not, and how near.
    pub(super) nearest: Option<(Nearest, f32)>,
    /// How near general conversation is.
    pub(super) general: f32,
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

/// Phrases that stand for what people do with language models, as vectors.
#[derive(Debug)]
pub(super) struct Prototypes {
    snapshot: Arc<Snapshot>,
    /// All of them: a search leaves none out.
    all: Vec<bool>,
}

/// How near a question is to each thing that people do with language models.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Likeness {
    general: f32,
    code: f32,
    reasoning: f32,
    summarize: f32,
}

impl Prototypes {
    /// The prototypes in the embedding space of this catalog.
    pub(super) fn new(catalog: &Catalog) -> Self {
        let own = Catalog::new(catalog.embedder().cloned());
        let mut capabilities = Vec::new();
        for (kind, phrases) in prototypes::ALL {
            // As many to a capability as an advert may carry vectors for.
            for (part, phrases) in phrases.chunks(crate::capability::limits::VECTORS - 2).enumerate() {
                let mut capability = Capability::new("prototype", kind.clone(), &part.to_string());
                capability.examples = phrases.iter().map(|&phrase| phrase.to_owned()).collect();
                capabilities.push(capability);
            }
        }
        let node = PeerId::random();
        let advert = Advert {
            node,
            epoch: 0,
            seq: 0,
            ttl: Duration::MAX,
            name: "prototypes".to_owned(),
            version: String::new(),
            addresses: Vec::new(),
            capabilities: own.describe(capabilities).into(),
            load: 0,
            relay: false,
        };
        own.update(&[(node, Arc::new(advert))].into());
        let snapshot = own.snapshot();
        let all = vec![true; snapshot.entries().len()];
        Self { snapshot, all }
    }

    /// How near the question is to each.
    pub(super) fn likeness(&self, question: &Question<'_>) -> Likeness {
        let mut likeness = Likeness::default();
        for hit in self.snapshot.search_kept(question, self.all.len(), &self.all) {
            let Some(entry) = self.snapshot.entry(hit.entry) else { continue };
            let of = match entry.capability.kind.type_name() {
                "code" => &mut likeness.code,
                "reasoning" => &mut likeness.reasoning,
                "summarize" => &mut likeness.summarize,
                _ => &mut likeness.general,
            };
            *of = of.max(hit.similarity);
        }
        likeness
    }
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
    let question = snapshot.question(query);
    let likeness = prototypes.likeness(&question);
    let hits = snapshot.search_kept(&question, MAX_CANDIDATES, own_field);
    let special = [
        (Speciality::Code, likeness.code),
        (Speciality::Reasoning, likeness.reasoning),
        (Speciality::Summarize, likeness.summarize),
    ];
    let special = special.into_iter().filter(|(kind, _)| has(*kind)).max_by(|a, b| a.1.total_cmp(&b.1));
    decide(&hits.iter().map(|hit| (hit.entry, hit.similarity)).collect::<Vec<_>>(), special, likeness.general)
}

/// The rule, on similarities alone. `hits` are best first.
fn decide(hits: &[(EntryId, f32)], special: Option<(Speciality, f32)>, general: f32) -> Verdict {
    let entry = hits.first().copied();
    let clear = |similarity: f32, threshold: f32| similarity >= threshold && similarity >= general + MARGIN;
    let entry_meant = entry.filter(|(_, similarity)| clear(*similarity, THRESHOLD));
    let special_meant = special.filter(|(_, similarity)| clear(*similarity, PROTOTYPE_THRESHOLD));
    let meant = match (entry_meant, special_meant) {
        // A field of its own is the more particular of two that are equally near.
        (Some((_, entry)), Some((kind, special))) if special > entry => Some(Meant::Speciality(kind, special)),
        (Some((_, best)), _) => {
            let mut entries: Vec<_> = hits.iter().copied().filter(|(_, s)| *s >= best - TIE).collect();
            entries.sort_unstable_by_key(|(id, _)| *id);
            Some(Meant::Entries(entries))
        }
        (None, Some((kind, special))) => Some(Meant::Speciality(kind, special)),
        (None, None) => None,
    };
    let entry = entry.map(|(id, similarity)| (Nearest::Entry(id), similarity));
    let special = special.map(|(kind, similarity)| (Nearest::Speciality(kind), similarity));
    let nearest = entry.into_iter().chain(special).max_by(|a, b| a.1.total_cmp(&b.1));
    Verdict { meant, nearest, general }
}

#[cfg(test)]
#[path = "meaning_tests.rs"]
mod tests;
