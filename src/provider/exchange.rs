//! Runs one call on an HTTP backend and turns its answer into frames.
//!
//! Bytes go through as they are. Dropping the stream drops the request or the response body, which closes the
//! backend's connection at once, streamed or not.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::answer::{Answer, has_type, read_body};
use super::http::Backend;
use super::protocol::Protocol;
use super::relay::{Completion, Relay};
use super::{failure, inspect};
use crate::capability::{Call, Chunk, ErrorClass, Failure, Frame, FrameStream, Operation, Phase, Progress, Usage};
use crate::dialect::claude::Limits;
use crate::waiting::Timer;

/// Longest answer that is read in one piece: ten images in base64, or some thousand embeddings.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How long the rest of a body may take after `[DONE]`, so that its connection can be used again.
const DRAIN: Duration = Duration::from_secs(1);

/// Request headers of the caller that reach the backend. Anything else (keys above all) stays here.
const FORWARDED: [&str; 7] =
    ["traceparent", "tracestate", "baggage", "x-request-id", "idempotency-key", "openai-beta", "anthropic-beta"];

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a call is put to a backend.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// Whom to ask.
    pub(crate) backend: Backend,
    /// The path below `/v1`.
    pub(crate) path: Vec<Cow<'static, str>>,
    /// The backend's own name of the model.
    pub(crate) model: String,
    /// Headers that this backend wants.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    /// Whether its `[DONE]` can be trusted.
    pub(crate) done_is_reliable: bool,
    /// What it speaks.
    pub(crate) protocol: Protocol,
}

impl Exchange {
    /// For one of OpenAI's operations at its usual path. `None` when it has none.
    pub(crate) fn openai(backend: &Backend, operation: Operation, model: &str) -> Option<Self> {
        let path: &[&'static str] = match operation {
            Operation::Chat => &["chat", "completions"],
            Operation::Complete => &["completions"],
            Operation::Embed => &["embeddings"],
            Operation::GenerateImage => &["images", "generations"],
            Operation::Transcribe => &["audio", "transcriptions"],
            Operation::Speak => &["audio", "speech"],
            // There is no such path in OpenAI's API; servers that count have Anthropic's.
            Operation::CountTokens => &["messages", "count_tokens"],
            Operation::Ml | Operation::Tool | Operation::Agent => return None,
        };
        Some(Self {
            backend: backend.clone(),
            path: path.iter().map(|&segment| Cow::Borrowed(segment)).collect(),
            model: model.to_owned(),
            headers: Vec::new(),
            done_is_reliable: true,
            protocol: match operation {
                Operation::CountTokens => Protocol::Anthropic(Limits::default()),
                _ => Protocol::OpenAi,
            },
        })
    }

    /// Runs it.
    pub(crate) fn run(self, call: Call) -> FrameStream {
        Box::pin(async_stream::stream! {
            let mut over = Timer::after(call.deadline);
            let late = || {
                Failure::new(ErrorClass::Timeout, format!("{} has not answered in time", self.backend.label()))
            };
            let body = match self.protocol.request(&call, &self.model) {
                Ok(body) => body,
                Err(failure) => {
                    yield Frame::Error(failure);
                    return;
                }
            };
            let path: Vec<&str> = self.path.iter().map(|segment| &**segment).collect();
            let headers = self.headers(&call);
            let answer = tokio::select! {
                biased;
                answer = self.backend.post(&path, &headers, &body) => answer,
                () = over.rung() => Err(late()),
            };
            let mut response = match answer {
                Ok(response) => response,
                Err(failure) => {
                    yield Frame::Error(self.protocol.failure(failure));
                    return;
                }
            };
            let content_type = response.content_type().unwrap_or_default().to_owned();
            let is_text = matches!(call.operation, Operation::Chat | Operation::Complete);

            if self.protocol.streams(&content_type) {
                let completion = match (is_text, self.done_is_reliable) {
                    (false, _) => Completion::End,
                    (true, true) => Completion::DoneOrReason,
                    (true, false) => Completion::Reason,
                };
                let mut relay = Relay::new(self.backend.label(), completion);
                let mut reader = self.protocol.reader(&call.payload);
                // Whatever it was, it is this by now.
                let is_same = has_type(&content_type, "text/event-stream");
                let mut content_type = Some(if is_same { content_type } else { "text/event-stream".to_owned() });
                let mut told = false;
                loop {
                    let step = tokio::select! {
                        biased;
                        piece = response.chunk() => match piece {
                            Ok(Some(piece)) => relay.arrived(reader.push(piece)),
                            Ok(None) => {
                                let left = relay.arrived(reader.finish());
                                if left.end.is_some() { left } else { relay.ended(None) }
                            }
                            Err(cause) => relay.ended(Some(&cause)),
                        },
                        () = over.rung() => {
                            yield Frame::Error(late());
                            return;
                        }
                    };
                    if !step.send.is_empty() {
                        yield Frame::Chunk(Chunk { data: step.send, content_type: content_type.take() });
                    } else if !told && content_type.is_some() && step.end.is_none() {
                        told = true;
                        yield Frame::Progress(Progress { phase: Phase::Prefill, queue_position: 0 });
                    }
                    match step.end {
                        None => {}
                        Some(Ok(())) => {
                            drain(response);
                            yield Frame::End { usage: relay.usage(), load: None };
                            return;
                        }
                        Some(Err(failure)) => {
                            yield Frame::Error(failure);
                            return;
                        }
                    }
                }
            }

            if content_type.is_empty() || has_type(&content_type, "application/json") {
                let body = tokio::select! {
                    biased;
                    body = read_body(response, ANSWER_BYTES) => body,
                    () = over.rung() => {
                        yield Frame::Error(late());
                        return;
                    }
                };
                let judged = match body {
                    Ok(body) => self
                        .protocol
                        .answer(call.operation, body, self.backend.label())
                        .and_then(|body| Ok((self.judge(call.operation, &body)?, body)))
                        .map(|(usage, body)| (body, usage)),
                    Err(cause) => Err(Failure::new(
                        ErrorClass::Interrupted,
                        format!("the answer of {} cannot be read: {cause}", self.backend.label()),
                    )),
                };
                match judged {
                    Ok(_) if is_text && call.stream => {
                        let label = self.backend.label();
                        yield Frame::Error(Failure::new(
                            ErrorClass::Backend,
                            format!("{label} was asked for a stream and answers in one piece"),
                        ));
                    }
                    Ok((data, usage)) => {
                        let content_type =
                            if content_type.is_empty() { "application/json".to_owned() } else { content_type };
                        yield Frame::Chunk(Chunk { data, content_type: Some(content_type) });
                        yield Frame::End { usage, load: None };
                    }
                    Err(failure) => yield Frame::Error(failure),
                }
                return;
            }

            if matches!(call.operation, Operation::Chat | Operation::Complete | Operation::Embed) {
                let label = self.backend.label();
                yield Frame::Error(Failure::new(
                    ErrorClass::Backend,
                    format!("{label} answers with {content_type:?}, not with JSON"),
                ));
                return;
            }

            // Sound, subtitles and the like go through as they come.
            let mut content_type = Some(content_type);
            loop {
                let piece = tokio::select! {
                    biased;
                    piece = response.chunk() => piece,
                    () = over.rung() => {
                        yield Frame::Error(late());
                        return;
                    }
                };
                match piece {
                    Ok(Some(data)) if data.is_empty() => {}
                    Ok(Some(data)) => yield Frame::Chunk(Chunk { data, content_type: content_type.take() }),
                    Ok(None) => {
                        yield Frame::End { usage: None, load: None };
                        return;
                    }
                    Err(cause) => {
                        yield Frame::Error(Failure::new(
                            ErrorClass::Interrupted,
                            format!("the answer of {} broke off: {cause}", self.backend.label()),
                        ));
                        return;
                    }
                }
            }
        })
    }

    /// The request's headers, but for those that every request to this backend has.
    fn headers(&self, call: &Call) -> HeaderMap {
        let mut headers = forwarded(call);
        let content_type = match call.content_type.as_str() {
            "" | "application/json" => Some(HeaderValue::from_static("application/json")),
            // One that cannot be a header was not understood either when the model was put in.
            other => HeaderValue::from_str(other).ok(),
        };
        headers.extend(content_type.map(|value| (CONTENT_TYPE, value)));
        if call.stream {
            headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        for (name, value) in &self.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    /// What an answer in one piece took, unless it is none.
    fn judge(&self, operation: Operation, body: &Bytes) -> Result<Option<Usage>, Failure> {
        let label = self.backend.label();
        match inspect::whole(body) {
            Ok((_, true)) => Err(failure::from_event(label, body, false).unwrap_or_else(|| {
                Failure::new(ErrorClass::Backend, format!("{label} answers with an error and the status of success"))
            })),
            Ok((usage, false)) => Ok(usage),
            // Some transcribers answer with a bare JSON string.
            Err(_) if operation == Operation::Transcribe => Ok(None),
            Err(cause) => {
                Err(Failure::new(ErrorClass::Backend, format!("{label} answers with what is no JSON: {cause}")))
            }
        }
    }
}

/// The caller's headers that a backend may see.
fn forwarded(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in &call.headers {
        let known = FORWARDED.iter().find(|known| known.eq_ignore_ascii_case(name));
        if let (Some(name), Ok(value)) = (known, HeaderValue::from_str(value)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if !headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&call.id)
        && !call.id.is_empty()
    {
        headers.insert(X_REQUEST_ID, id);
    }
    headers
}

/// Reads what is left of a body within limits: a connection whose answer was read to its end is used again. Usually it
/// is there already; else it is waited for in the background.
fn drain(mut answer: Answer) {
    loop {
        match answer.chunk().now_or_never() {
            Some(Ok(Some(_))) => {}
            Some(Ok(None) | Err(_)) => return,
            None => break,
        }
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            // Whatever comes after [DONE] is nobody's; one that does not end is cut off by the drop.
            let _ = tokio::time::timeout(DRAIN, async { while let Ok(Some(_)) = answer.chunk().await {} }).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::CapabilityId;

    #[test]
    fn only_harmless_headers_reach_the_backend() {
        let headers = [("Traceparent", "00-1"), ("authorization", "Bearer x"), ("cookie", "c"), ("host", "h")];
        let call = Call {
            id: "req-1".into(),
            capability: CapabilityId::from("c"),
            operation: Operation::Chat,
            payload: Bytes::new(),
            content_type: String::new(),
            stream: false,
            deadline: Duration::ZERO,
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        let sent = forwarded(&call);
        let names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        assert_eq!(
            (names.len(), &sent["traceparent"], &sent["x-request-id"]),
            (2, &"00-1".parse().expect("v"), &"req-1".parse().expect("v"))
        );
    }
}
