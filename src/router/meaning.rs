//! Which capabilities a question means, and when it means none in particular.
//!
//! The [classifier](super::classifier) says, once it has been [taught](super::training) what this mesh is about: what the
//! question is taken for, with its probability. When that is too small, or when it is taken for general conversation or for
//! something that nobody here can do, the router abstains. Where it is not sure and that matters, it says so
//! ([`doubt`](super::doubt)): then somebody with a stronger embedder may be asked, and the same is decided again with the
//! vector of the question there.
//!
//! Until then, likeness alone must do.
//! Two things are compared. The catalog says which capabilities with a field of their own (a domain, a
//! project) have texts like the question. Prototypes, a few phrases for each thing that people do with a
//! language model, say whether it looks like programming, reasoning, summarising or like anything at all.
//! A speciality is chosen only if it is near enough and clearly nearer than general conversation. How near that is
//! depends on what is compared, so the bars stand on the [`Scale`](super::likeness::Scale) of the embedding space, or of words. Otherwise the router abstains: a general model answers everything a little,
//! a wrong expert answers wrongly.

use crate::capability::Kind;
use crate::catalog::{EntryId, Question, Snapshot};

use super::bars::Bars;
use super::classifier::Text;
use super::decision::{MAX_CANDIDATES, Taken};
use super::doubt::{Contender, is_doubtful};
use super::facts::{Fact, Facts};
use super::lesson::{Class, Taught, name_of};
use super::likeness::Prototypes;
use super::speciality::{Speciality, speciality_of_kind, subject};
use super::subset::Subset;

/// The probability from which on a guess is acted on. Chosen on the labelled phrases of this module's test: of general
/// questions, the best speciality had 0.07 at most; of questions to a project with a handful of texts, it was rarely
/// below 0.22. It is far below a half because calibration is by kinds, which have many texts, and a subject with few never
/// scores as high. A guess that something else beats is not acted on, however probable.
const SURE: f32 = 0.2;

/// Subjects whose scores are so near to the best one's mean the same: two projects on one subject.
const SAME: f32 = 0.1;

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
    /// What the classifier took it for, if there is one.
    pub(super) taken: Option<Taken>,
    /// Whether somebody who knows better is worth asking.
    pub(super) doubtful: bool,
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

/// Subset whom a question is judged.
#[derive(Clone, Copy)]
pub(super) struct Audience<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) facts: &'a Facts,
    pub(super) prototypes: &'a Prototypes,
    /// The entries that have a field of their own and can do it.
    pub(super) own_field: &'a Subset<'a>,
    /// The specialities of those that can do it.
    pub(super) present: &'a [Speciality],
    /// The question's vector in the space of the classifier of the facts, when that is not the catalog's.
    pub(super) seen: Option<&'a [f32]>,
}

impl Audience<'_> {
    fn has(&self, speciality: Speciality) -> bool {
        self.present.contains(&speciality)
    }

    fn only_general(&self) -> bool {
        self.present.iter().all(|speciality| matches!(speciality, Speciality::General | Speciality::Other))
    }
}

/// What the question means.
pub(super) fn judge(query: &str, audience: &Audience<'_>) -> Verdict {
    match audience.facts.taught() {
        Some(taught) if !audience.only_general() => by_class(query, audience, taught),
        _ => by_likeness(query, audience.snapshot.question(query), audience, audience.own_field),
    }
}

/// By the classifier.
fn by_class(query: &str, audience: &Audience<'_>, taught: &Taught) -> Verdict {
    let Audience { snapshot, own_field, .. } = audience;
    let question = snapshot.question(query);
    let text = Text::new(query, audience.seen.unwrap_or_else(|| question.vector()).to_vec());

    let mut present = vec![false; taught.classes.len()];
    let mut unlearnt = !taught.learnt_subjects();
    // Thousands of subjects are not learnt, and need not be looked through.
    if !unlearnt {
        for (_, fact) in own_field.iter() {
            match present.get_mut(fact.class as usize) {
                Some(present) => *present = true,
                None => unlearnt = true,
            }
        }
    }
    let available = |class: usize| match taught.classes.get(class) {
        Some(Class::Kind(kind)) => match speciality_of_kind(kind) {
            Speciality::Other => false,
            Speciality::General => true,
            speciality => audience.has(speciality),
        },
        Some(Class::Subject(_)) => present[class],
        None => false,
    };
    let judgement = taught.classifier.judge(&text, available);
    let name = |class: usize| match taught.classes.get(class) {
        Some(Class::Subject(subject)) => name_of(snapshot, *subject),
        Some(Class::Kind(kind)) => kind_in_words(kind),
        None => String::new(),
    };
    let taken = judgement.best.map(|(class, score)| Taken {
        what: name(class),
        probability: judgement.probability,
        next: judgement.rival.map(|(rival, _)| name(rival)),
        next_probability: judgement.rival_probability,
        beaten: judgement.rival.is_some_and(|(_, rival)| rival > score),
    });
    let is_special = |class: usize| match taught.classes.get(class) {
        Some(Class::Kind(kind)) => special_kind(kind).is_some(),
        Some(Class::Subject(_)) => true,
        None => false,
    };
    let contender =
        |class: usize, probability| Contender { probability, special: is_special(class) && available(class) };
    let best = judgement.best.map(|(class, _)| contender(class, judgement.probability));
    let rival = judgement.rival.map(|(class, _)| contender(class, judgement.rival_probability));
    let doubtful = audience.seen.is_none() && best.is_some_and(|best| is_doubtful(best, rival));
    let beaten = taken.as_ref().is_some_and(|taken| taken.beaten);
    let sure = judgement.best.filter(|_| judgement.probability >= SURE && !beaten);
    let meant = sure.and_then(|(class, score)| match taught.classes.get(class)? {
        Class::Kind(kind) => special_kind(kind).map(|special| Meant::Speciality(special, judgement.likeness[class])),
        Class::Subject(_) => {
            let near = |(id, fact): (EntryId, &Fact)| {
                let class = fact.class as usize;
                let is_near = judgement.scores.get(class).is_some_and(|other| *other >= score - SAME);
                is_near.then(|| (id, judgement.likeness[class]))
            };
            Some(Meant::Entries(own_field.iter().filter_map(near).collect()))
        }
    });
    if meant.is_none() && unlearnt {
        // Whoever the classifier does not know may still be meant.
        let alone = by_likeness(query, question, audience, &own_field.unlearnt());
        if matches!(alone.meant, Some(Meant::Entries(_))) {
            return alone;
        }
    }
    Verdict { meant, nearest: None, general: 0.0, needed: SURE, taken, doubtful }
}

/// The speciality of a kind for which somebody general is not as good.
fn special_kind(kind: &Kind) -> Option<Speciality> {
    match speciality_of_kind(kind) {
        Speciality::General | Speciality::Other | Speciality::Domain => None,
        special => Some(special),
    }
}

/// A kind as a person says it.
fn kind_in_words(kind: &Kind) -> String {
    match speciality_of_kind(kind) {
        Speciality::Other => kind.to_string(),
        speciality => subject(speciality).to_owned(),
    }
}

/// By likeness alone, among these entries with a field of their own.
fn by_likeness<'a>(query: &'a str, question: Question<'a>, audience: &Audience<'_>, own_field: &Subset<'_>) -> Verdict {
    let Audience { snapshot, prototypes, .. } = audience;
    // The prototypes are in the catalog's embedding space, so that one embedding does for both.
    let (question, scale) = prototypes.read(query, question);
    let likeness = prototypes.likeness(&question);
    let hits = snapshot.search_kept(&question, MAX_CANDIDATES, |place| own_field.has(place));
    let special = [
        (Speciality::Code, likeness.code),
        (Speciality::Reasoning, likeness.reasoning),
        (Speciality::Summarize, likeness.summarize),
    ];
    let special = special.into_iter().filter(|(kind, _)| audience.has(*kind)).max_by(|a, b| a.1.total_cmp(&b.1));
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
    Verdict { meant, nearest, general, needed: threshold.max(general + bars.margin), taken: None, doubtful: false }
}

#[cfg(test)]
#[path = "meaning_tests.rs"]
mod tests;
