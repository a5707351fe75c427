//! A [`Decision`](crate::router::Decision) becomes a stream of replies: attempts, failover, deadlines, cancellation.

mod reply;

use futures::future::BoxFuture;

use crate::capability::{Call, Failure, FrameStream, PeerId};

pub use reply::{DispatchError, Reply, ReplyBody};

/// Runs calls on other nodes.
pub trait Remote: Send + Sync + 'static {
    /// Opens a call on `node`. The stream starts with `Accepted` or `Rejected`; dropping it cancels the call.
    fn call(&self, node: PeerId, call: Call) -> BoxFuture<'static, Result<FrameStream, Failure>>;
}
