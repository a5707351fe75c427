//! Messages on the stream: an unsigned 32-bit big-endian length, then protobuf.
//!
//! What is read is decoded in place: the bytes of a payload or a chunk are slices of what was read.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use crate::capability::{Call, Chunk, Failure, Frame, Load, SMALL_PIECE, Usage};
use crate::wire::{self, v1};

/// Bytes of a frame, as the contract says.
pub(super) const FRAME_BYTES: usize = 1024 * 1024;
/// Bytes of a request, as the contract says.
pub(super) const REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// Pieces that a larger answer is cut into: a few round trips' worth of flow control window.
pub(super) const PIECE_BYTES: usize = 256 * 1024;
/// The largest event that is sent uncut: a frame, less its other fields.
const EVENT_BYTES: usize = FRAME_BYTES - 16 * 1024;
/// Bytes of an event that was cut and is joined again; beyond it the callee is hostile or broken.
pub(super) const JOINED_BYTES: usize = 64 * 1024 * 1024;
/// Field number of `CallRequest.payload`.
const PAYLOAD_FIELD: u32 = 4;
/// Media type of a stream of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Reads frames.
#[derive(Debug)]
pub(super) struct FrameDecoder(LengthDelimitedCodec);

impl FrameDecoder {
    pub(super) fn new() -> Self {
        Self(LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(FRAME_BYTES).new_codec())
    }
}

impl Decoder for FrameDecoder {
    type Item = v1::Frame;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<v1::Frame>> {
        let Some(message) = self.0.decode(bytes)? else { return Ok(None) };
        let small = message.len() <= SMALL_PIECE;
        let frame = if small { v1::Frame::decode(&message[..]) } else { v1::Frame::decode(message.freeze()) };
        frame.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Writes frames into a buffer, and cuts chunks that are too large for one.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    /// Whether the answer is a stream of server-sent events, which the reader must get whole.
    events: bool,
    rest: Bytes,
}

impl FrameWriter {
    /// Appends the frame, or the first piece of it; the others come with [`Self::piece`].
    pub(super) fn frame(&mut self, frame: Frame, out: &mut BytesMut) {
        match frame {
            Frame::Chunk(Chunk { data, content_type }) => {
                if let Some(media_type) = &content_type {
                    self.events = media_type.starts_with(EVENT_STREAM);
                }
                self.rest = data;
                self.cut(content_type.unwrap_or_default(), out);
            }
            other => append(&fitting(other), out),
        }
    }

    /// Appends an `End`, and whether the stream takes another request after it.
    pub(super) fn end(&mut self, usage: Option<Usage>, load: Option<Load>, keep: bool, out: &mut BytesMut) {
        let mut wire = fitting(Frame::End { usage, load });
        if let Some(v1::frame::Body::End(end)) = &mut wire.body {
            end.keep = keep;
        }
        append(&wire, out);
    }

    /// Appends the next piece of a chunk that was too large. Returns whether there was one.
    pub(super) fn piece(&mut self, out: &mut BytesMut) -> bool {
        let more = !self.rest.is_empty();
        if more {
            self.cut(String::new(), out);
        }
        more
    }

    fn cut(&mut self, content_type: String, out: &mut BytesMut) {
        let whole = if self.events { EVENT_BYTES } else { PIECE_BYTES };
        let take = if self.rest.len() <= whole { self.rest.len() } else { PIECE_BYTES };
        let data = self.rest.split_to(take);
        let more = self.events && !self.rest.is_empty();
        append(&v1::Frame { body: Some(v1::frame::Body::Chunk(v1::Chunk { data, content_type, more })) }, out);
    }
}

/// The frame, without what would make it larger than a frame may be: only a backend's error body can.
fn fitting(frame: Frame) -> v1::Frame {
    let wire = wire::frame_to_wire(frame);
    if wire.encoded_len() <= FRAME_BYTES {
        return wire;
    }
    match wire.body {
        Some(v1::frame::Body::Error(error)) => {
            let mut message = error.message;
            message.truncate(message.floor_char_boundary(4096));
            let error = v1::Error {
                class: error.class,
                status: error.status,
                message,
                retry_after_ms: error.retry_after_ms,
                ..v1::Error::default()
            };
            v1::Frame { body: Some(v1::frame::Body::Error(error)) }
        }
        _ => {
            let failure = Failure::new(crate::capability::ErrorClass::Internal, "a frame was larger than 1 MiB");
            wire::frame_to_wire(Frame::Error(failure))
        }
    }
}

fn append(frame: &v1::Frame, out: &mut BytesMut) {
    let len = frame.encoded_len();
    out.reserve(4 + len);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    // A BytesMut grows: encoding into it cannot fail.
    let _ = frame.encode(out);
}

/// A request as two parts to be written one after the other, so that the payload need not be copied.
pub(super) fn request_parts(call: &Call) -> Result<(Bytes, Bytes), RequestTooLarge> {
    let head = v1::CallRequest { payload: Bytes::new(), keep: true, ..wire::call_to_wire(call) };
    let payload = call.payload.clone();
    let mut tail = BytesMut::new();
    if !payload.is_empty() {
        encode_key(PAYLOAD_FIELD, WireType::LengthDelimited, &mut tail);
        encode_varint(payload.len() as u64, &mut tail);
    }
    let len = head.encoded_len() + tail.len() + payload.len();
    if len > REQUEST_BYTES {
        return Err(RequestTooLarge);
    }
    let mut out = BytesMut::with_capacity(4 + len - payload.len());
    out.put_u32(u32::try_from(len).map_err(|_| RequestTooLarge)?);
    let _ = head.encode(&mut out);
    out.put_slice(&tail);
    Ok((out.freeze(), payload))
}

/// The request is beyond [`REQUEST_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestTooLarge;
