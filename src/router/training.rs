//! The classifier of questions, kept up with the catalog off the path of decisions.
//!
//! Its classes are the kinds, by their [phrases], and the *subjects* of the mesh: what the capabilities with a field of
//! their own say that they are about. Copies of a project on several nodes are one subject. When subjects come or go, a
//! thread trains a new classifier and swaps it in; until then decisions are made with the one before, where a new
//! subject counts by its likeness, and with none at all by likeness alone ([`meaning`](super::meaning)).
//!
//! It begins with the first question that is asked by meaning, so that a node that is only asked by name never pays for
//! it, and only where the embedder tells kinds of questions apart: words alone do better by likeness.
//!
//! Training costs up to a second in a usual mesh and some more at the limits below. It runs at most a tenth
//! of the time, so a mesh in which subjects come and go all the time trains more seldom, not more.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::bars::means_one;
use super::classifier::{Classifier, Text};
use super::likeness::Prototypes;
use super::phrases::{Phrase, phrases};
use super::speciality::{Speciality, speciality};
use crate::capability::{Capability, Kind};
use crate::catalog::{Snapshot, texts_of};

/// Subjects that are learnt. Where there are more, only kinds are, and subjects count by their likeness: weights of more
/// classes would take more memory than the rest of the node.
const SUBJECTS: usize = 256;
/// Texts times classes that one training may cost: some 5 s.
const WORK: usize = 2_500_000;
/// Shortest time from one training to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times the training's own time passes before the next begins.
const PAUSE_TIMES: u32 = 9;
/// How often a thread that waits looks whether the node is still there.
const LOOK: Duration = Duration::from_millis(200);

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
    subjects: Vec<u64>,
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

/// Trains classifiers. Cheap to ask for the latest.
pub(super) struct Trainer(Arc<Shared>);

struct Shared {
    taught: ArcSwapOption<Taught>,
    prototypes: Arc<Prototypes>,
    /// Whether anybody asked by meaning yet: a node that is only asked by name need not learn.
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    /// What the next training is to learn.
    wanted: Option<Arc<Snapshot>>,
    /// Texts of the last training, read: most come again.
    read: HashMap<String, Text>,
}

impl Trainer {
    pub(super) fn new(prototypes: Arc<Prototypes>) -> Self {
        let (taught, asked, state) = (ArcSwapOption::empty(), AtomicBool::new(false), Mutex::default());
        Self(Arc::new(Shared { taught, prototypes, asked, state }))
    }

    /// The latest classifier.
    pub(super) fn taught(&self) -> Option<Arc<Taught>> {
        self.0.taught.load_full()
    }

    /// Looks at what the mesh can do now, and has what is new learnt in the background, if a question was ever asked.
    pub(super) fn look(&self, snapshot: &Arc<Snapshot>) {
        if !self.0.asked.load(Ordering::Relaxed) || !self.0.prototypes.tells() {
            return;
        }
        let Some(subjects) = subjects(snapshot) else { return };
        if self.0.knows(&subjects) {
            return;
        }
        let mut state = self.0.state.lock();
        state.wanted = Some(Arc::clone(snapshot));
        if state.running {
            return;
        }
        let shared = Arc::downgrade(&self.0);
        match std::thread::Builder::new().name("meaning-training".into()).spawn(move || run(&shared)) {
            Ok(_) => state.running = true,
            Err(error) => {
                tracing::warn!(%error, "no thread to learn what the mesh is about; `auto` goes by likeness alone")
            }
        }
    }

    /// Says that a question was asked whose meaning matters. The first makes it begin to learn.
    pub(super) fn asked(&self, snapshot: &Arc<Snapshot>) {
        if !self.0.asked.load(Ordering::Relaxed) && !self.0.asked.swap(true, Ordering::Relaxed) {
            self.look(snapshot);
        }
    }

    /// Learns what the mesh can do now, on this thread.
    pub(super) fn learn(&self, snapshot: &Arc<Snapshot>) {
        self.0.asked.store(true, Ordering::Relaxed);
        if self.0.prototypes.tells() && subjects(snapshot).is_some_and(|subjects| !self.0.knows(&subjects)) {
            self.0.train(snapshot, || false);
        }
    }
}

/// Trains as long as something is wanted. Ends when the trainer is gone.
fn run(trainer: &Weak<Shared>) {
    loop {
        let Some(shared) = trainer.upgrade() else { return };
        let Some(snapshot) = ({
            let mut state = shared.state.lock();
            let wanted = state.wanted.take();
            state.running = wanted.is_some();
            wanted
        }) else {
            return;
        };
        let started = Instant::now();
        if subjects(&snapshot).is_some_and(|subjects| !shared.knows(&subjects)) {
            shared.train(&snapshot, || trainer.strong_count() <= 1);
        }
        drop((shared, snapshot));
        let pause = started.elapsed() * PAUSE_TIMES;
        let until = Instant::now() + pause.max(PAUSE);
        while Instant::now() < until {
            match trainer.upgrade() {
                None => return,
                Some(shared) => {
                    let mut state = shared.state.lock();
                    if state.wanted.is_none() {
                        state.running = false;
                        return;
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Shared {
    fn knows(&self, subjects: &[u64]) -> bool {
        self.taught.load().as_ref().is_some_and(|taught| taught.subjects == subjects)
    }

    fn train(&self, snapshot: &Arc<Snapshot>, unwanted: impl Fn() -> bool) {
        let Some(subjects) = subjects(snapshot) else { return };
        let started = Instant::now();
        let mut read = std::mem::take(&mut self.state.lock().read);
        let mut kept = HashMap::with_capacity(read.len());
        let mut text = |words: &str| -> Text {
            let text = read
                .remove(words)
                .or_else(|| kept.get(words).cloned())
                .unwrap_or_else(|| Text::new(words, snapshot.vector(words)));
            kept.insert(words.to_owned(), text.clone());
            text
        };
        let (mut classes, mut texts) = (Vec::new(), Vec::new());
        let about_a_field = self.about_a_field(snapshot);
        for phrase in phrases().iter().filter(|phrase| !about_a_field(phrase)) {
            let class = phrase.kind.as_ref().map(|kind| place(&mut classes, Class::Kind(kind.clone())));
            texts.push((text(phrase.text), class));
        }
        let by_subject = texts_by_subject(snapshot);
        let count: usize = texts.len() + by_subject.values().map(Vec::len).sum::<usize>();
        let affordable = by_subject.len() <= SUBJECTS && count * (classes.len() + by_subject.len()) <= WORK;
        let mut places = HashMap::new();
        if affordable {
            for (subject, of_subject) in by_subject {
                let class = place(&mut classes, Class::Subject(subject));
                places.insert(subject, u32::try_from(class).unwrap_or(u32::MAX));
                texts.extend(of_subject.iter().map(|words| (text(words), Some(class))));
            }
        }
        if let Some(classifier) = Classifier::train(&texts, classes.len(), unwanted) {
            tracing::debug!(
                texts = texts.len(),
                classes = classes.len(),
                subjects = subjects.len(),
                elapsed = ?started.elapsed(),
                "learnt what the mesh is about"
            );
            let taught = Taught { classifier, classes, places, subjects };
            self.taught.store(Some(Arc::new(taught)));
        }
        self.state.lock().read = kept;
    }

    /// Whether a phrase of general conversation, or of nothing in particular, is about a field that somebody in this mesh has:
    /// where there is a cook, recipes are no small talk.
    fn about_a_field(&self, snapshot: &Arc<Snapshot>) -> impl Fn(&Phrase) -> bool {
        let own_field: Vec<bool> = snapshot.entries().iter().map(|entry| has_field(&entry.capability)).collect();
        move |phrase| {
            let general = phrase.kind.as_ref().is_none_or(|kind| *kind == Kind::LLM_CHAT);
            general && means_one(phrase.text, snapshot, &self.prototypes, &own_field)
        }
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
fn subjects(snapshot: &Snapshot) -> Option<Vec<u64>> {
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
