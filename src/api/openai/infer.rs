//! Runs a request to a model: from its body to its answer, streamed or whole.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::events::{Events, Source, is_event_stream};
use super::reuse::origin_headers;
use super::running::{Running, begin, failed, gather, out_of_time, route_headers};
use super::tally::Tally;
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::limits::{Place, read_json};
use crate::api::measure::Ending;
use crate::capability::{Operation, Whereabouts};
use crate::dispatch::Reply;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// Headers that an answer has in the end: room for all at once.
const HEADERS: usize = 12;
/// So long the head of a stream is held back while somebody works on it; then the client is told what it waits for, and
/// a failure from then on has no status of its own.
const HELD_BACK: Duration = Duration::from_secs(2);

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
    let begun = begin(app, context, operation, headers, body, place)?;
    let Running { mut pending, mut tally, streamed, deadline, whereabouts } = begun;
    // A stream's head is held back until somebody answers, so that an early failure has its own status. A client that
    // waits long is told that it is heard instead.
    let keepalive = app.settings.keepalive;
    let patience = if streamed { deadline.min(Instant::now() + keepalive) } else { deadline };
    let first = if streamed { patience.min(Instant::now() + HELD_BACK) } else { patience };
    let mut begun = timeout_at(first, &mut pending).await;
    if begun.is_err() && streamed && whereabouts.now().is_none() {
        begun = timeout_at(patience, &mut pending).await;
    }
    let reply = match begun {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            tally.ended(Ending::Failed);
            return Err(failed(error));
        }
        Err(_) if streamed && Instant::now() < deadline => {
            return Ok(stream(app, Source::Waiting(pending), tally, deadline, Some(whereabouts)));
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
        let body = gather(body, &mut tally, deadline, attempts, &decision).await?;
        whole(body, &content_type)
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

/// An answer that is not streamed.
fn whole(body: Bytes, content_type: &str) -> Response {
    let mut response = Response::new(Body::from(body));
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("application/json"));
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
