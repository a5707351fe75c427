//! What a request is called, in answers, logs and decisions.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// The client's own id of the request, when it is one that can be logged and sent on; else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b);
    match headers.get(X_REQUEST_ID) {
        Some(id) if (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(plain) => id.clone(),
        _ => {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            let text = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(text).expect("hex and hyphens are a header value")
        }
    }
}
