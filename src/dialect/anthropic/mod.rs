//! Anthropic's messages, as clients speak them: requests to chat, answers from it.

mod request;
mod writer;

use serde_json::json;

pub(crate) use request::Messages;
pub(crate) use writer::MessageWriter;

use super::Told;

/// An error as Anthropic's clients understand it.
pub(crate) fn error_body(told: &Told, request_id: Option<&str>) -> Vec<u8> {
    let mut body = json!({"type": "error", "error": {"type": kind_of(told.status), "message": told.message}});
    if let Some(id) = request_id {
        body["request_id"] = id.into();
    }
    body.to_string().into_bytes()
}

/// Anthropic's `type` of an error.
fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}
