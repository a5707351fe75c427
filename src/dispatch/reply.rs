//! What a dispatched intent comes to.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;

use crate::capability::{Failure, Origin};
use crate::router::{Candidate, Decision};

/// The pieces of an answer as they come. It ends after the last piece, or with one failure; dropping it
/// cancels the work.
pub type ReplyBody = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// An answer has begun: somebody has sent a first piece of content, or all of it.
pub struct Reply {
    /// Why whoever answers was chosen.
    pub decision: Arc<Decision>,
    /// Who answers: one of the decision's candidates.
    pub served: Candidate,
    /// How many candidates were tried, this one included.
    pub attempts: u32,
    /// Media type of the body.
    pub content_type: String,
    /// Whether it was made for this request.
    pub origin: Origin,
    /// The answer. A streamed one is cut only between server-sent events.
    pub body: ReplyBody,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("decision", &self.decision.id)
            .field("served", &self.served.node)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Nobody answered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{failure}")]
pub struct DispatchError {
    /// Whom it was tried on, and why.
    pub decision: Arc<Decision>,
    /// How many candidates were tried.
    pub attempts: u32,
    /// What the caller is told.
    pub failure: Failure,
}
