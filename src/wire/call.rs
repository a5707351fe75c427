//! Calls and frames.

use std::time::Duration;

use super::v1;
use crate::capability::{
    Call, CapabilityId, Chunk, ErrorClass, Failure, Frame, Load, Operation, Phase, Progress, Rejection, Usage,
};

/// A message of the call protocol that does not keep to the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It asks for something that this node does not know; a newer node may.
    #[error("unknown operation {0:?}: this node is older than the caller's, update it")]
    UnknownOperation(String),
    /// A field makes no sense.
    #[error("call has a bad {0}")]
    Bad(&'static str),
}

/// Headers of a call, at the most.
const MAX_HEADERS: usize = 16;
/// Bytes of a short text in a call or a frame.
const MAX_TEXT: usize = 4096;

/// The call as it travels.
#[must_use]
pub fn call_to_wire(call: &Call) -> v1::CallRequest {
    v1::CallRequest {
        id: call.id.clone(),
        capability: call.capability.as_str().to_owned(),
        operation: call.operation.as_str().to_owned(),
        payload: call.payload.clone(),
        content_type: call.content_type.clone(),
        stream: call.stream,
        deadline_ms: millis(call.deadline),
        headers: call.headers.clone().into_iter().collect(),
        keep: false,
    }
}

/// A call that came.
///
/// # Errors
///
/// When the operation is unknown, or a field is too long.
pub fn call_from_wire(wire: v1::CallRequest) -> Result<Call, FrameError> {
    if wire.id.len() > MAX_TEXT || wire.capability.len() > MAX_TEXT || wire.content_type.len() > MAX_TEXT {
        return Err(FrameError::Bad("text (too long)"));
    }
    if wire.headers.len() > MAX_HEADERS || wire.headers.iter().any(|(k, v)| k.len() > MAX_TEXT || v.len() > MAX_TEXT) {
        return Err(FrameError::Bad("headers (too many or too long)"));
    }
    let Some(operation) = Operation::from_name(&wire.operation) else {
        return Err(FrameError::UnknownOperation(clip(wire.operation)));
    };
    Ok(Call {
        id: wire.id,
        capability: CapabilityId::from(wire.capability.as_str()),
        operation,
        payload: wire.payload,
        content_type: wire.content_type,
        stream: wire.stream,
        deadline: Duration::from_millis(wire.deadline_ms),
        headers: wire.headers.into_iter().collect(),
    })
}

/// The frame as it travels.
#[must_use]
pub fn frame_to_wire(frame: Frame) -> v1::Frame {
    use v1::frame::Body;
    let body = match frame {
        Frame::Accepted(load) => Body::Accepted(v1::Accepted { load: Some(load_to_wire(load)) }),
        Frame::Rejected(rejection) => Body::Rejected(v1::Rejected {
            reason: rejection.reason,
            retry_after_ms: rejection.retry_after.map_or(0, millis),
            load: rejection.load.map(load_to_wire),
        }),
        Frame::Progress(progress) => Body::Progress(v1::Progress {
            phase: match progress.phase {
                Phase::Queued => v1::progress::Phase::Queued,
                Phase::Loading => v1::progress::Phase::Loading,
                Phase::Prefill => v1::progress::Phase::Prefill,
                Phase::Decode => v1::progress::Phase::Decode,
            }
            .into(),
            queue_position: progress.queue_position,
        }),
        Frame::Chunk(chunk) => Body::Chunk(v1::Chunk {
            data: chunk.data,
            content_type: chunk.content_type.unwrap_or_default(),
            more: false,
        }),
        Frame::End { usage, load } => Body::End(v1::End {
            usage: usage.map(|u| v1::Usage {
                prompt_tokens: u.prompt_tokens,
                completion_tokens: u.completion_tokens,
                cached_tokens: u.cached_tokens,
            }),
            load: load.map(load_to_wire),
            keep: false,
        }),
        Frame::Error(failure) => Body::Error(failure_to_wire(failure)),
    };
    v1::Frame { body: Some(body) }
}

/// A frame that came; `None` for one that only a newer node knows.
///
/// # Errors
///
/// When a field makes no sense.
pub fn frame_from_wire(wire: v1::Frame) -> Result<Option<Frame>, FrameError> {
    use v1::frame::Body;
    let Some(body) = wire.body else { return Ok(None) };
    Ok(Some(match body {
        Body::Accepted(accepted) => Frame::Accepted(accepted.load.map(load_from_wire).unwrap_or_default()),
        Body::Rejected(rejected) => Frame::Rejected(Rejection {
            reason: clip(rejected.reason),
            retry_after: duration(rejected.retry_after_ms),
            load: rejected.load.map(load_from_wire),
        }),
        Body::Progress(progress) => Frame::Progress(Progress {
            phase: match progress.phase() {
                v1::progress::Phase::Queued => Phase::Queued,
                v1::progress::Phase::Loading => Phase::Loading,
                v1::progress::Phase::Unknown | v1::progress::Phase::Prefill => Phase::Prefill,
                v1::progress::Phase::Decode => Phase::Decode,
            },
            queue_position: progress.queue_position,
        }),
        Body::Chunk(chunk) => Frame::Chunk(Chunk {
            data: chunk.data,
            content_type: (!chunk.content_type.is_empty()).then(|| clip(chunk.content_type)),
        }),
        Body::End(end) => Frame::End {
            usage: end.usage.map(|u| Usage {
                prompt_tokens: u.prompt_tokens,
                completion_tokens: u.completion_tokens,
                cached_tokens: u.cached_tokens,
            }),
            load: end.load.map(load_from_wire),
        },
        Body::Error(error) => Frame::Error(failure_from_wire(error)?),
    }))
}

fn failure_to_wire(failure: Failure) -> v1::Error {
    use v1::error::Class;
    let (body, content_type) = failure.body.unwrap_or_default();
    v1::Error {
        class: match failure.class {
            ErrorClass::Internal => Class::Internal,
            ErrorClass::Request => Class::Request,
            ErrorClass::Overloaded => Class::Overloaded,
            ErrorClass::Unavailable => Class::Unavailable,
            ErrorClass::Backend => Class::Backend,
            ErrorClass::Timeout => Class::Timeout,
            ErrorClass::Interrupted => Class::Interrupted,
        }
        .into(),
        status: u32::from(failure.status),
        message: failure.message,
        code: failure.code.unwrap_or_default(),
        retry_after_ms: failure.retry_after.map_or(0, millis),
        body,
        content_type,
    }
}

fn failure_from_wire(wire: v1::Error) -> Result<Failure, FrameError> {
    use v1::error::Class;
    let class = match wire.class() {
        Class::Internal => ErrorClass::Internal,
        Class::Request => ErrorClass::Request,
        Class::Overloaded => ErrorClass::Overloaded,
        Class::Unavailable => ErrorClass::Unavailable,
        Class::Backend => ErrorClass::Backend,
        Class::Timeout => ErrorClass::Timeout,
        Class::Interrupted => ErrorClass::Interrupted,
    };
    // A peer must not make this node answer 200, or something that is no status, for a failure.
    let status = match u16::try_from(wire.status) {
        Ok(status @ 400..=599) => status,
        _ => return Err(FrameError::Bad("error status")),
    };
    Ok(Failure {
        class,
        status,
        message: clip(wire.message),
        code: (!wire.code.is_empty()).then(|| clip(wire.code)),
        retry_after: duration(wire.retry_after_ms),
        body: (!wire.body.is_empty()).then(|| (wire.body, clip(wire.content_type))),
    })
}

fn load_to_wire(load: Load) -> v1::Load {
    v1::Load { running: load.running, queued: load.queued, limit: load.limit }
}

fn load_from_wire(load: v1::Load) -> Load {
    Load { running: load.running, queued: load.queued, limit: load.limit }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn duration(millis: u64) -> Option<Duration> {
    (millis != 0).then(|| Duration::from_millis(millis))
}

/// The text, cut at [`MAX_TEXT`] bytes on a character boundary.
fn clip(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    #[test]
    fn every_frame_reads_back_as_it_was_written() {
        let load = Load { running: 1, queued: 2, limit: 4 };
        let frames = [
            Frame::Accepted(load),
            Frame::Rejected(Rejection {
                reason: "queue full".into(),
                retry_after: Some(Duration::from_millis(1500)),
                load: Some(load),
            }),
            Frame::Progress(Progress { phase: Phase::Queued, queue_position: 3 }),
            Frame::Chunk(Chunk {
                data: Bytes::from_static(b"data: {}\n\n"),
                content_type: Some("text/event-stream".into()),
            }),
            Frame::End {
                usage: Some(Usage { prompt_tokens: 3, completion_tokens: 9, cached_tokens: Some(0) }),
                load: Some(load),
            },
            Frame::Error(Failure {
                retry_after: Some(Duration::from_secs(2)),
                body: Some((Bytes::from_static(b"{}"), "application/json".into())),
                ..Failure::new(ErrorClass::Overloaded, "busy")
            }),
        ];
        for frame in frames {
            let bytes = frame_to_wire(frame.clone()).encode_to_vec();
            let wire = v1::Frame::decode(bytes.as_slice()).expect("decodes");
            assert_eq!(frame_from_wire(wire), Ok(Some(frame)));
        }
    }

    #[test]
    fn a_failure_is_never_a_success_status() {
        let wire = v1::Error { status: 200, ..Default::default() };
        let frame = v1::Frame { body: Some(v1::frame::Body::Error(wire)) };
        assert_eq!(frame_from_wire(frame), Err(FrameError::Bad("error status")));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(wire) = v1::Frame::decode(bytes.as_slice()) {
                let _ = frame_from_wire(wire);
            }
            if let Ok(wire) = v1::CallRequest::decode(bytes.as_slice()) {
                let _ = call_from_wire(wire);
            }
        }
    }
}
