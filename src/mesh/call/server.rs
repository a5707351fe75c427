//! The callee's side: streams become calls.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, Stream, StreamExt as _};
use libp2p::PeerId;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::codec::REQUEST_BYTES;
use super::reply::{Duplex, Reply};
use super::room::{Place, Room};
use crate::capability::{Call, ErrorClass, Failure, Frame, Rejection};
use crate::wire::{self, FrameError, v1};

/// Bytes of a request that must come within one [`ServerLimits::request`]: 64 MiB over a slow uplink take their time, a
/// caller that sends nothing does not get it.
const PROGRESS_BYTES: usize = 1024 * 1024;
/// Bytes that are set aside for a request before any of it has come; more is when it does.
const FIRST_ALLOCATION: usize = 64 * 1024;
/// When a caller that found no room should come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a call waits to be taken by whoever runs it.
const HANDOVER: Duration = Duration::from_secs(1);

/// What a callee takes on.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Calls at once, from the first byte of the request to the last of the reply.
    pub calls: usize,
    /// Refusals at once, beyond which a stream is just dropped.
    pub refusals: usize,
    /// Bytes of all requests at once.
    pub request_bytes: usize,
    /// Without a MiB of progress while a request is read.
    pub request: Duration,
    /// Without progress while a reply is written.
    pub write: Duration,
}

impl Default for ServerLimits {
    /// 256 calls are more than any backend runs, and bound the memory together with 256 MiB of requests. How the nodes
    /// share them, `room` says.
    fn default() -> Self {
        Self {
            calls: 256,
            refusals: 64,
            request_bytes: 256 * 1024 * 1024,
            request: Duration::from_secs(10),
            write: Duration::from_secs(30),
        }
    }
}

/// A call that another node makes.
#[derive(Debug)]
pub struct InboundCall {
    /// Who calls.
    pub from: PeerId,
    /// What for.
    pub call: Call,
    /// Where the frames go.
    pub reply: Reply,
}

/// Turns streams into calls until the streams end or nobody takes the calls any more; then the requests
/// that are still being read are dropped. Replies go on without it.
/// `may_call` says why a node may not.
pub async fn serve<S>(
    streams: impl Stream<Item = (PeerId, S)>,
    may_call: impl Fn(&PeerId) -> Result<(), String>,
    calls: mpsc::Sender<InboundCall>,
    limits: ServerLimits,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let room = Room::new(limits.calls, limits.refusals, limits.request_bytes);
    let mut tasks = JoinSet::new();
    let streams = std::pin::pin!(streams);
    let mut streams = streams.fuse();
    loop {
        tokio::select! {
            biased;
            () = calls.closed() => return,
            // Without this the results of finished tasks would pile up.
            Some(_) = tasks.join_next() => {}
            stream = streams.next() => {
                let Some((from, stream)) = stream else { return };
                let io: Box<dyn Duplex> = Box::new(stream);
                if let Err(why) = may_call(&from) {
                    tracing::debug!(%from, %why, "did not take a call");
                    if let Some(place) = room.refusal() {
                        let failure = Failure { status: 403, ..Failure::new(ErrorClass::Request, why) };
                        let reply = Reply::new(io, HANDOVER, place);
                        tasks.spawn(async move {
                            // Whether it heard is its own affair.
                            let _ = reply.send_last(Frame::Error(failure)).await;
                        });
                    }
                } else if let Some(place) = room.call(from) {
                    tasks.spawn(admit(from, io, place, calls.clone(), limits));
                } else if let Some(place) = room.refusal() {
                    let reply = Reply::new(io, HANDOVER, place);
                    tasks.spawn(refuse(reply, "this node serves as many calls as it can"));
                } else {
                    tracing::debug!(%from, "too many calls even to refuse them all");
                }
            }
        }
    }
}

async fn refuse(reply: Reply, reason: &'static str) {
    let rejection = Rejection { reason: reason.to_owned(), retry_after: Some(RETRY_AFTER), load: None };
    reply.send_last(Frame::Rejected(rejection)).await;
}

/// Why a request was not read.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("the caller left")]
    Left,
    #[error("the request did not come in time")]
    Slow,
    #[error("the request is larger than 64 MiB")]
    TooLarge,
    #[error("this node holds as many request bytes as it can")]
    NoRoom,
    #[error("the request cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error(transparent)]
    Bad(#[from] FrameError),
}

async fn admit(
    from: PeerId,
    mut io: Box<dyn Duplex>,
    mut place: Place,
    calls: mpsc::Sender<InboundCall>,
    limits: ServerLimits,
) {
    let read = read_request(&mut *io, &mut place, limits.request).await;
    let error = match read {
        Ok(call) => {
            let reply = Reply::new(io, limits.write, place);
            match tokio::time::timeout(HANDOVER, calls.reserve()).await {
                Ok(Ok(slot)) => slot.send(InboundCall { from, call, reply }),
                Ok(Err(_)) => {}
                Err(_) => refuse(reply, "this node is too busy to take calls").await,
            }
            return;
        }
        Err(error) => error,
    };
    tracing::debug!(%from, %error, "did not take a call");
    let reply = Reply::new(io, limits.write.min(HANDOVER), place);
    let failure = match error {
        RequestError::Left => return,
        RequestError::NoRoom => return refuse(reply, "this node holds as many request bytes as it can").await,
        RequestError::Slow => Failure::new(ErrorClass::Timeout, error.to_string()),
        RequestError::TooLarge => Failure { status: 413, ..Failure::new(ErrorClass::Request, error.to_string()) },
        // A newer node may know it.
        RequestError::Bad(FrameError::UnknownOperation(_)) => {
            Failure { status: 501, ..Failure::new(ErrorClass::Unavailable, error.to_string()) }
        }
        RequestError::Malformed(_) | RequestError::Bad(_) => Failure::new(ErrorClass::Request, error.to_string()),
    };
    reply.send_last(Frame::Error(failure)).await;
}

async fn read_request(io: &mut dyn Duplex, place: &mut Place, patience: Duration) -> Result<Call, RequestError> {
    let mut len = [0; 4];
    within(patience, io.read_exact(&mut len)).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len > REQUEST_BYTES {
        return Err(RequestError::TooLarge);
    }
    if !place.take_bytes(len) {
        return Err(RequestError::NoRoom);
    }
    // What is set aside grows with what has come: a length alone costs nothing.
    let mut bytes = BytesMut::with_capacity(len.min(FIRST_ALLOCATION));
    let mut io = io.compat();
    while bytes.len() < len {
        let step = bytes.len() + PROGRESS_BYTES.min(len - bytes.len());
        let progress = async {
            while bytes.len() < step {
                let left = (len - bytes.len()) as u64;
                if (&mut io).take(left).read_buf(&mut bytes).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        };
        within(patience, progress).await?;
    }
    let request = v1::CallRequest::decode(Bytes::from(bytes))?;
    Ok(wire::call_from_wire(request)?)
}

async fn within<T>(patience: Duration, reading: impl Future<Output = io::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(_)) => Err(RequestError::Left),
        Err(_) => Err(RequestError::Slow),
    }
}
