//! Where a node keeps its own attempt to join with a spoken code, for its owner.

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::view::{PairStage, PairView};

/// The one attempt that a node makes at a time.
#[derive(Debug, Default)]
pub struct Joins {
    now: Mutex<Option<Join>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Join {
    view: PairView,
    answer: Option<oneshot::Sender<bool>>,
    task: Option<AbortHandle>,
}

impl Drop for Join {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Joins {
    /// Begins one; what was begun before is given up. Returns what will get the owner's answer.
    pub fn begin(&self, view: PairView) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        *self.now.lock() = Some(Join { view, answer: Some(answer), task: None });
        self.changed();
        answered
    }

    /// This task works on it.
    pub fn runs(&self, id: &str, task: AbortHandle) {
        match self.now.lock().as_mut().filter(|join| join.view.id == id) {
            Some(join) => join.task = Some(task),
            None => task.abort(),
        }
    }

    /// The attempt as it is now.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<PairView> {
        self.now.lock().as_ref().map(|join| join.view.clone()).filter(|view| view.id == id)
    }

    /// A notice of each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something happened.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut PairView)) {
        if let Some(join) = self.now.lock().as_mut().filter(|join| join.view.id == id && !join.view.stage.is_over()) {
            change(&mut join.view);
            join.view.revision += 1;
        }
        self.changed();
    }

    /// It came to nothing.
    pub fn end(&self, id: &str, problem: String) {
        self.change(id, |view| (view.stage, view.problem) = (PairStage::Ended, Some(problem)));
    }

    /// The owner answers. Whether there is such an attempt.
    pub fn answer(&self, id: &str, yes: bool) -> bool {
        let (answer, task, stage) = {
            let mut now = self.now.lock();
            let Some(join) = now.as_mut().filter(|join| join.view.id == id) else { return false };
            let stage = join.view.stage;
            let asked = stage == PairStage::Asking || (stage == PairStage::Waiting && !yes);
            let answer = if asked { join.answer.take() } else { None };
            (answer, join.task.clone(), stage)
        };
        if !yes && matches!(stage, PairStage::Waiting | PairStage::Agreed) {
            // There is nobody to tell yet; or it is up to the other side alone by now.
            self.end(id, "this side took it back".into());
            if let Some(task) = task {
                task.abort();
            }
        } else if let Some(answer) = answer {
            // Whoever waited for it may have given up.
            let _ = answer.send(yes);
        }
        true
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
