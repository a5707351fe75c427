//! Ollama's API, as its clients speak it: chat, generate and embed to chat, completions and embeddings, and back.

mod embed;
mod request;
mod writer;

use serde_json::json;

pub(crate) use embed::{Embedded, embed, embedding};
pub(crate) use request::{Asked, Form, chat, generate};
pub(crate) use writer::{LineWriter, Moment, loaded};

/// An error as Ollama's clients understand it.
pub(crate) fn error_body(message: &str) -> Vec<u8> {
    json!({ "error": message }).to_string().into_bytes()
}
