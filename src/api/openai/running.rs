//! A request to a model under way, whatever it came by: begun, waited for, gathered, failed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::ask::intent;
use super::tally::Tally;
use crate::api::app::{App, Context, X_ATMOSPHERE_NODE, node_header};
use crate::api::error::ApiError;
use crate::api::limits::Place;
use crate::api::measure::Ending;
use crate::capability::{ErrorClass, Failure, Operation, Whereabouts};
use crate::dispatch::{DispatchError, Reply, ReplyBody};
use crate::router::{Candidate, Decision};

const X_ATMOSPHERE_MODEL: HeaderName = HeaderName::from_static("x-atmosphere-model");
const X_ATMOSPHERE_DECISION: HeaderName = HeaderName::from_static("x-atmosphere-decision");
const X_ATMOSPHERE_ATTEMPTS: HeaderName = HeaderName::from_static("x-atmosphere-attempts");
const X_ATMOSPHERE_ROUTE_REASON: HeaderName = HeaderName::from_static("x-atmosphere-route-reason");

/// Bytes of an answer that is not streamed. Far above any text; embeddings of a few thousand inputs fit.
const MAX_WHOLE: usize = 128 * 1024 * 1024;
/// Bytes of the reason in its header.
const MAX_REASON: usize = 200;
/// Dispatch keeps the deadline; this much later the API ends the request itself.
const DEADLINE_GRACE: Duration = Duration::from_secs(2);

/// A request that somebody is being found for.
pub(crate) struct Running {
    /// Comes with the first of the answer. Dropping it ends the request.
    pub(crate) pending: BoxFuture<'static, Result<Reply, DispatchError>>,
    pub(crate) tally: Tally,
    /// Whether a stream was asked for.
    pub(crate) streamed: bool,
    /// When its time is over for certain, should dispatch fail to end it.
    pub(crate) deadline: Instant,
    /// Where it is meanwhile.
    pub(crate) whereabouts: Arc<Whereabouts>,
}

/// Begins a request whose body has been read.
pub(crate) fn begin(
    app: &App,
    context: &Context,
    operation: Operation,
    headers: &HeaderMap,
    body: Bytes,
    place: Place,
) -> Result<Running, ApiError> {
    let mut intent = intent(operation, headers, &context.request_id, body, app.settings.deadline)?;
    let streamed = intent.requirements.stream;
    let deadline = Instant::now() + intent.deadline + DEADLINE_GRACE;
    let tally = Tally::new(app.measures.clone(), operation, context.started, place);
    let whereabouts = Arc::<Whereabouts>::default();
    intent.whereabouts = Some(Arc::clone(&whereabouts));
    let pending = app.service.dispatch(intent);
    Ok(Running { pending, tally, streamed, deadline, whereabouts })
}

/// Waits for all of an answer, so that one that breaks off has an error's status.
pub(crate) async fn gather(
    mut body: ReplyBody,
    tally: &mut Tally,
    deadline: Instant,
    attempts: u32,
    decision: &Arc<Decision>,
) -> Result<Bytes, ApiError> {
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
    Ok(gathered.finish())
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

/// What a caller is told when dispatch has failed, with the decision in its headers.
pub(crate) fn failed(error: DispatchError) -> ApiError {
    let (decision, attempts) = (Arc::clone(&error.decision), error.attempts);
    let mut error = ApiError::of_dispatch(error);
    route_headers(error.headers_mut(), &decision, None, attempts);
    error
}

/// What a caller is told whose time is over.
pub(crate) fn out_of_time() -> ApiError {
    let message = "no answer came within the request's time; x-atmosphere-timeout sets it";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message).spent()
}

/// Says who answers, and why.
pub(super) fn route_headers(headers: &mut HeaderMap, decision: &Decision, served: Option<&Candidate>, attempts: u32) {
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
