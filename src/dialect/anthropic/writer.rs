//! An answer as a message: `message_start`, blocks one after the other, `message_delta`, `message_stop`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error_body;
use crate::dialect::chat::{Piece, Tokens};
use crate::dialect::json::{Entries, Json};
use crate::dialect::told::Told;
use crate::dialect::transcript::{Writer, event};

/// Tells an answer as a message.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    model: String,
    stops: Vec<String>,
    request_id: String,
    /// Whether the blocks are kept: for an answer that is not streamed.
    keep: bool,
    id: Option<String>,
    blocks: Vec<Block>,
    /// Whether the last block still goes on.
    open: bool,
    /// Which block is which of chat's calls.
    calls: BTreeMap<u64, usize>,
    tokens: Tokens,
    reason: Option<String>,
    stop: Option<String>,
    failed: Option<Told>,
}

#[derive(Debug)]
enum Block {
    Thinking { text: String, signature: String },
    Redacted(String),
    Text(String),
    Tool { id: String, name: String, input: String },
}

impl MessageWriter {
    /// For an answer to a request for this model.
    pub(crate) fn new(model: &str, stops: Vec<String>, request_id: &str, streamed: bool) -> Self {
        Self {
            model: model.to_owned(),
            stops,
            request_id: request_id.to_owned(),
            keep: !streamed,
            id: None,
            blocks: Vec::new(),
            open: false,
            calls: BTreeMap::new(),
            tokens: Tokens::default(),
            reason: None,
            stop: None,
            failed: None,
        }
    }

    fn begin(&mut self, id: Option<String>, model: Option<String>, out: &mut Vec<u8>) {
        if self.id.is_some() {
            return;
        }
        let id = id.unwrap_or_else(|| self.request_id.clone());
        self.id = Some(if id.starts_with("msg_") { id } else { format!("msg_{}", id.trim_start_matches("chatcmpl-")) });
        if let Some(model) = model.filter(|model| !model.is_empty()) {
            self.model = model;
        }
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 0, "output_tokens": 0},
        });
        write(out, "message_start", json!({"message": message}));
        write(out, "ping", json!({}));
    }

    fn last(&self) -> usize {
        self.blocks.len().saturating_sub(1)
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open) {
            write(out, "content_block_stop", json!({"index": self.last()}));
        }
    }

    fn start(&mut self, block: Block, out: &mut Vec<u8>) {
        self.close(out);
        let shown = match &block {
            Block::Thinking { .. } => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Block::Redacted(data) => json!({"type": "redacted_thinking", "data": data}),
            Block::Text(_) => json!({"type": "text", "text": ""}),
            Block::Tool { id, name, .. } => json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
        };
        self.blocks.push(block);
        self.open = true;
        write(out, "content_block_start", json!({"index": self.last(), "content_block": shown}));
    }

    fn delta(&self, delta: Value, out: &mut Vec<u8>) {
        write(out, "content_block_delta", json!({"index": self.last(), "delta": delta}));
    }

    fn say(&mut self, text: String, out: &mut Vec<u8>) {
        if !(self.open && matches!(self.blocks.last(), Some(Block::Text(_)))) {
            self.start(Block::Text(String::new()), out);
        }
        if self.keep
            && let Some(Block::Text(all)) = self.blocks.last_mut()
        {
            all.push_str(&text);
        }
        self.delta(json!({"type": "text_delta", "text": text}), out);
    }

    fn think(&mut self, text: String, out: &mut Vec<u8>) {
        if !(self.open && matches!(self.blocks.last(), Some(Block::Thinking { .. }))) {
            self.start(Block::Thinking { text: String::new(), signature: String::new() }, out);
        }
        if self.keep
            && let Some(Block::Thinking { text: all, .. }) = self.blocks.last_mut()
        {
            all.push_str(&text);
        }
        self.delta(json!({"type": "thinking_delta", "thinking": text}), out);
    }

    fn sign(&mut self, signed: String, out: &mut Vec<u8>) {
        if !(self.open && matches!(self.blocks.last(), Some(Block::Thinking { .. }))) {
            self.start(Block::Thinking { text: String::new(), signature: String::new() }, out);
        }
        self.delta(json!({"type": "signature_delta", "signature": signed}), out);
        if let Some(Block::Thinking { signature, .. }) = self.blocks.last_mut() {
            *signature = signed;
        }
        self.close(out);
    }

    fn call(&mut self, index: u64, id: Option<String>, name: Option<String>, arguments: String, out: &mut Vec<u8>) {
        let at = match self.calls.get(&index) {
            Some(at) => *at,
            None => {
                let id = id.unwrap_or_else(|| format!("toolu_{}_{index}", self.request_id));
                self.start(Block::Tool { id, name: name.unwrap_or_default(), input: String::new() }, out);
                self.calls.insert(index, self.last());
                self.last()
            }
        };
        if arguments.is_empty() {
            return;
        }
        if !(self.open && at == self.last()) {
            // Blocks come one after the other, and this one is over.
            let told = Told::backend("the backend mixes the arguments of several calls, which a message cannot");
            return self.fail(&told, out);
        }
        self.delta(json!({"type": "input_json_delta", "partial_json": arguments}), out);
        if self.keep
            && let Some(Block::Tool { input, .. }) = self.blocks.last_mut()
        {
            input.push_str(&arguments);
        }
    }

    /// Anthropic's reason to stop, and the sequence.
    fn stopped(&self) -> (&'static str, Option<&str>) {
        if let Some(stop) = self.stop.as_deref().filter(|stop| self.stops.iter().any(|known| known == stop)) {
            return ("stop_sequence", Some(stop));
        }
        let reason = match self.reason.as_deref() {
            Some("length") => "max_tokens",
            Some("content_filter") => "refusal",
            // Not all servers have a reason of its own for calls.
            _ if !self.calls.is_empty() => "tool_use",
            _ => "end_turn",
        };
        (reason, None)
    }

    /// Anthropic counts cached tokens apart.
    fn usage(&self) -> Value {
        let Tokens { prompt, completion, cached, cache_written, reasoning } = self.tokens;
        let (read, written) = (cached.unwrap_or_default(), cache_written.unwrap_or_default());
        let mut usage = json!({
            "input_tokens": prompt.saturating_sub(read).saturating_sub(written), "output_tokens": completion,
            "cache_read_input_tokens": read, "cache_creation_input_tokens": written,
        });
        if let Some(reasoning) = reasoning.filter(|count| *count > 0) {
            usage["output_tokens_details"] = json!({"thinking_tokens": reasoning});
        }
        usage
    }
}

/// An event, whose data say its type as well.
fn write(out: &mut Vec<u8>, name: &str, mut data: Value) {
    data["type"] = name.into();
    event(out, name, data.to_string().as_bytes());
}

impl Writer for MessageWriter {
    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        match piece {
            Piece::Begin { id, model } => self.begin(id, model, out),
            Piece::Thinking(text) => self.think(text, out),
            Piece::Signature(signature) => self.sign(signature, out),
            Piece::Redacted(data) => {
                self.start(Block::Redacted(data), out);
                self.close(out);
            }
            Piece::Text(text) => self.say(text, out),
            Piece::Refusal(text) => {
                self.reason = Some("content_filter".to_owned());
                self.say(text, out);
            }
            Piece::Call { index, id, name, arguments } => self.call(index, id, name, arguments, out),
            Piece::Finish { reason, stop } => {
                self.reason.get_or_insert(reason);
                self.stop = stop;
            }
            Piece::Usage(tokens) => self.tokens = tokens,
            Piece::Logprobs(_) | Piece::Timings { .. } => {}
        }
    }

    fn alive(&mut self, comment: &[u8], out: &mut Vec<u8>) {
        // No event may come before the first; a comment may.
        if self.id.is_none() || !comment.starts_with(b": keepalive") {
            out.extend_from_slice(comment);
        } else {
            write(out, "ping", json!({}));
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        self.begin(None, None, out);
        self.close(out);
        let (reason, sequence) = self.stopped();
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        write(out, "message_delta", json!({"delta": delta, "usage": self.usage()}));
        write(out, "message_stop", json!({}));
    }

    fn fail(&mut self, told: &Told, out: &mut Vec<u8>) {
        if self.failed.is_none() {
            self.failed = Some(told.clone());
            event(out, "error", &error_body(told, Some(&self.request_id)));
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    fn whole(&mut self) -> Result<Vec<u8>, Told> {
        if let Some(told) = self.failed.take() {
            return Err(told);
        }
        let cut = (self.reason.as_deref() == Some("length")).then(|| self.last());
        let blocks = self.blocks.iter().enumerate().map(|(at, block)| block_json(block, cut == Some(at)));
        let content = blocks.collect::<Result<Vec<_>, _>>()?;
        let (reason, sequence) = self.stopped();
        let usage = serde_json::value::to_raw_value(&self.usage()).map_err(|error| Told::backend(error.to_string()))?;
        let message = Entries::new()
            .with("id", self.id.clone().unwrap_or_default())
            .with("type", "message")
            .with("role", "assistant")
            .with("model", self.model.as_str())
            .with("content", content)
            .with("stop_reason", reason)
            .with("stop_sequence", sequence.map_or(Json::Null, Json::from))
            .with("usage", usage);
        Ok(Json::from(message).to_bytes())
    }
}

/// A block as JSON. Of a call that was `cut` off in its arguments there is its name.
fn block_json(block: &Block, cut: bool) -> Result<Json<'_>, Told> {
    Ok(match block {
        Block::Thinking { text, signature } => Entries::new()
            .with("type", "thinking")
            .with("thinking", text.as_str())
            .with("signature", signature.as_str())
            .into(),
        Block::Redacted(data) => Entries::new().with("type", "redacted_thinking").with("data", data.as_str()).into(),
        Block::Text(text) => Entries::new().with("type", "text").with("text", text.as_str()).into(),
        Block::Tool { id, name, input } => Entries::new()
            .with("type", "tool_use")
            .with("id", id.as_str())
            .with("name", name.as_str())
            .with("input", arguments(name, input).or_else(|told| if cut { arguments(name, "") } else { Err(told) })?)
            .into(),
    })
}

/// Arguments as the object that they are.
fn arguments(name: &str, text: &str) -> Result<Box<RawValue>, Told> {
    let text = if text.trim_ascii().is_empty() { "{}" } else { text.trim_ascii() };
    let wrong = || Told::backend(format!("the model calls {name:?} with arguments that are no JSON object"));
    if !text.starts_with('{') {
        return Err(wrong());
    }
    serde_json::from_str(text).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::transcript::retold;
    use crate::dialect::transcript::testing::run_at_all_cuts;

    fn writer() -> MessageWriter {
        MessageWriter::new("asked", vec!["END".into()], "r-1", true)
    }

    fn chunks(deltas: &[&str], last: &str) -> String {
        let mut stream = String::new();
        for delta in deltas {
            stream += &format!(
                "data: {{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n"
            );
        }
        stream + last
    }

    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn a_stream_of_text_thoughts_and_calls() {
        let deltas = [
            r#"{"role":"assistant","content":""}"#,
            r#"{"reasoning_content":"hm"}"#,
            r#"{"content":"Grü"}"#,
            r#"{"content":"ße 🦙"}"#,
            r#"{"tool_calls":[{"index":0,"id":"t1","type":"function","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"t2","function":{"name":"g","arguments":"{}"}}]}"#,
        ];
        let stream = format!(": keepalive\n\n{}", chunks(&deltas, STOP));
        insta::assert_snapshot!("tools", run_at_all_cuts(writer, &stream));
    }

    #[test]
    fn signed_thoughts_keep_their_signature() {
        let deltas = [
            r#"{"reasoning_content":"hm"}"#,
            r#"{"thinking_blocks":[{"type":"thinking","thinking":"","signature":"sig"}]}"#,
            r#"{"thinking_blocks":[{"type":"redacted_thinking","data":"dark"}]}"#,
            r#"{"content":"yes"}"#,
        ];
        insta::assert_snapshot!("signed", run_at_all_cuts(writer, &chunks(&deltas, STOP)));
    }

    #[test]
    fn a_failure_in_the_middle_is_an_error_event_and_no_end() {
        for end in ["data: {\"error\":{\"message\":\"gpu has left\",\"type\":\"server_error\"}}\n\n", ""] {
            let told = run_at_all_cuts(writer, &chunks(&[r#"{"content":"a"}"#], end));
            let last = told.trim_end().rsplit("\n\n").next().expect("an event");
            assert!(last.starts_with("event: error\ndata: {\"error\":{\"message\":"), "{told}");
            assert!(!told.contains("message_stop") && !told.contains("message_delta"), "{told}");
        }
    }

    #[test]
    fn signs_of_life_are_pings_once_it_has_begun() {
        let stream = chunks(&[r#"{"content":"a"}"#], &format!(": keepalive\n\n: atmosphere node=gpu\n\n{STOP}"));
        let told = run_at_all_cuts(writer, &stream);
        assert_eq!(told.matches("event: ping").count(), 2, "{told}");
        assert!(told.contains(": atmosphere node=gpu\n\n"), "{told}");
    }

    #[test]
    fn a_call_that_was_cut_off_ends_with_the_tokens_and_has_no_input() {
        let body = |reason: &str| {
            format!(
                r#"{{"choices":[{{"index":0,"message":{{"content":"a","tool_calls":[
                    {{"id":"t1","function":{{"name":"f","arguments":"{{}}"}}}},
                    {{"id":"t2","function":{{"name":"g","arguments":"{{\"city\":\"K"}}}}]}},"finish_reason":"{reason}"}}]}}"#
            )
        };
        let told = retold(body("length").as_bytes(), MessageWriter::new("m", vec![], "r", false)).expect("told");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!(told["stop_reason"], "max_tokens");
        assert_eq!(told["content"][2], json!({"type": "tool_use", "id": "t2", "name": "g", "input": {}}));
        let wrong = retold(body("tool_calls").as_bytes(), MessageWriter::new("m", vec![], "r", false));
        assert!(wrong.is_err_and(|told| told.message.contains("no JSON object")));
    }

    #[test]
    fn calls_that_are_mixed_fail_and_are_not_mangled() {
        let deltas = [
            r#"{"tool_calls":[{"index":0,"id":"t1","function":{"name":"f","arguments":"{"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"t2","function":{"name":"g","arguments":"{"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}"#,
        ];
        let told = run_at_all_cuts(writer, &chunks(&deltas, STOP));
        assert!(told.contains("event: error") && !told.contains("message_stop"), "{told}");
    }

    #[test]
    fn a_whole_answer_is_a_message() {
        let whole = |body: &str| {
            let told = retold(body.as_bytes(), MessageWriter::new("asked", vec!["END".into()], "r-1", false));
            told.map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
        };
        let body = r#"{"id":"chatcmpl-1","model":"m","choices":[{"index":0,"message":{"content":"hi","reasoning_content":"hm",
            "tool_calls":[{"id":"t","function":{"name":"f","arguments":"{\"z\":1.50,\"a\":2}"}}]},"finish_reason":"tool_calls"}],
            "usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        assert_eq!(
            whole(body).expect("a message"),
            r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"hi"},{"type":"tool_use","id":"t","name":"f","input":{"z":1.50,"a":2}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"input_tokens":9,"output_tokens":3}}"#
        );
        for (choice, reason, sequence) in [
            (r#""message":{"content":"x"},"finish_reason":"length""#, "max_tokens", Value::Null),
            (r#""message":{"content":"x"},"finish_reason":"stop","stop_reason":"END""#, "stop_sequence", "END".into()),
            (r#""message":{"content":"x"},"finish_reason":"stop","stop_reason":"other""#, "end_turn", Value::Null),
            (r#""message":{"content":"","refusal":"no"},"finish_reason":"stop""#, "refusal", Value::Null),
        ] {
            let told = whole(&format!(r#"{{"choices":[{{{choice}}}]}}"#)).expect("a message");
            let told: Value = serde_json::from_str(&told).expect("JSON");
            assert_eq!((&told["stop_reason"], &told["stop_sequence"]), (&reason.into(), &sequence), "{choice}");
        }
        let broken =
            r#"{"choices":[{"message":{"tool_calls":[{"id":"t","function":{"name":"f","arguments":"{oops"}}]}}]}"#;
        assert_eq!(whole(broken).expect_err("no object").status, 502);
        assert_eq!(whole(r#"{"error":{"message":"m","code":429}}"#).expect_err("an error").status, 429);
    }
}
