//! The caller's side: an intent becomes a decision, and that a reply.
//!
//! Until the first piece of content has come the caller has seen nothing, so a refusal, a failure or silence
//! moves on to the next candidate (`race`). After it the answer belongs to whoever began it, and `answer` sees to what happens
//! when that one is lost. Everything happens in the caller's own task; dropping the future or the body cancels the work
//! wherever it is.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{self, Job};
use super::attempt::Begun;
use super::budget::Budget;
use super::judge::Judge;
use super::local::LONGEST;
use super::race;
use super::record::{self, Record};
use super::transcript::Transcript;
use super::ways::{Settings, Task, Ways};
use super::{DispatchError, Local, Remote, Reply, ReplyBody, failures};
use crate::capability::{ErrorClass, Failure, Intent, Operation, Origin};
use crate::router::{Candidate, Decision, Router};
use crate::telemetry::{EventBus, Metrics};

/// Runs intents: decides, tries, and answers.
pub struct Dispatcher {
    ways: Arc<Ways>,
    judge: Judge,
    events: EventBus,
    settings: Settings,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Runs what `router` decides: on `local` for the router's own node, through `remote` for others.
    #[must_use]
    pub fn new(
        router: Arc<Router>,
        local: Arc<Local>,
        remote: Arc<dyn Remote>,
        events: EventBus,
        settings: Settings,
    ) -> Self {
        let budget = Budget::new(settings.retry_share);
        let ways = Arc::new(Ways { router, local, remote, budget });
        Self { judge: Judge::new(Arc::clone(&ways), &settings), ways, events, settings }
    }

    /// The same with other limits.
    #[cfg(test)]
    pub(super) fn with_settings(&self, settings: Settings) -> Self {
        let Ways { router, local, remote, .. } = &*self.ways;
        Self::new(Arc::clone(router), Arc::clone(local), Arc::clone(remote), self.events.clone(), settings)
    }

    #[cfg(test)]
    pub(super) const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// The router that decides for it.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.ways.router
    }

    /// Counts what happens among these metrics.
    pub fn register(&self, metrics: &Metrics) {
        self.judge.register(metrics);
    }

    /// Who shall run this intent, as far as is known without asking anybody.
    #[must_use]
    pub fn decide(&self, intent: &Intent) -> Decision {
        self.judge.recall(intent, self.router().decide(intent))
    }

    /// Who shall run this intent; where that is doubtful, with a second opinion of somebody who may be asked. It takes no longer
    /// than the owner's limit for that.
    pub async fn consider(&self, intent: &Intent) -> Decision {
        self.judge.hear(intent, self.router().decide(intent)).await
    }

    /// Runs an intent. Returns once somebody has sent a first piece of content, or all of an answer. Dropping the future, or
    /// later the reply's body, cancels the work.
    ///
    /// # Errors
    ///
    /// When nobody can do it, nobody who was tried did, or the request itself is wrong.
    pub async fn dispatch(&self, intent: Intent) -> Result<Reply, DispatchError> {
        let deadline = Instant::now() + intent.deadline.min(LONGEST);
        let decision = Arc::new(self.consider(&intent).await);
        let facts = record::Facts {
            request_id: intent.request_id.clone(),
            prompt_tokens: intent.requirements.prompt_tokens,
            streamed: intent.requirements.stream,
            decodes: matches!(intent.operation, Operation::Chat | Operation::Complete | Operation::Agent),
        };
        let mut record = Record::open(Arc::clone(self.router()), self.events.clone(), Arc::clone(&decision), facts);
        if let Some(no_route) = &decision.no_route {
            let failure = failures::of_no_route(no_route, &decision);
            return Err(give_up(record, &decision, failure));
        }
        self.ways.budget.request();
        let task = Task { ways: &self.ways, settings: &self.settings, intent: &intent, decision: &decision, deadline };
        let race::Won { place, begun, failed: doubtful } = match race::run(task, &self.events, &mut record).await {
            Ok(begun) => begun,
            Err(failure) => return Err(give_up(record, &decision, self.with_time(failure, &decision))),
        };
        let failover = intent.handling.failover.unwrap_or(self.settings.failover);
        let keep = failover && intent.requirements.stream;
        let job = Job {
            ways: Arc::clone(&self.ways),
            settings: self.settings,
            decision,
            record,
            deadline,
            place,
            transcript: Transcript::new(keep),
            failed: Vec::new(),
            doubtful,
            intent,
        };
        let Some(served) = job.decision.candidates.get(place).cloned() else {
            let failure = Failure::new(ErrorClass::Internal, "somebody answered who was no candidate");
            return Err(give_up(job.record, &job.decision, failure));
        };
        Ok(Self::reply(begun, served, job))
    }

    /// When everybody who could is out of reach or down: when the first is tried again.
    fn with_time(&self, mut failure: Failure, decision: &Decision) -> Failure {
        if failure.class == ErrorClass::Unavailable && failure.body.is_none() && failure.retry_after.is_none() {
            let (signals, now) = (self.router().signals(), std::time::Instant::now());
            let rests = |one: &Candidate| signals.cooling(&one.node, &one.capability.id, now);
            failure.retry_after = decision.candidates.iter().filter_map(rests).map(|(left, _)| left).min();
        }
        failure
    }

    fn reply(begun: Begun, served: Candidate, job: Job) -> Reply {
        let attempts = job.record.attempts();
        let stream = job.intent.requirements.stream;
        let content_type = begun
            .content_type
            .unwrap_or_else(|| if stream { "text/event-stream" } else { "application/json" }.to_owned());
        job.ways.router.is_read(&job.intent.prefix, served.node, &served.capability.id, std::time::Instant::now());
        job.record.load(job.place, begun.course.load);
        let decision = Arc::clone(&job.decision);
        let body = match begun.rest {
            None => {
                job.record.served(job.place, &begun.course, None);
                let pieces: Vec<Result<Bytes, Failure>> = begun.data.into_iter().map(Ok).collect();
                Box::pin(futures::stream::iter(pieces)) as ReplyBody
            }
            Some(rest) => Box::pin(answer::pieces(begun.data, rest, begun.course, job)),
        };
        Reply { decision, served, attempts, content_type, origin: Origin::Made, body }
    }
}

fn give_up(record: Record, decision: &Arc<Decision>, failure: Failure) -> DispatchError {
    let attempts = record.attempts();
    record.failed(&failure);
    DispatchError { decision: Arc::clone(decision), attempts, failure }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
