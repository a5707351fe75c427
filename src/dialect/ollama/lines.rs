//! What an Ollama server answers by its own API, as chat's chunks or one completion.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Form;
use crate::dialect::Told;
use crate::dialect::sse::EVENT_BYTES;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    model: String,
    message: Option<Message>,
    response: Option<String>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: u64,
    #[serde(default)]
    eval_count: u64,
    logprobs: Option<Value>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default)]
    content: String,
    #[serde(default)]
    thinking: String,
    #[serde(default)]
    tool_calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Option<Box<RawValue>>,
}

impl Line {
    fn usage(&self) -> Value {
        let (prompt, completion) = (self.prompt_eval_count, self.eval_count);
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
    }

    fn reason(&self, calls: u64) -> &str {
        match self.done_reason.as_deref() {
            _ if calls > 0 => "tool_calls",
            Some("length") => "length",
            _ => "stop",
        }
    }
}

/// A call as chat has it, the `number`-eth of the answer with this `id`.
fn call_json(call: &Call, id: &str, number: u64) -> Value {
    let arguments = call.function.arguments.as_ref().map_or("{}", |raw| raw.get());
    let own = call.id.clone().filter(|id| !id.is_empty());
    json!({
        "index": number, "id": own.unwrap_or_else(|| format!("call_{id}_{number}")), "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    })
}

/// Reads the lines of a streamed answer and writes chat's events.
#[derive(Debug)]
pub(crate) struct LineReader {
    form: Form,
    include_usage: bool,
    created: u64,
    id: String,
    pending: BytesMut,
    begun: bool,
    calls: u64,
}

impl LineReader {
    /// For an answer to this chat or completion, made at `created` (Unix seconds), with this id.
    pub(crate) fn new(form: Form, asked: &[u8], created: u64, id: String) -> Self {
        let asked: Value = serde_json::from_slice(asked).unwrap_or_default();
        let include_usage = asked["stream_options"]["include_usage"] == true;
        Self { form, include_usage, created, id, pending: BytesMut::new(), begun: false, calls: 0 }
    }

    /// Takes in what arrived, and gives what it is in chat's events.
    pub(crate) fn push(&mut self, arrived: &[u8]) -> Bytes {
        let mut out = Vec::new();
        self.pending.extend_from_slice(arrived);
        while let Some(end) = memchr::memchr(b'\n', &self.pending) {
            let line = self.pending.split_to(end + 1);
            self.line(&line, &mut out);
        }
        if self.pending.len() > EVENT_BYTES {
            self.pending.clear();
            write(&mut out, &error(&format!("a line is longer than {EVENT_BYTES} bytes")));
        }
        out.into()
    }

    /// The stream has ended: what is left of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        let left = std::mem::take(&mut self.pending);
        self.line(&left, &mut out);
        out.into()
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let line: Line = match serde_json::from_slice(line) {
            Ok(line) => line,
            Err(_) => return write(out, &error("a line is none of Ollama's")),
        };
        if let Some(message) = &line.error {
            return write(out, &error(message));
        }
        let mut delta = json!({});
        if self.form == Form::Chat {
            let said = line.message.as_ref();
            if !std::mem::replace(&mut self.begun, true) {
                delta["role"] = "assistant".into();
            }
            for (name, text) in
                [("content", said.map(|said| &said.content)), ("reasoning_content", said.map(|said| &said.thinking))]
            {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    delta[name] = text.as_str().into();
                }
            }
            let calls = said.map_or(&[][..], |said| &said.tool_calls);
            if !calls.is_empty() {
                let numbered = calls.iter().zip(self.calls..).map(|(call, number)| call_json(call, &self.id, number));
                delta["tool_calls"] = numbered.collect();
                self.calls += calls.len() as u64;
            }
        }
        let text = line.response.as_deref().unwrap_or_default();
        let says = if self.form == Form::Chat { delta != json!({}) } else { !text.is_empty() };
        if says {
            self.choice(&line, delta, text, Value::Null, out);
        }
        if line.done {
            self.choice(&line, json!({}), "", line.reason(self.calls).into(), out);
            if self.include_usage {
                let mut chunk = self.chunk(&line);
                (chunk["choices"], chunk["usage"]) = (json!([]), line.usage());
                write(out, &chunk);
            }
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
    }

    fn chunk(&self, line: &Line) -> Value {
        let object = if self.form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
        json!({"id": self.id, "object": object, "created": self.created, "model": line.model})
    }

    fn choice(&self, line: &Line, delta: Value, text: &str, finish: Value, out: &mut Vec<u8>) {
        let mut choice = json!({"index": 0, "finish_reason": finish});
        if self.form == Form::Chat {
            choice["delta"] = delta;
        } else {
            choice["text"] = text.into();
        }
        if let Some(tokens) = line.logprobs.as_ref().filter(|_| finish_is_null(&choice)) {
            choice["logprobs"] = json!({ "content": tokens });
        }
        let mut chunk = self.chunk(line);
        chunk["choices"] = json!([choice]);
        write(out, &chunk);
    }
}

fn finish_is_null(choice: &Value) -> bool {
    choice["finish_reason"].is_null()
}

fn error(message: &str) -> Value {
    json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}})
}

fn write(out: &mut Vec<u8>, chunk: &Value) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(chunk.to_string().as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// A whole answer as a completion, made at `created` (Unix seconds), with this id.
///
/// # Errors
///
/// When it is none.
pub(crate) fn completion(body: &[u8], form: Form, created: u64, id: &str) -> Result<Vec<u8>, Told> {
    let line: Line = serde_json::from_slice(body).map_err(|_| Told::backend("the answer is none of Ollama's"))?;
    if let Some(message) = line.error {
        return Err(Told::backend(message));
    }
    let mut choice = json!({"index": 0});
    let mut calls = 0;
    if form == Form::Chat {
        let said = line.message.as_ref().ok_or_else(|| Told::backend("the answer has no message"))?;
        let mut message = json!({"role": "assistant", "content": said.content});
        if !said.thinking.is_empty() {
            message["reasoning_content"] = said.thinking.as_str().into();
        }
        if !said.tool_calls.is_empty() {
            calls = said.tool_calls.len() as u64;
            message["tool_calls"] = said.tool_calls.iter().zip(0..).map(|(call, at)| call_json(call, id, at)).collect();
        }
        choice["message"] = message;
    } else {
        let text = line.response.as_deref().ok_or_else(|| Told::backend("the answer has no text"))?;
        choice["text"] = text.into();
    }
    choice["finish_reason"] = line.reason(calls).into();
    if let Some(tokens) = &line.logprobs {
        choice["logprobs"] = json!({ "content": tokens });
    }
    let object = if form == Form::Chat { "chat.completion" } else { "text_completion" };
    let completion = json!({
        "id": id, "object": object, "created": created, "model": line.model, "choices": [choice], "usage": line.usage(),
    });
    Ok(completion.to_string().into_bytes())
}

/// One of Ollama's errors in OpenAI's shape; `None` when it is none.
pub(crate) fn openai_error(body: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Own {
        error: String,
    }
    let Own { error: message } = serde_json::from_slice(body).ok()?;
    Some(error(&message).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        r#"{"model":"m","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":"Grüße 🦙"},"done":false,"logprobs":[{"token":"G","logprob":-0.5}]}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":"","tool_calls":[{"function":{"index":0,"name":"f","arguments":{"z":1.50}}},{"id":"t2","function":{"name":"g","arguments":{}}}]},"done":false}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":3}"#,
        "\n",
    );

    fn run(form: Form, asked: &str, stream: &str, cut: usize) -> String {
        let mut reader = LineReader::new(form, asked.as_bytes(), 7, "chatcmpl-1".to_owned());
        let (head, tail) = stream.as_bytes().split_at(cut);
        let told = [reader.push(head), reader.push(tail), reader.finish()].concat();
        String::from_utf8(told).expect("whole characters")
    }

    fn events(told: &str) -> Vec<Value> {
        let events = told.trim_end().split("\n\n").map(|event| event.strip_prefix("data: ").expect("an event"));
        events.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    #[test]
    fn lines_are_chunks_wherever_they_are_cut() {
        let asked = r#"{"stream_options":{"include_usage":true}}"#;
        let whole = run(Form::Chat, asked, STREAM, 0);
        for cut in 0..STREAM.len() {
            assert_eq!(run(Form::Chat, asked, STREAM, cut), whole, "cut at {cut}");
        }
        assert_eq!(run(Form::Chat, asked, STREAM.trim_end(), 0), whole, "the last line needs no end");
        assert!(whole.ends_with("data: [DONE]\n\n"));
        let events = events(&whole);
        let delta = |at: usize| &events[at]["choices"][0]["delta"];
        assert_eq!(*delta(0), json!({"role": "assistant", "reasoning_content": "hm"}));
        assert_eq!(*delta(1), json!({"content": "Grüße 🦙"}));
        assert_eq!(events[1]["choices"][0]["logprobs"]["content"][0]["token"], "G");
        let calls = &delta(2)["tool_calls"];
        assert_eq!(calls[0]["function"], json!({"name": "f", "arguments": "{\"z\":1.50}"}));
        assert_eq!((&calls[0]["index"], &calls[1]["index"], &calls[1]["id"]), (&json!(0), &json!(1), &json!("t2")));
        assert_eq!(events[3]["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(events[4]["usage"], json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}));
        assert_eq!(events.len(), 5);
    }

    #[test]
    fn a_raw_answer_is_a_completions() {
        let stream = "{\"model\":\"m\",\"response\":\"a\",\"done\":false}\n{\"model\":\"m\",\"response\":\"b\",\"done\":true,\"done_reason\":\"length\"}\n";
        let events = events(&run(Form::Generate, "{}", stream, 5));
        let said: Vec<_> = events.iter().map(|event| event["choices"][0]["text"].clone()).collect();
        assert_eq!(
            (said, &events[2]["choices"][0]["finish_reason"]),
            (vec!["a".into(), "b".into(), "".into()], &"length".into())
        );
        let whole = completion(br#"{"model":"m","response":"ab","done":true}"#, Form::Generate, 7, "c").expect("told");
        let whole: Value = serde_json::from_slice(&whole).expect("JSON");
        assert_eq!(
            (&whole["choices"][0]["text"], &whole["choices"][0]["finish_reason"]),
            (&"ab".into(), &"stop".into())
        );
    }

    #[test]
    fn an_error_is_one_and_an_end_without_done_is_no_end() {
        let told = run(Form::Chat, "{}", "{\"error\":\"boom\"}\n", 3);
        assert_eq!(events(&told)[0]["error"]["message"], "boom");
        assert!(run(Form::Chat, "{}", "<html>\n", 2).contains("none of Ollama's"));
        let (half, _) = STREAM
            .split_once("\n{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true")
            .expect("an end");
        assert!(!run(Form::Chat, "{}", half, 0).contains("[DONE]"));
        let own = openai_error(br#"{"error":"model \"x\" not found"}"#).expect("an error");
        assert!(String::from_utf8(own).expect("text").contains("not found") && openai_error(b"{}").is_none());
    }

    #[test]
    fn a_whole_answer_is_a_completion() {
        let body = br#"{"model":"m","message":{"role":"assistant","content":"hi","thinking":"hm","tool_calls":[
            {"function":{"name":"f","arguments":{"a":1}}}]},"done":true,"done_reason":"stop","prompt_eval_count":2,"eval_count":1}"#;
        let told: Value = serde_json::from_slice(&completion(body, Form::Chat, 7, "c").expect("told")).expect("JSON");
        let message = &told["choices"][0]["message"];
        assert_eq!((&message["content"], &message["reasoning_content"]), (&"hi".into(), &"hm".into()));
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
        assert_eq!(
            (&told["choices"][0]["finish_reason"], &told["usage"]["total_tokens"]),
            (&"tool_calls".into(), &3.into())
        );
        assert!(completion(b"{}", Form::Chat, 7, "c").is_err() && completion(b"<", Form::Chat, 7, "c").is_err());
    }
}
