//! A [`Decision`](crate::router::Decision) becomes a stream of replies: attempts, failover, deadlines, cancellation.
//!
//! [`Dispatcher`] is the caller's side: it tries the candidates in order until one has begun to answer.
//! [`Local`] is the callee's side: admission, queue, heartbeats and deadlines around this node's providers.
//! Between the two lies the mesh ([`Remote`]), or nothing when the candidate is this node.

mod alarm;
mod attempt;
mod dispatcher;
mod failures;
mod gate;
mod local;
mod pulse;
mod record;
mod reply;
#[cfg(test)]
mod testing;

use futures::future::BoxFuture;

use crate::capability::{Call, Failure, FrameStream, PeerId};

pub use dispatcher::{Dispatcher, Settings};
pub use local::{Local, LocalSettings, Providers};
pub use reply::{DispatchError, Reply, ReplyBody};

/// Runs calls on other nodes.
pub trait Remote: Send + Sync + 'static {
    /// Opens a call on `node`. The stream starts with `Accepted` or `Rejected`; dropping it cancels the call.
    fn call(&self, node: PeerId, call: Call) -> BoxFuture<'static, Result<FrameStream, Failure>>;
}
