//! An answer as a response: items one after the other, each event with its number.

use std::collections::BTreeMap;

use serde_json::json;
use serde_json::value::RawValue;

use crate::dialect::chat::{Piece, Tokens};
use crate::dialect::json::{Entries, Json};
use crate::dialect::told::Told;
use crate::dialect::transcript::{Writer, event};

/// Tells an answer as a response.
#[derive(Debug)]
pub(crate) struct ResponseWriter {
    model: String,
    id: String,
    /// Unix seconds.
    created: u64,
    repeated: Vec<(&'static str, Box<RawValue>)>,
    begun: bool,
    sequence: u64,
    items: Vec<Item>,
    /// Whether the last item still goes on.
    open: bool,
    /// Which item is which of chat's calls.
    calls: BTreeMap<u64, usize>,
    logprobs: Vec<String>,
    tokens: Option<Tokens>,
    reason: Option<String>,
    failed: Option<Told>,
}

#[derive(Debug)]
struct Item {
    id: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Reasoning(String),
    Message(Vec<Part>),
    Call { call_id: String, name: String, arguments: String },
}

#[derive(Debug)]
struct Part {
    text: String,
    refusal: bool,
    logprobs: Vec<String>,
}

impl ResponseWriter {
    /// For an answer to a request for this model, made at `created` (Unix seconds).
    pub(crate) fn new(
        model: &str,
        request_id: &str,
        created: u64,
        repeated: Vec<(&'static str, Box<RawValue>)>,
    ) -> Self {
        Self {
            model: model.to_owned(),
            id: request_id.to_owned(),
            created,
            repeated,
            begun: false,
            sequence: 0,
            items: Vec::new(),
            open: false,
            calls: BTreeMap::new(),
            logprobs: Vec::new(),
            tokens: None,
            reason: None,
            failed: None,
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, name: &'static str, fields: Entries<'_>) {
        let mut data = Entries::new().with("type", name);
        data.put("sequence_number", self.sequence);
        data.extend(fields);
        self.sequence += 1;
        event(out, name, &Json::from(data).to_bytes());
    }

    fn begin(&mut self, model: Option<String>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        if let Some(model) = model.filter(|model| !model.is_empty()) {
            self.model = model;
        }
        for name in ["response.created", "response.in_progress"] {
            let response = self.response("in_progress");
            self.write(out, name, Entries::new().with("response", response));
        }
    }

    fn last(&self) -> usize {
        self.items.len().saturating_sub(1)
    }

    /// Where something of the last item is.
    fn place(&self) -> Entries<'static> {
        let id = self.items.last().map(|item| item.id.clone()).unwrap_or_default();
        Entries::new().with("item_id", id).with("output_index", self.last() as u64)
    }

    /// Where something of the last part of the last item is.
    fn part_place(&self) -> Entries<'static> {
        let parts = match self.items.last().map(|item| &item.what) {
            Some(What::Message(parts)) => parts.len(),
            _ => 1,
        };
        self.place().with("content_index", parts.saturating_sub(1) as u64)
    }

    fn start(&mut self, kind: &str, what: What, out: &mut Vec<u8>) {
        self.close(out, false);
        self.items.push(Item { id: format!("{kind}_{}_{}", self.id, self.items.len()), what });
        self.open = true;
        let item = self.items.last().map(|item| item_json(item, "in_progress")).unwrap_or(Json::Null);
        self.write(
            out,
            "response.output_item.added",
            Entries::new().with("output_index", self.last() as u64).with("item", item),
        );
    }

    fn start_part(&mut self, out: &mut Vec<u8>) {
        let part = self.last_part_json();
        self.write(out, "response.content_part.added", self.part_place().with("part", part));
    }

    fn last_part_json(&self) -> Json<'static> {
        match self.items.last().map(|item| &item.what) {
            Some(What::Message(parts)) => parts.last().map_or(Json::Null, part_json),
            Some(What::Reasoning(text)) => reasoning_json(text),
            _ => Json::Null,
        }
    }

    /// Ends the last part of a message or of reasoning.
    fn close_part(&mut self, out: &mut Vec<u8>) {
        let (name, field, text, logprobs) = match self.items.last().map(|item| &item.what) {
            Some(What::Reasoning(text)) => ("response.reasoning_text.done", "text", text.clone(), None),
            Some(What::Message(parts)) => match parts.last() {
                Some(part) if part.refusal => ("response.refusal.done", "refusal", part.text.clone(), None),
                Some(part) => {
                    ("response.output_text.done", "text", part.text.clone(), Some(logprobs_json(&part.logprobs)))
                }
                None => return,
            },
            _ => return,
        };
        let mut done = self.part_place().with(field, text);
        done.maybe("logprobs", logprobs);
        self.write(out, name, done);
        let part = self.last_part_json();
        self.write(out, "response.content_part.done", self.part_place().with("part", part));
    }

    fn close(&mut self, out: &mut Vec<u8>, cut: bool) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.close_part(out);
        if let Some(What::Call { name, arguments, .. }) = self.items.last().map(|item| &item.what) {
            let done = self.place().with("name", name.clone()).with("arguments", arguments.clone());
            self.write(out, "response.function_call_arguments.done", done);
        }
        let status = if cut { "incomplete" } else { "completed" };
        let item = self.items.last().map(|item| item_json(item, status)).unwrap_or(Json::Null);
        self.write(
            out,
            "response.output_item.done",
            Entries::new().with("output_index", self.last() as u64).with("item", item),
        );
    }

    fn think(&mut self, text: String, out: &mut Vec<u8>) {
        if !(self.open && matches!(self.items.last().map(|item| &item.what), Some(What::Reasoning(_)))) {
            self.start("rs", What::Reasoning(String::new()), out);
            self.start_part(out);
        }
        if let Some(Item { what: What::Reasoning(all), .. }) = self.items.last_mut() {
            all.push_str(&text);
        }
        self.write(out, "response.reasoning_text.delta", self.part_place().with("delta", text));
    }

    fn say(&mut self, text: String, refusal: bool, out: &mut Vec<u8>) {
        if !(self.open && matches!(self.items.last().map(|item| &item.what), Some(What::Message(_)))) {
            self.start("msg", What::Message(Vec::new()), out);
        }
        let Some(Item { what: What::Message(parts), .. }) = self.items.last() else { return };
        if parts.last().is_none_or(|part| part.refusal != refusal) {
            self.close_part(out);
            if let Some(Item { what: What::Message(parts), .. }) = self.items.last_mut() {
                parts.push(Part { text: String::new(), refusal, logprobs: Vec::new() });
            }
            self.start_part(out);
        }
        let logprobs = std::mem::take(&mut self.logprobs);
        let shown = logprobs_json(&logprobs);
        if let Some(Item { what: What::Message(parts), .. }) = self.items.last_mut()
            && let Some(part) = parts.last_mut()
        {
            part.text.push_str(&text);
            part.logprobs.extend(logprobs);
        }
        let delta = self.part_place().with("delta", text);
        if refusal {
            self.write(out, "response.refusal.delta", delta);
        } else {
            self.write(out, "response.output_text.delta", delta.with("logprobs", shown));
        }
    }

    fn call(&mut self, index: u64, id: Option<String>, name: Option<String>, more: String, out: &mut Vec<u8>) {
        let at = match self.calls.get(&index) {
            Some(at) => *at,
            None => {
                let call_id = id.unwrap_or_else(|| format!("call_{}_{index}", self.id));
                let name = name.unwrap_or_default();
                self.start("fc", What::Call { call_id, name, arguments: String::new() }, out);
                self.calls.insert(index, self.last());
                self.last()
            }
        };
        if more.is_empty() {
            return;
        }
        if !(self.open && at == self.last()) {
            let told = Told::backend("the backend mixes the arguments of several calls");
            return self.fail(&told, out);
        }
        if let Some(Item { what: What::Call { arguments, .. }, .. }) = self.items.last_mut() {
            arguments.push_str(&more);
        }
        self.write(out, "response.function_call_arguments.delta", self.place().with("delta", more));
    }

    /// Why it is incomplete, if it is.
    fn cut(&self) -> Option<&'static str> {
        match self.reason.as_deref() {
            Some("length") => Some("max_output_tokens"),
            Some("content_filter") => Some("content_filter"),
            _ => None,
        }
    }

    fn response(&self, status: &'static str) -> Json<'static> {
        let mut response = Entries::new()
            .with("id", format!("resp_{}", self.id))
            .with("object", "response")
            .with("created_at", self.created)
            .with("status", status)
            .with("background", false);
        let error = self.failed.as_ref().filter(|_| status == "failed").map(|told| {
            let code = if told.status == 429 { "rate_limit_exceeded" } else { "server_error" };
            Json::from(Entries::new().with("code", code).with("message", told.message.clone()))
        });
        response.put("error", error.unwrap_or(Json::Null));
        let reason = self.cut().filter(|_| status == "incomplete");
        let details = reason.map(|reason| Json::from(Entries::new().with("reason", reason)));
        response.put("incomplete_details", details.unwrap_or(Json::Null));
        response.put("model", self.model.clone());
        let going = status == "in_progress";
        let last = self.last();
        let state = |at: usize| if status != "completed" && at == last { "incomplete" } else { "completed" };
        let items = self.items.iter().enumerate().filter(|_| !going).map(|(at, item)| item_json(item, state(at)));
        response.put("output", items.collect::<Vec<_>>());
        for (name, raw) in &self.repeated {
            response.put(*name, raw.clone());
        }
        for (name, default) in [
            ("parallel_tool_calls", json!(true)),
            ("tool_choice", json!("auto")),
            ("tools", json!([])),
            ("text", json!({"format": {"type": "text"}})),
            ("instructions", json!(null)),
            ("metadata", json!({})),
            ("previous_response_id", json!(null)),
            ("store", json!(false)),
            ("truncation", json!("disabled")),
        ] {
            if !response.has(name)
                && let Ok(default) = serde_json::value::to_raw_value(&default)
            {
                response.put(name, default);
            }
        }
        let usage = self.tokens.filter(|_| !going).map(|tokens| {
            let input = Entries::new()
                .with("cached_tokens", tokens.cached.unwrap_or_default())
                .with("cache_write_tokens", tokens.cache_written.unwrap_or_default());
            let output = Entries::new().with("reasoning_tokens", tokens.reasoning.unwrap_or_default());
            Json::from(
                Entries::new()
                    .with("input_tokens", tokens.prompt)
                    .with("input_tokens_details", input)
                    .with("output_tokens", tokens.completion)
                    .with("output_tokens_details", output)
                    .with("total_tokens", tokens.prompt + tokens.completion),
            )
        });
        response.put("usage", usage.unwrap_or(Json::Null));
        response.into()
    }
}

fn item_json(item: &Item, status: &'static str) -> Json<'static> {
    let entries = Entries::new().with("id", item.id.clone());
    match &item.what {
        What::Reasoning(text) => {
            let content = if text.is_empty() { Vec::new() } else { vec![reasoning_json(text)] };
            entries.with("type", "reasoning").with("summary", Vec::<Json<'_>>::new()).with("content", content)
        }
        What::Message(parts) => entries
            .with("type", "message")
            .with("status", status)
            .with("role", "assistant")
            .with("content", parts.iter().map(part_json).collect::<Vec<_>>()),
        What::Call { call_id, name, arguments } => entries
            .with("type", "function_call")
            .with("status", status)
            .with("call_id", call_id.clone())
            .with("name", name.clone())
            .with("arguments", arguments.clone()),
    }
    .into()
}

fn reasoning_json(text: &str) -> Json<'static> {
    Entries::new().with("type", "reasoning_text").with("text", text.to_owned()).into()
}

fn part_json(part: &Part) -> Json<'static> {
    if part.refusal {
        return Entries::new().with("type", "refusal").with("refusal", part.text.clone()).into();
    }
    Entries::new()
        .with("type", "output_text")
        .with("text", part.text.clone())
        .with("annotations", Vec::<Json<'_>>::new())
        .with("logprobs", logprobs_json(&part.logprobs))
        .into()
}

fn logprobs_json(tokens: &[String]) -> Json<'static> {
    let raw = |token: &String| Some(RawValue::from_string(token.clone()).ok()?.into());
    Json::List(tokens.iter().filter_map(raw).collect())
}

impl Writer for ResponseWriter {
    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        match piece {
            Piece::Begin { model, .. } => self.begin(model, out),
            Piece::Thinking(text) => self.think(text, out),
            Piece::Text(text) => self.say(text, false, out),
            Piece::Refusal(text) => self.say(text, true, out),
            Piece::Logprobs(tokens) => self.logprobs.extend(tokens),
            Piece::Call { index, id, name, arguments } => self.call(index, id, name, arguments, out),
            Piece::Finish { reason, .. } => self.reason = Some(reason),
            Piece::Usage(tokens) => self.tokens = Some(tokens),
            Piece::Signature(_) | Piece::Redacted(_) | Piece::Timings { .. } => {}
        }
    }

    fn alive(&mut self, comment: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(comment);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        self.begin(None, out);
        let cut = self.cut().is_some();
        self.close(out, cut);
        let (name, status) =
            if cut { ("response.incomplete", "incomplete") } else { ("response.completed", "completed") };
        let response = self.response(status);
        self.write(out, name, Entries::new().with("response", response));
    }

    fn fail(&mut self, told: &Told, out: &mut Vec<u8>) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(told.clone());
        if self.begun {
            let response = self.response("failed");
            self.write(out, "response.failed", Entries::new().with("response", response));
        }
        // Both forms of an error: the one of this protocol, and the one that makes SDKs raise.
        let text = |text: &Option<String>| text.clone().map_or(Json::Null, Json::from);
        let inner = Entries::new()
            .with("message", told.message.clone())
            .with("type", if told.status < 500 { "invalid_request_error" } else { "server_error" })
            .with("code", text(&told.code))
            .with("param", text(&told.param));
        let fields = Entries::new()
            .with("code", text(&told.code))
            .with("message", told.message.clone())
            .with("param", text(&told.param))
            .with("error", inner);
        self.write(out, "error", fields);
    }

    fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    fn whole(&mut self) -> Result<Vec<u8>, Told> {
        if let Some(told) = self.failed.take() {
            return Err(told);
        }
        Ok(self.response(if self.cut().is_some() { "incomplete" } else { "completed" }).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::dialect::transcript::retold;
    use crate::dialect::transcript::testing::run_at_all_cuts;

    fn writer() -> ResponseWriter {
        ResponseWriter::new(
            "asked",
            "r-1",
            7,
            vec![("temperature", RawValue::from_string("0.50".into()).expect("JSON"))],
        )
    }

    fn stream(deltas: &[&str], last: &str) -> String {
        let chunk =
            |delta: &&str| format!("data: {{\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
        deltas.iter().map(chunk).collect::<String>() + last
    }

    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n\
        data: [DONE]\n\n";

    fn events(told: &str) -> Vec<Value> {
        let data = told.split("\n\n").filter_map(|event| event.split_once("\ndata: "));
        data.map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect()
    }

    #[test]
    fn a_stream_is_items_with_numbered_events() {
        let deltas = [
            r#"{"reasoning_content":"hm"}"#,
            r#"{"content":"Grü"}"#,
            r#"{"content":"ße"}"#,
            r#"{"tool_calls":[{"index":0,"id":"c1","function":{"name":"f","arguments":"{\"a\":"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"c2","function":{"name":"g","arguments":"{}"}}]}"#,
        ];
        let told = run_at_all_cuts(writer, &stream(&deltas, STOP));
        for (number, event) in events(&told).iter().enumerate() {
            assert_eq!(event["sequence_number"], number, "{event}");
        }
        insta::assert_snapshot!("items", told);
    }

    #[test]
    fn a_failure_is_told_in_both_forms_and_nothing_is_completed() {
        let broken = "data: {\"error\":{\"message\":\"gpu has left\",\"code\":\"interrupted\"}}\n\n";
        let told = run_at_all_cuts(writer, &stream(&[r#"{"content":"a"}"#], broken));
        let events = events(&told);
        let [.., failed, error] = &events[..] else { panic!("{told}") };
        assert_eq!((&failed["type"], &failed["response"]["status"]), (&"response.failed".into(), &"failed".into()));
        assert_eq!((&error["type"], &error["error"]["message"]), (&"error".into(), &"gpu has left".into()));
        assert!(!told.contains("response.completed"), "{told}");
    }

    #[test]
    fn a_whole_answer_is_a_response() {
        let whole = |choice: &str| -> Value {
            let body = format!(
                r#"{{"model":"m","choices":[{{{choice}}}],"usage":{{"prompt_tokens":9,"completion_tokens":3}}}}"#
            );
            serde_json::from_slice(&retold(body.as_bytes(), writer()).expect("a response")).expect("JSON")
        };
        let told = whole(
            r#""message":{"content":"hi","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls""#,
        );
        assert_eq!(
            (&told["id"], &told["status"], &told["model"]),
            (&"resp_r-1".into(), &"completed".into(), &"m".into())
        );
        assert_eq!(told["output"][0]["content"][0]["text"], "hi");
        assert_eq!((&told["output"][1]["call_id"], &told["output"][1]["arguments"]), (&"c".into(), &"{}".into()));
        assert_eq!((&told["usage"]["total_tokens"], &told["temperature"]), (&12.into(), &0.5.into()));
        let cut = whole(r#""message":{"content":"hi"},"finish_reason":"length""#);
        assert_eq!(
            (&cut["status"], &cut["incomplete_details"]["reason"]),
            (&"incomplete".into(), &"max_output_tokens".into())
        );
        let logged = whole(
            r#""message":{"content":"hi"},"logprobs":{"content":[{"token":"hi","logprob":-0.50}]},"finish_reason":"stop""#,
        );
        assert_eq!(logged["output"][0]["content"][0]["logprobs"][0]["token"], "hi");
        let refused = whole(r#""message":{"content":null,"refusal":"no"},"finish_reason":"stop""#);
        assert_eq!(refused["output"][0]["content"][0]["refusal"], "no");
    }
}
