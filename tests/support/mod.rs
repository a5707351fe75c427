//! What black-box tests share: real node processes, and doubles of the backends behind them.
//!
//! A test is a few lines: start a [`Backend`] (or [`Ollama`], [`LlamaFarm`]) with a mode, start a [`Cluster`] of
//! [`NodePlan`]s, talk to any [`TestNode`] over HTTP, and wait for conditions with [`eventually`]. Everything is on
//! loopback, has its own ports and data directory, and is gone when it is dropped.

// Each test file uses a part of it.
#![allow(dead_code, unused_imports)]

mod backend;
mod llamafarm;
mod node;
mod ollama;
mod socket;
mod sse;

use std::future::Future;
use std::time::{Duration, Instant};

pub use backend::{Backend, Counts, Mode};
pub use llamafarm::LlamaFarm;
pub use node::{ADVERT_TTL, Cluster, NodePlan, TestNode, free_port, program};
pub use ollama::Ollama;
pub use socket::{Socket, text_of, types_of};
pub use sse::{Events, Streamed, stream_chat};

/// How long a condition may take that nothing promises a time for: generous, as two cores may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not hold within `limit`; `what` says what was waited for.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let end = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < end, "waited {limit:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A chat request's body.
pub fn chat(model: &str, prompt: &str) -> serde_json::Value {
    serde_json::json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
}

/// The same, streamed.
pub fn chat_stream(model: &str, prompt: &str) -> serde_json::Value {
    let mut body = chat(model, prompt);
    body["stream"] = true.into();
    body
}

/// Checks that an answer is an error of OpenAI's shape, and gives its message.
pub fn error_message(body: &serde_json::Value) -> &str {
    let error = &body["error"];
    assert!(error["type"].is_string() && error.get("code").is_some() && error.get("param").is_some(), "{body}");
    error["message"].as_str().unwrap_or_else(|| panic!("an error without a message: {body}"))
}
