//! Whatever comes from outside is translated or refused, and nothing panics on it.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::anthropic::{MessageWriter, Messages};
use super::claude::{self, ChatReader, Limits};
use super::ollama::{self, LineWriter, Moment};
use super::transcript::{Transcript, Writer, retold};
use super::{Refusal, ResponseRequest, ResponseWriter};

/// The words that the dialects know, so that random bodies get past the first look at them.
const WORDS: &[&str] = &[
    "model",
    "messages",
    "role",
    "user",
    "assistant",
    "tool",
    "system",
    "content",
    "type",
    "text",
    "image",
    "source",
    "tools",
    "name",
    "input",
    "input_schema",
    "tool_use",
    "tool_result",
    "tool_use_id",
    "id",
    "thinking",
    "signature",
    "function",
    "arguments",
    "tool_calls",
    "function_call",
    "call_id",
    "output",
    "input_text",
    "image_url",
    "url",
    "options",
    "format",
    "prompt",
    "stream",
    "max_tokens",
    "choices",
    "delta",
    "message",
    "finish_reason",
    "usage",
    "index",
    "x_atmosphere",
    "at",
    "fields",
    "",
    "stop",
    "response_format",
    "json_schema",
    "schema",
    "reasoning",
    "effort",
    "tool_choice",
    "message_start",
    "content_block_start",
    "content_block",
    "content_block_delta",
    "text_delta",
    "message_delta",
    "stop_reason",
    "error",
];

fn word() -> impl Strategy<Value = String> {
    proptest::sample::select(WORDS).prop_map(str::to_owned)
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        word().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        Just(Value::Null),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(word(), inner, 0..6).prop_map(|fields| json!(fields)),
        ]
    })
}

fn body() -> impl Strategy<Value = Value> {
    // Half of them have what each dialect asks for at the top.
    (proptest::collection::btree_map(word(), anything(), 0..8), any::<bool>()).prop_map(|(fields, sensible)| {
        let mut body = json!(fields);
        if sensible {
            body["model"] = "m".into();
            body["max_tokens"] = 9.into();
            for (name, default) in [("messages", json!([])), ("input", json!([])), ("prompt", json!("x"))] {
                if body[name].is_null() {
                    body[name] = default;
                }
            }
        }
        body
    })
}

/// A refusal has words, and a chat is an object that is read again.
fn judge(read: Result<Vec<u8>, Refusal>) {
    match read {
        Ok(chat) => assert!(serde_json::from_slice::<Value>(&chat).expect("JSON").is_object()),
        Err(refusal) => assert!(!refusal.message.is_empty()),
    }
}

fn lines() -> LineWriter {
    let clock = || Moment { at: String::new(), elapsed: std::time::Duration::ZERO };
    LineWriter::new("m", super::ollama::Form::Chat, true, Box::new(clock))
}

/// Whatever was said, a stream ends once, and everything is text.
fn tell(writer: impl Writer, stream: &[u8]) {
    let mut transcript = Transcript::new(writer);
    let mut told = transcript.push(Bytes::copy_from_slice(stream));
    told.extend(transcript.finish());
    assert!(transcript.push(Bytes::from_static(b"data: {}\n\n")).is_empty());
    String::from_utf8(told).expect("whole characters");
}

proptest! {
    #[test]
    fn any_body_is_translated_or_refused(body in body(), thinks in any::<bool>()) {
        let bytes = body.to_string().into_bytes();
        judge(Messages::read(&bytes, |_| thinks).map(|read| read.chat));
        judge(Messages::read_to_count(&bytes).map(|read| read.chat));
        judge(ResponseRequest::read(&bytes, |_| Some(thinks)).map(|read| read.chat));
        for read in [ollama::chat(&bytes, |_| Some(thinks)), ollama::generate(&bytes, |_| Some(thinks))] {
            match read {
                Ok(ollama::Asked::Ask(ask)) => judge(Ok(ask.body)),
                Ok(ollama::Asked::Load { .. }) => {}
                Err(refusal) => judge(Err(refusal)),
            }
        }
        judge(claude::request(&bytes, "m", Limits::default()));
    }

    #[test]
    fn any_answer_is_told_or_fails(chunks in proptest::collection::vec(body(), 0..4), done in any::<bool>()) {
        let mut stream: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        if done {
            stream += "data: [DONE]\n\n";
        }
        tell(MessageWriter::new("m", vec![], "r", true), stream.as_bytes());
        tell(ResponseWriter::new("m", "r", 7, vec![]), stream.as_bytes());
        tell(lines(), stream.as_bytes());
        let mut reader = ChatReader::new(b"{}", 7);
        reader.push(Bytes::from(stream));
        reader.finish();
        for chunk in &chunks {
            let whole = chunk.to_string();
            let _ = retold(whole.as_bytes(), MessageWriter::new("m", vec![], "r", false));
            let _ = retold(whole.as_bytes(), ResponseWriter::new("m", "r", 7, vec![]));
            let _ = claude::answer(whole.as_bytes(), 7);
            let _ = claude::error(whole.as_bytes());
        }
    }

    #[test]
    fn random_bytes_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        judge(Messages::read(&bytes, |_| true).map(|read| read.chat));
        judge(claude::request(&bytes, "m", Limits::default()));
        let mut transcript = Transcript::new(MessageWriter::new("m", vec![], "r", true));
        transcript.push(Bytes::from([b"data: ", &bytes[..], b"\n\n"].concat()));
        transcript.finish();
    }
}
