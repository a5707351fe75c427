//! Reads from the events of a streamed answer what must be known about it: whether content has begun, how it
//! ended, what it took, and whether an error is in it. Pure.
//!
//! Tokens arrive by the hundred per second, so an event is only searched for a few words; it is parsed when one
//! of them occurs, and until the content has begun.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;

use crate::capability::Usage;
use crate::dialect::sse::data_of;

static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\""));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
static TIMINGS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"timings\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What an event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A comment, or a first event that only says who speaks: nothing that a caller waits for.
    Prelude,
    /// A piece of the answer.
    Content,
    /// `[DONE]`: the answer is over.
    Done,
    /// An error; the event's data.
    Error(Vec<u8>),
    /// Data that are no JSON object.
    Garbage,
}

/// What is known of a streamed answer so far.
#[derive(Debug, Default)]
pub(crate) struct Inspector {
    /// Whether content has begun.
    pub(crate) begun: bool,
    /// Whether a choice told why it ended.
    pub(crate) finished: bool,
    /// Whether `[DONE]` came.
    pub(crate) done: bool,
    /// What the answer took.
    pub(crate) usage: Option<Usage>,
}

impl Inspector {
    /// Looks at the next event.
    pub(crate) fn see(&mut self, event: &[u8]) -> Event {
        let Some(data) = data_of(event) else { return Event::Prelude };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Event::Done;
        }
        if data.is_empty() {
            return Event::Prelude;
        }
        if !(data.starts_with(b"{") && data.ends_with(b"}")) {
            return Event::Garbage;
        }
        if ERROR.find(data).is_some() && has_error(data) {
            return Event::Error(data.to_vec());
        }
        if let Some(at) = FINISH_REASON.find(data)
            && is_said(value_after(&data[at + b"\"finish_reason\"".len()..]))
        {
            self.finished = true;
            if self.usage.is_none() && TIMINGS.find(data).is_some() {
                self.usage = timings_of(data);
            }
        }
        if let Some(at) = USAGE.find(data)
            && value_after(&data[at + b"\"usage\"".len()..]).starts_with(b"{")
            && let Some(usage) = usage_of(data)
        {
            self.usage = Some(usage);
        }
        if !self.begun {
            match serde_json::from_slice::<Value>(data) {
                Ok(event) if is_prelude(&event) => return Event::Prelude,
                Ok(_) => self.begun = true,
                Err(_) => return Event::Garbage,
            }
        }
        Event::Content
    }
}

/// What stands after a member's name, without the colon.
fn value_after(rest: &[u8]) -> &[u8] {
    rest.trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii_start()
}

/// Whether a value is a text with something in it; some servers send an empty reason with every event.
fn is_said(value: &[u8]) -> bool {
    value.starts_with(b"\"") && !value.starts_with(b"\"\"")
}

/// Whether the top level of a JSON object has an error that is not null.
pub(crate) fn has_error(data: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        error: Option<&'a serde_json::value::RawValue>,
    }
    serde_json::from_slice::<Top<'_>>(data).is_ok_and(|top| top.error.is_some())
}

/// What must be known of an answer that came in one piece: its usage, and whether it is an error after all.
///
/// # Errors
///
/// When it is no JSON object.
pub(crate) fn whole(data: &[u8]) -> Result<(Option<Usage>, bool), serde_json::Error> {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        error: Option<&'a serde_json::value::RawValue>,
        #[serde(borrow)]
        usage: Option<&'a serde_json::value::RawValue>,
    }
    if !data.trim_ascii_start().starts_with(b"{") {
        return Err(serde::de::Error::custom("it does not begin with '{'"));
    }
    let top: Top<'_> = serde_json::from_slice(data)?;
    Ok((top.usage.and_then(|usage| told_in(usage.get())), top.error.is_some()))
}

/// The usage that a JSON object of an answer tells: `prompt_tokens` and `completion_tokens`, or the newer
/// `input_tokens` and `output_tokens`.
pub(crate) fn usage_of(data: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Top<'a> {
        #[serde(borrow)]
        usage: Option<&'a serde_json::value::RawValue>,
    }
    told_in(serde_json::from_slice::<Top<'_>>(data).ok()?.usage?.get())
}

fn told_in(usage: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Told {
        prompt_tokens: Option<u64>,
        completion_tokens: Option<u64>,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        prompt_tokens_details: Option<Details>,
        input_tokens_details: Option<Details>,
    }
    #[derive(Deserialize)]
    struct Details {
        cached_tokens: Option<u64>,
    }
    let told: Told = serde_json::from_str(usage).ok()?;
    let prompt_tokens = told.prompt_tokens.or(told.input_tokens);
    let completion_tokens = told.completion_tokens.or(told.output_tokens);
    (prompt_tokens.is_some() || completion_tokens.is_some()).then(|| Usage {
        prompt_tokens: prompt_tokens.unwrap_or_default(),
        completion_tokens: completion_tokens.unwrap_or_default(),
        cached_tokens: told.prompt_tokens_details.or(told.input_tokens_details).and_then(|it| it.cached_tokens),
    })
}

/// The usage that llama.cpp tells in its own words at the end of every answer, asked or not.
fn timings_of(data: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Timings {
        cache_n: u64,
        prompt_n: u64,
        predicted_n: u64,
    }
    #[derive(Deserialize)]
    struct Top {
        timings: Timings,
    }
    let Top { timings } = serde_json::from_slice(data).ok()?;
    Some(Usage {
        prompt_tokens: timings.cache_n.saturating_add(timings.prompt_n),
        completion_tokens: timings.predicted_n,
        cached_tokens: Some(timings.cache_n),
    })
}

/// Whether a first event only says who speaks: every choice's delta is empty but for its role.
fn is_prelude(event: &Value) -> bool {
    let Some(choices) = event.get("choices").and_then(Value::as_array) else { return false };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    choices.iter().all(|choice| {
        let unfinished = choice.get("finish_reason").is_none_or(Value::is_null);
        let silent = match choice.get("delta") {
            Some(Value::Object(delta)) => delta.iter().all(|(name, value)| name == "role" || is_empty(value)),
            Some(_) => false,
            None => choice.get("text").and_then(Value::as_str) == Some(""),
        };
        unfinished && silent
    }) && event.get("usage").is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(inspector: &mut Inspector, data: &str) -> Event {
        inspector.see(format!("data: {data}\n\n").as_bytes())
    }

    #[test]
    fn a_stream_is_read_from_role_to_done() {
        let mut it = Inspector::default();
        assert_eq!(it.see(b": ping\n\n"), Event::Prelude);
        assert_eq!(
            see(
                &mut it,
                r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#
            ),
            Event::Prelude
        );
        assert!(!it.begun);
        assert_eq!(see(&mut it, r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#), Event::Content);
        assert!(it.begun && !it.finished);
        assert_eq!(see(&mut it, r#"{"choices":[{"delta":{},"finish_reason" : "stop"}]}"#), Event::Content);
        assert!(it.finished && it.usage.is_none());
        assert_eq!(
            see(&mut it, r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#),
            Event::Content
        );
        assert_eq!(it.usage, Some(Usage { prompt_tokens: 3, completion_tokens: 4, ..Usage::default() }));
        assert_eq!(see(&mut it, "[DONE]"), Event::Done);
        assert!(it.done);
    }

    #[test]
    fn tool_calls_reasoning_and_text_are_content() {
        for data in [
            r#"{"choices":[{"delta":{"role":"assistant","tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"text":"spoken"}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        ] {
            assert_eq!(see(&mut Inspector::default(), data), Event::Content, "{data}");
        }
    }

    #[test]
    fn only_a_top_level_error_is_one() {
        let error = r#"{"error":{"message":"x"}}"#;
        assert_eq!(see(&mut Inspector::default(), error), Event::Error(error.into()));
        for fine in [
            r#"{"choices":[{"delta":{"content":"{\"error\":1} \"finish_reason\":\"stop\""}}]}"#,
            r#"{"error":null,"choices":[{"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"delta":{"content":"x","error":"inner"}}]}"#,
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":""}]}"#,
        ] {
            let mut it = Inspector::default();
            assert_eq!(see(&mut it, fine), Event::Content, "{fine}");
            assert!(!it.finished);
        }
    }

    #[test]
    fn what_is_no_object_is_garbage() {
        for garbage in ["<html>", "{\"a\":", "{broken}", "42"] {
            assert_eq!(see(&mut Inspector::default(), garbage), Event::Garbage, "{garbage}");
        }
    }

    #[test]
    fn the_cache_is_told_with_the_usage_or_in_llama_cpps_own_words() {
        let usage = usage_of(
            br#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":7}}}"#,
        );
        let told = Usage { prompt_tokens: 9, completion_tokens: 2, cached_tokens: Some(7) };
        assert_eq!(usage, Some(told));
        let mut it = Inspector::default();
        let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":7,"prompt_n":2,"prompt_ms":1.2,"predicted_n":2}}"#;
        assert_eq!(see(&mut it, last), Event::Content);
        assert_eq!(it.usage, Some(told));
        // What the usage says goes before it.
        see(&mut it, r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#);
        assert_eq!(it.usage.map(|usage| usage.completion_tokens), Some(3));
    }

    #[test]
    fn usage_has_two_spellings() {
        let usage = usage_of(br#"{"text":"t","usage":{"input_tokens":5,"output_tokens":2,"type":"tokens"}}"#);
        assert_eq!(usage, Some(Usage { prompt_tokens: 5, completion_tokens: 2, ..Usage::default() }));
        assert_eq!(usage_of(br#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#).map(|u| u.prompt_tokens), Some(5));
        assert_eq!(usage_of(br#"{"usage":{"type":"duration","seconds":5}}"#), None);
    }
}
