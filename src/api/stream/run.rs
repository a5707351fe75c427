//! One request of a socket: what HTTP would answer, as messages.
//!
//! It takes the way of the HTTP routes, with their limits, deadlines and errors; what is different is that the client is
//! told where the request is while it waits, streamed or not, and that a failure has its status whenever it comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures::StreamExt as _;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::asked::Request;
use super::outbox::Outbox;
use super::told::Told;
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::measure::Ending;
use crate::api::openai::{self, Running, Tally};
use crate::api::request_id::request_id;
use crate::capability::{Origin, Phase, Progress, Whereabouts};
use crate::dialect::Told as Reported;
use crate::dialect::sse::{Framer, data_of};
use crate::dispatch::{DispatchError, Reply};

/// How often it is looked where a request is: a person sees no difference to at once.
const LOOK: Duration = Duration::from_millis(200);

/// Where a streamed request is once somebody answers.
const WRITING: Progress = Progress { phase: Phase::Decode, queue_position: 0 };

/// Runs a request, and says all of it but its end.
///
/// # Errors
///
/// What the client shall be told instead of that.
pub(super) async fn run(app: &App, asked: Request, out: &Outbox) -> Result<Complete, ApiError> {
    let started = Instant::now();
    let Request { id, operation, headers, body } = asked;
    let mut place = app.admission.enter()?;
    place.room.grow(body.len())?;
    let context = Context { request_id: request_id(&headers), started };
    let running = openai::begin(app, &context, operation, &headers, body, place)?;
    let Running { pending, mut tally, deadline, whereabouts, .. } = running;
    let request = context.request_id.to_str().unwrap_or_default();
    out.say(&Told::Accepted { id: &id, request }).await;

    let reply = tokio::select! {
        reply = timeout_at(deadline, pending) => match reply {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(fail(&mut tally, openai::failed(error))),
            Err(_) => return Err(fail(&mut tally, openai::out_of_time())),
        },
        never = follow(&whereabouts, &id, out) => match never {},
    };
    let streamed = openai::is_event_stream(&reply.content_type);
    out.say(&Told::Head {
        id: &id,
        request,
        node: reply.served.node.to_base58(),
        node_name: &reply.served.node_name,
        model: &reply.served.capability.name,
        decision: &reply.decision.id,
        reason: &reply.decision.reason,
        attempts: reply.attempts,
        streamed,
        cache: match reply.origin {
            Origin::Made => None,
            Origin::Missed => Some("MISS"),
            Origin::Kept(_) => Some("HIT"),
        },
    })
    .await;
    let usage = if streamed {
        out.say(&Told::progress(&id, WRITING)).await;
        pieces(reply, &mut tally, deadline, &id, out).await?
    } else {
        let Reply { decision, attempts, body, .. } = reply;
        let body = openai::gather(body, &mut tally, deadline, attempts, &decision).await?;
        whole(&body, &mut tally, &id, out).await?
    };
    Ok(Complete { usage, ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX) })
}

/// What is said at the end of an answer.
pub(super) struct Complete {
    pub(super) usage: Option<Box<RawValue>>,
    pub(super) ms: u64,
}

/// Says where a request is, each thing once, for as long as nobody answers.
async fn follow(whereabouts: &Arc<Whereabouts>, id: &str, out: &Outbox) -> std::convert::Infallible {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Progress> = None;
    loop {
        look.tick().await;
        let now = whereabouts.now();
        if let Some(now) = now.filter(|_| told != now) {
            told = Some(now);
            out.say(&Told::progress(id, now)).await;
        }
    }
}

/// Says the pieces of a streamed answer as they come; its usage, if it tells.
async fn pieces(
    reply: Reply,
    tally: &mut Tally,
    deadline: tokio::time::Instant,
    id: &str,
    out: &Outbox,
) -> Result<Option<Box<RawValue>>, ApiError> {
    let Reply { decision, attempts, mut body, .. } = reply;
    let mut framer = Framer::default();
    let mut usage = None;
    loop {
        let (events, is_last) = match timeout_at(deadline, body.next()).await {
            Err(_) => return Err(fail(tally, openai::out_of_time())),
            Ok(Some(Err(failure))) => {
                let error = DispatchError { decision, attempts, failure };
                return Err(fail(tally, openai::failed(error)));
            }
            Ok(Some(Ok(piece))) => {
                tally.piece(&piece);
                (framer.push(piece).map_err(|error| fail(tally, unreadable(&error.to_string())))?, false)
            }
            Ok(None) => (framer.finish(), true),
        };
        let mut from = 0;
        let ends = if is_last { vec![events.len()] } else { framer.ends().to_vec() };
        for to in ends {
            match read(&events[from..to]).map_err(|error| fail(tally, error))? {
                Said::Nothing => {}
                Said::Comment(phase, text) => {
                    out.say(&Told::Progress { id, phase, position: None, text: Some(text) }).await;
                }
                Said::Data(data, reported) => {
                    usage = reported.or(usage);
                    out.say(&Told::Data { id, data: &data }).await;
                }
            }
            from = to;
        }
        if is_last {
            tally.ended(Ending::Complete);
            return Ok(usage);
        }
    }
}

/// What an event of a stream says.
#[derive(Debug)]
enum Said<'a> {
    /// Nothing that a message would say as well.
    Nothing,
    /// What becomes of the one who answers, and its particulars.
    Comment(&'a str, &'a str),
    /// A piece, and the usage in it.
    Data(Box<RawValue>, Option<Box<RawValue>>),
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

fn read(event: &[u8]) -> Result<Said<'_>, ApiError> {
    let Some(data) = data_of(event) else {
        let text = std::str::from_utf8(event).unwrap_or_default().trim();
        let comment = text.strip_prefix(": atmosphere ").map(|said| said.split_once(' ').unwrap_or((said, "")));
        return Ok(comment.map_or(Said::Nothing, |(phase, text)| Said::Comment(phase, text)));
    };
    // That the answer is complete is said by a message of its own.
    if data.trim_ascii().is_empty() || data.trim_ascii() == b"[DONE]" {
        return Ok(Said::Nothing);
    }
    let piece: Box<RawValue> =
        serde_json::from_slice(&data).map_err(|error| unreadable(&format!("a piece of it is not JSON ({error})")))?;
    let chunk = fields(&piece);
    if chunk.error.is_some_and(|error| error.get() != "null") {
        let Reported { status, message, code, param } = Reported::of_openai(&data, 502);
        return Err(ApiError::untellable(Reported { status, message, code, param }));
    }
    let usage = chunk.usage.filter(|usage| usage.get().starts_with('{')).map(ToOwned::to_owned);
    Ok(Said::Data(piece, usage))
}

/// The fields that are looked at; nearly no piece has one.
fn fields(piece: &RawValue) -> Chunk<'_> {
    let text = piece.get();
    let has = |name: &str| memmem::find(text.as_bytes(), name.as_bytes()).is_some();
    let chunk = (has("\"usage\"") || has("\"error\"")).then(|| serde_json::from_str(text).ok()).flatten();
    chunk.unwrap_or(Chunk { usage: None, error: None })
}

/// Says an answer that came at once.
async fn whole(body: &[u8], tally: &mut Tally, id: &str, out: &Outbox) -> Result<Option<Box<RawValue>>, ApiError> {
    let data: Box<RawValue> = serde_json::from_slice(body).map_err(|_| fail(tally, unreadable("it is not JSON")))?;
    out.say(&Told::Data { id, data: &data }).await;
    Ok(fields(&data).usage.filter(|usage| usage.get().starts_with('{')).map(ToOwned::to_owned))
}

fn unreadable(why: &str) -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "backend_error",
        format!("the backend's answer cannot be told as messages: {why}"),
    )
}

fn fail(tally: &mut Tally, error: ApiError) -> ApiError {
    tally.ended(Ending::Failed);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_stream_become_pieces_and_what_happens_becomes_progress() {
        let data = |event: &str| match read(event.as_bytes()) {
            Ok(Said::Data(data, usage)) => (data.get().to_owned(), usage.map(|usage| usage.get().to_owned())),
            other => panic!("{event:?}: {other:?}"),
        };
        assert_eq!(data("data: {\"x\": 1.50}\r\n\r\n"), ("{\"x\": 1.50}".to_owned(), None));
        let usage = "{\"prompt_tokens\":3}";
        assert_eq!(data(&format!("data: {{\"usage\":{usage}}}\n\n")).1.as_deref(), Some(usage));
        assert_eq!(data("data: {\"usage\":null,\"error\":null}\n\n").1, None);
        assert_eq!(data("data: {\"text\":\"\\\"usage\\\": {}\"}\n\n").1, None);
        for nothing in ["data: [DONE]\n\n", ": keepalive\n\n", "data:\n\n", "event: x\n\n", "\n", ""] {
            assert!(matches!(read(nothing.as_bytes()), Ok(Said::Nothing)), "{nothing:?}");
        }
        let Ok(Said::Comment(phase, text)) = read(b": atmosphere continued node=nas by=replay\n\n") else {
            panic!("a comment")
        };
        assert_eq!((phase, text), ("continued", "node=nas by=replay"));
    }

    #[test]
    fn an_error_in_a_stream_is_one() {
        for (event, status, said) in [
            ("data: {\"error\":{\"message\":\"full\",\"type\":\"rate_limit_error\"}}\n\n", 429, "full"),
            ("data: {\"error\":\"plain\"}\n\n", 502, "plain"),
            ("data: {\"choices\"\n\n", 502, "not JSON"),
        ] {
            let error = read(event.as_bytes()).expect_err(event).into_message();
            assert_eq!(error.status, status, "{event}");
            assert!(error.error.get().contains(said), "{event}: {}", error.error);
        }
    }
}
