//! An answer as Ollama tells it: one JSON object on each line, the last one with `done` and what it took.

use std::fmt;
use std::time::Duration;

use serde_json::value::RawValue;

use super::Form;
use super::error_body;
use crate::dialect::chat::{Piece, Tokens};
use crate::dialect::json::{Entries, Json};
use crate::dialect::told::Told;
use crate::dialect::transcript::Writer;

/// A moment in the life of a request.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// The time, as RFC 3339 has it.
    pub(crate) at: String,
    /// Since the request came.
    pub(crate) elapsed: Duration,
}

/// Tells what time it is.
pub(crate) type Clock = Box<dyn Fn() -> Moment + Send>;

/// Tells an answer line by line.
pub(crate) struct LineWriter {
    model: String,
    form: Form,
    clock: Clock,
    /// Whether the texts are kept: for an answer that is not streamed.
    keep: bool,
    text: String,
    thinking: String,
    calls: Vec<Call>,
    /// Calls that have been told.
    told: usize,
    logprobs: Vec<String>,
    tokens: Tokens,
    timings: Option<(Duration, Duration)>,
    first: Option<Duration>,
    reason: Option<String>,
    failed: Option<Told>,
}

#[derive(Debug, Default)]
struct Call {
    index: u64,
    id: Option<String>,
    name: String,
    arguments: String,
}

impl fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineWriter").field("model", &self.model).field("form", &self.form).finish_non_exhaustive()
    }
}

/// Nanoseconds, as Ollama counts time.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The answer to a request that a model be loaded or unloaded.
pub(crate) fn loaded(model: &str, form: Form, unload: bool, now: &Moment) -> Vec<u8> {
    let mut line = Entries::new().with("model", model).with("created_at", now.at.as_str());
    match form {
        Form::Chat => line.put("message", Entries::new().with("role", "assistant").with("content", "")),
        Form::Generate => line.put("response", ""),
    };
    line.put("done", true).put("done_reason", if unload { "unload" } else { "load" });
    Json::from(line).to_bytes()
}

impl LineWriter {
    /// For an answer of this form to a request for this model.
    pub(crate) fn new(model: &str, form: Form, streamed: bool, clock: Clock) -> Self {
        Self {
            model: model.to_owned(),
            form,
            clock,
            keep: !streamed,
            text: String::new(),
            thinking: String::new(),
            calls: Vec::new(),
            told: 0,
            logprobs: Vec::new(),
            tokens: Tokens::default(),
            timings: None,
            first: None,
            reason: None,
            failed: None,
        }
    }

    /// A line that says this.
    fn line<'a>(&self, text: &'a str, thinking: &'a str, calls: Vec<Json<'a>>) -> Entries<'a> {
        let now = (self.clock)();
        let mut line = Entries::new().with("model", self.model.clone()).with("created_at", now.at);
        match self.form {
            Form::Chat => {
                let mut message = Entries::new().with("role", "assistant").with("content", text);
                message.maybe("thinking", Some(thinking).filter(|thinking| !thinking.is_empty()));
                message.maybe("tool_calls", Some(calls).filter(|calls| !calls.is_empty()));
                line.put("message", message);
            }
            Form::Generate => {
                line.put("response", text);
                line.maybe("thinking", Some(thinking).filter(|thinking| !thinking.is_empty()));
            }
        }
        line
    }

    fn send(&self, mut line: Entries<'_>, out: &mut Vec<u8>) {
        line.put("done", false);
        out.extend(Json::from(line).to_bytes());
        out.push(b'\n');
    }

    /// Tells the calls that are complete: all but the last, or all.
    fn tell_calls(&mut self, all: bool, out: &mut Vec<u8>) {
        let until = if all { self.calls.len() } else { self.calls.len().saturating_sub(1) };
        while self.told < until && self.failed.is_none() {
            match call_json(&self.calls[self.told], self.told) {
                Err(_) if all && self.is_cut(self.told) => return,
                Ok(call) => {
                    if !self.keep {
                        self.send(self.line("", "", vec![call]), out);
                    }
                    self.told += 1;
                }
                Err(told) => self.fail(&told, out),
            }
        }
    }

    /// Whether this call may be the one in the middle of which the answer was cut off: there is no call then.
    fn is_cut(&self, at: usize) -> bool {
        self.reason.as_deref() == Some("length") && at + 1 == self.calls.len()
    }

    fn logprobs(&mut self, line: &mut Entries<'_>) {
        let tokens: Vec<Json<'_>> = std::mem::take(&mut self.logprobs)
            .into_iter()
            .filter_map(|token| Some(RawValue::from_string(token).ok()?.into()))
            .collect();
        line.maybe("logprobs", Some(tokens).filter(|tokens| !tokens.is_empty()));
    }

    /// What the last line says besides.
    fn done(&self, line: &mut Entries<'_>) {
        let total = (self.clock)().elapsed;
        let first = self.first.unwrap_or(total);
        let (prompt, eval) = self.timings.unwrap_or((first, total.saturating_sub(first)));
        let reason = match self.reason.as_deref() {
            Some("length") => "length",
            _ => "stop",
        };
        line.put("done", true).put("done_reason", reason);
        for (name, count) in [
            ("total_duration", nanos(total)),
            ("load_duration", 0),
            ("prompt_eval_count", self.tokens.prompt),
            ("prompt_eval_duration", nanos(prompt)),
            ("eval_count", self.tokens.completion),
            ("eval_duration", nanos(eval)),
        ] {
            line.put(name, count);
        }
    }
}

fn call_json(call: &Call, index: usize) -> Result<Json<'static>, Told> {
    let text = if call.arguments.trim_ascii().is_empty() { "{}" } else { call.arguments.trim_ascii() };
    let arguments = text.starts_with('{').then(|| serde_json::from_str::<Box<RawValue>>(text).ok()).flatten();
    let wrong = || Told::backend(format!("the model calls {:?} with arguments that are no JSON object", call.name));
    let function = Entries::new()
        .with("index", index as u64)
        .with("name", call.name.clone())
        .with("arguments", arguments.ok_or_else(wrong)?);
    let mut entry = Entries::new();
    entry.maybe("id", call.id.clone());
    Ok(entry.with("function", function).into())
}

impl Writer for LineWriter {
    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        if self.first.is_none() && !matches!(piece, Piece::Begin { .. }) {
            self.first = Some((self.clock)().elapsed);
        }
        match piece {
            Piece::Text(text) | Piece::Refusal(text) if self.keep => self.text.push_str(&text),
            Piece::Thinking(text) if self.keep => self.thinking.push_str(&text),
            Piece::Text(text) | Piece::Refusal(text) => {
                let mut line = self.line(&text, "", Vec::new());
                self.logprobs(&mut line);
                self.send(line, out);
            }
            Piece::Thinking(text) => self.send(self.line("", &text, Vec::new()), out),
            Piece::Logprobs(tokens) => self.logprobs.extend(tokens),
            Piece::Call { index, id, name, arguments } => {
                if !self.calls.iter().any(|call| call.index == index) {
                    self.calls.push(Call { index, ..Call::default() });
                    self.tell_calls(false, out);
                }
                if let Some((at, call)) = self.calls.iter_mut().enumerate().find(|(_, call)| call.index == index) {
                    if at < self.told && !arguments.is_empty() {
                        let told = Told::backend("the backend mixes the arguments of several calls");
                        return self.fail(&told, out);
                    }
                    call.id = call.id.take().or(id);
                    call.name.push_str(&name.unwrap_or_default());
                    call.arguments.push_str(&arguments);
                }
            }
            Piece::Finish { reason, .. } => self.reason = Some(reason),
            Piece::Usage(tokens) => self.tokens = tokens,
            Piece::Timings { prompt_ms, predicted_ms } => {
                let time = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
                self.timings = Some((time(prompt_ms), time(predicted_ms)));
            }
            Piece::Begin { .. } | Piece::Signature(_) | Piece::Redacted(_) => {}
        }
    }

    fn alive(&mut self, _: &[u8], out: &mut Vec<u8>) {
        // There are no comments; a space before the next object is no part of it, and keeps the connection in use.
        out.push(b' ');
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.tell_calls(true, out);
        if self.failed.is_some() || self.keep {
            return;
        }
        let mut line = self.line("", "", Vec::new());
        self.done(&mut line);
        out.extend(Json::from(line).to_bytes());
        out.push(b'\n');
    }

    fn fail(&mut self, told: &Told, out: &mut Vec<u8>) {
        if self.failed.is_none() {
            self.failed = Some(told.clone());
            out.extend(error_body(&told.message));
            out.push(b'\n');
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    fn whole(&mut self) -> Result<Vec<u8>, Told> {
        if let Some(told) = self.failed.take() {
            return Err(told);
        }
        let calls = self.calls.iter().enumerate().map(|(at, call)| (at, call_json(call, at)));
        let calls = calls.filter(|(at, call)| call.is_ok() || !self.is_cut(*at)).map(|(_, call)| call);
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        let (text, thinking) = (std::mem::take(&mut self.text), std::mem::take(&mut self.thinking));
        let mut line = self.line(&text, &thinking, calls);
        self.logprobs(&mut line);
        self.done(&mut line);
        Ok(Json::from(line).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::dialect::transcript::retold;
    use crate::dialect::transcript::testing::run_at_all_cuts;

    fn writer(form: Form, streamed: bool) -> LineWriter {
        let clock = || Moment { at: "2026-01-01T00:00:00Z".into(), elapsed: Duration::from_millis(5) };
        LineWriter::new("m", form, streamed, Box::new(clock))
    }

    fn stream(deltas: &[&str], last: &str) -> String {
        let chunk = |delta: &&str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
        deltas.iter().map(chunk).collect::<String>() + last
    }

    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"timings\":{\"prompt_ms\":2.5,\"predicted_ms\":1}}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";

    #[test]
    fn a_stream_is_lines_and_the_last_tells_what_it_took() {
        let deltas = [
            r#"{"reasoning_content":"hm"}"#,
            r#"{"content":"Grü"}"#,
            r#"{"tool_calls":[{"index":0,"id":"t1","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"1.50}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"t2","function":{"name":"g","arguments":""}}]}"#,
        ];
        let text = stream(&deltas, STOP);
        insta::assert_snapshot!("chat", run_at_all_cuts(|| writer(Form::Chat, true), &text));
        insta::assert_snapshot!(
            "generate",
            run_at_all_cuts(|| writer(Form::Generate, true), &stream(&deltas[..2], STOP))
        );
    }

    #[test]
    fn a_failure_is_the_last_line_and_nothing_is_done() {
        let broken = "data: {\"error\":{\"message\":\"gpu has left\"}}\n\n";
        let told = run_at_all_cuts(|| writer(Form::Chat, true), &stream(&[r#"{"content":"a"}"#], broken));
        assert!(told.ends_with("{\"error\":\"gpu has left\"}\n") && !told.contains("\"done\":true"), "{told}");
        let bad = stream(&[r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{oops"}}]}"#], STOP);
        let told = run_at_all_cuts(|| writer(Form::Chat, true), &bad);
        assert!(told.contains("no JSON object") && !told.contains("\"done\":true"), "{told}");
    }

    #[test]
    fn a_call_that_was_cut_off_is_none() {
        let call = r#"{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"{\"city\":\"K"}}]}"#;
        let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
        let told = run_at_all_cuts(|| writer(Form::Chat, true), &stream(&[call], end));
        assert!(told.contains("\"done_reason\":\"length\"") && !told.contains("tool_calls"), "{told}");
        let body = r#"{"choices":[{"index":0,"message":{"content":"a","tool_calls":[
            {"id":"t","function":{"name":"f","arguments":"{\"city\""}}]},"finish_reason":"length"}]}"#;
        let told = retold(body.as_bytes(), writer(Form::Chat, false)).expect("told");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!((&told["done_reason"], &told["message"]["tool_calls"]), (&"length".into(), &Value::Null));
    }

    #[test]
    fn a_sign_of_life_is_space_before_the_next_line() {
        let told = run_at_all_cuts(
            || writer(Form::Chat, true),
            &format!(": keepalive\n\n{}", stream(&[r#"{"content":"a"}"#], STOP)),
        );
        let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_whole_answer_is_one_object() {
        let body = r#"{"choices":[{"index":0,"message":{"content":"hi","reasoning":"hm",
            "tool_calls":[{"id":"t","function":{"name":"f","arguments":"{\"z\":1,\"a\":2}"}}]},"finish_reason":"length"}],
            "usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        let told = retold(body.as_bytes(), writer(Form::Chat, false)).expect("an answer");
        assert_eq!(
            String::from_utf8(told).expect("UTF-8"),
            r#"{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"hi","thinking":"hm","tool_calls":[{"id":"t","function":{"index":0,"name":"f","arguments":{"z":1,"a":2}}}]},"done":true,"done_reason":"length","total_duration":5000000,"load_duration":0,"prompt_eval_count":9,"prompt_eval_duration":5000000,"eval_count":3,"eval_duration":0}"#
        );
        let completion = r#"{"choices":[{"text":"world","index":0,"finish_reason":"stop","logprobs":null}]}"#;
        let told = retold(completion.as_bytes(), writer(Form::Generate, false)).expect("an answer");
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!((&told["response"], &told["done"]), (&"world".into(), &true.into()));
    }
}
