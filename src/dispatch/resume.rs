//! Whether and how somebody else can go on with an answer whose node has died. Pure.
//!
//! Two ways are honest. [`Way::Replay`]: the request decodes deterministically, so the same model writes the same
//! answer again; it is compared with what the caller has, and goes on from there. [`Way::Prefill`]: the backend
//! continues a last assistant message, so it is given what was said so far and writes the rest. Everything else is
//! not: another model, a tool call that is half sent, an answer that a grammar shapes from its first character.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::transcript::Sent;
use crate::capability::{Capability, Feature, Operation, normalise_name};
use crate::router::Role;

/// How an answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the beginning, compared with what was sent.
    Replay,
    /// From what was said so far.
    Prefill,
}

impl Way {
    /// For comments, logs and events.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Prefill => "prefill",
        }
    }
}

impl From<Way> for Role {
    fn from(way: Way) -> Self {
        match way {
            Way::Replay => Self::Replay,
            Way::Prefill => Self::Prefill,
        }
    }
}

/// What a request and its answer so far allow.
#[derive(Debug, Clone)]
pub(super) struct Resume {
    operation: Operation,
    request: Map<String, Value>,
    pub(super) sent: Sent,
    deterministic: bool,
    /// Why it cannot be continued from what was said.
    no_prefill: Option<&'static str>,
}

/// What it takes to replay: when it is longer than this and a prefill is possible, that is taken.
const LONG_REPLAY_S: f64 = 5.0;

/// Fields by which an answer is shaped from its first character on: the rest of it cannot be asked for by itself.
const SHAPING: [&str; 12] = [
    "tools",
    "functions",
    "grammar",
    "json_schema",
    "guided_json",
    "guided_regex",
    "guided_grammar",
    "guided_choice",
    "structured_outputs",
    "regex",
    "suffix",
    "audio",
];

impl Resume {
    /// What can be done about the answer to this request, of which the caller has `sent`.
    ///
    /// # Errors
    ///
    /// When nobody can go on with it; the reason is for people.
    pub(super) fn new(operation: Operation, payload: &[u8], sent: Sent) -> Result<Self, &'static str> {
        if !matches!(operation, Operation::Chat | Operation::Complete) {
            return Err("it is no text");
        }
        let Ok(Value::Object(request)) = serde_json::from_slice(payload) else {
            return Err("its request cannot be read");
        };
        if sent.calls_a_tool {
            return Err("a tool call was half sent");
        }
        let several = |field: &str| request.get(field).and_then(Value::as_f64).is_some_and(|count| count > 1.0);
        if several("n") || several("best_of") {
            return Err("it has several choices");
        }
        // Nothing of it was seen, so any answer is as good as the one that was lost.
        let deterministic = sent.is_empty() || decodes_deterministically(&request);
        let no_prefill = no_prefill(operation, &request, &sent);
        match no_prefill {
            // A complete answer needs nobody.
            Some(why) if !deterministic && !sent.finished => Err(why),
            no_prefill => Ok(Self { operation, request, sent, deterministic, no_prefill }),
        }
    }

    /// Whether all that was asked for has been sent but for the end mark.
    pub(super) fn is_complete(&self) -> bool {
        self.sent.finished && (self.sent.counted || !(self.wants_usage() && self.deterministic))
    }

    /// The ways in which `other` can go on for `served`, the best first. `replay_s`: what writing it all again takes there.
    pub(super) fn ways(&self, served: &Capability, other: &Capability, replay_s: f64) -> Vec<Way> {
        if !is_same_model(served, other) {
            return Vec::new();
        }
        let prefill = self.no_prefill.is_none() && other.features.contains(Feature::Prefill);
        let (replay, prefill) = (self.deterministic.then_some(Way::Replay), prefill.then_some(Way::Prefill));
        // Who decodes deterministically wants the answer that it would have been, to the letter. A prefill is tokenised anew,
        // and may go on in other words.
        let order = if replay_s > LONG_REPLAY_S { [prefill, replay] } else { [replay, prefill] };
        order.into_iter().flatten().collect()
    }

    /// Why there is no way where there is none, given that somebody else has the model.
    pub(super) const fn why_not(&self) -> &'static str {
        match self.no_prefill {
            Some(why) => why,
            None => "no other backend of the model continues a partial answer",
        }
    }

    /// The body of the request that goes on in that way.
    pub(super) fn payload(&self, way: Way, original: &Bytes) -> Bytes {
        if way == Way::Replay {
            return original.clone();
        }
        let mut request = self.request.clone();
        if self.operation == Operation::Complete {
            if let Some(Value::String(prompt)) = request.get_mut("prompt") {
                prompt.push_str(&self.sent.said);
            }
        } else if let Some(Value::Array(messages)) = request.get_mut("messages") {
            messages.push(json!({"role": "assistant", "content": self.sent.said}));
            // As vLLM and SGLang want to be told, and llama.cpp understands. A pair: with only the first it refuses.
            request.insert("continue_final_message".into(), true.into());
            request.insert("add_generation_prompt".into(), false.into());
        }
        for limit in ["max_tokens", "max_completion_tokens", "n_predict"] {
            if let Some(tokens) = request.get(limit).and_then(Value::as_u64) {
                request.insert(limit.into(), tokens.saturating_sub(self.sent.pieces).max(1).into());
            }
        }
        if let Some(tokens) = request.get("min_tokens").and_then(Value::as_u64) {
            request.insert("min_tokens".into(), tokens.saturating_sub(self.sent.pieces).into());
        }
        serde_json::to_vec(&request).map_or_else(|_| original.clone(), Bytes::from)
    }

    fn wants_usage(&self) -> bool {
        self.request.get("stream_options").and_then(|options| options.get("include_usage")) == Some(&Value::Bool(true))
    }
}

/// Whether the same request to the same model is answered in the same words.
fn decodes_deterministically(request: &Map<String, Value>) -> bool {
    let number = |field: &str| request.get(field).and_then(Value::as_f64);
    number("temperature") == Some(0.0) || number("top_k") == Some(1.0) || number("seed").is_some_and(|seed| seed >= 0.0)
}

fn no_prefill(operation: Operation, request: &Map<String, Value>, sent: &Sent) -> Option<&'static str> {
    let said = |field: &str| {
        request.get(field).is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    };
    if sent.finished {
        return Some("its text was complete");
    }
    if !sent.thought.is_empty() {
        return Some("it is not deterministic, and a chain of thought cannot be continued");
    }
    if SHAPING.into_iter().any(said) {
        return Some("it is not deterministic, and tools or a grammar shape it from its first character");
    }
    let format = request.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    if format.is_some_and(|format| format != "text") {
        return Some("it is not deterministic, and a schema shapes it from its first character");
    }
    if operation == Operation::Complete {
        let plain =
            matches!(request.get("prompt"), Some(Value::String(_))) && request.get("echo") != Some(&true.into());
        return (!plain).then_some("its prompt is no plain text");
    }
    let last = request.get("messages").and_then(Value::as_array).and_then(|messages| messages.last());
    match last.and_then(|message| message.get("role")).and_then(Value::as_str) {
        Some("assistant") | None => Some("it continues an answer of the caller's own"),
        Some(_) => None,
    }
}

/// Whether two capabilities are the same weights with the same instructions, as far as they tell.
fn is_same_model(a: &Capability, b: &Capability) -> bool {
    if a.project != b.project || a.domain != b.domain {
        return false;
    }
    if let (Some(a), Some(b)) = (&a.digest, &b.digest) {
        return a == b;
    }
    let same_bits = match (&a.quantization, &b.quantization) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => true,
    };
    same_bits && normalise_name(&a.name) == normalise_name(&b.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::testing::chat_model;

    fn sent(said: &str) -> Sent {
        Sent { said: said.into(), pieces: 3, ..Sent::default() }
    }

    fn resume(request: &str, sent: Sent) -> Result<Resume, &'static str> {
        Resume::new(Operation::Chat, request.as_bytes(), sent)
    }

    fn capability(prefill: bool) -> Capability {
        let mut it = chat_model("m", 7);
        if prefill {
            it.features.insert(Feature::Prefill);
        }
        it
    }

    #[test]
    fn a_request_goes_on_in_the_ways_that_are_honest() {
        const U: &str = r#""messages":[{"role":"user","content":"hi"}]"#;
        let table: &[(&str, &[Way], &[Way])] = &[
            // What the request says, the ways on a backend that continues, and on one that does not.
            ("", &[Way::Prefill], &[]),
            (r#","temperature":0"#, &[Way::Replay, Way::Prefill], &[Way::Replay]),
            (r#","temperature":0.0,"tools":[{}]"#, &[Way::Replay], &[Way::Replay]),
            (r#","seed":7"#, &[Way::Replay, Way::Prefill], &[Way::Replay]),
            (r#","seed":-1"#, &[Way::Prefill], &[]),
            (r#","temperature":0.7,"tools":[]"#, &[Way::Prefill], &[]),
            (r#","response_format":{"type":"text"}"#, &[Way::Prefill], &[]),
            (r#","tools":[{}]"#, &[], &[]),
            (r#","response_format":{"type":"json_object"}"#, &[], &[]),
            (r#","temperature":0,"n":2"#, &[], &[]),
        ];
        for (more, with, without) in table {
            let request = format!("{{{U}{more}}}");
            let ways = |prefill| {
                let found = resume(&request, sent("Hello"));
                found.map(|it| it.ways(&capability(prefill), &capability(prefill), 1.0)).unwrap_or_default()
            };
            assert_eq!((ways(true).as_slice(), ways(false).as_slice()), (*with, *without), "{more}");
        }
        let deterministic = resume(&format!("{{{U},\"temperature\":0}}"), sent("Hello")).expect("possible");
        assert_eq!(deterministic.ways(&capability(true), &capability(true), 60.0), [Way::Prefill, Way::Replay]);
    }

    #[test]
    fn nobody_goes_on_with_half_a_tool_call() {
        let request = r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0}"#;
        let half = Sent { calls_a_tool: true, ..sent("") };
        assert!(resume(request, half).expect_err("never").contains("tool call"));
    }

    #[test]
    fn only_the_same_model_goes_on() {
        let request = r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0}"#;
        let it = resume(request, sent("Hello")).expect("possible");
        type Change = fn(&mut Capability);
        let table: [(Change, Change, bool); 7] = [
            (|_| (), |_| (), true),
            (|_| (), |b| b.name = "M:latest".into(), true),
            (|_| (), |b| b.name = "n".into(), false),
            (|a| a.quantization = Some("Q4_K_M".into()), |b| b.quantization = Some("Q8_0".into()), false),
            (|a| a.quantization = Some("q8_0".into()), |b| b.quantization = Some("Q8_0".into()), true),
            (|a| a.digest = Some("1".into()), |b| b.digest = Some("2".into()), false),
            (|a| a.project = Some("p/q".into()), |_| (), false),
        ];
        for (row, (change_a, change_b, same)) in table.into_iter().enumerate() {
            let (mut a, mut b) = (capability(false), capability(false));
            change_a(&mut a);
            change_b(&mut b);
            assert_eq!(!it.ways(&a, &b, 1.0).is_empty(), same, "row {row}");
        }
        let (mut a, mut b) = (capability(false), capability(false));
        (a.digest, b.digest, b.name) = (Some("1".into()), Some("1".into()), "another-name".into());
        assert!(!it.ways(&a, &b, 1.0).is_empty(), "equal digests are the same model whatever the name");
    }

    #[test]
    fn a_prefill_says_what_was_said_and_asks_for_the_rest() {
        let request = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":10,"top_p":0.9}"#;
        let it = resume(request, sent("Hello")).expect("possible");
        let original = Bytes::copy_from_slice(request.as_bytes());
        let body: Value = serde_json::from_slice(&it.payload(Way::Prefill, &original)).expect("JSON");
        assert_eq!(
            body,
            json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello"}],
                   "max_tokens": 7, "top_p": 0.9, "continue_final_message": true, "add_generation_prompt": false})
        );
        assert_eq!(it.payload(Way::Replay, &original), original);
        let complete = Resume::new(Operation::Complete, br#"{"prompt":"Once "}"#, sent("upon")).expect("possible");
        let body: Value = serde_json::from_slice(&complete.payload(Way::Prefill, &original)).expect("JSON");
        assert_eq!(body, json!({"prompt": "Once upon"}));
    }

    #[test]
    fn an_answer_whose_end_mark_alone_is_missing_is_complete() {
        let asked = r#"{"messages":[{"role":"user"}],"temperature":0,"stream_options":{"include_usage":true}}"#;
        let plain = r#"{"messages":[{"role":"user"}],"temperature":0}"#;
        let finished = |counted| Sent { finished: true, counted, ..sent("Hello") };
        assert!(resume(plain, finished(false)).expect("known").is_complete());
        assert!(resume(asked, finished(true)).expect("known").is_complete());
        assert!(!resume(asked, finished(false)).expect("known").is_complete(), "a replay can still count");
        assert!(!resume(plain, sent("Hello")).expect("known").is_complete());
    }
}
