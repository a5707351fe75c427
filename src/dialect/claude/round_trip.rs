//! There and back: what a client of Anthropic says reaches a backend that speaks the same as it was said, and what such
//! a backend answers reaches the client as it was answered.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ChatReader, Limits, answer, request};
use crate::dialect::anthropic::{MessageWriter, Messages};
use crate::dialect::transcript::{Transcript, retold};

fn words() -> impl Strategy<Value = String> {
    "[a-zé𝄞\"\\\\ \n]{1,8}"
}

/// An object as a schema or arguments may hold it.
fn object() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(
        "[a-z]{1,4}",
        prop_oneof![any::<i32>().prop_map(Value::from), words().prop_map(Value::from)],
        0..3,
    )
    .prop_map(|fields| json!(fields))
}

fn marked(block: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    (block, any::<bool>()).prop_map(|(mut block, mark)| {
        if mark {
            block["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
        }
        block
    })
}

fn text() -> impl Strategy<Value = Value> {
    words().prop_map(|text| json!({"type": "text", "text": text}))
}

fn seen() -> impl Strategy<Value = Value> {
    prop_oneof![
        marked(text()),
        marked(Just(json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}}))),
        Just(json!({"type": "image", "source": {"type": "url", "url": "https://h/a.png"}})),
        Just(
            json!({"type": "document", "title": "t", "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="}})
        ),
    ]
}

fn said() -> impl Strategy<Value = Vec<Value>> {
    let thought = (words(), "[a-z]{1,4}")
        .prop_map(|(thinking, signature)| json!({"type": "thinking", "thinking": thinking, "signature": signature}));
    let dark = "[a-z]{1,4}".prop_map(|data| json!({"type": "redacted_thinking", "data": data}));
    let call = ("[a-z]{1,4}", object())
        .prop_map(|(id, input)| json!({"type": "tool_use", "id": id, "name": "f", "input": input}));
    let blocks = (
        proptest::collection::vec(prop_oneof![thought, dark], 0..3),
        proptest::collection::vec(marked(text()), 0..3),
        proptest::collection::vec(marked(call), 0..3),
    );
    blocks.prop_map(|(thoughts, texts, calls)| [thoughts, texts, calls].concat()).prop_shuffle()
}

/// A message as it may be sent, in the form that is as good as any other: one text is a string.
fn plain(role: &str, blocks: Vec<Value>) -> Value {
    json!({"role": role, "content": blocks})
}

fn message() -> impl Strategy<Value = Value> {
    let result = ("[a-z]{1,4}", words(), any::<bool>()).prop_map(|(id, content, failed)| {
        let mut block = json!({"type": "tool_result", "tool_use_id": id, "content": content});
        if failed {
            block["is_error"] = true.into();
        }
        block
    });
    prop_oneof![
        words().prop_map(|text| json!({"role": "user", "content": text})),
        (proptest::collection::vec(result, 0..3), proptest::collection::vec(seen(), 0..3))
            .prop_filter("some content", |(results, seen)| results.len() + seen.len() > 0)
            .prop_map(|(results, seen)| plain("user", [results, seen].concat())),
        said().prop_filter("some content", |said| !said.is_empty()).prop_map(|said| plain("assistant", said)),
        words().prop_map(|text| json!({"role": "assistant", "content": text})),
    ]
}

fn tool() -> impl Strategy<Value = Value> {
    marked(object().prop_map(|schema| json!({"name": "f", "description": "d", "input_schema": schema, "strict": true})))
}

fn body() -> impl Strategy<Value = Value> {
    let options = (
        proptest::option::of(prop_oneof![
            Just(json!({"type": "enabled", "budget_tokens": 4000})),
            Just(json!({"type": "adaptive"})),
            Just(json!({"type": "disabled"})),
        ]),
        proptest::option::of(prop_oneof![
            Just(json!({"effort": "max"})),
            Just(json!({"format": {"type": "json_schema", "schema": {"type": "object"}}}))
        ]),
        proptest::option::of(prop_oneof![
            Just(json!({"type": "auto"})),
            Just(json!({"type": "any", "disable_parallel_tool_use": true})),
            Just(json!({"type": "tool", "name": "f"})),
            Just(json!({"type": "none"})),
        ]),
        proptest::option::of(prop_oneof![
            words().prop_map(Value::from),
            proptest::collection::vec(marked(text()), 1..3).prop_map(Value::from)
        ]),
        any::<bool>(),
    );
    let lists = (proptest::collection::vec(message(), 1..6), proptest::collection::vec(tool(), 1..3));
    (options, lists).prop_map(|((thinking, config, choice, system, more), (messages, tools))| {
        let mut body = json!({"model": "claude", "max_tokens": 5000, "messages": messages});
        let fields = [("thinking", thinking), ("output_config", config), ("system", system)];
        for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            body[name] = value;
        }
        if let Some(choice) = choice {
            body["tools"] = tools.into();
            body["tool_choice"] = choice;
        }
        if more {
            for (name, value) in [
                ("temperature", json!(0.5)),
                ("top_k", json!(40)),
                ("stop_sequences", json!(["END"])),
                ("stream", json!(true)),
                ("metadata", json!({"user_id": "u"})),
                ("service_tier", json!("standard_only")),
                ("made_up", json!([1, {"a": null}])),
                ("context_management", json!({"edits": []})),
                ("cache_control", json!({"type": "ephemeral"})),
            ] {
                body[name] = value;
            }
        }
        body
    })
}

/// The one form of what may be written in several: strings for single texts, one message for what follows in one role,
/// as the API itself reads it.
fn canonical(mut body: Value) -> Value {
    let blocks = |content: &Value| match content {
        Value::String(text) => json!([{"type": "text", "text": text}]),
        other => other.clone(),
    };
    if let Some(system) = body.get("system") {
        body["system"] = blocks(system);
    }
    let mut merged: Vec<Value> = Vec::new();
    for message in body["messages"].as_array().expect("messages") {
        let mut content = blocks(&message["content"]);
        for block in content.as_array_mut().expect("blocks") {
            if block["type"] == "tool_result" {
                block["content"] = blocks(&block["content"]);
            }
        }
        match merged.last_mut().filter(|last| last["role"] == message["role"]) {
            Some(last) => {
                let more = content.as_array().expect("blocks").clone();
                last["content"].as_array_mut().expect("blocks").extend(more);
            }
            None => merged.push(json!({"role": message["role"], "content": content})),
        }
    }
    body["messages"] = merged.into();
    body
}

proptest! {
    #[test]
    fn a_request_comes_through_as_it_was(body in body(), thinks in any::<bool>()) {
        let chat = Messages::read(body.to_string().as_bytes(), |_| thinks).expect("a chat").chat;
        let back = request(&chat, "claude", Limits::default()).expect("a request");
        let back: Value = serde_json::from_slice(&back).expect("JSON");
        prop_assert_eq!(canonical(back), canonical(body));
    }

    #[test]
    fn an_answer_comes_through_as_it_was(
        content in said(), reason in prop_oneof![Just("end_turn"), Just("max_tokens"), Just("refusal"), Just("stop_sequence")],
        read in 0_u64..9, written in 0_u64..9,
    ) {
        // Texts that follow each other are one, and marks are for requests.
        let mut content: Vec<Value> = content;
        let mut texts = 0;
        content.retain(|block| { texts += usize::from(block["type"] == "text"); block["type"] != "text" || texts < 2 });
        content.iter_mut().for_each(|block| { block.as_object_mut().expect("a block").remove("cache_control"); });
        let calls = content.iter().any(|block| block["type"] == "tool_use");
        let reason = if calls && reason == "end_turn" { "tool_use" } else { reason };
        let stop = (reason == "stop_sequence").then_some("END");
        let usage = json!({"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": read, "cache_creation_input_tokens": written});
        let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content,
            "stop_reason": reason, "stop_sequence": stop, "usage": usage});
        let writer = |streamed| MessageWriter::new("claude", vec!["END".into()], "r", streamed);
        let chat = answer(message.to_string().as_bytes(), 7).expect("a completion");
        let back = retold(&chat, writer(false)).expect("a message");
        let back: Value = serde_json::from_slice(&back).expect("JSON");
        prop_assert_eq!(&back, &message);

        let events = events_of(&message);
        let mut reader = ChatReader::new(br#"{"stream_options":{"include_usage":true}}"#, 7);
        let mut transcript = Transcript::new(writer(true));
        let mut told = transcript.push(reader.push(Bytes::from(events)));
        told.extend(transcript.push(reader.finish()));
        told.extend(transcript.finish());
        prop_assert_eq!(gathered(&String::from_utf8(told).expect("UTF-8")), message);
    }
}

/// A message as a stream of events.
fn events_of(message: &Value) -> String {
    let mut events = Vec::new();
    let mut start = message.clone();
    start["content"] = json!([]);
    events.push(json!({"type": "message_start", "message": start}));
    for (index, block) in message["content"].as_array().expect("blocks").iter().enumerate() {
        let (empty, deltas) = match block["type"].as_str().expect("a type") {
            "text" => (json!({"type": "text", "text": ""}), vec![json!({"type": "text_delta", "text": block["text"]})]),
            "thinking" => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                vec![
                    json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                    json!({"type": "signature_delta", "signature": block["signature"]}),
                ],
            ),
            "tool_use" => {
                let mut empty = block.clone();
                empty["input"] = json!({});
                (empty, vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})])
            }
            _ => (block.clone(), vec![]),
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        events.extend(
            deltas.into_iter().map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": message["usage"]}));
    events.push(json!({"type": "message_stop"}));
    events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")))
        .collect()
}

/// What a stream of events comes to.
fn gathered(events: &str) -> Value {
    let mut message = Value::Null;
    for data in events.split("\n\n").filter_map(|event| event.split_once("\ndata: ")).map(|(_, data)| data) {
        let event: Value = serde_json::from_str(data).expect("JSON");
        match event["type"].as_str().expect("a type") {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                message["content"].as_array_mut().expect("blocks").push(event["content_block"].clone())
            }
            "content_block_delta" => {
                let index = usize::try_from(event["index"].as_u64().expect("an index")).expect("small");
                let block = &mut message["content"][index];
                let delta = &event["delta"];
                for field in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[field].as_str() {
                        block[field] = format!("{}{more}", block[field].as_str().expect("text")).into();
                    }
                }
                if let Some(more) = delta["partial_json"].as_str() {
                    block["input"] = serde_json::from_str(more).expect("arguments");
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            _ => {}
        }
    }
    message
}
