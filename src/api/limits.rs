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

/// Bytes of all bodies that are held at once: sixteen of the largest. Without it, as many as may run could be as large as
/// they may, which is more memory than a home machine has.
const BODIES: usize = 512 * 1024 * 1024;
/// A body up to this size is not counted: those of all places together are few.
const SMALL_BODY: usize = 64 * 1024;
/// Unit in which bytes are counted, since a semaphore counts to 2^29 at the least.
const UNIT: usize = 1024;

/// Admits requests to models, a bounded number and a bounded size at once.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    in_flight: Gauge,
}

/// A place; free again when it is dropped.
pub(super) struct Place {
    /// For the body of its request.
    pub(super) room: Room,
    _permit: OwnedSemaphorePermit,
    in_flight: Gauge,
}

/// Room for one body; free again when it is dropped.
pub(super) struct Room {
    bodies: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Makes it large enough for so many bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(held);
        if bytes <= SMALL_BODY || more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.bodies).try_acquire_many_owned(more) else {
            let message = "this node holds as much of requests as it may; try again in a moment";
            return Err(
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(BUSY_RETRY_AFTER)
            );
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

impl Admission {
    pub(super) fn new(places: usize, max_body: usize, measures: &Measures) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            places: semaphore(places),
            bodies: semaphore(BODIES.max(max_body.saturating_mul(2)) / UNIT),
            in_flight: measures.in_flight.clone(),
        }
    }

    /// Room for the body of a request that needs no place.
    pub(super) fn room(&self) -> Room {
        Room { bodies: Arc::clone(&self.bodies), held: None }
    }

    pub(super) fn enter(&self) -> Result<Place, ApiError> {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            let message = "this node runs as many requests at once as it may; try again in a moment";
            return Err(
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(BUSY_RETRY_AFTER)
            );
        };
        self.in_flight.inc();
        Ok(Place { room: self.room(), _permit: permit, in_flight: self.in_flight.clone() })
    }
}

/// The JSON body of a request. One that came in one piece is not copied.
pub(super) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    idle: Duration,
    room: &mut Room,
) -> Result<Bytes, ApiError> {
    check_media_type(headers)?;
    read_any(headers, body, limit, idle, room).await
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

/// The body of a request, whatever its type.
pub(super) async fn read_any(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    idle: Duration,
    room: &mut Room,
) -> Result<Bytes, ApiError> {
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
        // As it comes, and not as announced: an announcement alone takes nothing from others.
        if let Err(error) = room.grow(first.len() + whole.len() + piece.len()) {
            drop((first, whole));
            discard(&mut body, limit).await;
            return Err(error);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn bodies_share_a_bounded_room_and_small_ones_need_none() {
        let admission = Admission::new(4, BODIES / 2, &Measures::new(&Metrics::default()));
        let (mut first, mut second, mut third) = (admission.room(), admission.room(), admission.room());
        assert!(first.grow(SMALL_BODY).is_ok() && first.held.is_none());
        for bytes in [SMALL_BODY + 1, BODIES / 4, BODIES / 2, BODIES / 2] {
            assert!(first.grow(bytes).is_ok(), "{bytes}");
        }
        assert!(second.grow(BODIES / 2).is_ok());
        assert!(third.grow(SMALL_BODY).is_ok());
        assert!(third.grow(SMALL_BODY + 1).is_err());
        drop(first);
        assert!(third.grow(BODIES / 2).is_ok());
    }
}
