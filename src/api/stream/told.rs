//! What a client is told over the socket: messages as JSON text. Pure.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::error::{ApiError, Message};
use crate::capability::Progress;
use crate::telemetry::Event;

/// A message to the client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Told<'a> {
    /// The first of all.
    Hello {
        node: String,
        node_name: &'a str,
        version: &'static str,
        /// Unix milliseconds: another time is another run of the node, whose events are numbered anew.
        started_at_ms: u64,
        /// The number of the last event so far.
        seq: u64,
        /// The subscription.
        events: &'a [String],
        limits: Limits,
    },
    /// The subscription is this one now.
    Subscribed { events: &'a [String], seq: u64 },
    /// Something happened.
    Event { seq: u64, at: String, event: &'static str, data: &'a Value },
    /// So many events, of any kind, came faster than they were read, and are lost.
    Lagged { missed: u64 },
    /// A request is let in, and runs.
    Accepted {
        id: &'a str,
        /// Its name in logs and decisions.
        request: &'a str,
    },
    /// Where it is while nobody has answered, or what happens to the one who does.
    Progress {
        id: &'a str,
        phase: &'a str,
        /// Place in the queue.
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
    },
    /// Who answers, and why.
    Head {
        id: &'a str,
        request: &'a str,
        node: String,
        node_name: &'a str,
        model: &'a str,
        decision: &'a str,
        reason: &'a str,
        attempts: u32,
        /// Whether the answer comes in pieces.
        streamed: bool,
        /// `HIT` or `MISS`, where kept answers were looked at.
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<&'static str>,
    },
    /// A piece of the answer, or all of it, as its backend wrote it.
    Data { id: &'a str, data: &'a RawValue },
    /// The answer is complete.
    Done {
        id: &'a str,
        /// As the backend reported it.
        usage: Option<&'a RawValue>,
        ms: u64,
    },
    /// There will be no more of it, as was asked for.
    Cancelled {
        id: &'a str,
        /// `false`: there was no such request, or it was over already.
        was_running: bool,
    },
    /// A request failed, or, without an id, a message could not be understood.
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(flatten)]
        message: Message,
    },
    /// The node stops: nothing new is taken, and the socket closes when what runs is over.
    Closing { message: &'static str, running: usize },
}

/// What one socket may do.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    /// Requests at once.
    pub(super) requests: usize,
    /// Bytes of a message to the node.
    pub(super) message_bytes: usize,
}

impl<'a> Told<'a> {
    /// What happened.
    pub(super) fn event(event: &'a Event) -> Self {
        // Later than the year 9999 no time can be written.
        let at = event.at.min(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_000_000_000));
        let at = humantime::format_rfc3339_millis(at).to_string();
        Self::Event { seq: event.seq, at, event: event.kind, data: &event.data }
    }

    /// Where a request is.
    pub(super) fn progress(id: &'a str, progress: Progress) -> Self {
        let position = (progress.queue_position > 0).then_some(progress.queue_position);
        Self::Progress { id, phase: progress.phase.as_str(), position, text: None }
    }

    /// What went wrong.
    pub(super) fn error(id: Option<&'a str>, error: ApiError) -> Self {
        Self::Error { id, message: error.into_message() }
    }

    /// As JSON.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and JSON are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::capability::Phase;

    #[test]
    fn messages_have_their_shapes() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let (data, usage) = (raw("{\"a\": 1.50}"), raw("{\"prompt_tokens\":7}"));
        let event = Event {
            seq: 7,
            kind: "node.left",
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            data: json!({"name": "gpu"}),
        };
        let busy =
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "busy").retry_after(Duration::from_secs(2));
        let queued = Progress { phase: Phase::Queued, queue_position: 2 };
        let loading = Progress { phase: Phase::Loading, queue_position: 0 };
        for (told, text) in [
            (
                Told::event(&event),
                r#"{"type":"event","seq":7,"at":"1970-01-01T00:00:01.500Z","event":"node.left","data":{"name":"gpu"}}"#,
            ),
            (Told::progress("a", queued), r#"{"type":"progress","id":"a","phase":"queued","position":2}"#),
            (Told::progress("a", loading), r#"{"type":"progress","id":"a","phase":"loading"}"#),
            (Told::Data { id: "a", data: &data }, r#"{"type":"data","id":"a","data":{"a": 1.50}}"#),
            (
                Told::Done { id: "a", usage: Some(&usage), ms: 3 },
                r#"{"type":"done","id":"a","usage":{"prompt_tokens":7},"ms":3}"#,
            ),
            (
                Told::error(Some("a"), busy),
                r#"{"type":"error","id":"a","status":503,"error":{"message":"busy","type":"server_error","param":null,"code":"overloaded"},"retry_after":2}"#,
            ),
            (
                Told::error(None, ApiError::bad_request("no")),
                r#"{"type":"error","status":400,"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}"#,
            ),
            (Told::Lagged { missed: 9 }, r#"{"type":"lagged","missed":9}"#),
        ] {
            assert_eq!(told.to_text(), text);
        }
    }
}
