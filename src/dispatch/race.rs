//! Who begins to answer first: the candidates one after the other, and a second one beside the first when that takes long.
//!
//! A candidate that fails before its first content makes room for the next. One that takes long is not cut off, since a
//! long prompt may be what it is reading: another is asked beside it, and whoever begins first answers. "Long" is far
//! longer than expected (always), or longer than 95 of 100 take there (with hedging). All that is tried more than once
//! comes out of the retry budget.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::attempt::{self, Begun, Blame};
use super::failures;
use super::record::Record;
use super::ways::{Task, call, limits, ms, who};
use crate::capability::{ErrorClass, Failure, Intent, PeerId, Progress};
use crate::router::{Decision, Role};
use crate::telemetry::EventBus;

/// Sooner than this nobody is asked beside another, whatever was measured: a hiccup is no reason.
const SHORTEST_HEDGE: Duration = Duration::from_millis(50);

/// The attempts that have taken far longer than was expected.
#[derive(Debug, Default)]
pub(super) struct Late {
    rings: Notify,
    /// A bit for each place.
    places: AtomicU32,
}

impl Late {
    pub(super) fn tell(&self, place: usize) {
        self.places.fetch_or(bit(place), Ordering::Relaxed);
        self.rings.notify_one();
    }

    pub(super) fn is(&self, place: usize) -> bool {
        self.places.load(Ordering::Relaxed) & bit(place) != 0
    }

    /// Waits until one is.
    pub(super) async fn rung(&self) {
        self.rings.notified().await;
    }
}

fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1u32.checked_shl(place)).unwrap_or(0)
}

/// Who has begun to answer.
pub(super) struct Won {
    pub(super) place: usize,
    /// What has come.
    pub(super) begun: Begun,
    /// Places that failed before.
    pub(super) failed: Vec<usize>,
}

/// Asks candidates until one has begun to answer.
///
/// # Errors
///
/// When nobody did; what to tell the caller.
pub(super) async fn run(task: Task<'_>, events: &EventBus, record: &mut Record) -> Result<Won, Failure> {
    let Task { ways, settings, intent, decision, deadline } = task;
    let candidates = &decision.candidates;
    let late = Late::default();
    let mut running = FuturesUnordered::new();
    // Places that are being asked, and all that were.
    let (mut places, mut asked): (Vec<usize>, Vec<usize>) = Default::default();
    let mut unreachable: Vec<PeerId> = Vec::new();
    let mut failed: Vec<(usize, Failure)> = Vec::new();
    let hedging = intent.handling.hedge.unwrap_or(settings.hedge);
    let mut hedge_at: Option<Instant> = None;
    let named = |failed: Vec<(usize, Failure)>| -> Vec<(String, Failure)> {
        failed.into_iter().map(|(place, failure)| (who(&candidates[place]), failure)).collect()
    };
    // Why another is asked now; `None` waits for what comes.
    let mut ask = Some(Role::First);
    loop {
        while let Some(role) = ask.take() {
            let is_free = |at: &usize| !asked.contains(at) && !unreachable.contains(&candidates[*at].node);
            // Beside another only on another node: what is slow there is slow twice.
            let is_beside = |at: usize| places.iter().any(|place| candidates[*place].node == candidates[at].node);
            let mut free = (0..candidates.len()).filter(is_free);
            let Some(place) = free.find(|at| role != Role::Hedge || !is_beside(*at)) else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero()
                || record.attempts() >= settings.attempts.max(1)
                || (record.attempts() > 0 && !ways.budget.take())
            {
                break;
            }
            let another = (0..candidates.len()).filter(is_free).any(|at| at != place);
            asked.push(place);
            let candidate = &candidates[place];
            record.attempt(place, role);
            let limits = limits(settings, intent, &candidate.parts, deadline, another);
            let opened = ways.open(candidate.node, call(intent, candidate, left));
            let late = &late;
            running.push(Box::pin(async move {
                let heard = |progress| told(events, intent, decision, place, progress);
                (place, attempt::begin(opened, limits, &|| late.tell(place), &heard).await)
            }));
            places.push(place);
            if hedging && role != Role::Hedge {
                hedge_at = Some(Instant::now() + ms(candidate.parts.first_p95_ms).max(SHORTEST_HEDGE));
            }
        }
        if running.is_empty() {
            return Err(if Instant::now() >= deadline {
                timeout(intent.deadline, &named(failed))
            } else {
                failures::most_useful(named(failed))
            });
        }
        let one = running.len() == 1;
        tokio::select! {
            biased;
            Some((place, outcome)) = running.next() => {
                places.retain(|running| *running != place);
                match outcome {
                    Ok(begun) => {
                        for slower in places {
                            record.overtaken(slower, place, late.is(slower));
                        }
                        let failed = failed.into_iter().map(|(place, _)| place).collect();
                        return Ok(Won { place, begun, failed });
                    }
                    Err(problem) => {
                        record.load(place, problem.load);
                        record.attempt_failed(place, &problem.failure, problem.blame);
                        match problem.blame {
                            Blame::Caller => return Err(problem.failure),
                            Blame::Node => unreachable.push(candidates[place].node),
                            Blame::Deadline | Blame::Busy(_) | Blame::Either | Blame::Capability => {}
                        }
                        failed.push((place, problem.failure));
                        ask = running.is_empty().then_some(Role::Retry);
                    }
                }
            }
            () = late.rung(), if one => ask = Some(Role::Hedge),
            () = sleep_until(hedge_at.unwrap_or(deadline)), if one && hedge_at.is_some() => {
                hedge_at = None;
                ask = Some(Role::Hedge);
            }
        }
    }
}

/// A candidate says where the call is.
fn told(events: &EventBus, intent: &Intent, decision: &Decision, place: usize, progress: Progress) {
    if let Some(whereabouts) = &intent.whereabouts {
        whereabouts.tell(progress);
    }
    events.emit("call.progress", || {
        let candidate = decision.candidates.get(place);
        serde_json::json!({
            "decision": decision.id,
            "request": intent.request_id,
            "node": candidate.map(|candidate| candidate.node.to_base58()),
            "node_name": candidate.map(|candidate| &*candidate.node_name),
            "model": candidate.map(|candidate| candidate.capability.name.as_str()),
            "phase": progress.phase,
            "queue_position": progress.queue_position,
        })
    });
}

fn timeout(deadline: Duration, failed: &[(String, Failure)]) -> Failure {
    let each: Vec<_> = failed.iter().map(|(who, failure)| format!("{who}: {}", failure.message)).collect();
    let message = format!("no answer within {:.1} s: {}", deadline.as_secs_f64(), each.join("; "));
    Failure::new(ErrorClass::Timeout, message)
}
