//! Anthropic's messages, as backends speak them: chats to requests, answers to chat.
//!
//! The other way round than [`anthropic`](super::anthropic), whose table of fields holds here as well. What a client of
//! that dialect said and a chat could not express comes back from the hints here, so that a request goes through the
//! mesh as it was.

mod answer;
mod reader;
mod request;
#[cfg(test)]
mod round_trip;

pub(crate) use answer::{answer, error};
pub(crate) use reader::ChatReader;
pub(crate) use request::{Limits, count_request, request};

/// Chat's reason to end for one of Anthropic's.
fn finish_reason(stop_reason: &str) -> &'static str {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// The HTTP status that one of Anthropic's types of error stands for.
fn status_of(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    }
}
