//! The shape of errors, and of the little else that protocols put around every answer.
//!
//! An error is made once, as OpenAI has it, wherever it is made: by a route, by the router for a path that is not there,
//! by the gate for a client that may not come in. On the routes of another protocol it is put into that one's shape as it
//! leaves.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::face::Face;
use crate::dialect::{self, Told};

/// Anthropic's clients name the version of the protocol in every request.
pub(super) const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// Anthropic's name of `x-request-id`.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Whose shape errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    /// OpenAI's, on every route that is nobody else's.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Ollama's, on its port.
    Ollama,
}

impl Envelope {
    /// The shape for a request.
    pub(super) fn of(face: Face, path: &str, headers: &HeaderMap) -> Self {
        let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // Both protocols have this route; only one has the header.
        let shared = below("/v1/models") && headers.contains_key(ANTHROPIC_VERSION);
        if below("/v1/messages") || shared {
            Self::Anthropic
        } else if face == Face::Ollama && !below("/v1") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }

    /// Puts an answer into this shape.
    pub(super) fn put_on(self, response: &mut Response<Body>, request_id: &HeaderValue) {
        let told = response.extensions_mut().remove::<Told>();
        match self {
            Self::OpenAi => {}
            Self::Ollama => {
                if let Some(told) = told {
                    put_body(response, dialect::ollama::error_body(&told.message));
                }
            }
            Self::Anthropic => {
                if let Some(told) = told {
                    put_body(response, dialect::anthropic::error_body(&told, request_id.to_str().ok()));
                }
                response.headers_mut().insert(REQUEST_ID, request_id.clone());
            }
        }
    }
}

fn put_body(response: &mut Response<Body>, body: Vec<u8>) {
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = Body::from(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_says_whose_shape_it_is() {
        let none = HeaderMap::new();
        let anthropic = HeaderMap::from_iter([(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"))]);
        for (path, envelope) in
            [("/api/chat", Envelope::Ollama), ("/nope", Envelope::Ollama), ("/v1/chat/completions", Envelope::OpenAi)]
        {
            assert_eq!(Envelope::of(Face::Ollama, path, &none), envelope, "{path}");
        }
        for (path, headers, envelope) in [
            ("/v1/messages", &none, Envelope::Anthropic),
            ("/v1/messages/count_tokens", &none, Envelope::Anthropic),
            ("/v1/messages/batches", &none, Envelope::Anthropic),
            ("/v1/messagesx", &none, Envelope::OpenAi),
            ("/v1/models", &none, Envelope::OpenAi),
            ("/v1/models/a", &anthropic, Envelope::Anthropic),
            ("/v1/chat/completions", &anthropic, Envelope::OpenAi),
        ] {
            assert_eq!(Envelope::of(Face::Api, path, headers), envelope, "{path}");
        }
    }
}
