//! A whole message becomes a chat completion, and an error one of OpenAI's.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{finish_reason, status_of};
use crate::dialect::chat::OwnBlock as Block;
use crate::dialect::json::{Entries, Json};
use crate::dialect::{HINTS, OWN_CONTENT, Told};

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    id: String,
    #[serde(default)]
    model: String,
    content: Vec<Box<RawValue>>,
    stop_reason: Option<String>,
    stop_sequence: Option<String>,
    #[serde(default)]
    usage: Usage,
}

/// Tokens as Anthropic counts them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Usage {
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) cache_read_input_tokens: Option<u64>,
    pub(super) cache_creation_input_tokens: Option<u64>,
    pub(super) output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct OutputDetails {
    #[serde(default)]
    pub(super) thinking_tokens: u64,
}

impl Usage {
    /// What a later count says goes before what an earlier one said.
    pub(super) fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens = later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.output_tokens_details = later.output_tokens_details.or(self.output_tokens_details.take());
    }

    /// As chat counts them: cached ones among the prompt's.
    pub(super) fn chat(&self) -> Value {
        let (read, written) =
            (self.cache_read_input_tokens.unwrap_or_default(), self.cache_creation_input_tokens.unwrap_or_default());
        let prompt = self.input_tokens.unwrap_or_default() + read + written;
        let completion = self.output_tokens.unwrap_or_default();
        let thoughts = self.output_tokens_details.as_ref().map_or(0, |details| details.thinking_tokens);
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": read, "cache_creation_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        })
    }
}

/// A whole message as a chat completion, made at `created` (Unix seconds).
///
/// # Errors
///
/// When it is none.
pub(crate) fn answer(body: &[u8], created: u64) -> Result<Vec<u8>, Told> {
    let wrong = |cause| Told::backend(format!("the backend answers with what is no message: {cause}"));
    let message: Message = serde_json::from_slice(body).map_err(wrong)?;
    let (mut text, mut thinking, mut thoughts, mut calls) = (None::<String>, String::new(), Vec::new(), Vec::new());
    // A completion has thoughts, texts and calls in this order. Another one goes along for who knows it.
    let mut ranks = Vec::new();
    for raw in &message.content {
        let block: Block = serde_json::from_str(raw.get()).map_err(wrong)?;
        ranks.push(match &*block.kind {
            "text" => 1,
            "tool_use" => 2,
            _ => 0,
        });
        match &*block.kind {
            "text" => text.get_or_insert_default().push_str(&block.text.unwrap_or_default()),
            "thinking" => {
                let said = block.thinking.unwrap_or_default();
                thinking.push_str(&said);
                let signature = block.signature.unwrap_or_default();
                let thought =
                    Entries::new().with("type", "thinking").with("thinking", said).with("signature", signature);
                thoughts.push(Json::from(thought));
            }
            "redacted_thinking" => {
                let data = block.data.unwrap_or_default();
                thoughts.push(Entries::new().with("type", "redacted_thinking").with("data", data).into());
            }
            "tool_use" => {
                let arguments = block.input.map_or_else(|| "{}".to_owned(), |input| input.get().to_owned());
                let function = Entries::new().with("name", block.name.unwrap_or_default()).with("arguments", arguments);
                let call = Entries::new().with("id", block.id.unwrap_or_default()).with("type", "function");
                calls.push(Json::from(call.with("function", function)));
            }
            // What Anthropic's own tools did: nobody asked for it by this API.
            _ => {}
        }
    }
    let mut said = Entries::new().with("role", "assistant");
    said.put("content", text.map_or(Json::Null, Json::from));
    said.maybe("reasoning_content", Some(thinking).filter(|thinking| !thinking.is_empty()));
    said.maybe("thinking_blocks", Some(thoughts).filter(|thoughts| !thoughts.is_empty()));
    said.maybe("tool_calls", Some(calls).filter(|calls| !calls.is_empty()));
    if !ranks.is_sorted() {
        let own = message.content.into_iter().map(Json::from).collect::<Vec<_>>();
        said.put(HINTS, Entries::new().with(OWN_CONTENT, own));
    }
    let mut choice = Entries::new().with("index", 0_u64).with("message", said).with("logprobs", Json::Null);
    choice.put("finish_reason", finish_reason(message.stop_reason.as_deref().unwrap_or_default()));
    choice.maybe("stop_reason", message.stop_sequence);
    let usage = RawValue::from_string(message.usage.chat().to_string());
    let usage = usage.map_err(|cause| Told::backend(cause.to_string()))?;
    let completion = Entries::new()
        .with("id", message.id)
        .with("object", "chat.completion")
        .with("created", created)
        .with("model", message.model)
        .with("choices", vec![Json::from(choice)])
        .with("usage", usage);
    Ok(Json::from(completion).to_bytes())
}

/// One of Anthropic's errors in OpenAI's shape; `None` when it is none.
pub(crate) fn error(body: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Outer {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(default, rename = "type")]
        kind: String,
        message: String,
    }
    let Outer { error } = serde_json::from_slice(body).ok()?;
    let status = status_of(&error.kind);
    let kind = match status {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let body = json!({"error": {
        "message": error.message, "type": kind, "param": null, "code": error.kind, "status": status}});
    Some(body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_completion() {
        let body = br#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[
            {"type":"thinking","thinking":"hm","signature":"sig"},{"type":"text","text":"a"},{"type":"text","text":"b"},
            {"type":"tool_use","id":"t","name":"f","input":{"z":1.50,"a":2}}],"stop_reason":"tool_use","stop_sequence":null,
            "usage":{"input_tokens":2,"output_tokens":3,"cache_read_input_tokens":5,"cache_creation_input_tokens":7}}"#;
        let told: Value = serde_json::from_slice(&answer(body, 7).expect("a completion")).expect("JSON");
        let message = &told["choices"][0]["message"];
        assert_eq!((&message["content"], &message["reasoning_content"]), (&"ab".into(), &"hm".into()));
        assert_eq!(message["thinking_blocks"][0]["signature"], "sig");
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], r#"{"z":1.50,"a":2}"#);
        assert_eq!(told["choices"][0]["finish_reason"], "tool_calls");
        let usage = &told["usage"];
        assert_eq!((&usage["prompt_tokens"], &usage["total_tokens"]), (&14.into(), &17.into()));
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 5);
        assert!(answer(b"{}", 7).is_err());
    }

    #[test]
    fn an_error_keeps_its_words_and_its_status() {
        let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"busy"},"request_id":"r"}"#;
        let told: Value = serde_json::from_slice(&error(body).expect("an error")).expect("JSON");
        assert_eq!((&told["error"]["message"], &told["error"]["status"]), (&"busy".into(), &529.into()));
        assert_eq!(error(b"<html>"), None);
    }
}
