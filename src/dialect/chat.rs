//! Reads what a chat completion says, streamed or whole, as [`Piece`]s.
//!
//! The spellings of all common servers are understood: thinking as `reasoning_content` (llama.cpp, vLLM, DeepSeek) or
//! `reasoning` (Ollama, newer vLLM), a stop sequence that was met as `stop_reason` (vLLM), how long it took as
//! `timings` (llama.cpp), signed thinking as `thinking_blocks` (LiteLLM).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::told::Told;

/// One thing that an answer says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Whose answer it is. Comes with every chunk; the first counts.
    Begin {
        /// The answer's id.
        id: Option<String>,
        /// The model, as the backend calls it.
        model: Option<String>,
    },
    /// More of what the model thinks.
    Thinking(String),
    /// What was thought so far is signed.
    Signature(String),
    /// A thought that may not be read.
    Redacted(String),
    /// More of the answer.
    Text(String),
    /// More of why it refuses.
    Refusal(String),
    /// Log probabilities of the tokens of the text that comes next, each as chat has it.
    Logprobs(Vec<String>),
    /// More of a call of a tool.
    Call {
        /// Which call it is.
        index: u64,
        /// Its id; with its first piece.
        id: Option<String>,
        /// The tool; with its first piece.
        name: Option<String>,
        /// More of its arguments, as JSON text.
        arguments: String,
    },
    /// Why it ends.
    Finish {
        /// Chat's reason, such as `stop`.
        reason: String,
        /// The stop sequence that was met, where the backend tells.
        stop: Option<String>,
    },
    /// What it took.
    Usage(Tokens),
    /// How long it took, in milliseconds, where the backend tells.
    Timings {
        /// To read the prompt.
        prompt_ms: f64,
        /// To write the answer.
        predicted_ms: f64,
    },
}

/// Tokens as chat counts them: the cached ones are among the prompt's, and thoughts among the completion's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tokens {
    /// Read.
    pub(crate) prompt: u64,
    /// Written.
    pub(crate) completion: u64,
    /// Of those read: found in a cache.
    pub(crate) cached: Option<u64>,
    /// Of those read: put into a cache.
    pub(crate) cache_written: Option<u64>,
    /// Of those written: thoughts.
    pub(crate) reasoning: Option<u64>,
}

#[derive(Deserialize)]
struct Chunk {
    id: Option<String>,
    model: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    timings: Option<Timings>,
    error: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    delta: Option<Said>,
    message: Option<Said>,
    /// What a completion has in place of a message.
    text: Option<String>,
    finish_reason: Option<String>,
    stop_reason: Option<serde_json::Value>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<serde_json::Value>,
    reasoning_content: Option<String>,
    reasoning: Option<serde_json::Value>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Call>>,
    thinking_blocks: Option<Vec<Thought>>,
    /// What another dialect says in an order that a chat cannot have; see [`super::HINTS`].
    x_atmosphere: Option<Own>,
}

#[derive(Deserialize)]
struct Own {
    own_content: Option<Vec<OwnBlock>>,
}

/// A block of one of Anthropic's messages.
#[derive(Deserialize)]
pub(super) struct OwnBlock {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) text: Option<String>,
    pub(super) thinking: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) data: Option<String>,
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) input: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Thought {
    thinking: Option<String>,
    signature: Option<String>,
    data: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_creation_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    prompt_ms: f64,
    #[serde(default)]
    predicted_ms: f64,
}

/// The pieces of one event's data, or the error that it is.
pub(super) fn chunk(data: &[u8]) -> Result<Vec<Piece>, Told> {
    let chunk: Chunk = serde_json::from_slice(data)
        .map_err(|_| Told::backend("the backend answers with what is no chat completion"))?;
    if chunk.error.is_some() {
        return Err(Told::of_openai(data, 502));
    }
    Ok(pieces(chunk))
}

/// The pieces of a whole answer, or the error that it is.
pub(super) fn whole(body: &[u8]) -> Result<Vec<Piece>, Told> {
    chunk(body)
}

fn pieces(chunk: Chunk) -> Vec<Piece> {
    let mut pieces = vec![Piece::Begin { id: chunk.id, model: chunk.model }];
    for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index == 0) {
        let streamed = choice.message.is_none();
        if let Some(tokens) = choice.logprobs.and_then(|logprobs| logprobs.content).filter(|list| !list.is_empty()) {
            pieces.push(Piece::Logprobs(tokens.iter().map(|token| token.get().to_owned()).collect()));
        }
        if let Some(said) = choice.message.or(choice.delta) {
            say(said, streamed, &mut pieces);
        }
        pieces.extend(choice.text.filter(|text| !text.is_empty()).map(Piece::Text));
        if let Some(reason) = choice.finish_reason {
            let stop = choice.stop_reason.as_ref().and_then(|reason| reason.as_str()).map(str::to_owned);
            pieces.push(Piece::Finish { reason, stop });
        }
    }
    if let Some(usage) = chunk.usage {
        let details = usage.prompt_tokens_details;
        pieces.push(Piece::Usage(Tokens {
            prompt: usage.prompt_tokens,
            completion: usage.completion_tokens,
            cached: details.as_ref().and_then(|details| details.cached_tokens),
            cache_written: details.and_then(|details| details.cache_creation_tokens),
            reasoning: usage.completion_tokens_details.and_then(|details| details.reasoning_tokens),
        }));
    }
    if let Some(Timings { prompt_ms, predicted_ms }) = chunk.timings {
        pieces.push(Piece::Timings { prompt_ms, predicted_ms });
    }
    pieces
}

/// The pieces of a message in the order in which another dialect has it.
fn say_own(blocks: Vec<OwnBlock>, pieces: &mut Vec<Piece>) {
    let mut calls = 0;
    for block in blocks {
        let OwnBlock { kind, text, thinking, signature, data, id, name, input } = block;
        match kind.as_str() {
            "text" => pieces.extend(text.map(Piece::Text)),
            "thinking" => {
                pieces.extend(thinking.filter(|text| !text.is_empty()).map(Piece::Thinking));
                pieces.extend(signature.filter(|signature| !signature.is_empty()).map(Piece::Signature));
            }
            "redacted_thinking" => pieces.extend(data.map(Piece::Redacted)),
            "tool_use" => {
                let arguments = input.map_or_else(String::new, |input| input.get().to_owned());
                pieces.push(Piece::Call { index: calls, id, name, arguments });
                calls += 1;
            }
            _ => {}
        }
    }
}

fn say(mut said: Said, streamed: bool, pieces: &mut Vec<Piece>) {
    if let Some(own) = said.x_atmosphere.take().and_then(|aside| aside.own_content) {
        return say_own(own, pieces);
    }
    let blocks = said.thinking_blocks.unwrap_or_default();
    let thinking = said
        .reasoning_content
        .or_else(|| said.reasoning.as_ref().and_then(|reasoning| reasoning.as_str()).map(str::to_owned))
        .filter(|thinking| !thinking.is_empty());
    // A whole answer has its thoughts in the blocks as well, each with its signature; in a stream blocks only sign.
    let in_blocks = !streamed && blocks.iter().any(|block| block.thinking.is_some());
    pieces.extend(thinking.filter(|_| !in_blocks).map(Piece::Thinking));
    for block in blocks {
        pieces.extend(block.thinking.filter(|text| in_blocks && !text.is_empty()).map(Piece::Thinking));
        pieces.extend(block.signature.filter(|signature| !signature.is_empty()).map(Piece::Signature));
        pieces.extend(block.data.map(Piece::Redacted));
    }
    if let Some(text) = said.content.and_then(text_of) {
        pieces.push(Piece::Text(text));
    }
    pieces.extend(said.refusal.filter(|refusal| !refusal.is_empty()).map(Piece::Refusal));
    for (position, call) in said.tool_calls.into_iter().flatten().enumerate() {
        let (name, arguments) = call.function.map_or((None, None), |function| (function.name, function.arguments));
        pieces.push(Piece::Call {
            index: call.index.unwrap_or(position as u64),
            id: call.id.filter(|id| !id.is_empty()),
            name: name.filter(|name| !name.is_empty()),
            arguments: arguments.map(|raw| arguments_of(&raw)).unwrap_or_default(),
        });
    }
}

/// A text, or the texts of an array of parts.
fn text_of(content: serde_json::Value) -> Option<String> {
    let text = match content {
        serde_json::Value::String(text) => text,
        serde_json::Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// Arguments are JSON text within a string; some servers send the object itself.
fn arguments_of(raw: &RawValue) -> String {
    match serde_json::from_str::<Option<String>>(raw.get()) {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => raw.get().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_common_spellings_are_read() {
        let begin = Piece::Begin { id: Some("c-1".into()), model: None };
        let read = |said: &str| {
            let pieces =
                chunk(format!(r#"{{"id":"c-1","choices":[{{"index":0,{said}}}]}}"#).as_bytes()).expect("a chunk");
            assert_eq!(pieces[0], begin);
            pieces[1..].to_vec()
        };
        let call = |id: Option<&str>, name: Option<&str>, arguments: &str| Piece::Call {
            index: 0,
            id: id.map(str::to_owned),
            name: name.map(str::to_owned),
            arguments: arguments.into(),
        };
        for (said, pieces) in [
            (r#""delta":{"role":"assistant","content":""}"#, vec![]),
            (r#""delta":{"content":"hé"}"#, vec![Piece::Text("hé".into())]),
            (
                r#""delta":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#,
                vec![Piece::Text("ab".into())],
            ),
            (r#""delta":{"reasoning_content":"hm"}"#, vec![Piece::Thinking("hm".into())]),
            (r#""delta":{"reasoning":"hm","content":""}"#, vec![Piece::Thinking("hm".into())]),
            (
                r#""delta":{"thinking_blocks":[{"type":"thinking","thinking":"","signature":"s"}]}"#,
                vec![Piece::Signature("s".into())],
            ),
            (
                r#""message":{"reasoning_content":"ab","thinking_blocks":[{"thinking":"a","signature":"s"},{"data":"d"}]}"#,
                vec![Piece::Thinking("a".into()), Piece::Signature("s".into()), Piece::Redacted("d".into())],
            ),
            (
                r#""delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":""}}]}"#,
                vec![call(Some("t"), Some("f"), "")],
            ),
            (
                r#""delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}"#,
                vec![call(None, None, "{\"a\"")],
            ),
            (
                r#""message":{"content":null,"tool_calls":[{"id":"t","function":{"name":"f","arguments":{"b":1,"a":2}}}]}"#,
                vec![call(Some("t"), Some("f"), r#"{"b":1,"a":2}"#)],
            ),
            (
                r#""delta":{},"finish_reason":"stop","stop_reason":"END""#,
                vec![Piece::Finish { reason: "stop".into(), stop: Some("END".into()) }],
            ),
            (
                r#""delta":null,"finish_reason":"length","stop_reason":7"#,
                vec![Piece::Finish { reason: "length".into(), stop: None }],
            ),
        ] {
            assert_eq!(read(said), pieces, "{said}");
        }
        let usage = br#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let tokens = Tokens { prompt: 9, completion: 2, cached: Some(4), ..Tokens::default() };
        assert_eq!(chunk(usage).expect("a chunk")[1], Piece::Usage(tokens));
        assert!(chunk(b"{\"error\":{\"message\":\"no\"}}").is_err() && chunk(b"<html>").is_err());
    }
}
