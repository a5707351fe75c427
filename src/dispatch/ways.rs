//! How candidates are called: the limits of the caller's side, and the way to each node.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Limits;
use super::budget::Budget;
use super::{Local, Remote};
use crate::capability::{Call, Failure, FrameStream, Intent, PeerId};
use crate::router::{Candidate, Decision, Parts, Router};

/// Limits of the caller's side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Candidates that are tried for one request.
    pub attempts: u32,
    /// Until a callee has said whether it takes a call, its round trips and the sending of the payload aside.
    pub open: Duration,
    /// Between two frames before the first content. Callees send one every half second.
    pub silence: Duration,
    /// Between two frames after it, when there is nobody else to turn to.
    pub silence_streaming: Duration,
    /// The same, when somebody else can go on with the answer: three heartbeats that did not come.
    pub silence_resumable: Duration,
    /// Whether somebody else goes on with a streamed answer whose node is lost, when the request says nothing of it.
    pub failover: bool,
    /// Whether a second candidate is asked when the first takes unusually long, when the request says nothing of it.
    pub hedge: bool,
    /// Share of the requests up to which more is tried: again, and elsewhere.
    pub retry_share: f64,
    /// Without content of a stream, queueing and loading aside, while there is somebody else to turn to; or four times what
    /// was expected, if that is longer.
    pub patience: Duration,
    /// How long a stronger embedder may take to say what a doubtful question means; zero: nobody is asked.
    pub second_opinion: Duration,
    /// Whether an embedder on another node may be asked; else this node's own only.
    pub second_opinion_elsewhere: bool,
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
            silence_resumable: Duration::from_millis(1200),
            failover: true,
            hedge: false,
            // Enough for a node that dies under load; an outage of all is not made worse by more than that.
            retry_share: 0.2,
            patience: Duration::from_secs(30),
            // Nobody notices so much before an answer that takes seconds, and an embedder on a processor needs a tenth of it.
            second_opinion: Duration::from_millis(150),
            second_opinion_elsewhere: true,
        }
    }
}

/// Bytes of payload per second that the slowest link worth using carries.
const SLOW_LINK: u64 = 512 * 1024;

/// How candidates are called, and how much more than once.
pub(super) struct Ways {
    pub(super) router: Arc<Router>,
    pub(super) local: Arc<Local>,
    pub(super) remote: Arc<dyn Remote>,
    pub(super) budget: Budget,
}

impl Ways {
    /// Opens a call on a candidate's node, which may be this one.
    pub(super) async fn open(&self, node: PeerId, call: Call) -> Result<FrameStream, Failure> {
        if node == self.router.own() { Ok(self.local.run(call, None)) } else { self.remote.call(node, call).await }
    }
}

/// One request, and what it is answered with.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) ways: &'a Ways,
    pub(super) settings: &'a Settings,
    pub(super) intent: &'a Intent,
    pub(super) decision: &'a Decision,
    pub(super) deadline: Instant,
}

/// How long an attempt at this candidate may take for what.
pub(super) fn limits(settings: &Settings, intent: &Intent, parts: &Parts, deadline: Instant, another: bool) -> Limits {
    // Two round trips to open a connection, and two to open the call.
    let rtt = ms(parts.rtt_ms * 4.0);
    let sending = Duration::from_millis(intent.payload.len() as u64 * 1000 / SLOW_LINK);
    let expected = ms((parts.prefill_ms + parts.load_ms + parts.queue_ms) * 4.0);
    let patience = (intent.requirements.stream && another).then(|| settings.patience.max(expected));
    Limits {
        deadline,
        open: settings.open + rtt + sending,
        silence: settings.silence + rtt,
        patience,
        stream: intent.requirements.stream,
    }
}

/// Milliseconds of a prediction, up to an hour.
pub(super) fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64((ms / 1e3).clamp(0.0, 3600.0))
}

/// One attempt to run an intent on a candidate.
pub(super) fn call(intent: &Intent, candidate: &Candidate, left: Duration) -> Call {
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

/// A candidate, for people.
pub(super) fn who(candidate: &Candidate) -> String {
    format!("{} on {}", candidate.capability.name, candidate.node_name)
}
