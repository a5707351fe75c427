//! What other APIs say, as OpenAI's chat completions say it, and back.
//!
//! Chat completions are what the mesh speaks: an [`Intent`](crate::capability::Intent) of another dialect carries a body
//! that was translated to them, and an adapter of a backend with another dialect translates from them. So every
//! dialect meets every backend by way of one form, and each translation is written once. Pure: no I/O, no clock.
//!
//! | dialect | in: a client speaks it | out: a backend speaks it |
//! |---|---|---|
//! | Anthropic's messages | [`anthropic`] | [`claude`] |
//! | OpenAI's responses | [`responses`] | |
//! | Ollama's own API | [`ollama`] | |
//!
//! # What a translation promises
//!
//! * What both sides can express is translated, and what neither looks at keeps its bytes and order.
//! * What the other side cannot express is a [`Refusal`] with the field's name. Fields at the top that no dialect
//!   documents go on as they are: the backend knows them, or says that it does not.
//! * What changes nothing about the answer (where a cache may cut, how long to think, a signature) and what only
//!   one dialect has goes along in [`HINTS`], where an adapter that speaks that dialect finds it again. All others leave
//!   it out, since many servers refuse fields that they do not know.
//!
//! # Streams
//!
//! [`Transcript`] takes the bytes of chat's events as they come, cut anywhere, and gives the events of the other dialect:
//! [`chat`] reads chunks into [`Piece`]s, and a [`Writer`] of each dialect tells them. An answer that is not streamed
//! takes the same way, so that both forms say the same.

pub(crate) mod anthropic;
#[cfg(test)]
mod anything_tests;
mod chat;
pub(crate) mod claude;
mod json;
pub(crate) mod ollama;
mod responses;
mod schema;
pub(crate) mod sse;
mod told;
mod transcript;

pub(crate) use anthropic::{MessageWriter, Messages};
pub(crate) use responses::{Request as ResponseRequest, ResponseWriter};
pub(crate) use told::Told;
pub(crate) use transcript::{Transcript, Writer, retold};

/// The field of a chat completion's body that holds what only some dialects have: an array of
/// `{"at": place, "fields": {…}}`, always the last field, and never sent to a backend. In a message of an answer it is an
/// object, with what that says in an order that a chat cannot have.
pub(crate) const HINTS: &str = "x_atmosphere";
/// Where among these the content of a message of Anthropic's is that a chat cannot say as it is.
const OWN_CONTENT: &str = "own_content";
/// Where among these it is said that a prompt goes to the model as it is, without a template.
const RAW: &str = "raw";

/// Why a request cannot be translated: the caller's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// What is wrong, with the field's name.
    pub(crate) message: String,
    /// The field, such as `messages[2].content[0]`.
    pub(crate) param: Option<String>,
}

impl Refusal {
    /// `why` is what the field does wrong: "is missing".
    fn at(path: &str, why: impl AsRef<str>) -> Self {
        Self { message: format!("{path:?} {}", why.as_ref()), param: Some(path.to_owned()) }
    }
}
