//! The two forms of an answer, and how one becomes the other: events as they are streamed, and one JSON object. Pure.
//!
//! What is made from the other form has all that it had, unknown members too; only the cutting into events is lost. Where
//! something would be missing, such as the usage that every whole answer has, there is nothing rather than less.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde_json::{Map, Value, json};

use crate::capability::Operation;

const DONE: &[u8] = b"[DONE]";

/// Members of a piece that are said anew in each, and not continued.
const SAID_ANEW: [&str; 5] = ["index", "type", "role", "id", "name"];

/// Each event as it came, its blank line included. What follows the last blank line is one too.
fn events_of(stream: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    let (mut start, mut line) = (0, 0);
    for end in memchr::memchr_iter(b'\n', stream) {
        if matches!(&stream[line..end], b"" | b"\r") {
            events.push(&stream[start..=end]);
            start = end + 1;
        }
        line = end + 1;
    }
    if start < stream.len() {
        events.push(&stream[start..]);
    }
    events
}

/// The data of an event; `None`: it has none, as a comment.
fn data_of(event: &[u8]) -> Option<Vec<u8>> {
    let lines = event.split(|byte| matches!(byte, b'\n' | b'\r'));
    let values = lines.filter_map(|line| line.strip_prefix(b"data:"));
    let values: Vec<&[u8]> = values.map(|value| value.strip_prefix(b" ").unwrap_or(value)).collect();
    (!values.is_empty()).then(|| values.join(&b'\n'))
}

/// The events without those that are nothing but comments: signs of life, and news of how this one answer was made.
pub(super) fn without_comments(stream: Bytes) -> Bytes {
    if !stream.starts_with(b":") && memmem::find(&stream, b"\n:").is_none() {
        return stream;
    }
    let mut kept = BytesMut::with_capacity(stream.len());
    for event in events_of(&stream).into_iter().filter(|event| data_of(event).is_some()) {
        kept.extend_from_slice(event);
    }
    kept.freeze()
}

/// The events without the one that tells the usage, for callers that did not ask for it.
pub(super) fn without_usage(stream: &[u8]) -> Bytes {
    let is_usage = |event: &[u8]| {
        let Some(piece) = data_of(event).and_then(|data| serde_json::from_slice::<Value>(&data).ok()) else {
            return false;
        };
        piece["usage"].is_object() && piece["choices"].as_array().is_some_and(Vec::is_empty)
    };
    let mut kept = BytesMut::with_capacity(stream.len());
    for event in events_of(stream).into_iter().filter(|event| !is_usage(event)) {
        kept.extend_from_slice(event);
    }
    kept.freeze()
}

/// The JSON objects of a stream; `None` when something else is among them.
fn pieces_of(stream: &[u8]) -> Option<Vec<Map<String, Value>>> {
    let data = events_of(stream).into_iter().filter_map(data_of);
    data.filter(|data| data.trim_ascii() != DONE).map(|data| serde_json::from_slice(&data).ok()).collect()
}

/// A streamed answer in one piece. `None` when it tells no usage, or is not understood.
pub(super) fn whole_of(stream: &[u8], operation: Operation) -> Option<Bytes> {
    let (member, object) = match operation {
        Operation::Chat => ("delta", "chat.completion"),
        Operation::Complete => ("", "text_completion"),
        _ => return None,
    };
    let mut whole = Map::new();
    let mut choices: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for piece in pieces_of(stream)? {
        for (name, value) in piece {
            match (name.as_str(), value) {
                ("choices", Value::Array(told)) => {
                    for choice in told {
                        let Value::Object(choice) = choice else { return None };
                        let index = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
                        merge(choices.entry(index).or_default(), choice);
                    }
                }
                ("object", _) | (_, Value::Null) => {}
                (_, value) => drop(whole.insert(name, value)),
            }
        }
    }
    if !whole.get("usage").is_some_and(Value::is_object) {
        return None;
    }
    let choices = choices.into_iter().map(|(index, mut choice)| {
        if !member.is_empty() {
            let mut message = match choice.remove(member) {
                Some(Value::Object(message)) => message,
                _ => Map::new(),
            };
            message.entry("role").or_insert_with(|| json!("assistant"));
            message.entry("content").or_insert(Value::Null);
            if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
                for call in calls.iter_mut().filter_map(Value::as_object_mut) {
                    call.remove("index");
                }
            }
            choice.insert("message".to_owned(), Value::Object(message));
        }
        choice.insert("index".to_owned(), json!(index));
        Value::Object(choice)
    });
    whole.insert("choices".to_owned(), Value::Array(choices.collect()));
    whole.insert("object".to_owned(), json!(object));
    serde_json::to_vec(&whole).ok().map(Bytes::from)
}

/// Adds a piece to what came before it: texts and lists grow, the members of lists with an index each for itself, and
/// what else is said again replaces what was said.
fn merge(into: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, value) in piece {
        let Some(known) = into.get_mut(&name) else {
            into.insert(name, indexed(value));
            continue;
        };
        match (known, value) {
            (_, Value::Null) => {}
            (Value::String(known), Value::String(more)) if !SAID_ANEW.contains(&name.as_str()) => {
                if name == "finish_reason" { *known = more } else { known.push_str(&more) }
            }
            (Value::Array(known), Value::Array(more)) => more.into_iter().for_each(|item| add(known, item)),
            (Value::Object(known), Value::Object(more)) => merge(known, more),
            (known, value) => *known = indexed(value),
        }
    }
}

/// A value as if it had been merged into nothing: two items of one list may have the same index already.
fn indexed(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            items.into_iter().for_each(|item| add(&mut list, item));
            Value::Array(list)
        }
        other => other,
    }
}

fn add(list: &mut Vec<Value>, item: Value) {
    let index = item.get("index").and_then(Value::as_u64);
    let same = |known: &&mut Value| index.is_some() && known.get("index").and_then(Value::as_u64) == index;
    match (list.iter_mut().find(same), item) {
        (Some(Value::Object(known)), Value::Object(more)) => merge(known, more),
        (_, item) => list.push(item),
    }
}

/// A whole answer as events; with the usage at their end when that is asked for. `None` when that is not told, or the
/// answer is not understood.
pub(super) fn stream_of(whole: &[u8], operation: Operation, usage: bool) -> Option<Bytes> {
    let mut base: Map<String, Value> = serde_json::from_slice(whole).ok()?;
    let Value::Array(choices) = base.remove("choices")? else { return None };
    let told = base.remove("usage").filter(Value::is_object);
    let object = match operation {
        Operation::Chat => "chat.completion.chunk",
        Operation::Complete => "text_completion",
        _ => return None,
    };
    base.insert("object".to_owned(), json!(object));
    if usage {
        base.insert("usage".to_owned(), Value::Null);
    }
    let mut out = BytesMut::new();
    let mut event = |choices: Value, usage: Option<Value>| {
        let mut piece = base.clone();
        piece.insert("choices".to_owned(), choices);
        if let Some(usage) = usage {
            piece.insert("usage".to_owned(), usage);
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&serde_json::to_vec(&piece).ok()?);
        out.extend_from_slice(b"\n\n");
        Some(())
    };
    for choice in choices {
        let Value::Object(mut choice) = choice else { return None };
        if operation == Operation::Complete {
            event(json!([choice]), None)?;
            continue;
        }
        let Some(Value::Object(mut message)) = choice.remove("message") else { return None };
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            for (index, call) in calls.iter_mut().enumerate() {
                call.as_object_mut()?.insert("index".to_owned(), json!(index));
            }
        }
        let index = choice.get("index").cloned().unwrap_or_else(|| json!(0));
        let reason = choice.insert("finish_reason".to_owned(), Value::Null);
        choice.insert("delta".to_owned(), Value::Object(message));
        event(json!([choice]), None)?;
        event(json!([{"index": index, "delta": {}, "finish_reason": reason}]), None)?;
    }
    if usage {
        event(json!([]), Some(told?))?;
    }
    out.extend_from_slice(b"data: [DONE]\n\n");
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether one of the events tells the usage.
    fn tells_usage(stream: &[u8]) -> bool {
        memmem::find(stream, b"\"usage\"").is_some()
            && pieces_of(stream)
                .is_some_and(|pieces| pieces.iter().any(|piece| piece.get("usage").is_some_and(Value::is_object)))
    }

    fn stream(pieces: &[Value]) -> Vec<u8> {
        let mut all: String = pieces.iter().map(|piece| format!("data: {piece}\n\n")).collect();
        all.push_str("data: [DONE]\n\n");
        all.into_bytes()
    }

    fn value(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn a_chat_that_was_streamed_is_put_together() {
        let call = |arguments: &str| json!({"index": 0, "function": {"arguments": arguments}});
        let pieces = [
            json!({"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk", "usage": null, "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}),
            json!({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Lla"},
                "logprobs": {"content": [{"token": "Lla"}]}, "finish_reason": null}]}),
            json!({"id": "c", "choices": [{"index": 1, "delta": {"reasoning_content": "hm", "tool_calls": [
                {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]}}]}),
            json!({"id": "c", "choices": [{"index": 0, "delta": {"content": "ma"}, "logprobs": {"content": [{"token": "ma"}]}}]}),
            json!({"id": "c", "choices": [{"index": 1, "delta": {"tool_calls": [call("{\"a\"")]}}]}),
            json!({"id": "c", "choices": [{"index": 1, "delta": {"tool_calls": [call(":1}")]}, "finish_reason": "tool_calls"}]}),
            json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 1}, "timings": {"x": 1}}),
        ];
        let whole = value(&whole_of(&stream(&pieces), Operation::Chat).expect("an answer"));
        let wanted = json!({
            "id": "c", "created": 1, "model": "m", "object": "chat.completion", "usage": {"prompt_tokens": 1}, "timings": {"x": 1},
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Llama"}, "finish_reason": "stop",
                 "logprobs": {"content": [{"token": "Lla"}, {"token": "ma"}]}},
                {"index": 1, "message": {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                 "finish_reason": "tool_calls"},
            ],
        });
        assert_eq!(whole, wanted);
        assert!(whole_of(&stream(&pieces[..7]), Operation::Chat).is_none(), "a whole answer tells its usage");
    }

    #[test]
    fn a_whole_answer_survives_being_streamed_and_put_together_again() {
        let chat = json!({
            "id": "c", "object": "chat.completion", "model": "m", "system_fingerprint": "f", "usage": {"total_tokens": 3},
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": {"content": []}, "message": {
                "role": "assistant", "content": "hä", "refusal": null, "odd": {"x": [1, 2]},
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}}],
        });
        let completion = json!({
            "id": "t", "object": "text_completion", "usage": {"total_tokens": 3},
            "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}, {"index": 1, "text": "b", "finish_reason": "length"}],
        });
        for (answer, operation) in [(chat, Operation::Chat), (completion, Operation::Complete)] {
            let bytes = serde_json::to_vec(&answer).expect("JSON");
            let streamed = stream_of(&bytes, operation, true).expect("events");
            assert!(tells_usage(&streamed) && streamed.ends_with(b"\n\ndata: [DONE]\n\n"));
            assert_eq!(value(&whole_of(&streamed, operation).expect("an answer")), answer);
            let without = stream_of(&bytes, operation, false).expect("events");
            assert!(!tells_usage(&without));
        }
    }

    #[test]
    fn usage_that_nobody_asked_for_is_left_out_and_the_rest_stays_as_it_is() {
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}\r\n\r\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"total_tokens\":1}}\n\n";
        let all = format!("{text}{usage}data: [DONE]\n\n");
        assert_eq!(without_usage(all.as_bytes()), format!("{text}data: [DONE]\n\n"));
    }

    #[test]
    fn comments_are_not_part_of_an_answer() {
        let all = Bytes::from_static(b": atmosphere\n\ndata: 1\n\n: ping\r\n\r\nevent: x\n: why\ndata: 2\n\n");
        assert_eq!(without_comments(all), "data: 1\n\nevent: x\n: why\ndata: 2\n\n");
        let plain = Bytes::from_static(b"data: {\":\":1}\n\n");
        assert_eq!(without_comments(plain.clone()).as_ptr(), plain.as_ptr());
    }

    #[test]
    fn what_is_not_understood_is_not_turned_into_something_else() {
        assert!(whole_of(b"data: [1]\n\n", Operation::Chat).is_none());
        assert!(whole_of(b"data: {}\n\n", Operation::Embed).is_none());
        for bad in ["[]", "{}", "{\"choices\":[1]}", "{\"choices\":[{}]}"] {
            assert!(stream_of(bad.as_bytes(), Operation::Chat, false).is_none(), "{bad}");
        }
        assert!(stream_of(b"{\"choices\":[]}", Operation::Chat, true).is_none(), "no usage to tell");
    }
}
