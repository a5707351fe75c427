//! One attempt to run an intent on one capability of one node, and the frames that come back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde::Serialize;

use super::{CapabilityId, Operation};

/// One attempt to run an intent on one capability of one node.
#[derive(Debug, Clone)]
pub struct Call {
    /// Shared by all attempts of a request and by the logs of both nodes.
    pub id: String,
    /// Which capability of the callee.
    pub capability: CapabilityId,
    /// What to do.
    pub operation: Operation,
    /// The request body as the caller sent it. The provider puts its own model name into it, and changes
    /// nothing else.
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: String,
    /// Whether the answer shall be a stream of server-sent events.
    pub stream: bool,
    /// Time left. Whoever holds the call counts it down on its own clock.
    pub deadline: Duration,
    /// Request headers that a provider may want, such as `traceparent`.
    pub headers: BTreeMap<String, String>,
}

/// What a provider or a node answers a call with.
///
/// The order is `Accepted` or `Rejected` first (added by the node, never by a provider), then any number of
/// `Progress` and `Chunk`, then exactly one `End` or `Error`. A stream that stops without one has failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// The call was admitted.
    Accepted(Load),
    /// The call was not admitted; nothing was done.
    Rejected(Rejection),
    /// Still at it.
    Progress(Progress),
    /// A piece of the answer.
    Chunk(Chunk),
    /// The answer is complete.
    End {
        /// Tokens, where the backend told.
        usage: Option<Usage>,
        /// The callee's load now.
        load: Option<Load>,
    },
    /// There is no more answer, and why.
    Error(Failure),
}

/// Frames as they come. Dropping it cancels the call: the work stops, on the far node too.
pub type FrameStream = Pin<Box<dyn Stream<Item = Frame> + Send>>;

/// Why a call was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// One sentence for a person.
    pub reason: String,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// The callee's load.
    pub load: Option<Load>,
}

/// How busy a capability's provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Load {
    /// Calls that run.
    pub running: u32,
    /// Calls that wait.
    pub queued: u32,
    /// How many may run at once; 0 when unknown.
    pub limit: u32,
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Place in the queue; 1 is next, 0 is not queued.
    pub queue_position: u32,
}

/// The phases of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waits for others.
    Queued,
    /// The model is being loaded.
    Loading,
    /// The prompt is being read, or the backend does not tell.
    Prefill,
    /// The answer is being written.
    Decode,
}

impl Phase {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Loading => "loading",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// Where a call is, for whoever waits for its answer: dispatch notes it here, and the API looks.
#[derive(Debug, Default)]
pub struct Whereabouts(AtomicU64);

impl Whereabouts {
    /// Notes where it is.
    pub fn tell(&self, progress: Progress) {
        let phase = match progress.phase {
            Phase::Queued => 1,
            Phase::Loading => 2,
            Phase::Prefill => 3,
            Phase::Decode => 4,
        };
        self.0.store(phase << 32 | u64::from(progress.queue_position), Ordering::Relaxed);
    }

    /// Where it is; `None` when nobody has said anything yet.
    #[must_use]
    pub fn now(&self) -> Option<Progress> {
        let noted = self.0.load(Ordering::Relaxed);
        let phase = match noted >> 32 {
            1 => Phase::Queued,
            2 => Phase::Loading,
            3 => Phase::Prefill,
            4 => Phase::Decode,
            _ => return None,
        };
        Some(Progress { phase, queue_position: noted as u32 })
    }
}

/// A piece of an answer.
///
/// A streamed answer is cut only between server-sent events, so that whoever holds a chunk holds whole
/// events. Bytes are the backend's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes.
    pub data: Bytes,
    /// Media type; on the first chunk only.
    pub content_type: Option<String>,
}

/// What comes in so few bytes is copied out of the buffer that it was read into. Answers are kept while they run: thousands
/// of tokens would hold on to a buffer of some kilobytes each, and every read would need a new one.
pub(crate) const SMALL_PIECE: usize = 2048;

/// Tokens that a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Read.
    pub prompt_tokens: u64,
    /// Written.
    pub completion_tokens: u64,
    /// Of those read, the ones that were in a cache of the backend, where it told.
    pub cached_tokens: Option<u64>,
}

/// Why a call failed, in a form that can travel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What can be done about it.
    pub class: ErrorClass,
    /// The HTTP status that describes it best.
    pub status: u16,
    /// One sentence for a person: what, why, and the way out.
    pub message: String,
    /// OpenAI's `code`.
    pub code: Option<String>,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// The backend's own error body, to be passed on as it is, with its media type.
    pub body: Option<(Bytes, String)>,
}

impl Failure {
    /// A failure of this class with the class's usual status and no backend body.
    #[must_use]
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let status = match class {
            ErrorClass::Internal => 500,
            ErrorClass::Request => 400,
            ErrorClass::Overloaded | ErrorClass::Unavailable => 503,
            ErrorClass::Backend | ErrorClass::Interrupted => 502,
            ErrorClass::Timeout => 504,
        };
        Self { class, status, message: message.into(), code: None, retry_after: None, body: None }
    }
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorClass {
    /// A fault of this program.
    Internal,
    /// The request itself is wrong: nobody else will do better.
    Request,
    /// Too busy: later, or elsewhere.
    Overloaded,
    /// The capability, its backend or its node is gone.
    Unavailable,
    /// The backend failed at it.
    Backend,
    /// Time ran out.
    Timeout,
    /// It stopped in the middle of its answer.
    Interrupted,
}

impl ErrorClass {
    /// Whether another candidate may do better.
    #[must_use]
    pub const fn may_try_elsewhere(self) -> bool {
        !matches!(self, Self::Request)
    }
}
