//! Makes the events of another answer the rest of one that broke off: nothing twice, nothing missing. Pure.
//!
//! A replay is held back until it has said all that the caller has, and is given up at the first difference. From
//! there, and from the beginning for a prefill, its events go on under the identity (`id`, `created`, `model`) of the
//! answer that the caller knows.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::resume::Way;
use super::transcript::{Sent, events};
use crate::capability::Usage;
use crate::dialect::sse::data_of;

/// A replay says something else than the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its answer differs from what was sent after {matched} bytes")]
pub(super) struct Diverged {
    /// Bytes of text that were the same.
    pub(super) matched: usize,
}

/// Makes the events of another answer the rest of one that broke off.
#[derive(Debug)]
pub(super) struct Splice {
    sent: Sent,
    way: Way,
    /// Bytes of what was said, and thought, that the replay has said.
    said: usize,
    thought: usize,
}

impl Splice {
    /// Goes on, in that way, where the caller has `sent`.
    pub(super) fn new(way: Way, sent: Sent) -> Self {
        let (said, thought) = match way {
            Way::Replay => (0, 0),
            Way::Prefill => (sent.said.len(), sent.thought.len()),
        };
        Self { sent, way, said, thought }
    }

    /// What the caller is to be sent of a piece of the other answer; may be empty.
    ///
    /// # Errors
    ///
    /// When it is not the same answer.
    pub(super) fn take(&mut self, piece: &Bytes) -> Result<Bytes, Diverged> {
        let mut out = BytesMut::new();
        for event in events(piece) {
            self.event(&event, &mut out)?;
        }
        Ok(out.freeze())
    }

    /// What the whole answer took, when the part that goes on took this.
    pub(super) fn usage(&self, usage: Usage) -> Usage {
        match self.way {
            Way::Replay => usage,
            // What was said before was read by the one that went on. An event is a token, nearly: the sum is exact.
            Way::Prefill => Usage {
                prompt_tokens: usage.prompt_tokens.saturating_sub(self.sent.pieces),
                completion_tokens: usage.completion_tokens.saturating_add(self.sent.pieces.min(usage.prompt_tokens)),
                cached_tokens: usage.cached_tokens,
            },
        }
    }

    /// Whether all that the caller has was said again.
    pub(super) fn caught_up(&self) -> bool {
        self.said == self.sent.said.len() && self.thought == self.sent.thought.len()
    }

    const fn diverged(&self) -> Diverged {
        Diverged { matched: self.said + self.thought }
    }

    fn event(&mut self, event: &Bytes, out: &mut BytesMut) -> Result<(), Diverged> {
        let Some(data) = data_of(event) else {
            // A comment.
            out.extend_from_slice(event);
            return Ok(());
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            if !self.caught_up() {
                return Err(self.diverged());
            }
            out.extend_from_slice(event);
            return Ok(());
        }
        let Ok(Value::Object(mut body)) = serde_json::from_slice::<Value>(data) else {
            return if data.is_empty() { Ok(()) } else { Err(self.diverged()) };
        };
        if !self.body(&mut body)? {
            return Ok(());
        }
        self.sent.identity.put_into(&mut body);
        if let Ok(body) = serde_json::to_vec(&body) {
            out.put_slice(b"data: ");
            out.put_slice(&body);
            out.put_slice(b"\n\n");
        }
        Ok(())
    }

    /// Takes away what the caller has; whether anything is left.
    fn body(&mut self, body: &mut Map<String, Value>) -> Result<bool, Diverged> {
        let mut tells = false;
        if let Some(Value::Object(usage)) = body.get_mut("usage") {
            self.recount(usage);
            tells = true;
        }
        let Some(Value::Array(choices)) = body.get_mut("choices") else { return Ok(tells) };
        for choice in choices.iter_mut() {
            let Value::Object(choice) = choice else { return Err(self.diverged()) };
            if choice.get("index").and_then(Value::as_u64).unwrap_or(0) != 0 {
                return Err(self.diverged());
            }
            if let Some(Value::String(text)) = choice.get_mut("text") {
                skip(&self.sent.said, &mut self.said, text).map_err(|()| self.diverged())?;
                tells |= !text.is_empty();
            }
            if let Some(Value::Object(delta)) = choice.get_mut("delta") {
                // Who speaks was said.
                delta.remove("role");
                if let Some(Value::String(text)) = delta.get_mut("content") {
                    skip(&self.sent.said, &mut self.said, text).map_err(|()| self.diverged())?;
                    tells |= !text.is_empty();
                }
                for name in ["reasoning_content", "reasoning"] {
                    if let Some(Value::String(thought)) = delta.get_mut(name) {
                        skip(&self.sent.thought, &mut self.thought, thought).map_err(|()| self.diverged())?;
                        tells |= !thought.is_empty();
                        break;
                    }
                }
                let calls = ["tool_calls", "function_call", "refusal"].iter().any(|name| {
                    delta.get(*name).is_some_and(|value| !value.is_null() && *value != Value::Array(Vec::new()))
                });
                if calls && !self.caught_up() {
                    return Err(self.diverged());
                }
                tells |= calls;
            }
            let ends = choice.get("finish_reason").and_then(Value::as_str).is_some_and(|reason| !reason.is_empty());
            if ends {
                if !self.caught_up() {
                    return Err(self.diverged());
                }
                // Told once.
                tells |= !self.sent.finished;
            }
        }
        Ok(tells)
    }

    fn recount(&self, usage: &mut Map<String, Value>) {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64);
        let (Some(prompt), Some(completion)) = (count("prompt_tokens"), count("completion_tokens")) else { return };
        if self.way == Way::Replay {
            return;
        }
        let whole = self.usage(Usage { prompt_tokens: prompt, completion_tokens: completion, ..Usage::default() });
        usage.insert("prompt_tokens".into(), whole.prompt_tokens.into());
        usage.insert("completion_tokens".into(), whole.completion_tokens.into());
        if let Some(Value::Object(details)) = usage.get_mut("prompt_tokens_details")
            && let Some(cached) = details.get("cached_tokens").and_then(Value::as_u64)
        {
            details.insert("cached_tokens".into(), cached.min(whole.prompt_tokens).into());
        }
    }
}

/// Takes off the front of `text` what of `sent` it says again, from `at` on.
fn skip(sent: &str, at: &mut usize, text: &mut String) -> Result<(), ()> {
    let left = &sent.as_bytes()[*at..];
    if left.is_empty() {
        return Ok(());
    }
    let same = left.len().min(text.len());
    if left[..same] != text.as_bytes()[..same] {
        *at += left.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
        return Err(());
    }
    *at += same;
    // Within `sent` every piece ended between characters, so this does too.
    if text.is_char_boundary(same) {
        text.drain(..same);
        Ok(())
    } else {
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::dispatch::transcript::Transcript;

    fn event(text: &str) -> String {
        format!(
            "data: {}\n\n",
            json!({"id": "new", "created": 2, "choices": [{"index": 0, "delta": {"content": text}}]})
        )
    }

    fn sent(text: &str) -> Sent {
        let first = json!({"id": "old", "created": 1, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]});
        let mut transcript = Transcript::new(true);
        transcript.add(&Bytes::from(format!("data: {first}\n\n")));
        transcript.read().expect("readable")
    }

    fn run(splice: &mut Splice, pieces: &[String]) -> Result<String, Diverged> {
        let mut out = String::new();
        for piece in pieces {
            out.push_str(std::str::from_utf8(&splice.take(&Bytes::from(piece.clone()))?).expect("text"));
        }
        Ok(out)
    }

    fn texts(events: &str) -> String {
        let mut transcript = Transcript::new(true);
        transcript.add(&Bytes::from(events.to_owned()));
        transcript.read().expect("readable").said
    }

    const ROLE: &str =
        "data: {\"id\":\"new\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";
    const STOP: &str = "data: {\"id\":\"new\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str = "data: {\"id\":\"new\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17,\"prompt_tokens_details\":{\"cached_tokens\":12}}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[test]
    fn a_replay_is_silent_until_it_says_something_new_and_keeps_the_first_identity() {
        let mut splice = Splice::new(Way::Replay, sent("Hello wo"));
        let pieces = [
            ROLE.into(),
            event("Hel"),
            event("lo"),
            event(" world"),
            event("!"),
            STOP.into(),
            USAGE.into(),
            DONE.into(),
        ];
        let out = run(&mut splice, &pieces).expect("the same answer");
        assert_eq!(texts(&out), "rld!");
        assert!(!out.contains("new") && !out.contains("role"), "{out}");
        assert_eq!(out.matches("\"id\":\"old\"").count(), 4, "{out}");
        assert!(out.contains("\"created\":1") && out.ends_with(DONE) && out.contains("\"completion_tokens\":5"));
    }

    #[test]
    fn another_answer_is_given_up_at_the_first_difference() {
        let table: [(&[String], usize); 5] = [
            (&[event("Hellu")], 4),
            (&[event("Hel"), STOP.into()], 3),
            (&[event("Hello"), DONE.into()], 5),
            (&["data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n".into()], 0),
            (&["data: oops\n\n".into()], 0),
        ];
        for (pieces, matched) in table {
            let mut splice = Splice::new(Way::Replay, sent("Hello wo"));
            assert_eq!(run(&mut splice, pieces), Err(Diverged { matched }), "{pieces:?}");
        }
    }

    #[test]
    fn a_prefill_goes_on_at_once_and_its_usage_adds_up() {
        let mut splice = Splice::new(Way::Prefill, sent("Hello"));
        let pieces = [ROLE.into(), event(" world"), STOP.into(), USAGE.into(), DONE.into()];
        let out = run(&mut splice, &pieces).expect("goes on");
        assert_eq!(texts(&out), " world");
        for part in ["\"prompt_tokens\":11", "\"completion_tokens\":6", "\"total_tokens\":17", "\"cached_tokens\":11"] {
            assert!(out.contains(part), "{part} in {out}");
        }
        let usage = splice.usage(Usage { prompt_tokens: 12, completion_tokens: 5, ..Usage::default() });
        assert_eq!(usage, Usage { prompt_tokens: 11, completion_tokens: 6, ..Usage::default() });
    }

    #[test]
    fn comments_pass_and_a_reason_that_was_told_is_not_told_again() {
        let finished = Sent { finished: true, ..sent("Hi") };
        let mut splice = Splice::new(Way::Replay, finished);
        let pieces = [": beat\n\n".into(), event("Hi"), STOP.into(), USAGE.into(), DONE.into()];
        let out = run(&mut splice, &pieces).expect("the same answer");
        assert!(out.starts_with(": beat\n\n") && !out.contains("stop") && out.contains("usage"), "{out}");
    }

    proptest! {
        /// However both runs are cut into events, the caller has the text once and whole.
        #[test]
        fn nothing_is_twice_and_nothing_is_missing(
            text in "[aé𝄞 ]{1,40}", cut in any::<proptest::sample::Index>(), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..9),
            at_once in any::<bool>(),
        ) {
            let chars: Vec<char> = text.chars().collect();
            let cut = cut.index(chars.len() + 1);
            let had: String = chars[..cut].iter().collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).chain([0, chars.len()]).collect();
            cuts.sort_unstable();
            let mut pieces: Vec<String> = cuts.windows(2).map(|pair| event(&chars[pair[0]..pair[1]].iter().collect::<String>())).collect();
            pieces.push(STOP.into());
            if at_once {
                pieces = vec![pieces.concat()];
            }
            let mut splice = Splice::new(Way::Replay, sent(&had));
            let out = run(&mut splice, &pieces).expect("the same answer");
            prop_assert_eq!(format!("{had}{}", texts(&out)), text);
        }
    }
}
