//! OpenAI's responses, as clients speak them: requests to chat, answers from it.
//!
//! Nothing is remembered between two requests, as with chat: `store`, `previous_response_id`, conversations and background
//! work are refused, and a client sends the items that came before. A mesh has no one node that must be there
//! tomorrow, and what was said on a machine stays with who said it.

mod request;
mod writer;

pub(crate) use request::Request;
pub(crate) use writer::ResponseWriter;
