//! Prepares for doubts in the background: chooses a judge, has it read the texts of the mesh, and learns from that what a
//! question means in its space.
//!
//! It begins with the first doubt, and keeps up with the mesh for as long as there are some; after an hour without, all
//! is dropped. New texts are read as they come, in batches and with pauses, so that an embedder is kept busy half of the
//! time at most. The strongest that may be asked is tried first. One that does not tell the texts of this very mesh apart
//! better than this node does by itself, or that is too slow, is dismissed for an hour, and the next is tried.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::ask::{self, Trouble};
use super::bench::{Bench, Seat};
use super::choose::{self, Space};
use super::shelf::{Refused, Shelf};
use crate::router::{Lens, Lesson};

/// Without a doubt for so long, nobody need be ready for the next.
pub(super) const IDLE: Duration = Duration::from_secs(3600);
/// How long the texts of a judge that is gone are kept: a machine that is started anew is back by then.
pub(super) const GONE: Duration = Duration::from_secs(600);
/// How long one that is of no use is not tried again.
const DISMISSED: Duration = Duration::from_secs(3600);
/// Those that are remembered as of no use.
const MOST_DISMISSED: usize = 16;
/// How often it looks when there are no doubts.
const LOOK: Duration = Duration::from_secs(60);
/// Until it looks again after there was nobody, or somebody failed.
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// Failures to read texts in a row after which somebody is of no use.
const FAILURES: u32 = 3;
/// How long the reading of a batch may take: an embedder may have to be loaded first.
const READING: Duration = Duration::from_secs(30);
/// The longest pause between two batches.
const PAUSE: Duration = Duration::from_secs(5);
/// How many times its own time passes after learning before it learns anew.
const PAUSE_TIMES: u32 = 9;
/// A question of the usual length, for whether somebody is quick enough.
const USUAL: &str = "what is the usual length of a question that somebody asks a machine?";

/// There is a doubt: sees to it that there will be somebody to ask about the next.
pub(super) fn doubted(bench: &Arc<Bench>) {
    if bench.doubt(Instant::now()) {
        tokio::spawn(keep(Arc::downgrade(bench)));
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at the next doubt.
    Doubt,
    /// Look again after this time.
    After(Duration),
    /// There are no doubts any more.
    Over,
}

/// Why somebody is no judge now.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it cannot be asked now")]
    Away,
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("it is predicted to take longer than the limit for a second opinion")]
    Slow,
    #[error("it tells the texts of this mesh apart no better than this node does ({theirs:.1} % against {own:.1} %)")]
    NoBetter { theirs: f32, own: f32 },
}

/// Says that nobody prepares any more, however that comes.
struct Keeping(Weak<Bench>);

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(bench) = self.0.upgrade() {
            bench.left();
        }
    }
}

async fn keep(bench: Weak<Bench>) {
    let _keeping = Keeping(Weak::clone(&bench));
    let mut keeper = Keeper::default();
    loop {
        let Some(bench) = bench.upgrade() else { return };
        match keeper.step(&bench).await {
            Next::Over => return,
            // Neither keeps the bench of a node that has stopped.
            Next::After(pause) => {
                drop(bench);
                sleep(pause).await;
            }
            Next::Doubt => {
                let doubts = Arc::clone(&bench.doubts);
                drop(bench);
                let _ = timeout(LOOK, doubts.notified()).await;
            }
        }
    }
}

/// What there is to prepare with.
#[derive(Default)]
pub(super) struct Keeper {
    /// Who reads, and what they have read.
    chosen: Option<(Space, Shelf)>,
    /// Since when that one is gone.
    gone: Option<Instant>,
    /// How often it could not read, in a row.
    failures: u32,
    dismissed: Vec<(Space, Instant)>,
    /// When it may learn again.
    rested: Option<Instant>,
}

impl Keeper {
    /// Does what there is to do now.
    pub(super) async fn step(&mut self, bench: &Arc<Bench>) -> Next {
        let now = Instant::now();
        if bench.quiet(now) >= IDLE {
            bench.seats(None);
            bench.answers.forget();
            return Next::Over;
        }
        let spaces = choose::spaces(&bench.router().catalog().snapshot(), bench.only());
        if self.is_gone(&spaces, now) {
            return Next::Doubt;
        }
        if self.chosen.is_none() {
            bench.seats(None);
        }
        if bench.seat().is_some_and(|seat| bench.router().fits(&seat.lens)) {
            return Next::Doubt;
        }
        if let Some(rested) = self.rested.filter(|rested| *rested > now) {
            return Next::After(rested - now);
        }
        let Some(lesson) = bench.router().lesson() else { return Next::After(RETRY) };
        self.dismissed.retain(|(_, since)| now.saturating_duration_since(*since) < DISMISSED);
        let dismissed = |space: &Space| self.dismissed.iter().any(|(known, _)| known == space);
        let Some((space, shelf)) = self
            .chosen
            .take()
            .or_else(|| spaces.into_iter().find(|space| !dismissed(space)).map(|space| (space, Shelf::default())))
        else {
            return Next::Doubt;
        };
        let (shelf, fit) = prepare(bench, &space, shelf, lesson).await;
        let learnt = Instant::now();
        match fit {
            Ok((lens, took)) => {
                tracing::info!(
                    model = space.model,
                    texts = shelf.len(),
                    right = lens.right(),
                    by_itself = bench.router().right(),
                    "doubtful questions are asked there"
                );
                bench.seats(Some(Seat { space: space.clone(), lens, dim: shelf.dim() }));
                self.chosen = Some((space, shelf));
                self.failures = 0;
                self.rested = Some(learnt + took * PAUSE_TIMES);
                Next::Doubt
            }
            Err(unfit) => self.unfit(bench, space, shelf, &unfit, learnt),
        }
    }

    /// Whether whoever was chosen is gone, and may come back. One who is gone for long is chosen no more.
    fn is_gone(&mut self, spaces: &[Space], now: Instant) -> bool {
        let here = self.chosen.as_ref().is_none_or(|(space, _)| spaces.contains(space));
        if here {
            self.gone = None;
            return false;
        }
        let since = *self.gone.get_or_insert(now);
        if now.saturating_duration_since(since) < GONE {
            return true;
        }
        (self.chosen, self.gone) = (None, None);
        false
    }

    fn unfit(&mut self, bench: &Bench, space: Space, shelf: Shelf, unfit: &Unfit, now: Instant) -> Next {
        let passing = matches!(unfit, Unfit::Away | Unfit::Trouble(_));
        self.failures += 1;
        if passing && self.failures < FAILURES {
            tracing::debug!(model = space.model, %unfit, "cannot be asked for second opinions yet");
            self.chosen = Some((space, shelf));
            return Next::After(RETRY * self.failures);
        }
        tracing::info!(model = space.model, %unfit, "is not asked for second opinions");
        self.failures = 0;
        if self.dismissed.len() >= MOST_DISMISSED {
            self.dismissed.remove(0);
        }
        self.dismissed.push((space, now));
        bench.seats(None);
        Next::After(RETRY)
    }
}

/// Has the texts of the lesson read by who holds the space, and learns it. With what learning took.
async fn prepare(
    bench: &Arc<Bench>,
    space: &Space,
    mut shelf: Shelf,
    lesson: Lesson,
) -> (Shelf, Result<(Lens, Duration), Unfit>) {
    if let Err(unfit) = fill(bench, space, &mut shelf, &lesson).await {
        return (shelf, Err(unfit));
    }
    let began = Instant::now();
    let (shelf, lens) = learn(shelf, lesson).await;
    let fit = match (lens, bench.router().right()) {
        (Some(lens), Some(own)) if lens.right() > own => Ok((lens, began.elapsed())),
        (Some(lens), Some(own)) => Err(Unfit::NoBetter { theirs: lens.right() * 100.0, own: own * 100.0 }),
        _ => Err(Unfit::Away),
    };
    (shelf, fit)
}

/// Has the texts read that the shelf lacks.
async fn fill(bench: &Arc<Bench>, space: &Space, shelf: &mut Shelf, lesson: &Lesson) -> Result<(), Unfit> {
    let texts = || lesson.texts().map(ask::shortened);
    shelf.keep(&texts().collect::<HashSet<_>>());
    loop {
        let batch = shelf.lacking(texts());
        if batch.is_empty() {
            break;
        }
        // Nobody but this task holds it: the node has stopped.
        if Arc::strong_count(bench) <= 1 {
            return Err(Unfit::Away);
        }
        let holder = bench.holder(space, false, &batch, READING).ok_or(Unfit::Away)?;
        let began = Instant::now();
        let vectors = bench.read(&holder, &batch, READING).await?;
        for (text, vector) in batch.iter().zip(vectors) {
            shelf.put(text, vector)?;
        }
        sleep(began.elapsed().min(PAUSE)).await;
    }
    // Whoever cannot be asked in time need not be learnt from.
    if bench.holder(space, false, &[USUAL], Duration::MAX).is_none() {
        return Err(Unfit::Away);
    }
    bench.holder(space, false, &[USUAL], bench.within()).map(drop).ok_or(Unfit::Slow)
}

/// Learns the lesson by the texts of the shelf, on a thread that may take its time.
async fn learn(shelf: Shelf, lesson: Lesson) -> (Shelf, Option<Lens>) {
    /// Ends the learning when nobody waits for it any more: a node that stops does not wait for it.
    struct Unwanted(Arc<AtomicBool>);
    impl Drop for Unwanted {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let unwanted = Unwanted(Arc::default());
    let stop = Arc::clone(&unwanted.0);
    let learning = tokio::task::spawn_blocking(move || {
        let lens = Lens::grind(lesson, |text| shelf.get(ask::shortened(text)), || stop.load(Ordering::Relaxed));
        (shelf, lens)
    });
    let learnt = learning.await;
    drop(unwanted);
    learnt.unwrap_or_default()
}
