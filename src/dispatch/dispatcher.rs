//! The caller's side: tries the candidates of a decision in order until one has begun to answer.
//!
//! Until the first piece of content has come the caller has seen nothing, so a refusal, a failure or silence
//! moves on to the next candidate. After it the answer belongs to whoever began it: if that one fails, the body ends
//! with a failure and never looks complete. Everything happens in the caller's own task; dropping the future or the
//! body cancels the work wherever it is.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::attempt::{self, Begun, Blame, Course, Limits};
use super::local::LONGEST;
use super::record::{self, Record};
use super::{DispatchError, Local, Remote, Reply, ReplyBody, failures};
use crate::capability::{Call, ErrorClass, Failure, Frame, FrameStream, Intent, Operation, Origin, PeerId};
use crate::router::{Candidate, Decision, Parts, Router};
use crate::telemetry::EventBus;

/// Limits of the caller's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Candidates that are tried for one request.
    pub attempts: u32,
    /// Until a callee has said whether it takes a call, its round trips and the sending of the payload aside.
    pub open: Duration,
    /// Between two frames before the first content. Callees send one every half second.
    pub silence: Duration,
    /// Between two frames after it, when there is nobody else to turn to.
    pub silence_streaming: Duration,
    /// Without content of a stream, queueing and loading aside, while there is somebody else to turn to; or four times what
    /// was expected, if that is longer.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // More would only amplify an outage.
            attempts: 4,
            // With the silence below, a dead node costs less than two seconds.
            open: Duration::from_millis(1200),
            silence: Duration::from_millis(1800),
            // A Wi-Fi roams in a few seconds; an answer that has begun is worth waiting for that long.
            silence_streaming: Duration::from_secs(6),
            patience: Duration::from_secs(30),
        }
    }
}

/// Bytes of payload per second that the slowest link worth using carries.
const SLOW_LINK: u64 = 512 * 1024;

/// Runs intents: decides, tries, and answers.
pub struct Dispatcher {
    router: Arc<Router>,
    local: Arc<Local>,
    remote: Arc<dyn Remote>,
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
        Self { router, local, remote, events, settings }
    }

    /// The router that decides for it.
    #[must_use]
    pub const fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Runs an intent. Returns once somebody has sent a first piece of content, or all of an answer. Dropping the future, or
    /// later the reply's body, cancels the work.
    ///
    /// # Errors
    ///
    /// When nobody can do it, nobody who was tried did, or the request itself is wrong.
    pub async fn dispatch(&self, intent: Intent) -> Result<Reply, DispatchError> {
        let deadline = Instant::now() + intent.deadline.min(LONGEST);
        let decision = Arc::new(self.router.decide(&intent));
        let facts = record::Facts {
            request_id: intent.request_id.clone(),
            prompt_tokens: intent.requirements.prompt_tokens,
            streamed: intent.requirements.stream,
            decodes: matches!(intent.operation, Operation::Chat | Operation::Complete | Operation::Agent),
        };
        let mut record = Record::open(Arc::clone(&self.router), self.events.clone(), Arc::clone(&decision), facts);
        if let Some(no_route) = &decision.no_route {
            let failure = failures::of_no_route(no_route, &decision);
            return Err(give_up(record, &decision, failure));
        }
        let mut failed: Vec<(String, Failure)> = Vec::new();
        let mut unreachable: Vec<PeerId> = Vec::new();
        for (place, candidate) in decision.candidates.iter().enumerate() {
            if record.attempts() >= self.settings.attempts.max(1) {
                break;
            }
            if unreachable.contains(&candidate.node) {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            record.attempt(place);
            let another = decision.candidates[place + 1..].iter().any(|other| !unreachable.contains(&other.node));
            let limits = self.limits(&intent, &candidate.parts, deadline, another);
            let opened = self.open(candidate.node, call(&intent, candidate, left));
            match Box::pin(attempt::begin(opened, limits)).await {
                Ok(begun) => {
                    let served = candidate.clone();
                    let decision = Arc::clone(&decision);
                    return Ok(self.reply(decision, served, record, begun, deadline, intent.requirements.stream));
                }
                Err(problem) => {
                    record.load(problem.load);
                    record.attempt_failed(&problem.failure, problem.blame);
                    match problem.blame {
                        Blame::Caller => return Err(give_up(record, &decision, problem.failure)),
                        Blame::Node => unreachable.push(candidate.node),
                        Blame::Deadline | Blame::Busy(_) | Blame::Either | Blame::Capability => {}
                    }
                    failed.push((who(candidate), problem.failure));
                }
            }
        }
        let failure =
            if Instant::now() >= deadline { timeout(intent.deadline, &failed) } else { failures::most_useful(failed) };
        Err(give_up(record, &decision, failure))
    }

    async fn open(&self, node: PeerId, call: Call) -> Result<FrameStream, Failure> {
        if node == self.router.own() { Ok(self.local.run(call, None)) } else { self.remote.call(node, call).await }
    }

    fn limits(&self, intent: &Intent, parts: &Parts, deadline: Instant, another: bool) -> Limits {
        let ms = |ms: f64| Duration::from_secs_f64((ms / 1e3).clamp(0.0, 3600.0));
        // Two round trips to open a connection, and two to open the call.
        let rtt = ms(parts.rtt_ms * 4.0);
        let sending = Duration::from_millis(intent.payload.len() as u64 * 1000 / SLOW_LINK);
        let expected = ms((parts.prefill_ms + parts.load_ms + parts.queue_ms) * 4.0);
        let patience = (intent.requirements.stream && another).then(|| self.settings.patience.max(expected));
        Limits {
            deadline,
            open: self.settings.open + rtt + sending,
            silence: self.settings.silence + rtt,
            patience,
            stream: intent.requirements.stream,
        }
    }

    fn reply(
        &self,
        decision: Arc<Decision>,
        served: Candidate,
        record: Record,
        begun: Begun,
        deadline: Instant,
        stream: bool,
    ) -> Reply {
        let attempts = record.attempts();
        let content_type = begun
            .content_type
            .clone()
            .unwrap_or_else(|| if stream { "text/event-stream" } else { "application/json" }.to_owned());
        record.load(begun.course.load);
        let body = match begun.rest {
            None => {
                record.served(&begun.course);
                let pieces: Vec<Result<Bytes, Failure>> = begun.data.into_iter().map(Ok).collect();
                Box::pin(futures::stream::iter(pieces)) as ReplyBody
            }
            Some(rest) => {
                let silence = self.settings.silence_streaming;
                Box::pin(body(begun.data, rest, begun.course, record, who(&served), deadline, silence))
            }
        };
        Reply { decision, served, attempts, content_type, origin: Origin::Made, body }
    }
}

/// The pieces of an answer that has begun.
fn body(
    data: Vec<Bytes>,
    mut rest: FrameStream,
    mut course: Course,
    mut record: Record,
    who: String,
    deadline: Instant,
    silence: Duration,
) -> impl futures::Stream<Item = Result<Bytes, Failure>> + Send {
    stream! {
        for piece in data {
            yield Ok(piece);
        }
        let mut alarm = Alarm::default();
        let mut now = Instant::now();
        let (failure, blame) = loop {
            let next = alarm.until(deadline.min(now + silence), rest.next()).await;
            now = Instant::now();
            match next {
                Ok(Some(Frame::Chunk(chunk))) => {
                    course.chunk(&chunk.data, now);
                    yield Ok(chunk.data);
                }
                Ok(Some(Frame::Progress(_) | Frame::Accepted(_))) => {}
                Ok(Some(Frame::End { usage, load })) => {
                    course.end(usage, load);
                    record.served(&course);
                    return;
                }
                Ok(Some(Frame::Error(failure))) => {
                    let blame = attempt::blame(&failure, deadline);
                    break (failure, blame);
                }
                Ok(Some(Frame::Rejected(_))) => {
                    let message = format!("{who} broke the call protocol in the middle of its answer");
                    break (Failure::new(ErrorClass::Internal, message), Blame::Node);
                }
                Ok(None) => {
                    let message = format!("{who} was lost in the middle of its answer");
                    break (Failure::new(ErrorClass::Interrupted, message), Blame::Node);
                }
                Err(_) if now >= deadline => {
                    let message = format!("the time ran out while {who} was writing its answer");
                    break (Failure::new(ErrorClass::Timeout, message), Blame::Deadline);
                }
                Err(_) => {
                    let message = format!("{who} fell silent in the middle of its answer");
                    break (Failure::new(ErrorClass::Interrupted, message), Blame::Node);
                }
            }
        };
        // The work stops, and the account is closed, before the caller hears of it.
        drop(rest);
        record.attempt_failed(&failure, blame);
        record.failed(&failure);
        yield Err(failure);
    }
}

fn call(intent: &Intent, candidate: &Candidate, left: Duration) -> Call {
    Call {
        id: intent.request_id.clone(),
        capability: candidate.capability.id.clone(),
        operation: intent.operation,
        payload: intent.payload.clone(),
        content_type: intent.content_type.clone(),
        stream: intent.requirements.stream,
        deadline: left,
        headers: intent.headers.clone(),
    }
}

fn who(candidate: &Candidate) -> String {
    format!("{} on {}", candidate.capability.name, candidate.node_name)
}

fn timeout(deadline: Duration, failed: &[(String, Failure)]) -> Failure {
    let each: Vec<_> = failed.iter().map(|(who, failure)| format!("{who}: {}", failure.message)).collect();
    let message = format!("no answer within {:.1} s: {}", deadline.as_secs_f64(), each.join("; "));
    Failure::new(ErrorClass::Timeout, message)
}

fn give_up(record: Record, decision: &Arc<Decision>, failure: Failure) -> DispatchError {
    let attempts = record.attempts();
    record.failed(&failure);
    DispatchError { decision: Arc::clone(decision), attempts, failure }
}

#[cfg(test)]
#[path = "dispatcher_tests.rs"]
mod tests;
