//! The caller's side of a call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite, Stream, StreamExt as _};
use libp2p::PeerId;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::codec::{FrameDecoder, JOINED_BYTES, PIECE_BYTES, RequestTooLarge, request_parts};
use crate::capability::{Call, Chunk, ErrorClass, Failure, Frame, FrameStream};
use crate::waiting::Timer;
use crate::wire::{self, v1};

/// Deadlines further away than this are as good as none, and must not overflow a clock.
const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long to look for the callee's reason after it stopped reading the request.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Payloads up to this are copied behind the head, to be sent in one write.
const ONE_WRITE: usize = 16 * 1024;

/// How patient a caller is.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the end of the request to the first frame.
    pub accept: Duration,
    /// Between two frames.
    pub silence: Duration,
    /// Without progress while the request is written.
    pub write: Duration,
}

impl Default for Limits {
    /// Five seconds for a busy callee's answer; two of silence are four missed heartbeats; ten for a
    /// congested uplink.
    fn default() -> Self {
        Self { accept: Duration::from_secs(5), silence: Duration::from_secs(2), write: Duration::from_secs(10) }
    }
}

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// What the caller is told.
    pub failure: Failure,
    /// The stream ended before the callee said anything. One that was kept from an earlier call was most likely given up by
    /// the callee just then, and the call is worth a new stream.
    pub unheard: bool,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, unheard: false }
    }
}

/// Makes a call on a stream to `node`, and returns once the callee has admitted or rejected it. The frames
/// begin with `Accepted`, or are one `Rejected`. Dropping them ends the stream, and so the work. When they have ended well and the
/// callee takes another call on the stream, `keep` gets it.
///
/// # Errors
///
/// When the request cannot be sent, the first frame does not come in time, or it is an error.
pub async fn call<S>(
    stream: S,
    node: PeerId,
    call: &Call,
    limits: Limits,
    keep: impl FnOnce(S) + Send + Unpin + 'static,
) -> Result<FrameStream, Unanswered>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let deadline = Instant::now() + call.deadline.min(DEADLINE_MAX);
    let (head, payload) = request_parts(call).map_err(|RequestTooLarge| Failure {
        status: 413,
        ..Failure::new(
            ErrorClass::Request,
            "the request is larger than 64 MiB, the most that one node sends to another",
        )
    })?;
    let (read, mut write) = tokio::io::split(stream.compat());
    let mut frames = FramedRead::new(read, FrameDecoder::new());
    let first = {
        let sent = send(&mut write, head, payload, limits.write);
        tokio::pin!(sent);
        // A callee that does not want the request says so before it has read all of it.
        let early = tokio::select! {
            biased;
            sent = tokio::time::timeout_at(deadline, &mut sent) => match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => match tokio::time::timeout(LAST_WORD, first_frame(&mut frames, node)).await {
                    Ok(Ok(word @ (Frame::Rejected(_) | Frame::Error(_)))) => Some(word),
                    word => {
                        let unheard = error.kind() != io::ErrorKind::TimedOut
                            && matches!(word, Ok(Err(Unanswered { unheard: true, .. })));
                        return Err(Unanswered { failure: lost(node, &error), unheard });
                    }
                },
                Err(_) => return Err(late(node).into()),
            },
            early = first_frame(&mut frames, node) => match early? {
                // It read enough to know.
                Frame::Accepted(_) => return Err(out_of_order(node, false).into()),
                word => Some(word),
            },
        };
        match early {
            Some(word) => word,
            None => {
                let accept = (Instant::now() + limits.accept).min(deadline);
                match tokio::time::timeout_at(accept, first_frame(&mut frames, node)).await {
                    Ok(first) => first?,
                    Err(_) if accept == deadline => return Err(late(node).into()),
                    Err(_) => {
                        let why = format!("node {node} took the request and said nothing for {:?}", limits.accept);
                        return Err(Failure::new(ErrorClass::Unavailable, why).into());
                    }
                }
            }
        }
    };
    match first {
        Frame::Error(failure) => Err(failure.into()),
        first => Ok(Box::pin(Answer {
            io: matches!(first, Frame::Accepted(_)).then_some(Io { frames, write }),
            keep: Some(keep),
            is_kept: false,
            node,
            first: Some(first),
            joined: None,
            any_chunk: false,
            timer: Timer::at(deadline),
            waiting_since: None,
            silence: limits.silence,
            deadline,
        })),
    }
}

async fn send<W>(write: &mut W, head: Bytes, payload: Bytes, patience: Duration) -> io::Result<()>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    let timed = async |write: &mut W, bytes: &[u8]| {
        tokio::time::timeout(patience, write.write_all(bytes)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    };
    if payload.len() <= ONE_WRITE {
        timed(write, &[&head[..], &payload[..]].concat()).await?;
    } else {
        timed(write, &head).await?;
        for piece in payload.chunks(PIECE_BYTES) {
            timed(write, piece).await?;
        }
    }
    tokio::time::timeout(patience, write.flush()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

type Frames<S> = FramedRead<ReadHalf<Compat<S>>, FrameDecoder>;

/// The first frame that this version knows. It must be one that may be first.
async fn first_frame<S: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<S>,
    node: PeerId,
) -> Result<Frame, Unanswered> {
    let mut unheard = true;
    loop {
        let wire = match frames.next().await {
            Some(Ok(wire)) => wire,
            Some(Err(error)) => {
                unheard &= error.kind() != io::ErrorKind::InvalidData && frames.read_buffer().is_empty();
                return Err(Unanswered { failure: lost(node, &error), unheard });
            }
            None => {
                let message = format!("node {node} ended the call before it answered: does it speak this version?");
                return Err(Unanswered { failure: Failure::new(ErrorClass::Unavailable, message), unheard });
            }
        };
        unheard = false;
        match wire::frame_from_wire(wire) {
            Ok(Some(frame @ (Frame::Accepted(_) | Frame::Rejected(_) | Frame::Error(_)))) => return Ok(frame),
            Ok(None) => {}
            Ok(Some(_)) => return Err(out_of_order(node, false).into()),
            Err(error) => return Err(malformed(node, false, &error).into()),
        }
    }
}

/// The frames of an admitted call, or the one rejection.
struct Answer<S, K> {
    /// `None` when the answer is complete: the stream is let go at once.
    io: Option<Io<S>>,
    /// What takes the stream then, if the callee keeps it too.
    keep: Option<K>,
    /// Whether it does.
    is_kept: bool,
    node: PeerId,
    first: Option<Frame>,
    /// The pieces of an event that was cut, so far.
    joined: Option<(BytesMut, Option<String>)>,
    any_chunk: bool,
    timer: Timer,
    /// Since when nothing came while somebody was waiting for it. A reader that takes its time is no silence.
    waiting_since: Option<Instant>,
    silence: Duration,
    deadline: Instant,
}

struct Io<S> {
    frames: Frames<S>,
    /// Open until the end, so that the callee sees us leave.
    write: WriteHalf<Compat<S>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, K: FnOnce(S)> Answer<S, K> {
    /// Lets the stream go, for another call where that is possible.
    fn complete(&mut self) {
        let (Some(io), Some(keep)) = (self.io.take(), self.keep.take()) else { return };
        // After its last frame a callee has nothing to say.
        if self.is_kept && io.frames.read_buffer().is_empty() {
            keep(io.frames.into_inner().unsplit(io.write).into_inner());
        }
    }

    fn end(&mut self, failure: Failure) -> Poll<Option<Frame>> {
        self.io = None;
        Poll::Ready(Some(Frame::Error(failure)))
    }

    /// The class of a failure that is not the callee's word: after the first chunk it is an interrupted answer.
    fn broken(&self, what: &str) -> Failure {
        broken(self.node, self.any_chunk, what)
    }

    /// Joins the pieces of a cut event; `None` while there are more.
    fn join(&mut self, chunk: v1::Chunk) -> Result<Option<Chunk>, EventTooLarge> {
        let content_type = (!chunk.content_type.is_empty()).then_some(chunk.content_type);
        if self.joined.is_none() && !chunk.more {
            return Ok(Some(Chunk { data: chunk.data, content_type }));
        }
        let (mut joined, first_type) = self.joined.take().unwrap_or_else(|| (BytesMut::new(), content_type));
        if joined.len() + chunk.data.len() > JOINED_BYTES {
            return Err(EventTooLarge);
        }
        joined.extend_from_slice(&chunk.data);
        if chunk.more {
            self.joined = Some((joined, first_type));
            return Ok(None);
        }
        Ok(Some(Chunk { data: joined.freeze(), content_type: first_type }))
    }

    /// What the reader gets of a message: nothing for a piece of an event or something that only a newer version
    /// knows, and an error for what must not come here.
    fn on_message(&mut self, mut wire: v1::Frame) -> Option<Frame> {
        if let Some(v1::frame::Body::Chunk(piece)) = &mut wire.body {
            match self.join(std::mem::take(piece)) {
                Ok(Some(Chunk { data, content_type })) => {
                    *piece = v1::Chunk { data, content_type: content_type.unwrap_or_default(), more: false };
                }
                Ok(None) => return None,
                Err(EventTooLarge) => return Some(Frame::Error(self.broken("sent an event of more than 64 MiB"))),
            }
        }
        self.is_kept = matches!(&wire.body, Some(v1::frame::Body::End(end)) if end.keep);
        match wire::frame_from_wire(wire) {
            Ok(Some(Frame::Accepted(_) | Frame::Rejected(_))) => {
                Some(Frame::Error(out_of_order(self.node, self.any_chunk)))
            }
            Ok(Some(Frame::End { .. })) if self.joined.is_some() => {
                Some(Frame::Error(out_of_order(self.node, self.any_chunk)))
            }
            Ok(frame) => {
                self.any_chunk |= matches!(frame, Some(Frame::Chunk(_)));
                frame
            }
            Err(error) => Some(Frame::Error(malformed(self.node, self.any_chunk, &error))),
        }
    }
}

/// An event was cut into pieces of more than [`JOINED_BYTES`].
struct EventTooLarge;

impl<S: AsyncRead + AsyncWrite + Unpin, K: FnOnce(S) + Unpin> Stream for Answer<S, K> {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        loop {
            let Some(io) = &mut this.io else { return Poll::Ready(None) };
            match io.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(wire))) => {
                    this.waiting_since = None;
                    let Some(frame) = this.on_message(wire) else { continue };
                    match frame {
                        Frame::End { .. } => this.complete(),
                        Frame::Error(_) => this.io = None,
                        _ => {}
                    }
                    return Poll::Ready(Some(frame));
                }
                Poll::Ready(Some(Err(error))) => {
                    let failure = this.broken(&format!("was lost in the middle of the answer: {error}"));
                    return this.end(failure);
                }
                Poll::Ready(None) => {
                    let failure = this.broken("stopped in the middle of the answer");
                    return this.end(failure);
                }
                Poll::Pending => {}
            }
            let now = Instant::now();
            let silent_at = *this.waiting_since.get_or_insert(now) + this.silence;
            if now >= this.deadline {
                return this.end(late(this.node));
            }
            if now >= silent_at {
                let failure = this.broken(&format!("said nothing for {:?}", this.silence));
                return this.end(failure);
            }
            // The timer is moved only when it would be late; an early one is looked at again here.
            let at = silent_at.min(this.deadline);
            if this.timer.has_rung() || this.timer.deadline() > at {
                this.timer.set(at);
            }
            if this.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

fn broken(node: PeerId, any_chunk: bool, what: &str) -> Failure {
    let class = if any_chunk { ErrorClass::Interrupted } else { ErrorClass::Unavailable };
    Failure::new(class, format!("node {node} {what}"))
}

fn lost(node: PeerId, error: &io::Error) -> Failure {
    broken(node, false, &format!("was lost while the request was sent: {error}"))
}

fn late(node: PeerId) -> Failure {
    Failure::new(ErrorClass::Timeout, format!("node {node} did not finish before the deadline of the request"))
}

fn out_of_order(node: PeerId, any_chunk: bool) -> Failure {
    broken(node, any_chunk, "sent its frames out of order: is it of another version?")
}

fn malformed(node: PeerId, any_chunk: bool, error: &wire::FrameError) -> Failure {
    broken(node, any_chunk, &format!("sent a frame that makes no sense: {error}"))
}
