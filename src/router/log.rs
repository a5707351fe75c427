//! The last decisions and what became of them, for `GET /v1/mesh/decisions`, the dashboard and `atmosphere watch`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use super::decision::Decision;
use crate::capability::PeerId;

/// Decisions that are kept: some minutes of a busy household, and about a megabyte.
const KEPT: usize = 256;

/// A decision and what became of it.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The decision.
    pub decision: Arc<Decision>,
    /// The request that it was made for.
    pub request_id: String,
    /// When it was made.
    pub at: SystemTime,
    /// Who was tried, in order.
    pub attempts: Vec<Attempt>,
    /// What became of it.
    pub outcome: Outcome,
}

/// One candidate that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The node.
    pub node: PeerId,
    /// Its human name.
    pub node_name: Arc<str>,
    /// The model.
    pub model: String,
    /// As what.
    pub role: Role,
    /// `ok`, or why it failed.
    pub result: String,
    /// What it took.
    pub elapsed: Duration,
}

/// As what a candidate was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The first choice.
    First,
    /// In place of one that failed before it answered.
    Retry,
    /// Beside one that took long.
    Hedge,
    /// To say the answer of one that was lost once more, and go on with it.
    Replay,
    /// To go on from what one that was lost had said.
    Prefill,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// Under way, or only asked for and never run.
    Open,
    /// Answered in full by the last of the attempts.
    Served,
    /// Nobody answered, or the answer broke off.
    Failed {
        /// The HTTP status.
        code: u16,
        /// What the caller was told.
        message: String,
    },
    /// The caller left.
    Cancelled,
}

/// The last decisions and what became of them. Bounded; old ones make room.
#[derive(Debug, Default)]
pub struct DecisionLog(Mutex<VecDeque<Logged>>);

impl DecisionLog {
    /// Remembers a decision.
    pub fn record(&self, decision: Arc<Decision>, request_id: &str) {
        let logged = Logged {
            decision,
            request_id: request_id.to_owned(),
            at: SystemTime::now(),
            attempts: Vec::new(),
            outcome: Outcome::Open,
        };
        let mut log = self.0.lock();
        if log.len() >= KEPT {
            log.pop_front();
        }
        log.push_back(logged);
    }

    /// Somebody was tried.
    pub fn attempt(&self, id: &str, attempt: Attempt) {
        self.change(id, |logged| logged.attempts.push(attempt));
    }

    /// The decision of this id has more candidates now.
    pub fn replace(&self, decision: Arc<Decision>) {
        let id = decision.id.clone();
        self.change(&id, |logged| logged.decision = decision);
    }

    /// It is over.
    pub fn finish(&self, id: &str, outcome: Outcome) {
        self.change(id, |logged| logged.outcome = outcome);
    }

    /// The decision of this id, if it is kept still.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Logged> {
        self.0.lock().iter().rev().find(|logged| logged.decision.id == id).cloned()
    }

    /// The last `count`, newest first.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<Logged> {
        self.0.lock().iter().rev().take(count).cloned().collect()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Logged)) {
        if let Some(logged) = self.0.lock().iter_mut().rev().find(|logged| logged.decision.id == id) {
            change(logged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: usize) -> Arc<Decision> {
        Arc::new(Decision { id: id.to_string(), ..Decision::default() })
    }

    #[test]
    fn the_last_ones_are_kept_with_what_became_of_them() {
        let log = DecisionLog::default();
        for id in 0..KEPT + 10 {
            log.record(decision(id), "request");
        }
        assert!(log.get("9").is_none(), "the oldest made room");
        let last = (KEPT + 9).to_string();
        let attempt = Attempt {
            node: PeerId::random(),
            node_name: "gpu".into(),
            model: "m".into(),
            role: Role::First,
            result: "ok".into(),
            elapsed: Duration::from_millis(3),
        };
        log.attempt(&last, attempt.clone());
        log.finish(&last, Outcome::Served);
        let logged = log.get(&last).expect("kept");
        assert_eq!((logged.attempts, logged.outcome), (vec![attempt], Outcome::Served));
        assert_eq!(
            log.latest(3).iter().map(|l| l.decision.id.as_str()).collect::<Vec<_>>(),
            [last, (KEPT + 8).to_string(), (KEPT + 7).to_string()]
        );
        assert_eq!(log.latest(usize::MAX).len(), KEPT);
    }
}
