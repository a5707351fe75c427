//! Runs a request to a model: from its body to its answer, streamed or whole.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::ask::intent;
use super::events::{Events, Source, is_event_stream};
use super::reuse::origin_headers;
use super::tally::Tally;

use crate::api::app::{App, Context, X_ATMOSPHERE_NODE, node_header};
use crate::api::error::ApiError;
use crate::api::limits::{Place, read_json};
use crate::api::measure::Ending;
use crate::capability::{ErrorClass, Failure, Operation, Whereabouts};
use crate::dispatch::{DispatchError, Reply, ReplyBody};
use crate::router::{Candidate, Decision};

const X_ATMOSPHERE_MODEL: HeaderName = HeaderName::from_static("x-atmosphere-model");
const X_ATMOSPHERE_DECISION: HeaderName = HeaderName::from_static("x-atmosphere-decision");
const X_ATMOSPHERE_ATTEMPTS: HeaderName = HeaderName::from_static("x-atmosphere-attempts");
const X_ATMOSPHERE_ROUTE_REASON: HeaderName = HeaderName::from_static("x-atmosphere-route-reason");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// Bytes of an answer that is not streamed. Far above any text; embeddings of a few thousand inputs fit.
const MAX_WHOLE: usize = 128 * 1024 * 1024;
/// Headers that an answer has in the end: room for all at once.
const HEADERS: usize = 12;
/// Bytes of the reason in its header.
const MAX_REASON: usize = 200;
/// Dispatch keeps the deadline; this much later the API ends the request itself.
/// So long the head of a stream is held back while somebody works on it; then the client is told what it waits for, and a failure
/// from then on has no status of its own.
const HELD_BACK: Duration = Duration::from_secs(2);
const DEADLINE_GRACE: Duration = Duration::from_secs(2);

pub(crate) async fn chat(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&app, &context, Operation::Chat, request).await
}

pub(crate) async fn complete(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&app, &context, Operation::Complete, request).await
}

pub(crate) async fn embed(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(&app, &context, Operation::Embed, request).await
}

async fn infer(app: &App, context: &Context, operation: Operation, request: Request) -> Result<Response, ApiError> {
    let mut place = app.admission.enter()?;
    let (parts, body) = request.into_parts();
    let settings = &app.settings;
    let body = read_json(&parts.headers, body, settings.max_body, settings.body_timeout, &mut place.room).await?;
    run(app, context, operation, &parts.headers, body, place).await
}

/// Runs a request whose body has been read, or was translated from another protocol.
pub(crate) async fn run(
    app: &App,
    context: &Context,
    operation: Operation,
    headers: &HeaderMap,
    body: Bytes,
    place: Place,
) -> Result<Response, ApiError> {
    let settings = &app.settings;
    let mut intent = intent(operation, headers, &context.request_id, body, settings.deadline)?;
    let streamed = intent.requirements.stream;
    let deadline = Instant::now() + intent.deadline + DEADLINE_GRACE;
    let mut tally = Tally::new(app.measures.clone(), operation, context.started, place);
    let whereabouts = streamed.then(Arc::<Whereabouts>::default);
    intent.whereabouts.clone_from(&whereabouts);
    let mut pending = app.service.dispatch(intent);

    // A stream's head is held back until somebody answers, so that an early failure has its own status. A client that
    // waits long is told that it is heard instead.
    let patience = if streamed { deadline.min(Instant::now() + settings.keepalive) } else { deadline };
    let mut begun = match &whereabouts {
        Some(_) => timeout_at(patience.min(Instant::now() + HELD_BACK), &mut pending).await,
        None => timeout_at(patience, &mut pending).await,
    };
    if begun.is_err() && whereabouts.as_ref().is_some_and(|whereabouts| whereabouts.now().is_none()) {
        begun = timeout_at(patience, &mut pending).await;
    }
    let reply = match begun {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tally.ended(Ending::Failed);
            return Err(failed(error));
        }
        Err(_) if streamed && patience < deadline => {
            return Ok(stream(app, Source::Waiting(pending), tally, deadline, whereabouts));
        }
        Err(_) => {
            tally.ended(Ending::Failed);
            return Err(out_of_time());
        }
    };
    let Reply { decision, served, attempts, content_type, origin, body } = reply;
    let mut response = if is_event_stream(&content_type) {
        stream(app, Source::Open(body), tally, deadline, None)
    } else {
        whole(body, &content_type, tally, deadline, attempts, &decision).await?
    };
    route_headers(response.headers_mut(), &decision, Some(&served), attempts);
    origin_headers(response.headers_mut(), origin);
    Ok(response)
}

fn stream(
    app: &App,
    source: Source,
    tally: Tally,
    deadline: Instant,
    whereabouts: Option<Arc<Whereabouts>>,
) -> Response {
    let events = Events::new(source, tally, app.settings.keepalive, deadline, app.closing.clone(), whereabouts);
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Waits for all of an answer, so that one that breaks off has an error's status.
async fn whole(
    mut body: ReplyBody,
    content_type: &str,
    mut tally: Tally,
    deadline: Instant,
    attempts: u32,
    decision: &Arc<Decision>,
) -> Result<Response, ApiError> {
    let mut gathered = Gathered::default();
    loop {
        let failure = match timeout_at(deadline, body.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => {
                tally.piece(&piece);
                if gathered.add(piece) {
                    continue;
                }
                Failure::new(ErrorClass::Backend, format!("the answer is larger than {MAX_WHOLE} bytes"))
            }
            Ok(Some(Err(failure))) => failure,
            Err(_) => {
                tally.ended(Ending::Failed);
                return Err(out_of_time());
            }
        };
        tally.ended(Ending::Failed);
        return Err(failed(DispatchError { decision: Arc::clone(decision), attempts, failure }));
    }
    tally.ended(Ending::Complete);
    let mut response = Response::new(Body::from(gathered.finish()));
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/json"));
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Pieces of one body; a single one is not copied.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    /// Whether it still fits.
    fn add(&mut self, piece: Bytes) -> bool {
        if self.first.len() + self.rest.len() + piece.len() > MAX_WHOLE {
            return false;
        }
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = piece;
        } else {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            self.rest.extend_from_slice(&piece);
        }
        true
    }

    fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

fn failed(error: DispatchError) -> ApiError {
    let (decision, attempts) = (Arc::clone(&error.decision), error.attempts);
    let mut error = ApiError::of_dispatch(error);
    route_headers(error.headers_mut(), &decision, None, attempts);
    error
}

fn out_of_time() -> ApiError {
    let message = "no answer came within the request's time; x-atmosphere-timeout sets it";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
}

fn route_headers(headers: &mut HeaderMap, decision: &Decision, served: Option<&Candidate>, attempts: u32) {
    if let Some(served) = served {
        headers.insert(X_ATMOSPHERE_NODE, node_header(&served.node_name, || served.node.to_base58()));
        if let Some(model) = ascii(&served.capability.name, MAX_REASON) {
            headers.insert(X_ATMOSPHERE_MODEL, model);
        }
    }
    if let Some(id) = ascii(&decision.id, MAX_REASON) {
        headers.insert(X_ATMOSPHERE_DECISION, id);
    }
    headers.insert(X_ATMOSPHERE_ATTEMPTS, HeaderValue::from(attempts));
    if let Some(reason) = ascii(&decision.reason, MAX_REASON) {
        headers.insert(X_ATMOSPHERE_ROUTE_REASON, reason);
    }
}

/// The text as a header can carry it: other characters become `?`.
fn ascii(text: &str, limit: usize) -> Option<HeaderValue> {
    let printable = |b: u8| b.is_ascii_graphic() || b == b' ';
    let text: Cow<'_, str> = if text.len() <= limit && text.bytes().all(printable) {
        text.into()
    } else {
        text.chars().take(limit).map(|c| if u8::try_from(c).is_ok_and(printable) { c } else { '?' }).collect()
    };
    if text.is_empty() { None } else { HeaderValue::from_str(&text).ok() }
}
