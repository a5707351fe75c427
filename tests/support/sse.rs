//! A reader of server-sent events that hides nothing: it keeps what came, in order, and how the stream ended.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;

/// The events of one answer as they come.
pub struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
    broken: bool,
}

/// A whole streamed answer.
#[derive(Debug, Default)]
pub struct Streamed {
    /// Each event's JSON, `[DONE]` left out.
    pub events: Vec<Value>,
    /// How often `[DONE]` came.
    pub dones: usize,
    /// The transport broke off.
    pub broken: bool,
}

impl Streamed {
    /// The text that the deltas make.
    pub fn text(&self) -> String {
        self.events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
    }

    /// The error event, if one came.
    pub fn error(&self) -> Option<&Value> {
        self.events.iter().map(|event| &event["error"]).find(|error| !error.is_null())
    }
}

impl Events {
    /// Of an answer whose headers have come.
    pub fn of(response: reqwest::Response) -> Self {
        Self { body: response.bytes_stream().boxed(), buffer: Vec::new(), broken: false }
    }

    /// The next event's data, or `None` at the end.
    ///
    /// # Panics
    ///
    /// When nothing comes for 30 s, or the data is no UTF-8: a node must never cut within a character.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("an event is UTF-8");
                let data: Vec<&str> = event
                    .lines()
                    .filter_map(|line| line.strip_prefix("data:"))
                    .map(|data| data.strip_prefix(' ').unwrap_or(data))
                    .collect();
                if data.is_empty() {
                    continue; // a comment
                }
                return Some(data.join("\n"));
            }
            let next = tokio::time::timeout(Duration::from_secs(30), self.body.next());
            match next.await.expect("the stream neither goes on nor ends") {
                Some(Ok(bytes)) => self.buffer.extend(bytes.iter().filter(|byte| **byte != b'\r')),
                Some(Err(_)) => {
                    self.broken = true;
                    return None;
                }
                None => return None,
            }
        }
    }

    /// Reads to the end.
    pub async fn rest(mut self) -> Streamed {
        let mut whole = Streamed::default();
        while let Some(data) = self.next().await {
            if data.trim() == "[DONE]" {
                whole.dones += 1;
            } else {
                whole.events.push(serde_json::from_str(&data).unwrap_or_else(|e| panic!("event {data:?}: {e}")));
            }
        }
        whole.broken = self.broken;
        whole
    }
}

/// Asks for a streamed chat and reads it to the end.
pub async fn stream_chat(node: &super::TestNode, model: &str, prompt: &str) -> Streamed {
    let response = node.post("/v1/chat/completions", &super::chat_stream(model, prompt)).await;
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    Events::of(response).rest().await
}
