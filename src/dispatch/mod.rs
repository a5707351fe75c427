//! A [`Decision`](crate::router::Decision) becomes a stream of replies: attempts, failover, deadlines, cancellation.
//!
//! [`Dispatcher`] is the caller's side: it tries the candidates in order until one has begun to answer, and when that one
//! is lost in the middle of it, another goes on where that is honest.
//! Where the decision is doubtful, it asks for a second opinion first (`judge`).
//! [`Local`] is the callee's side: admission, queue, heartbeats and deadlines around this node's providers.
//! Between the two lies the mesh ([`Remote`]), or nothing when the candidate is this node.

mod alarm;
mod answer;
mod attempt;
mod budget;
mod dispatcher;
mod failures;
mod gate;
mod judge;
mod local;
mod onward;
mod pulse;
mod race;
mod record;
mod reply;
mod resume;
mod splice;
#[cfg(test)]
mod testing;
mod transcript;
mod ways;

use futures::future::BoxFuture;

use crate::capability::{Call, Failure, FrameStream, PeerId};

pub use dispatcher::Dispatcher;
pub use local::{Local, LocalSettings, Providers};
pub use reply::{DispatchError, Reply, ReplyBody};
pub use ways::Settings;

/// Runs calls on other nodes.
pub trait Remote: Send + Sync + 'static {
    /// Opens a call on `node`. The stream starts with `Accepted` or `Rejected`; dropping it cancels the call.
    fn call(&self, node: PeerId, call: Call) -> BoxFuture<'static, Result<FrameStream, Failure>>;
}
