//! What a backend speaks: OpenAI's protocol, which goes through as it is, or another that calls are translated to.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::answer::has_type;
use super::payload;
use crate::capability::{Call, ErrorClass, Failure, Operation};
use crate::dialect::Told;
use crate::dialect::claude::{self, ChatReader, Limits};
use crate::dialect::ollama::{self, LineReader};

/// What a backend speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// OpenAI's: bytes go through, but for the model's name.
    OpenAi,
    /// Anthropic's messages, of a model of which this is known.
    Anthropic(Limits),
    /// Ollama's own, by its route for this form.
    Ollama(ollama::Form),
}

/// What turns a streamed answer into OpenAI's.
#[derive(Debug)]
pub(crate) enum Reader {
    /// It is that already.
    Same,
    /// Reads Anthropic's events.
    Anthropic(Box<ChatReader>),
    /// Reads Ollama's lines.
    Ollama(Box<LineReader>),
}

impl Protocol {
    /// The body to send for a call.
    pub(crate) fn request(self, call: &Call, model: &str) -> Result<Bytes, Failure> {
        let translated = match self {
            Self::OpenAi => return payload::with_model(&call.payload, &call.content_type, model),
            Self::Anthropic(_) if call.operation == Operation::CountTokens => {
                claude::count_request(&call.payload, model)
            }
            Self::Anthropic(limits) => claude::request(&call.payload, model, limits),
            Self::Ollama(form) => ollama::native_request(&call.payload, model, form),
        };
        translated.map(Bytes::from).map_err(|refusal| {
            let mut failure = Failure::new(ErrorClass::Request, refusal.message.clone());
            let error = serde_json::json!({"error": {
                "message": refusal.message, "type": "invalid_request_error", "param": refusal.param, "code": null}});
            failure.body = Some((error.to_string().into(), "application/json".to_owned()));
            failure
        })
    }

    /// What reads a streamed answer to this call.
    pub(crate) fn reader(self, body: &[u8]) -> Reader {
        match self {
            Self::OpenAi => Reader::Same,
            Self::Anthropic(_) => Reader::Anthropic(Box::new(ChatReader::new(body, now()))),
            Self::Ollama(form) => Reader::Ollama(Box::new(LineReader::new(form, body, now(), new_id()))),
        }
    }

    /// An answer in one piece as OpenAI's. `backend` names it in messages.
    pub(crate) fn answer(self, operation: Operation, body: Bytes, backend: &str) -> Result<Bytes, Failure> {
        match self {
            Self::OpenAi => Ok(body),
            // A count is a count in any dialect.
            Self::Anthropic(_) if operation == Operation::CountTokens => Ok(body),
            Self::Anthropic(_) => told(claude::answer(&body, now()), backend),
            Self::Ollama(form) => told(ollama::completion(&body, form, now(), &new_id()), backend),
        }
    }

    /// Whether an answer of this type is a stream.
    pub(crate) fn streams(self, content_type: &str) -> bool {
        match self {
            Self::Ollama(_) => has_type(content_type, "application/x-ndjson"),
            Self::OpenAi | Self::Anthropic(_) => has_type(content_type, "text/event-stream"),
        }
    }

    /// A backend's failure with its words in OpenAI's shape.
    pub(crate) fn failure(self, mut failure: Failure) -> Failure {
        let told = failure.body.as_ref().and_then(|(body, _)| match self {
            Self::OpenAi => None,
            Self::Anthropic(_) => claude::error(body),
            Self::Ollama(_) => ollama::openai_error(body),
        });
        if let Some(told) = told {
            failure.body = Some((told.into(), "application/json".to_owned()));
        }
        failure
    }
}

impl Reader {
    /// Takes in what arrived, and gives what it is in OpenAI's events.
    pub(crate) fn push(&mut self, arrived: Bytes) -> Bytes {
        match self {
            Self::Same => arrived,
            Self::Anthropic(reader) => reader.push(arrived),
            Self::Ollama(reader) => reader.push(&arrived),
        }
    }

    /// The stream has ended: what is left of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        match self {
            Self::Same => Bytes::new(),
            Self::Anthropic(reader) => reader.finish(),
            Self::Ollama(reader) => reader.finish(),
        }
    }
}

fn told(answer: Result<Vec<u8>, Told>, backend: &str) -> Result<Bytes, Failure> {
    let failed = |told: Told| Failure::new(ErrorClass::Backend, format!("{backend}: {}", told.message));
    answer.map(Bytes::from).map_err(failed)
}

/// For an answer of a server that gives none.
fn new_id() -> String {
    format!("chatcmpl-{}", uuid::Uuid::now_v7().simple())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
