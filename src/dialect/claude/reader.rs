//! A streamed message becomes the chunks of a chat completion, as it comes.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Usage, error};
use super::finish_reason;
use crate::dialect::sse::{Framer, data_of};

/// Reads the events of a message and writes chat's.
#[derive(Debug)]
pub(crate) struct ChatReader {
    framer: Framer,
    /// Whether the caller asked for the chunk with usage.
    include_usage: bool,
    created: u64,
    id: String,
    model: String,
    usage: Usage,
    /// The block that is a call, with its number, and whether its arguments have come.
    call: Option<(u64, u64, bool)>,
    calls: u64,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: u64,
    message: Option<Start>,
    content_block: Option<Block>,
    delta: Option<Delta>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    id: String,
    #[serde(default)]
    model: String,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    data: Option<String>,
    id: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default, rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    partial_json: Option<String>,
    stop_reason: Option<String>,
    stop_sequence: Option<String>,
}

impl ChatReader {
    /// For an answer to this chat, made at `created` (Unix seconds).
    pub(crate) fn new(chat: &[u8], created: u64) -> Self {
        #[derive(Deserialize)]
        struct Asked {
            stream_options: Option<Options>,
        }
        #[derive(Deserialize)]
        struct Options {
            include_usage: Option<bool>,
        }
        let asked: Option<Asked> = serde_json::from_slice(chat).ok();
        let include_usage = asked.and_then(|asked| asked.stream_options?.include_usage).unwrap_or(false);
        Self {
            framer: Framer::default(),
            include_usage,
            created,
            id: String::new(),
            model: String::new(),
            usage: Usage::default(),
            call: None,
            calls: 0,
        }
    }

    /// Takes in what arrived, cut anywhere, and gives what it is in chat's events.
    pub(crate) fn push(&mut self, arrived: Bytes) -> Bytes {
        let mut out = Vec::new();
        match self.framer.push(arrived) {
            Ok(whole) => {
                let mut start = 0;
                for end in self.framer.ends().to_vec() {
                    self.event(&whole[start..end], &mut out);
                    start = end;
                }
            }
            // Not JSON, and so taken for the failure that it is.
            Err(cause) => out.extend_from_slice(format!("data: {cause}\n\n").as_bytes()),
        }
        out.into()
    }

    /// The stream has ended: what is left of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        let left = self.framer.finish();
        if !left.is_empty() {
            self.event(&left, &mut out);
        }
        out.into()
    }

    fn event(&mut self, event: &[u8], out: &mut Vec<u8>) {
        let Some(data) = data_of(event) else { return };
        let Ok(event) = serde_json::from_slice::<Event>(&data) else {
            // Whoever reads this judges it: half an event at the end is none, anything else a failure.
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\n\n");
            return;
        };
        match &*event.kind {
            "message_start" => {
                let start = event.message.unwrap_or(Start { id: String::new(), model: String::new(), usage: None });
                (self.id, self.model) = (start.id, start.model);
                self.usage.update(start.usage.unwrap_or_default());
                self.delta(json!({"role": "assistant", "content": ""}), out);
            }
            "content_block_start" => self.start(event.index, event.content_block, out),
            "content_block_delta" => self.more(event.delta, out),
            "content_block_stop" => {
                // A tool without parameters is called with an empty object, which is told by its being empty.
                if let Some((block, number, false)) = self.call.take()
                    && block == event.index
                {
                    self.arguments(number, "{}", out);
                }
            }
            "message_delta" => {
                self.usage.update(event.usage.unwrap_or_default());
                let delta = event.delta;
                if let Some(reason) = delta.as_ref().and_then(|delta| delta.stop_reason.as_deref()) {
                    let mut choice = json!({"index": 0, "delta": {}, "finish_reason": finish_reason(reason)});
                    if let Some(sequence) = delta.as_ref().and_then(|delta| delta.stop_sequence.as_deref()) {
                        choice["stop_reason"] = sequence.into();
                    }
                    self.chunk(json!([choice]), None, out);
                }
            }
            "message_stop" => {
                if self.include_usage {
                    self.chunk(json!([]), Some(self.usage.chat()), out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            "error" => {
                out.extend_from_slice(b"data: ");
                out.extend(error(&data).unwrap_or_else(|| data.to_vec()));
                out.extend_from_slice(b"\n\n");
            }
            // Pings, and what a newer version adds.
            _ => {}
        }
    }

    fn start(&mut self, index: u64, block: Option<Block>, out: &mut Vec<u8>) {
        let Some(block) = block else { return };
        match &*block.kind {
            "text" => {
                if let Some(text) = block.text.filter(|text| !text.is_empty()) {
                    self.delta(json!({ "content": text }), out);
                }
            }
            "thinking" => {
                if let Some(text) = block.thinking.filter(|text| !text.is_empty()) {
                    self.delta(json!({ "reasoning_content": text }), out);
                }
            }
            "redacted_thinking" => {
                let thought = json!({"type": "redacted_thinking", "data": block.data.unwrap_or_default()});
                self.delta(json!({ "thinking_blocks": [thought] }), out);
            }
            "tool_use" => {
                let number = self.calls;
                self.calls += 1;
                self.call = Some((index, number, false));
                let function = json!({"name": block.name.unwrap_or_default(), "arguments": ""});
                let call = json!({
                    "index": number, "id": block.id.unwrap_or_default(), "type": "function", "function": function});
                self.delta(json!({ "tool_calls": [call] }), out);
            }
            _ => {}
        }
    }

    fn more(&mut self, delta: Option<Delta>, out: &mut Vec<u8>) {
        let Some(delta) = delta else { return };
        match &*delta.kind {
            "text_delta" => self.delta(json!({ "content": delta.text.unwrap_or_default() }), out),
            "thinking_delta" => self.delta(json!({ "reasoning_content": delta.thinking.unwrap_or_default() }), out),
            "signature_delta" => {
                let thought =
                    json!({"type": "thinking", "thinking": "", "signature": delta.signature.unwrap_or_default()});
                self.delta(json!({ "thinking_blocks": [thought] }), out);
            }
            "input_json_delta" => {
                let more = delta.partial_json.unwrap_or_default();
                // Anthropic's own tools have arguments, too; nobody asked for those by this API.
                if let Some((_, number, begun)) = &mut self.call
                    && !more.is_empty()
                {
                    *begun = true;
                    let number = *number;
                    self.arguments(number, &more, out);
                }
            }
            _ => {}
        }
    }

    fn arguments(&self, number: u64, more: &str, out: &mut Vec<u8>) {
        let call = json!({"index": number, "function": {"arguments": more}});
        self.delta(json!({ "tool_calls": [call] }), out);
    }

    fn delta(&self, delta: Value, out: &mut Vec<u8>) {
        self.chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), None, out);
    }

    fn chunk(&self, choices: Value, usage: Option<Value>, out: &mut Vec<u8>) {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        out.extend_from_slice(b"data: ");
        out.extend(chunk.to_string().into_bytes());
        out.extend_from_slice(b"\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude\",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n";
    const STOP: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"END\"},\"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    fn run(pieces: &[&[u8]]) -> String {
        let mut reader = ChatReader::new(br#"{"stream_options":{"include_usage":true}}"#, 7);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&reader.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&reader.finish());
        String::from_utf8(out).expect("whole characters")
    }

    fn run_at_all_cuts(stream: &str) -> String {
        let whole = run(&[stream.as_bytes()]);
        for cut in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(run(&[head, tail]), whole, "cut at {cut}");
        }
        whole
    }

    fn block(index: u64, start: &str, deltas: &[&str]) -> String {
        let mut text = format!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{start}}}\n\n"
        );
        for delta in deltas {
            text += &format!(
                "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}}}\n\n"
            );
        }
        text + &format!("event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n")
    }

    #[test]
    fn a_stream_of_all_blocks() {
        let stream = [
            START,
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            &block(
                0,
                r#"{"type":"thinking","thinking":"","signature":""}"#,
                &[r#"{"type":"thinking_delta","thinking":"hm"}"#, r#"{"type":"signature_delta","signature":"sig"}"#],
            ),
            &block(1, r#"{"type":"redacted_thinking","data":"dark"}"#, &[]),
            &block(
                2,
                r#"{"type":"text","text":""}"#,
                &[r#"{"type":"text_delta","text":"Grü"}"#, r#"{"type":"text_delta","text":"ße"}"#],
            ),
            &block(
                3,
                r#"{"type":"tool_use","id":"t1","name":"f","input":{}}"#,
                &[
                    r#"{"type":"input_json_delta","partial_json":""}"#,
                    r#"{"type":"input_json_delta","partial_json":"{\"a\":"}"#,
                    r#"{"type":"input_json_delta","partial_json":"1}"}"#,
                ],
            ),
            &block(4, r#"{"type":"tool_use","id":"t2","name":"g","input":{}}"#, &[]),
            STOP,
        ]
        .concat();
        insta::assert_snapshot!("blocks", run_at_all_cuts(&stream));
    }

    #[test]
    fn an_error_event_is_one_of_openais_and_has_no_done_after_it() {
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n";
        let told = run_at_all_cuts(&format!("{START}{error}"));
        assert!(told.ends_with("\"status\":529,\"type\":\"server_error\"}}\n\n") && !told.contains("[DONE]"), "{told}");
    }

    #[test]
    fn a_stream_that_breaks_off_is_not_done() {
        let told = run(&[START.as_bytes(), b"event: content_block_delta\ndata: {\"type\":\"content_bl"]);
        assert!(!told.contains("[DONE]") && !told.contains("finish_reason\":\"stop\""), "{told}");
    }
}
