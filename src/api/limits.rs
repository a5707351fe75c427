//! How much of a request is read, and how many requests to a model run at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use futures::StreamExt as _;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;
use super::measure::Measures;

/// When to come again after a refusal: answers take seconds, so that a place may be free by then.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A body without an announced length is gathered in a buffer that starts no larger than this.
const FIRST_BUFFER: usize = 64 * 1024;

/// A client whose body is too large usually reads the answer only once it has sent everything, so that much more is
/// read, and thrown away, before the refusal.
const DISCARD_FACTOR: usize = 2;
/// As long as that takes at the most.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Admits requests to models, a bounded number at once.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    in_flight: Gauge,
}

/// A place; free again when it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    in_flight: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

impl Admission {
    pub(super) fn new(places: usize, measures: &Measures) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), in_flight: measures.in_flight.clone() }
    }

    pub(super) fn enter(&self) -> Result<Place, ApiError> {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            let message = "this node runs as many requests at once as it may; try again in a moment";
            return Err(
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(BUSY_RETRY_AFTER)
            );
        };
        self.in_flight.inc();
        Ok(Place { _permit: permit, in_flight: self.in_flight.clone() })
    }
}

/// The JSON body of a request. One that came in one piece is not copied.
pub(super) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    idle: Duration,
) -> Result<Bytes, ApiError> {
    check_media_type(headers)?;
    read(headers, body, limit, idle).await
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let json = essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence.as_bytes()[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
    if json {
        return Ok(());
    }
    let shown: String = essence.chars().take(100).collect();
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the body is {shown:?}: send JSON with \"content-type: application/json\""),
    )
    .param("content-type"))
}

async fn read(headers: &HeaderMap, body: Body, limit: usize, idle: Duration) -> Result<Bytes, ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut body = body.into_data_stream();
    if announced.is_some_and(|length| length > limit) {
        // A client that asks first has sent nothing: to read would tell it to.
        if !headers.contains_key(EXPECT) {
            discard(&mut body, limit).await;
        }
        return Err(too_large(limit));
    }
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let piece = match timeout(idle, body.next()).await {
            Err(_) => {
                let message = format!("the body stopped coming for {} s", idle.as_secs());
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
            }
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(ApiError::bad_request("the body broke off before its announced end")),
            Ok(Some(Ok(piece))) => piece,
        };
        if first.len() + whole.len() + piece.len() > limit {
            discard(&mut body, limit).await;
            return Err(too_large(limit));
        }
        if first.is_empty() && whole.is_empty() {
            first = piece;
            continue;
        }
        if first.is_empty() && whole.is_empty() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            // What is announced is not yet there: the buffer grows with what comes.
            whole.reserve(announced.unwrap_or(0).min(FIRST_BUFFER).max(first.len() + piece.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

async fn discard(body: &mut axum::body::BodyDataStream, limit: usize) {
    let mut left = limit.saturating_mul(DISCARD_FACTOR);
    let reading = async {
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    // Whether or not it came to an end, the answer is the same.
    let _ = timeout(DISCARD_TIME, reading).await;
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than this node's limit of {limit} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
