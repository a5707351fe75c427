//! A call to another node: on a stream that an earlier call has left, or on a new one.

use std::time::Duration;

use libp2p::Multiaddr;
use tokio::time::Instant;

use super::call::{self, Limits, Unanswered};
use super::streams::{Control, OpenError, Prefer, Stream};
use crate::capability::{Call, Failure, FrameStream, PeerId};

/// What is left for the callee's first frame when opening the stream took nearly all the time.
const MIN_ACCEPT: Duration = Duration::from_millis(100);

/// Why a call was not made.
#[derive(Debug)]
pub(super) enum NotCalled {
    /// There is no stream to the node.
    Unreachable(OpenError),
    /// It did not take the call.
    Failed(Failure),
}

/// Makes a call, and returns once it was admitted or rejected. Opening a stream and the first frame take no longer than `within`
/// together. A stream that was kept may have been given up by the other side just now: then the call is made once more, on
/// a new one.
pub(super) async fn call(
    control: &Control,
    node: PeerId,
    addresses: impl Fn() -> Vec<Multiaddr> + Copy,
    call: &Call,
    within: Duration,
) -> Result<FrameStream, NotCalled> {
    let started = Instant::now();
    let left = || within.saturating_sub(started.elapsed());
    let make = async |stream: Stream| {
        let limits = Limits { accept: left().max(MIN_ACCEPT), ..Limits::default() };
        let call = Call { deadline: call.deadline.saturating_sub(started.elapsed()), ..call.clone() };
        // Boxed because it is large, and every caller would carry it.
        Box::pin(call::call(stream, node, &call, limits, Stream::keep)).await
    };
    let stream = control.open(node, addresses, Prefer::Direct, within).await.map_err(NotCalled::Unreachable)?;
    let is_kept = stream.is_kept();
    let called = match make(stream).await {
        Err(Unanswered { unheard: true, .. }) if is_kept && !left().is_zero() => {
            let stream = control.open_new(node, addresses, Prefer::Direct, left()).await;
            make(stream.map_err(NotCalled::Unreachable)?).await
        }
        called => called,
    };
    called.map_err(|unanswered| NotCalled::Failed(unanswered.failure))
}
