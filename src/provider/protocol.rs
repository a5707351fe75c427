//! What a backend speaks: OpenAI's protocol, which goes through as it is, or another that calls are translated to.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::payload;
use crate::capability::{Call, ErrorClass, Failure, Operation};
use crate::dialect::claude::{self, ChatReader, Limits};

/// What a backend speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocol {
    /// OpenAI's: bytes go through, but for the model's name.
    OpenAi,
    /// Anthropic's messages, of a model of which this is known.
    Anthropic(Limits),
}

/// What turns a streamed answer into OpenAI's.
#[derive(Debug)]
pub(crate) enum Reader {
    /// It is that already.
    Same,
    /// Reads Anthropic's events.
    Anthropic(Box<ChatReader>),
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
        }
    }

    /// An answer in one piece as OpenAI's. `backend` names it in messages.
    pub(crate) fn answer(self, operation: Operation, body: Bytes, backend: &str) -> Result<Bytes, Failure> {
        match self {
            Self::OpenAi => Ok(body),
            // A count is a count in any dialect.
            Self::Anthropic(_) if operation == Operation::CountTokens => Ok(body),
            Self::Anthropic(_) => claude::answer(&body, now())
                .map(Bytes::from)
                .map_err(|told| Failure::new(ErrorClass::Backend, format!("{backend}: {}", told.message))),
        }
    }

    /// A backend's failure with its words in OpenAI's shape.
    pub(crate) fn failure(self, mut failure: Failure) -> Failure {
        if let Self::Anthropic(_) = self
            && let Some((body, _)) = &failure.body
            && let Some(told) = claude::error(body)
        {
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
        }
    }

    /// The stream has ended: what is left of it.
    pub(crate) fn finish(&mut self) -> Bytes {
        match self {
            Self::Same => Bytes::new(),
            Self::Anthropic(reader) => reader.finish(),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
