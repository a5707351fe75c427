//! What there is to learn in a mesh: the texts of the kinds and of the subjects, and what comes of learning them.
//!
//! The same lesson is learnt by the vectors of the node's own embedder ([`training`](super::training)) and, where a
//! stronger one is asked about doubtful questions, by its vectors too ([`lens`](super::lens)): the classes and their texts are
//! the same, and only what the texts look like differs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::bars::means_one;
use super::classifier::{Classifier, Text};
use super::likeness::Prototypes;
use super::phrases::phrases;
use super::speciality::{Speciality, speciality};
use crate::capability::{Capability, Kind};
use crate::catalog::{Snapshot, texts_of};

/// Subjects that are learnt. Where there are more, only kinds are, and subjects count by their likeness: weights of more
/// classes would take more memory than the rest of the node.
const SUBJECTS: usize = 256;
/// Texts times classes that one training may cost: some 5 s.
const WORK: usize = 2_500_000;

/// A class of the classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// What people ask for.
    Kind(Kind),
    /// What capabilities are about: [`Entry::subject`](crate::catalog::Entry::subject).
    Subject(u64),
}

/// A classifier of the kinds and of the subjects of a mesh.
#[derive(Debug)]
pub(super) struct Taught {
    pub(super) classifier: Classifier,
    /// By the classifier's number.
    pub(super) classes: Vec<Class>,
    places: HashMap<u64, u32>,
    /// The subjects that there were, learnt or too many for that.
    pub(super) subjects: Vec<u64>,
}

impl Taught {
    /// The class of a subject, if it was learnt.
    pub(super) fn class_of(&self, subject: u64) -> Option<u32> {
        self.places.get(&subject).copied()
    }

    /// Whether it knows any subject, besides the kinds.
    pub(super) fn learnt_subjects(&self) -> bool {
        !self.places.is_empty()
    }
}

/// What there is to learn in a mesh at one moment.
#[derive(Debug)]
pub struct Lesson {
    /// With the number of the class of each; `None`: it is about none of them.
    texts: Vec<(Cow<'static, str>, Option<usize>)>,
    classes: Vec<Class>,
    places: HashMap<u64, u32>,
    pub(super) subjects: Vec<u64>,
}

impl Lesson {
    /// The lesson of this mesh. `None` when everybody is general, so that there is nothing to tell apart.
    pub(super) fn of(snapshot: &Snapshot, prototypes: &Prototypes) -> Option<Self> {
        let subjects = subjects(snapshot)?;
        let (mut classes, mut texts) = (Vec::new(), Vec::new());
        let own_field: Vec<bool> = snapshot.entries().iter().map(|entry| has_field(&entry.capability)).collect();
        for phrase in phrases() {
            // A phrase of general conversation, or of nothing in particular, may be about a field that somebody in this mesh
            // has: where there is a cook, recipes are no small talk.
            let general = phrase.kind.as_ref().is_none_or(|kind| *kind == Kind::LLM_CHAT);
            if general && means_one(phrase.text, snapshot, prototypes, &own_field) {
                continue;
            }
            let class = phrase.kind.as_ref().map(|kind| place(&mut classes, Class::Kind(kind.clone())));
            texts.push((Cow::Borrowed(phrase.text), class));
        }
        let by_subject = texts_by_subject(snapshot);
        let count: usize = texts.len() + by_subject.values().map(Vec::len).sum::<usize>();
        let affordable = by_subject.len() <= SUBJECTS && count * (classes.len() + by_subject.len()) <= WORK;
        let mut places = HashMap::new();
        if affordable {
            for (subject, of_subject) in by_subject {
                let class = place(&mut classes, Class::Subject(subject));
                places.insert(subject, u32::try_from(class).unwrap_or(u32::MAX));
                texts.extend(of_subject.into_iter().map(|words| (Cow::Owned(words), Some(class))));
            }
        }
        Some(Self { texts, classes, places, subjects })
    }

    /// Its texts; one that is in two classes comes twice.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|(text, _)| &**text)
    }

    /// What comes of it, with the texts as `read` reads them. `None` when `unwanted` says so meanwhile.
    pub(super) fn learn(self, mut read: impl FnMut(&str) -> Text, unwanted: impl Fn() -> bool) -> Option<Taught> {
        let Self { texts, classes, places, subjects } = self;
        let texts: Vec<_> = texts.iter().map(|(text, class)| (read(text), *class)).collect();
        let classifier = Classifier::train(&texts, classes.len(), unwanted)?;
        Some(Taught { classifier, classes, places, subjects })
    }
}

/// The number of a class, which is added if it is new.
fn place(classes: &mut Vec<Class>, class: Class) -> usize {
    classes.iter().rposition(|known| *known == class).unwrap_or_else(|| {
        classes.push(class);
        classes.len() - 1
    })
}

fn has_field(capability: &Capability) -> bool {
    speciality(capability) == Speciality::Domain
}

/// The subjects of a mesh, in order. `None` when everybody is general, so that there is nothing to tell apart.
pub(super) fn subjects(snapshot: &Snapshot) -> Option<Vec<u64>> {
    let mut special = false;
    let mut subjects = Vec::new();
    for entry in snapshot.entries() {
        match speciality(&entry.capability) {
            Speciality::Domain => subjects.push(entry.subject),
            Speciality::Code | Speciality::Reasoning | Speciality::Summarize => special = true,
            Speciality::General | Speciality::Other => {}
        }
    }
    subjects.sort_unstable();
    subjects.dedup();
    (special || !subjects.is_empty()).then_some(subjects)
}

/// What each subject is known by.
fn texts_by_subject(snapshot: &Snapshot) -> BTreeMap<u64, Vec<String>> {
    let mut by_subject = BTreeMap::new();
    for entry in snapshot.entries().iter().filter(|entry| has_field(&entry.capability)) {
        by_subject.entry(entry.subject).or_insert_with(|| texts_of(&entry.capability));
    }
    by_subject
}

/// The name of a subject for people: that of the project of the first entry that is about it.
pub(super) fn name_of(snapshot: &Snapshot, subject: u64) -> String {
    let entry = snapshot.entries().iter().find(|entry| entry.subject == subject && has_field(&entry.capability));
    entry.map_or_else(|| "?".to_owned(), |entry| entry_name(&entry.capability))
}

fn entry_name(capability: &Capability) -> String {
    capability.project.clone().unwrap_or_else(|| capability.name.clone())
}
