//! A streamed answer: the backend's server-sent events byte for byte, and a sign of life while there are none.
//!
//! A stream whose first piece is slow to come (a queue, a model that loads) starts before it is known how the request
//! fares; whatever goes wrong from then on is told in the stream: one error event, and nothing after it, not even
//! `[DONE]`, so that SDKs raise instead of taking half an answer for a whole one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tally::Tally;
use crate::api::error::error_event;
use crate::api::measure::Ending;
use crate::capability::{ErrorClass, Failure, Origin, Phase, Progress, Whereabouts};
use crate::dispatch::{DispatchError, Reply, ReplyBody};
use crate::waiting::{Stop, Timer};

/// A comment, which clients skip.
const KEEPALIVE: Bytes = Bytes::from_static(b": keepalive\n\n");

/// How often it is looked where a request is that waits for its answer.
const LOOK: Duration = Duration::from_millis(500);

/// An answer that is still to begin.
type Pending = BoxFuture<'static, Result<Reply, DispatchError>>;

/// Where the pieces come from.
pub(super) enum Source {
    /// Nobody has answered yet.
    Waiting(Pending),
    /// Somebody answers.
    Open(ReplyBody),
    /// There is no more.
    Over,
}

/// A streamed answer.
pub(super) struct Events {
    source: Source,
    tally: Tally,
    keepalive: Duration,
    /// Where the request is, and what of it the client was told last.
    whereabouts: Option<Arc<Whereabouts>>,
    told: Option<Progress>,
    /// When something was last sent.
    last: Instant,
    /// When the request's time is over for certain, should dispatch fail to end it.
    deadline: Instant,
    beat: Timer,
    closing: Stop,
}

impl Events {
    pub(super) fn new(
        source: Source,
        tally: Tally,
        keepalive: Duration,
        deadline: Instant,
        closing: CancellationToken,
        whereabouts: Option<Arc<Whereabouts>>,
    ) -> Self {
        let last = Instant::now();
        // A stream that begins with waiting says at once what for.
        let first = if whereabouts.is_some() { Duration::ZERO } else { keepalive };
        Self {
            source,
            tally,
            keepalive,
            whereabouts,
            told: None,
            last,
            deadline,
            beat: Timer::at(deadline.min(last + first)),
            closing: Stop::of(closing),
        }
    }

    fn fail(&mut self, failure: &Failure) -> Bytes {
        self.source = Source::Over;
        self.tally.ended(Ending::Failed);
        error_event(failure)
    }

    /// What is new of where the request is, as a comment.
    fn progress(&mut self) -> Option<Bytes> {
        let now = self.whereabouts.as_ref()?.now()?;
        if self.told == Some(now) {
            return None;
        }
        self.told = Some(now);
        Some(match (now.phase, now.queue_position) {
            (Phase::Queued, 0) => Bytes::from_static(b": atmosphere queued\n\n"),
            (Phase::Queued, position) => format!(": atmosphere queued position={position}\n\n").into(),
            (Phase::Loading, _) => Bytes::from_static(b": atmosphere loading\n\n"),
            (Phase::Prefill, _) => Bytes::from_static(b": atmosphere prefill\n\n"),
            (Phase::Decode, _) => Bytes::from_static(b": atmosphere decode\n\n"),
        })
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Source::Waiting(pending) = &mut self.source {
            let Poll::Ready(begun) = pending.poll_unpin(cx) else { return Poll::Pending };
            match begun {
                Ok(reply) if is_event_stream(&reply.content_type) => {
                    let comment = answered_by(&reply);
                    self.whereabouts = None;
                    self.source = Source::Open(reply.body);
                    return Poll::Ready(Some(comment));
                }
                Ok(_) => {
                    let message = "the backend answered with something that is not a stream of events";
                    return Poll::Ready(Some(self.fail(&Failure::new(ErrorClass::Backend, message))));
                }
                Err(error) => return Poll::Ready(Some(self.fail(&told_late(error.failure)))),
            }
        }
        let Source::Open(body) = &mut self.source else { return Poll::Ready(None) };
        loop {
            return match body.poll_next_unpin(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(piece))) if piece.is_empty() => continue,
                Poll::Ready(Some(Ok(piece))) => {
                    self.tally.piece(&piece);
                    self.last = Instant::now();
                    Poll::Ready(Some(piece))
                }
                Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(self.fail(&failure))),
                Poll::Ready(None) => {
                    self.source = Source::Over;
                    self.tally.ended(Ending::Complete);
                    Poll::Ready(None)
                }
            };
        }
    }
}

/// Who answers, as a comment: what the head of the response would have said, had it waited.
fn answered_by(reply: &Reply) -> Bytes {
    let Reply { served, decision, attempts, .. } = reply;
    let cache = match reply.origin {
        Origin::Made => "",
        Origin::Missed => " cache=MISS",
        Origin::Kept(_) => " cache=HIT",
    };
    let line = format!(
        ": atmosphere node={} model={} decision={} attempts={attempts}{cache}",
        served.node_name, served.capability.name, decision.id
    );
    // A line break in a name would end the comment.
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("{line}\n\n").into()
}

/// A failure that comes when the status is already sent: a backend's own body can no longer be passed on as it is, but
/// its message can.
fn told_late(mut failure: Failure) -> Failure {
    let own = failure.body.as_ref().and_then(|(body, _)| {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let message = value["error"]["message"].as_str().or_else(|| value["error"].as_str())?;
        Some(message.to_owned())
    });
    if let Some(message) = own {
        failure.message = message;
    }
    failure
}

/// Whether this is the media type of server-sent events.
pub(crate) fn is_event_stream(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Poll::Ready(piece) = this.poll_source(cx) {
            return Poll::Ready(piece.map(Ok));
        }
        if this.closing.poll(cx).is_ready() {
            let message = "this node is stopping and could not wait for the end of the answer; try again";
            return Poll::Ready(Some(Ok(this.fail(&Failure::new(ErrorClass::Interrupted, message)))));
        }
        // The timer is not moved with every piece, which would cost more than the piece: it rings, and looks.
        while this.beat.poll(cx).is_ready() {
            let now = Instant::now();
            if now >= this.deadline {
                let message = "the request's time is over";
                return Poll::Ready(Some(Ok(this.fail(&Failure::new(ErrorClass::Timeout, message)))));
            }
            let due = now >= this.last + this.keepalive;
            let comment = this.progress().or(due.then_some(KEEPALIVE));
            if comment.is_some() {
                this.last = now;
            }
            let look = if this.whereabouts.is_some() { LOOK } else { this.keepalive };
            this.beat.set(this.deadline.min((this.last + this.keepalive).min(now + look)));
            if let Some(comment) = comment {
                return Poll::Ready(Some(Ok(comment)));
            }
        }
        Poll::Pending
    }
}
