//! The callee's half of an admitted stream: frames go out, and the caller's leaving comes in.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Sleep;

use super::codec::FrameWriter;
use super::room::Place;
use crate::capability::{ErrorClass, Failure, Frame, FrameStream};

/// Bytes that are gathered before they are written: frames that are ready together go out together.
const GATHER_BYTES: usize = 64 * 1024;
/// Bytes that a caller may send after its request. It has nothing to say, so this only bounds the reading.
const STRAY_BYTES: usize = 64 * 1024;
/// Turns after which other tasks get theirs.
const TURNS: usize = 64;
/// How long the caller gets to take the last frame and close: dropping a stream may overtake what was written.
const LINGER: Duration = Duration::from_secs(2);

/// A stream of bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Asked when a call ends well: who takes its stream for the next one, if anybody does.
pub(super) type Next = Box<dyn FnOnce() -> Option<Taker> + Send>;
/// Takes a stream for the caller's next call.
pub(super) type Taker = Box<dyn FnOnce(Box<dyn Duplex>) + Send>;

/// Where the frames of a call go. Dropping it ends the stream, and the caller fails the call.
pub struct Reply {
    io: Box<dyn Duplex>,
    write_timeout: Duration,
    /// Room among the calls and the request bytes, held until the reply is through.
    place: Place,
    /// Who takes the next call on the stream, where it is kept.
    next: Option<Next>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// How sending a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Everything up to `End`, `Error` or `Rejected` was sent.
    Complete,
    /// The caller left before.
    CallerLeft,
    /// The caller took nothing for so long that it was given up.
    Stalled,
}

impl Reply {
    pub(super) fn new(io: Box<dyn Duplex>, write_timeout: Duration, place: Place) -> Self {
        Self { io, write_timeout, place, next: None }
    }

    /// Keeps the stream for the caller's next call once this one is answered.
    pub(super) fn then(self, next: Next) -> Self {
        Self { next: Some(next), ..self }
    }

    /// Sends the frames as they come, up to the first `End`, `Error` or `Rejected`; one is added when the frames
    /// stop without. When the caller leaves, or takes nothing for too long, the frames are dropped at once.
    pub async fn send_all(self, frames: FrameStream) -> Sent {
        let Self { mut io, write_timeout, place, next } = self;
        let mut pump = Pump::new(&mut *io, frames, write_timeout, next);
        let sent = (&mut pump).await;
        let taker = pump.taker.take();
        drop((pump, place));
        match taker {
            _ if sent != Sent::Complete => {}
            Some(taker) => taker(io),
            None => close(io).await,
        }
        sent
    }

    /// Sends one frame that ends the call.
    pub(super) async fn send_last(self, frame: Frame) -> Sent {
        self.send_all(Box::pin(futures::stream::once(std::future::ready(frame)))).await
    }
}

/// Closes our half and waits for the caller to close its own.
pub(super) async fn close(mut io: Box<dyn Duplex>) {
    let closed = async {
        io.close().await?;
        let mut scratch = [0; 4096];
        let mut stray = 0;
        while stray < STRAY_BYTES {
            match io.read(&mut scratch).await? {
                0 => break,
                read => stray += read,
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever happens now, the caller has its last frame or has left.
    let _ = tokio::time::timeout(LINGER, closed).await;
}

/// Moves frames to the caller until one side is done.
struct Pump<'a> {
    io: &'a mut dyn Duplex,
    frames: FrameStream,
    writer: FrameWriter,
    out: BytesMut,
    flushed: bool,
    ended: bool,
    next: Option<Next>,
    /// Who takes the stream after the `End` that was written.
    taker: Option<Taker>,
    stray: usize,
    write_timeout: Duration,
    /// Runs while the caller takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<'a> Pump<'a> {
    fn new(io: &'a mut dyn Duplex, frames: FrameStream, write_timeout: Duration, next: Option<Next>) -> Self {
        Self {
            io,
            frames,
            writer: FrameWriter::default(),
            out: BytesMut::new(),
            flushed: true,
            ended: false,
            next,
            taker: None,
            stray: 0,
            write_timeout,
            stall: None,
        }
    }

    /// Whether the caller has left. It has nothing to say after its request, but it may be of a newer version.
    fn caller_left(&mut self, cx: &mut Context<'_>) -> bool {
        let mut scratch = [0; 1024];
        loop {
            match Pin::new(&mut *self.io).poll_read(cx, &mut scratch) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(read)) => self.stray += read,
            }
            if self.stray > STRAY_BYTES {
                return true;
            }
        }
    }

    /// Takes frames that are ready, up to a full buffer.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.out.len() < GATHER_BYTES {
            if self.writer.piece(&mut self.out) {
                continue;
            }
            if self.ended {
                return;
            }
            let frame = match self.frames.as_mut().poll_next(cx) {
                Poll::Ready(Some(frame)) => frame,
                Poll::Ready(None) => {
                    let message = "the answer stopped without an end; this is a fault of the node that served it";
                    Frame::Error(Failure::new(ErrorClass::Internal, message))
                }
                Poll::Pending => return,
            };
            self.ended = matches!(frame, Frame::End { .. } | Frame::Error(_) | Frame::Rejected(_));
            if let Frame::End { usage, load } = frame {
                self.taker = self.next.take().and_then(|next| next());
                self.writer.end(usage, load, self.taker.is_some(), &mut self.out);
            } else {
                self.writer.frame(frame, &mut self.out);
            }
        }
    }

    /// One step of writing: `Ready(Ok(true))` when there was something to do.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        if !self.out.is_empty() {
            let written = std::task::ready!(Pin::new(&mut *self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.flushed = false;
            return Poll::Ready(Ok(true));
        }
        if !self.flushed {
            std::task::ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(false))
    }
}

impl Future for Pump<'_> {
    type Output = Sent;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Sent> {
        let this = self.get_mut();
        for _ in 0..TURNS {
            // After its last frame, what comes is the caller's next request.
            if !this.ended && this.caller_left(cx) {
                return Poll::Ready(Sent::CallerLeft);
            }
            this.gather(cx);
            match this.write(cx) {
                Poll::Ready(Ok(true)) => this.stall = None,
                Poll::Ready(Ok(false)) => {
                    this.stall = None;
                    return if this.ended { Poll::Ready(Sent::Complete) } else { Poll::Pending };
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Sent::CallerLeft),
                Poll::Pending => {
                    let timeout = this.write_timeout;
                    let stall = this.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                    return stall.as_mut().poll(cx).map(|()| Sent::Stalled);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
