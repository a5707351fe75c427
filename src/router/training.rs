//! The classifier of questions, kept up with the catalog off the path of decisions.
//!
//! Its classes are the kinds, by their [phrases](super::phrases), and the *subjects* of the mesh: what the capabilities with a field of
//! their own say that they are about. Copies of a project on several nodes are one subject. When subjects come or go, a
//! thread trains a new classifier and swaps it in; until then decisions are made with the one before, where a new
//! subject counts by its likeness, and with none at all by likeness alone ([`meaning`](super::meaning)).
//!
//! It begins with the first question that is asked by meaning, so that a node that is only asked by name never pays for
//! it, and only where the embedder tells kinds of questions apart: words alone do better by likeness.
//!
//! Training costs up to a second in a usual mesh and some more at the limits below. It runs at most a tenth
//! of the time, so a mesh in which subjects come and go all the time trains more seldom, not more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::classifier::Text;
use super::lesson::{Lesson, Taught, subjects};
use super::likeness::Prototypes;
use crate::catalog::Snapshot;

/// Shortest time from one training to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times the training's own time passes before the next begins.
const PAUSE_TIMES: u32 = 9;
/// How often a thread that waits looks whether the node is still there.
const LOOK: Duration = Duration::from_millis(200);

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
        let Some(lesson) = Lesson::of(snapshot, &self.prototypes) else { return };
        let started = Instant::now();
        let mut read = std::mem::take(&mut self.state.lock().read);
        let mut kept = HashMap::with_capacity(read.len());
        let text = |words: &str| -> Text {
            let text = read
                .remove(words)
                .or_else(|| kept.get(words).cloned())
                .unwrap_or_else(|| Text::new(words, snapshot.vector(words)));
            kept.insert(words.to_owned(), text.clone());
            text
        };
        if let Some(taught) = lesson.learn(text, unwanted) {
            tracing::debug!(
                classes = taught.classes.len(),
                subjects = taught.subjects.len(),
                elapsed = ?started.elapsed(),
                "learnt what the mesh is about"
            );
            self.taught.store(Some(Arc::new(taught)));
        }
        self.state.lock().read = kept;
    }
}
