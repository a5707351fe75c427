//! Answers that need not be made again.
//!
//! A request that was answered before, word for word, gets the same answer, when owner and caller want that. An answer
//! belongs to its tenant (the API key), its operation, the model that made it, and all of the request's body but for what
//! does not change an answer: who the user is, whether it is streamed, the caller's own notes.
//!
//! What it promises:
//!
//! * **Only whole answers.** An error, or an answer that broke off, is never kept.
//! * **Either form.** An answer that was streamed serves callers who want it whole and the other way round, as far as
//!   nothing is lost; in its own form it is the same byte for byte.
//! * **Asked once.** Requests that come while the first of their kind is under way share its answer as it comes. It
//!   goes on for as long as one of them is there.
//! * **Bounded** in bytes, in answers and in time.
//!
//! By itself it keeps what can be expected to come out the same each time: embeddings, and text with temperature 0 or a
//! seed. A caller may ask for more, or refuse.
//!
//! `question` makes a body comparable, `forms` turns one form of an answer into the other, `flight` shares one that is
//! under way, `shelf` keeps the finished ones.

mod flight;
mod forms;
mod question;
mod settings;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::{Instant, timeout_at};

use crate::capability::{ErrorClass, Failure, Intent, Origin, Reuse};
use crate::dispatch::{DispatchError, Reply};
use crate::router::Decision;
use crate::telemetry::Metrics;

pub use flight::Running;
pub use settings::{Mode, Settings};

use flight::{Flights, Landing};
use question::{Form, Key, Question};
use shelf::Shelf;

/// The largest answer that is kept: a long text many times over, or the embeddings of some hundred inputs.
const LONGEST_ANSWER: usize = 2 * 1024 * 1024;

/// The largest body that is compared: what is larger holds pictures, and is rarely sent twice.
const LONGEST_QUESTION: usize = 1024 * 1024;

/// How much later than the request's time whoever runs it is given up.
const GRACE: Duration = Duration::from_secs(2);

/// The answers that are kept, and those that are under way.
#[derive(Debug)]
pub struct Cache {
    mode: Mode,
    shelf: Arc<Shelf>,
    flights: Flights,
    lookups: Family<Lookup, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lookup {
    outcome: &'static str,
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(settings: Settings, metrics: &Metrics) -> Self {
        let shelf = Arc::new(Shelf::new(&settings));
        metrics.register("cache_bytes", "Size of the answers that are kept", shelf.bytes());
        let help = "Requests that a kept answer was looked for, by what was found";
        Self {
            mode: settings.mode,
            shelf,
            flights: Flights::default(),
            lookups: metrics.register("cache_lookups", help, Family::default()),
        }
    }

    /// The answer to an intent: a kept one, one that is under way, or what `run` makes of it. `decide` says who would answer.
    ///
    /// # Errors
    ///
    /// Those of `run`, and one of its own when the caller wants a kept answer or none.
    pub async fn answer(
        &self,
        intent: Intent,
        decide: impl FnOnce(&Intent) -> Decision,
        run: impl FnOnce(Intent) -> Running,
    ) -> Result<Reply, DispatchError> {
        let reuse = intent.reuse;
        let Some(question) = self.question(&intent) else {
            return if reuse.only_kept { Err(none_kept(Arc::default())) } else { run(intent).await };
        };
        let decision = Arc::new(decide(&intent));
        let Some(first) = decision.candidates.first() else { return run(intent).await };
        let key = question.key(&reuse.tenant, intent.operation, &first.capability.name);
        if let Some(reply) = self.shelf.find(&key, question.form, reuse.max_age) {
            self.count("hit");
            return Ok(reply);
        }
        if reuse.only_kept {
            self.count("miss");
            return Err(none_kept(decision));
        }
        // Who wants a new answer does not want one that began before either.
        let joins = reuse.max_age != Some(Duration::ZERO);
        let deadline = Instant::now() + intent.deadline;
        let form = question.form;
        let landing = Landing {
            shelf: Arc::clone(&self.shelf),
            question,
            tenant: reuse.tenant,
            operation: intent.operation,
            longest: LONGEST_ANSWER,
        };
        let (flight, seat, run) = self.flights.board(joins, key, landing, run, &intent);
        let began = run.is_none();
        self.count(if began { "miss" } else { "joined" });
        let origin = if began { Origin::Missed } else { Origin::Kept(Duration::ZERO) };
        // Whoever runs it keeps to its time, and says more of what became of it.
        let patience = if began { deadline + GRACE } else { deadline };
        let landed = timeout_at(patience, flight.clone()).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let failed = match landed {
            Ok(Ok(begun)) => match begun.reply(flight, seat, origin) {
                Some(reply) => return Ok(reply),
                // It has ended, or become too long to be kept, before it could be joined.
                None => None,
            },
            Ok(Err(error)) => Some(error),
            Err(_) => {
                let seconds = intent.deadline.as_secs_f64();
                let message = format!("no answer within {seconds:.1} s: another request for the same waits for it too");
                let failure = Failure::new(ErrorClass::Timeout, message);
                Some(DispatchError { decision: Arc::clone(&decision), attempts: 0, failure })
            }
        };
        match (run, failed) {
            (Some(run), None) => self.again(&key, form, Intent { deadline: left, ..intent }, run).await,
            // Another request's time was over, and this one's is not.
            (Some(run), Some(error)) if error.failure.class == ErrorClass::Timeout && !left.is_zero() => {
                self.again(&key, form, Intent { deadline: left, ..intent }, run).await
            }
            (_, Some(error)) => Err(error),
            (None, None) => Err(lost(decision)),
        }
    }

    /// One that could not share another one's answer looks once more for a kept one, and then has its own made.
    async fn again(
        &self,
        key: &Key,
        form: Form,
        intent: Intent,
        run: impl FnOnce(Intent) -> Running,
    ) -> Result<Reply, DispatchError> {
        if let Some(reply) = self.shelf.find(key, form, intent.reuse.max_age) {
            return Ok(reply);
        }
        Ok(Reply { origin: Origin::Missed, ..run(intent).await? })
    }

    /// What is asked, when a kept answer may serve it.
    fn question(&self, intent: &Intent) -> Option<Question> {
        let Reuse { wanted, no_store, .. } = intent.reuse;
        let may = self.mode != Mode::Off && wanted != Some(false) && !no_store;
        if !may || (self.mode == Mode::Asked && wanted.is_none()) || intent.payload.len() > LONGEST_QUESTION {
            return None;
        }
        let question = Question::of(intent.operation, &intent.payload, intent.requirements.stream)?;
        (question.repeatable || wanted == Some(true)).then_some(question)
    }

    fn count(&self, outcome: &'static str) {
        self.lookups.get_or_create(&Lookup { outcome }).inc();
    }
}

/// The reader who began an answer reads it from its beginning, so that this does not come to pass.
fn lost(decision: Arc<Decision>) -> DispatchError {
    let failure = Failure::new(ErrorClass::Internal, "the answer had gone on before it was read");
    DispatchError { decision, attempts: 0, failure }
}

/// What `Cache-Control: only-if-cached` gets when there is nothing: 504, as RFC 9111 (5.2.1.7) says.
fn none_kept(decision: Arc<Decision>) -> DispatchError {
    let message = "no kept answer will do, and the request wants no other (Cache-Control: only-if-cached)";
    let mut failure = Failure::new(ErrorClass::Unavailable, message);
    failure.status = 504;
    failure.code = Some("not_cached".to_owned());
    DispatchError { decision, attempts: 0, failure }
}
