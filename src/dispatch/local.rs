//! Runs calls on this node's own providers, for this node's API and for other nodes alike.
//!
//! Whatever a provider does, the frames that leave here keep to the contract: `Accepted` or `Rejected` first,
//! a frame at least every half second, exactly one `End` or `Error` last, and none of it after the deadline.
//! Dropping the stream drops the provider's, which stops the work.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_stream::stream;
use foldhash::HashMap;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::alarm::Alarm;
use super::gate::{Entry, Gate};
use super::pulse::Pulse;
use crate::capability::{
    Call, CapabilityId, ErrorClass, Failure, Frame, FrameStream, Load, PeerId, Phase, Progress, Rejection,
};
use crate::provider::{Provider, Registry, Resolved};

/// Longest silence. The contract says half a second; a little less leaves room for a busy scheduler.
const HEARTBEAT: Duration = Duration::from_millis(400);
/// Longest deadline that is kept to: what is longer is a mistake, or an attempt to overflow the clock.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Providers whose gate is kept while nobody uses it.
const IDLE_GATES: usize = 64;

/// Finds the provider of a capability.
pub trait Providers: Send + Sync + 'static {
    /// Who serves it now, and what it is; `None` when nobody does.
    fn resolve(&self, capability: &CapabilityId) -> Option<Resolved>;
}

impl Providers for Registry {
    fn resolve(&self, capability: &CapabilityId) -> Option<Resolved> {
        Registry::resolve(self, capability)
    }
}

/// Limits of what runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalSettings {
    /// Calls that wait for one provider.
    pub queue: usize,
    /// Calls that run at once at a provider that does not say.
    pub concurrency: u32,
}

impl Default for LocalSettings {
    fn default() -> Self {
        // A queue of 64 is minutes on a home machine: whoever comes after it is better off elsewhere. A provider that
        // sets no limit batches by itself or is a cloud; 256 is where sockets and memory begin to count.
        Self { queue: 64, concurrency: 256 }
    }
}

/// Runs calls on this node's own providers.
pub struct Local {
    providers: Arc<dyn Providers>,
    settings: LocalSettings,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    closed: AtomicBool,
    pulse: Arc<Pulse>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Local {
    /// Runs calls on these providers.
    #[must_use]
    pub fn new(providers: Arc<dyn Providers>, settings: LocalSettings) -> Self {
        Self { providers, settings, gates: Mutex::default(), closed: AtomicBool::new(false), pulse: Arc::default() }
    }

    /// Runs a call: of this node's own when `from` is `None`, or of another node.
    ///
    /// The deadline counts from now. Nothing runs unless the stream is polled; dropping it cancels the call.
    #[must_use]
    pub fn run(&self, call: Call, from: Option<PeerId>) -> FrameStream {
        let received = Instant::now();
        self.pulse.beat();
        match self.admit(&call, from) {
            Ok(admitted) => Box::pin(frames(call, received, admitted)),
            Err(rejection) => Box::pin(futures::stream::iter([Frame::Rejected(rejection)])),
        }
    }

    /// Whether other nodes hear of that capability; `true` of one that this node does not have.
    #[must_use]
    pub fn shares(&self, capability: &CapabilityId) -> bool {
        self.providers.resolve(capability).is_none_or(|found| found.provider.shared())
    }

    /// Turns new calls away from now on: the node is leaving. Those under way go on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Calls under way or waiting, at all providers together.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.gates.lock().values().map(|gate| gate.load()).fold(0, |sum, load| sum + load.running + load.queued)
    }

    /// How busy the provider of that capability is.
    #[must_use]
    pub fn load(&self, capability: &CapabilityId) -> Load {
        let provider = self.providers.resolve(capability).map(|found| found.provider);
        let gates = self.gates.lock();
        provider.and_then(|provider| gates.get(provider.id()).map(|gate| gate.load())).unwrap_or_default()
    }

    /// Load class for the advert, 0 (idle) to 4 (full): the busiest provider's.
    #[must_use]
    pub fn load_class(&self) -> u8 {
        let class = |load: Load| {
            let used = u64::from(load.running) + u64::from(load.queued);
            u8::try_from((used * 4).div_ceil(u64::from(load.limit.max(1))).min(4)).unwrap_or(4)
        };
        self.gates.lock().values().map(|gate| class(gate.load())).max().unwrap_or(0)
    }

    fn admit(&self, call: &Call, from: Option<PeerId>) -> Result<Admitted, Rejection> {
        let refuse = |reason: String| Rejection { reason, retry_after: None, load: None };
        if self.closed.load(Ordering::Relaxed) {
            return Err(refuse("this node is leaving the mesh".to_owned()));
        }
        let Some(Resolved { provider, capability }) = self.providers.resolve(&call.capability) else {
            return Err(refuse(format!("this node no longer has the capability {}", call.capability)));
        };
        if from.is_some() && !provider.shared() {
            return Err(refuse(format!("the owner of this node keeps {} to themselves", call.capability)));
        }
        if !capability.operations.contains(call.operation) {
            return Err(refuse(format!("{} does not serve {}", call.capability, call.operation)));
        }
        let gate = self.gate(provider.id());
        let limit = provider.concurrency().unwrap_or(self.settings.concurrency);
        match gate.enter(limit, self.settings.queue) {
            Entry::Full(retry_after) => {
                let load = gate.load();
                Err(Rejection {
                    reason: format!("{} calls run and {} wait for {}", load.running, load.queued, provider.id()),
                    retry_after: Some(retry_after),
                    load: Some(load),
                })
            }
            entry => Ok(Admitted { provider, gate, entry }),
        }
    }

    fn gate(&self, provider: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(provider) {
            return Arc::clone(gate);
        }
        if gates.len() >= IDLE_GATES {
            // One that is held elsewhere has calls; the rest belongs to providers that have gone.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        Arc::clone(gates.entry(provider.to_owned()).or_insert_with(Gate::new))
    }
}

/// A call that runs or waits.
struct Admitted {
    provider: Arc<dyn Provider>,
    gate: Arc<Gate>,
    entry: Entry,
}

/// The frames of an admitted or waiting call.
fn frames(call: Call, received: Instant, admitted: Admitted) -> impl futures::Stream<Item = Frame> + Send {
    let time = call.deadline.min(LONGEST);
    let deadline = received + time;
    let Admitted { provider, gate, entry } = admitted;
    stream! {
        yield Frame::Accepted(gate.load());
        let permit = match entry {
            Entry::Now(permit) => permit,
            Entry::Full(_) => return,
            Entry::Wait(mut place) => {
                yield progress(Phase::Queued, place.position());
                loop {
                    let wake = deadline.min(Instant::now() + HEARTBEAT);
                    match timeout_at(wake, &mut place.admitted).await {
                        Ok(Ok(permit)) => break permit,
                        // The gate never drops a waiter that has not left, but a call must end whatever happens.
                        Ok(Err(_)) => {
                            yield Frame::Error(Failure::new(ErrorClass::Internal, "the queue was closed"));
                            return;
                        }
                        Err(_) if Instant::now() >= deadline => {
                            let place = place.position();
                            yield Frame::Error(timeout(time, &format!("the call waited in place {place} of the queue")));
                            return;
                        }
                        Err(_) => yield progress(Phase::Queued, place.position()),
                    }
                }
            }
        };
        let id = call.id.clone();
        let mut remaining = call;
        remaining.deadline = deadline.saturating_duration_since(Instant::now());
        let started = std::panic::catch_unwind(AssertUnwindSafe(|| provider.call(remaining)));
        let Ok(mut source) = started else {
            tracing::error!(provider = provider.id(), call = %id, "the provider panicked");
            yield Frame::Error(panicked(&provider));
            return;
        };
        let mut phase = Phase::Prefill;
        let mut sent = false;
        let mut silent_since = Instant::now();
        let mut alarm = Alarm::default();
        loop {
            let wake = deadline.min(silent_since + HEARTBEAT);
            // Biased towards the provider, so that an answer that is there is never called late.
            let next = alarm.until(wake, AssertUnwindSafe(source.next()).catch_unwind()).await;
            let now = Instant::now();
            let frame = match next {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => {
                    let what = if sent { "in the middle of its answer" } else { "before it answered" };
                    let message = format!("{} stopped {what}", provider.id());
                    yield Frame::Error(Failure::new(ErrorClass::Interrupted, message));
                    return;
                }
                Ok(Err(_)) => {
                    tracing::error!(provider = provider.id(), call = %id, "the provider panicked");
                    yield Frame::Error(panicked(&provider));
                    return;
                }
                Err(_) => progress(phase, 0),
            };
            // Whatever came: a provider that always has one more frame ready is held to it too.
            if now >= deadline && !matches!(frame, Frame::End { .. } | Frame::Error(_)) {
                let doing = match phase {
                    Phase::Loading => "the model was being loaded",
                    Phase::Decode => "the answer was being written",
                    Phase::Queued | Phase::Prefill => "no answer had begun",
                };
                yield Frame::Error(timeout(time, doing));
                return;
            }
            match frame {
                // The node's own frames, not a provider's.
                Frame::Accepted(_) => continue,
                Frame::Rejected(rejection) => {
                    let mut failure = Failure::new(ErrorClass::Overloaded, rejection.reason);
                    failure.retry_after = rejection.retry_after;
                    yield Frame::Error(failure);
                    return;
                }
                Frame::Progress(progress) => {
                    phase = progress.phase;
                    yield Frame::Progress(progress);
                }
                Frame::Chunk(chunk) => {
                    (sent, phase) = (true, Phase::Decode);
                    yield Frame::Chunk(chunk);
                }
                Frame::End { usage, .. } => {
                    // The place is free before the caller hears of the end, and its next call finds it so.
                    drop(source);
                    permit.served();
                    yield Frame::End { usage, load: Some(gate.load()) };
                    return;
                }
                Frame::Error(failure) => {
                    yield Frame::Error(failure);
                    return;
                }
            }
            silent_since = now;
        }
    }
}

fn progress(phase: Phase, queue_position: u32) -> Frame {
    Frame::Progress(Progress { phase, queue_position })
}

fn timeout(time: Duration, doing: &str) -> Failure {
    let seconds = time.as_secs_f64();
    Failure::new(ErrorClass::Timeout, format!("the time of {seconds:.1} s ran out while {doing}"))
}

fn panicked(provider: &Arc<dyn Provider>) -> Failure {
    Failure::new(ErrorClass::Internal, format!("a fault in the adapter of {}; the node's log has more", provider.id()))
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
