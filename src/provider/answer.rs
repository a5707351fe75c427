//! A backend's answer over HTTP, whatever it came over: its head, and its body piece by piece or whole.

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};

use super::connection;
use crate::capability::SMALL_PIECE;

/// A backend's answer: its head, and its body as it comes. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Over plain HTTP.
    Plain(connection::Answer),
    /// Over whatever else there is.
    Other(Response),
}

impl Answer {
    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Plain(answer) => answer.status,
            Self::Other(response) => response.status(),
        }
    }

    /// The headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Plain(answer) => &answer.headers,
            Self::Other(response) => response.headers(),
        }
    }

    /// The media type, where there is one.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.headers().get(CONTENT_TYPE)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end. The error says why it broke off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        let piece = match self {
            Self::Plain(answer) => answer.chunk().await.map_err(|cause| text_of(&cause))?,
            Self::Other(response) => response.chunk().await.map_err(|cause| text_of(&cause.without_url()))?,
        };
        Ok(piece.map(|piece| if piece.len() <= SMALL_PIECE { Bytes::copy_from_slice(&piece) } else { piece }))
    }
}

/// Whether an answer's media type is this one, whatever its case and parameters.
pub(crate) fn has_type(content_type: &str, wanted: &str) -> bool {
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It is longer than can be taken.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
}

/// The whole body, of so many bytes at most. One that comes in one piece is not copied.
pub(crate) async fn read_body(mut response: Answer, most: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(None) if rest.is_empty() => return Ok(first),
            Ok(None) => return Ok(rest.freeze()),
            Ok(Some(piece)) if first.len().max(rest.len()) + piece.len() > most => {
                return Err(BodyError::TooLong(most));
            }
            Ok(Some(piece)) if first.is_empty() && rest.is_empty() => first = piece,
            Ok(Some(piece)) => {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&piece);
            }
            Err(cause) => return Err(BodyError::Broken(cause)),
        }
    }
}

/// An error with its causes in one line; reqwest's own text leaves them out.
pub(crate) fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
