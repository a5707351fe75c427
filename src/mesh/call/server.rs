//! The callee's side: streams become calls.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, Stream, StreamExt as _};
use libp2p::PeerId;
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;

use super::codec::REQUEST_BYTES;
use super::reply::{Duplex, Reply, close};
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
/// How long a stream waits for the next call. Callers let go sooner, so that hardly any request meets a closed stream.
const REST: Duration = Duration::from_secs(30);
/// How long a call waits to be taken by whoever runs it.
const HANDOVER: Duration = Duration::from_secs(1);

/// What a callee takes on.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Calls at once, from the first byte of the request to the last of the reply.
    pub calls: usize,
    /// Refusals at once, beyond which a stream is just dropped.
    pub refusals: usize,
    /// Streams at once that wait for their caller's next call; beyond it a stream ends with its call.
    pub waiting: usize,
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
            waiting: 256,
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
/// that are still being read are dropped, and the streams that wait for their next call. Replies go on without it.
/// `may_call` says why a node may not. Once the node is `leaving`, no stream is kept for another call.
pub async fn serve<S>(
    streams: impl Stream<Item = (PeerId, S)>,
    may_call: impl Fn(&PeerId) -> Result<(), String> + Send + Sync + 'static,
    calls: mpsc::Sender<InboundCall>,
    limits: ServerLimits,
    leaving: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stopped = CancellationToken::new();
    let _stops = stopped.clone().drop_guard();
    let server = Arc::new(Server {
        room: Room::new(limits.calls, limits.refusals, limits.request_bytes),
        may_call: Box::new(may_call),
        calls,
        limits,
        waiting: Arc::new(Semaphore::new(limits.waiting)),
        leaving,
        stopped,
    });
    let mut tasks = JoinSet::new();
    let streams = std::pin::pin!(streams);
    let mut streams = streams.fuse();
    loop {
        tokio::select! {
            biased;
            () = server.calls.closed() => return,
            // Without this the results of finished tasks would pile up.
            Some(_) = tasks.join_next() => {}
            stream = streams.next() => {
                let Some((from, stream)) = stream else { return };
                if let Some(turn) = server.turn(&from) {
                    tasks.spawn(Arc::clone(&server).take(from, Box::new(stream), turn, None));
                }
            }
        }
    }
}

type MayCall = dyn Fn(&PeerId) -> Result<(), String> + Send + Sync;

/// What all streams have in common.
struct Server {
    room: Room,
    may_call: Box<MayCall>,
    calls: mpsc::Sender<InboundCall>,
    limits: ServerLimits,
    /// Places for streams that wait for their next call.
    waiting: Arc<Semaphore>,
    /// Set when the node says farewell.
    leaving: CancellationToken,
    /// Set when no calls are taken any more.
    stopped: CancellationToken,
}

/// What a caller gets.
enum Turn {
    Call(Place),
    No(Place, Frame),
}

impl Server {
    /// What this caller gets now; `None` when there is no room even to tell it.
    fn turn(&self, from: &PeerId) -> Option<Turn> {
        let no = match (self.may_call)(from) {
            Err(why) => {
                tracing::debug!(%from, %why, "did not take a call");
                Frame::Error(Failure { status: 403, ..Failure::new(ErrorClass::Request, why) })
            }
            Ok(()) => match self.room.call(*from) {
                Some(place) => return Some(Turn::Call(place)),
                None => rejected("this node serves as many calls as it can"),
            },
        };
        let place = self.room.refusal();
        if place.is_none() {
            tracing::debug!(%from, "too many calls even to refuse them all");
        }
        place.map(|place| Turn::No(place, no))
    }

    /// Takes the call that comes on a stream, or refuses it. Of a stream that was kept, the length of the request has
    /// been read.
    async fn take(self: Arc<Self>, from: PeerId, io: Box<dyn Duplex>, turn: Turn, len: Option<[u8; 4]>) {
        match turn {
            Turn::Call(place) => self.admit(from, io, place, len).await,
            Turn::No(place, frame) => {
                // Whether it heard is its own affair.
                let _ = Reply::new(io, HANDOVER, place).send_last(frame).await;
            }
        }
    }

    async fn admit(self: Arc<Self>, from: PeerId, mut io: Box<dyn Duplex>, mut place: Place, len: Option<[u8; 4]>) {
        let limits = self.limits;
        let read = read_request(&mut *io, &mut place, len, limits.request).await;
        let error = match read {
            Ok((call, keep)) => {
                let reply = Reply::new(io, limits.write, place);
                match tokio::time::timeout(HANDOVER, self.calls.reserve()).await {
                    Ok(Ok(slot)) => {
                        let reply = if keep { self.next_on(reply, from) } else { reply };
                        slot.send(InboundCall { from, call, reply });
                    }
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

    /// The reply, with the stream kept for the caller's next call: unless too many wait already, or the node leaves. Then the
    /// stream is closed in good order, so that its last frames arrive.
    fn next_on(self: &Arc<Self>, reply: Reply, from: PeerId) -> Reply {
        let server = Arc::downgrade(self);
        reply.then(Box::new(move || {
            let server = server.upgrade().filter(|server| !server.leaving.is_cancelled())?;
            let place = Arc::clone(&server.waiting).try_acquire_owned().ok()?;
            let (leaving, stopped) = (server.leaving.clone(), server.stopped.clone());
            let server = Arc::downgrade(&server);
            Some(Box::new(move |io| drop(tokio::spawn(wait(server, leaving, stopped, place, from, io)))))
        }))
    }
}

/// Waits for the next call on a stream, and takes it.
async fn wait(
    server: Weak<Server>,
    leaving: CancellationToken,
    stopped: CancellationToken,
    place: OwnedSemaphorePermit,
    from: PeerId,
    mut io: Box<dyn Duplex>,
) {
    let mut len = [0; 4];
    tokio::select! {
        biased;
        rested = tokio::time::timeout(REST, io.read_exact(&mut len)) => match rested {
            Ok(Ok(())) => {}
            // The caller has closed it.
            Ok(Err(_)) => return,
            Err(_) => return close(io).await,
        },
        () = leaving.cancelled() => return close(io).await,
        () = stopped.cancelled() => return close(io).await,
    }
    drop(place);
    let Some(server) = server.upgrade() else { return };
    if let Some(turn) = server.turn(&from) {
        // Once no calls are taken any more, nobody takes this one.
        let _ = stopped.run_until_cancelled(server.take(from, io, turn, Some(len))).await;
    }
}

fn rejected(reason: &str) -> Frame {
    Frame::Rejected(Rejection { reason: reason.to_owned(), retry_after: Some(RETRY_AFTER), load: None })
}

async fn refuse(reply: Reply, reason: &str) {
    reply.send_last(rejected(reason)).await;
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

/// The call, and whether the caller would keep the stream.
async fn read_request(
    io: &mut dyn Duplex,
    place: &mut Place,
    len: Option<[u8; 4]>,
    patience: Duration,
) -> Result<(Call, bool), RequestError> {
    let len = match len {
        Some(len) => len,
        None => {
            let mut len = [0; 4];
            within(patience, io.read_exact(&mut len)).await?;
            len
        }
    };
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
    let keep = request.keep;
    Ok((wire::call_from_wire(request)?, keep))
}

async fn within<T>(patience: Duration, reading: impl Future<Output = io::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(_)) => Err(RequestError::Left),
        Err(_) => Err(RequestError::Slow),
    }
}
