//! What the caller has been sent of a streamed answer: kept while it runs, and read when its node has died. Pure.
//!
//! Keeping costs a copy of each piece, which is some hundred bytes; nothing is parsed before it must be.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::dialect::sse::{Framer, data_of};

/// Bytes of an answer that are kept: some ten thousand tokens with their JSON. A longer answer is not continued.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// The pieces that the caller has been sent.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    bytes: Vec<u8>,
    /// Where each piece ends.
    ends: Vec<usize>,
    /// Not all is kept: it was not wanted, or grew too long.
    partial: bool,
}

impl Transcript {
    /// Keeps what is sent from now on, or nothing.
    pub(super) fn new(keep: bool) -> Self {
        Self { partial: !keep, ..Self::default() }
    }

    /// The caller is sent this.
    pub(super) fn add(&mut self, piece: &Bytes) {
        if self.partial {
            return;
        }
        if self.bytes.len() + piece.len() > KEPT_BYTES {
            *self = Self::new(false);
            return;
        }
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
    }

    /// Whether all is kept.
    pub(super) const fn is_whole(&self) -> bool {
        !self.partial
    }

    /// What the caller knows by now.
    ///
    /// # Errors
    ///
    /// When it cannot be known; the reason is for people.
    pub(super) fn read(&self) -> Result<Sent, &'static str> {
        if self.partial {
            return Err("what was sent of it is not kept");
        }
        let mut sent = Sent::default();
        let mut start = 0;
        for &end in &self.ends {
            for event in events(&Bytes::copy_from_slice(&self.bytes[start..end])) {
                sent.take(&event)?;
            }
            start = end;
        }
        Ok(sent)
    }
}

/// The events of a piece, which holds whole ones only.
pub(super) fn events(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut framer = Framer::default();
    let whole = framer.push(piece.clone()).unwrap_or_default();
    let mut ends = framer.ends().to_vec();
    if ends.is_empty() {
        // Without its blank line: what stands alone is one all the same.
        ends.push(piece.len());
    }
    let whole = if whole.is_empty() { piece.clone() } else { whole };
    let mut start = 0;
    ends.into_iter().map(move |end| {
        let event = whole.slice(start..end);
        start = end;
        event
    })
}

/// What the caller knows of the answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sent {
    /// `id`, `created`, `model` and `system_fingerprint` of its events: a client takes them for the same throughout.
    pub(super) identity: Identity,
    /// The text.
    pub(super) said: String,
    /// The reasoning before it.
    pub(super) thought: String,
    /// Events with text or reasoning in them: about as many tokens.
    pub(super) pieces: u64,
    /// Why the answer ended was told: there is no more text.
    pub(super) finished: bool,
    /// The usage was told.
    pub(super) counted: bool,
    /// `[DONE]` was sent.
    pub(super) done: bool,
    /// A tool call has begun.
    pub(super) calls_a_tool: bool,
}

/// The members that all events of an answer share.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Identity(Vec<(&'static str, Value)>);

/// The members that all events of an answer share.
const IDENTITY: [&str; 4] = ["id", "created", "model", "system_fingerprint"];

impl Identity {
    fn of(event: &[u8]) -> Self {
        let Ok(Value::Object(mut event)) = serde_json::from_slice(event) else { return Self::default() };
        Self(IDENTITY.into_iter().filter_map(|name| Some((name, event.remove(name)?))).collect())
    }

    /// Gives an event of another answer this one's.
    pub(super) fn put_into(&self, event: &mut serde_json::Map<String, Value>) {
        for name in IDENTITY {
            match self.0.iter().find(|(own, _)| *own == name) {
                Some((_, value)) => drop(event.insert(name.to_owned(), value.clone())),
                None => drop(event.remove(name)),
            }
        }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
    refusal: Option<IgnoredAny>,
    tool_calls: Option<Vec<IgnoredAny>>,
    function_call: Option<IgnoredAny>,
}

impl Sent {
    /// Whether the caller has seen nothing of the answer itself.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty() && self.thought.is_empty() && !self.calls_a_tool && !self.finished
    }

    fn take(&mut self, event: &[u8]) -> Result<(), &'static str> {
        let Some(data) = data_of(event) else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        if data.is_empty() {
            return Ok(());
        }
        let read: Event<'_> = serde_json::from_slice(data).map_err(|_| "its events are not those of a chat")?;
        if self.identity.0.is_empty() {
            self.identity = Identity::of(data);
        }
        self.counted |= read.usage.is_some();
        for choice in read.choices {
            if choice.index != 0 {
                return Err("it has several choices");
            }
            // Some servers send an empty reason with every event.
            self.finished |= choice.finish_reason.is_some_and(|reason| !reason.is_empty());
            let mut text = choice.text.unwrap_or_default().into_owned();
            let mut thought = String::new();
            if let Some(delta) = choice.delta {
                if delta.refusal.is_some() {
                    return Err("it is a refusal");
                }
                self.calls_a_tool |= delta.tool_calls.is_some_and(|calls| !calls.is_empty());
                self.calls_a_tool |= delta.function_call.is_some();
                text.push_str(&delta.content.unwrap_or_default());
                thought.push_str(&delta.reasoning_content.or(delta.reasoning).unwrap_or_default());
            }
            self.pieces += u64::from(!text.is_empty() || !thought.is_empty());
            self.said.push_str(&text);
            self.thought.push_str(&thought);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&'static str]) -> Result<Sent, &'static str> {
        let mut transcript = Transcript::new(true);
        for piece in pieces {
            transcript.add(&Bytes::from_static(piece.as_bytes()));
        }
        transcript.read()
    }

    #[test]
    fn what_was_sent_is_what_the_caller_knows() {
        let sent = read(&[
            "data: {\"id\":\"a\",\"created\":7,\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null},\"finish_reason\":null}]}\n\n",
            ": keepalive\n\ndata: {\"id\":\"b\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hé\"},\"finish_reason\":\"\"}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"llo\"}}]}\n\n",
        ])
        .expect("readable");
        assert_eq!((sent.said.as_str(), sent.thought.as_str(), sent.pieces), ("Héllo", "hm", 3));
        assert!(!sent.finished && !sent.done && !sent.counted && !sent.calls_a_tool && !sent.is_empty());
        let mut other = serde_json::Map::new();
        other.insert("id".into(), "z".into());
        other.insert("system_fingerprint".into(), "z".into());
        sent.identity.put_into(&mut other);
        assert_eq!(Value::Object(other), serde_json::json!({"id": "a", "created": 7}));
    }

    #[test]
    fn an_end_a_usage_and_a_tool_call_are_noticed() {
        let sent = read(&[
            "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n",
        ])
        .expect("readable");
        assert!(sent.finished && sent.done && sent.counted && sent.said == "a");
        let calls =
            read(&["data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n"]).expect("readable");
        assert!(calls.calls_a_tool);
        assert!(
            !read(&["data: {\"choices\":[{\"delta\":{\"content\":\"x\",\"tool_calls\":[]}}]}\n\n"])
                .expect("ok")
                .calls_a_tool
        );
    }

    #[test]
    fn what_cannot_be_known_is_refused() {
        for odd in [
            "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"refusal\":\"no\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":[1]}}]}\n\n",
            "data: oops\n\n",
        ] {
            assert!(read(&[odd]).is_err(), "{odd}");
        }
        assert!(Transcript::new(false).read().is_err());
        let mut long = Transcript::new(true);
        for _ in 0..9 {
            long.add(&Bytes::from(vec![b'x'; 1 << 20]));
        }
        assert!(!long.is_whole() && long.read().is_err() && long.bytes.capacity() == 0, "nothing grows without bound");
    }
}
