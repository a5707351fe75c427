//! An answer to a chat, told in another dialect.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use crate::api::error::ApiError;
use crate::api::openai::is_event_stream;
use crate::dialect::{Told, Transcript, Writer, retold};

/// What a streamed answer is sent as.
pub(super) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// What any other is.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer as `writer` tells it; `streamed` as a body of the type `stream_type`.
pub(super) async fn retell<W: Writer + Unpin + 'static>(
    answer: Response,
    writer: W,
    streamed: bool,
    stream_type: HeaderValue,
) -> Result<Response, ApiError> {
    let (mut head, body) = answer.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let came_streamed = is_event_stream(content_type);
    head.headers.remove(CONTENT_LENGTH);
    if streamed && came_streamed {
        head.headers.insert(CONTENT_TYPE, stream_type);
        let body = Retold { inner: Some(body.into_data_stream()), transcript: Transcript::new(writer) };
        return Ok(Response::from_parts(head, Body::from_stream(body)));
    }
    if streamed || came_streamed {
        return Err(ApiError::untellable(Told::backend("the backend does not answer in the form that was asked for")));
    }
    // It is there already, and was bounded when it was gathered.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let told = retold(&body, writer).map_err(ApiError::untellable)?;
    head.headers.insert(CONTENT_TYPE, JSON);
    Ok(Response::from_parts(head, Body::from(told)))
}

/// A streamed answer that is told as it comes. Dropping it drops the answer itself.
struct Retold<W> {
    inner: Option<BodyDataStream>,
    transcript: Transcript<W>,
}

impl<W: Writer + Unpin> Stream for Retold<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            let told = match inner.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => {
                    let told = self.transcript.push(piece);
                    if self.transcript.has_failed() {
                        // Nobody wants the rest. After a good end it is read, which costs nothing, and says so to
                        // whoever counts answers.
                        self.inner = None;
                    }
                    told
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.inner = None;
                    self.transcript.finish()
                }
            };
            if !told.is_empty() {
                return Poll::Ready(Some(Ok(told.into())));
            }
        }
    }
}
