//! Ollama's API, as its clients speak it: chat, generate and embed to chat, completions and embeddings, and back. And as its
//! servers do: [`native`] puts a chat to one, and [`lines`] reads what it answers.

mod embed;
mod lines;
mod native;
mod request;
mod writer;

use serde_json::json;

pub(crate) use embed::{Embedded, embed, embedding};
pub(crate) use lines::{LineReader, completion, openai_error};
pub(crate) use native::{form_of, request as native_request};
pub(crate) use request::{Asked, Form, chat, generate};
pub(crate) use writer::{LineWriter, Moment, loaded};

/// An error as Ollama's clients understand it.
pub(crate) fn error_body(message: &str) -> Vec<u8> {
    json!({ "error": message }).to_string().into_bytes()
}
