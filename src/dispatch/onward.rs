//! Who goes on with an answer that was lost in the middle: those who can, one after the other, until one has said more than
//! the caller has.
//!
//! As before an answer [begins](super::race), one that takes long is not cut off, since it may be reading a long prompt:
//! another is asked beside it, and whoever has something first goes on.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::attempt::{self, Begun, Blame};
use super::race::Late;
use super::record::Record;
use super::resume::{Resume, Way};
use super::splice::Splice;
use super::ways::{Task, call, limits, ms, who};
use crate::capability::{ErrorClass, Failure, Frame, FrameStream};
use crate::router::Candidate;

/// Who may go on with an answer, and in which way.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Among the decision's candidates.
    pub(super) place: usize,
    pub(super) way: Way,
    /// It has failed lately, and may be back.
    pub(super) is_last_resort: bool,
}

/// Somebody goes on with it.
pub(super) struct Resumed {
    pub(super) place: usize,
    pub(super) way: Way,
    pub(super) data: Bytes,
    pub(super) rest: Option<FrameStream>,
    pub(super) course: attempt::Course,
    pub(super) splice: Splice,
}

/// Asks those of the plans to go on, in their order, until one does.
///
/// # Errors
///
/// When nobody did; what each said.
pub(super) async fn go_on(
    task: Task<'_>,
    resume: &Resume,
    mut plans: Vec<Plan>,
    record: &mut Record,
) -> Result<Resumed, String> {
    let Task { ways, settings, intent, decision, deadline } = task;
    let late = Late::default();
    let mut running = FuturesUnordered::new();
    // Places that are being asked, and those that will not be asked again.
    let (mut places, mut gone): (Vec<usize>, Vec<usize>) = Default::default();
    let mut tried: Vec<String> = Vec::new();
    let (mut started, most) = (0, settings.attempts.max(1));
    let mut ask = true;
    loop {
        if std::mem::take(&mut ask)
            && let Some(next) =
                plans.iter().position(|plan| !gone.contains(&plan.place) && !places.contains(&plan.place))
        {
            let plan = plans.remove(next);
            let left = deadline.saturating_duration_since(Instant::now());
            match decision.candidates.get(plan.place) {
                Some(candidate) if started < most && !left.is_zero() => {
                    if ways.budget.take() {
                        started += 1;
                        record.attempt(plan.place, plan.way.into());
                        let another =
                            plans.iter().any(|other| other.place != plan.place && !gone.contains(&other.place));
                        let limits = limits(settings, intent, &candidate.parts, deadline, another);
                        let mut call = call(intent, candidate, left);
                        call.payload = resume.payload(plan.way, &intent.payload);
                        let opened = ways.open(candidate.node, call);
                        let late = &late;
                        running.push(Box::pin(async move {
                            (plan, attempt::begin(opened, limits, &|| late.tell(plan.place), &|_| ()).await)
                        }));
                        places.push(plan.place);
                    } else {
                        tried.push("too much is being tried again already".to_owned());
                    }
                }
                _ => {}
            }
        }
        if running.is_empty() {
            return Err(tried.join("; "));
        }
        let one = running.len() == 1;
        let (plan, begun) = tokio::select! {
            biased;
            Some(ended) = running.next() => ended,
            () = late.rung(), if one => {
                ask = true;
                continue;
            }
        };
        let Plan { place, way, .. } = plan;
        places.retain(|running| *running != place);
        let Some(candidate) = decision.candidates.get(place) else { continue };
        let (failure, blame) = match begun {
            Ok(begun) => {
                record.load(place, begun.course.load);
                let splice = Splice::new(way, resume.sent.clone());
                let silence = settings.silence + ms(candidate.parts.rtt_ms * 4.0);
                match catch_up(begun, splice, silence, deadline, candidate).await {
                    Ok(Caught { data, rest, course, splice }) => {
                        for slower in places {
                            record.overtaken(slower, place, late.is(slower));
                        }
                        return Ok(Resumed { place, way, data, rest, course, splice });
                    }
                    Err(lost) => lost,
                }
            }
            Err(problem) => {
                record.load(place, problem.load);
                (problem.failure, problem.blame)
            }
        };
        // The request was good enough for whoever began: that it cannot be continued here is nobody's fault.
        let blame = if blame == Blame::Caller { Blame::Deadline } else { blame };
        if blame != Blame::Deadline {
            gone.push(place);
        }
        record.attempt_failed(place, &failure, blame);
        tried.push(format!("{}: {}", who(candidate), failure.message));
        ask = running.is_empty();
    }
}

/// A continuation that has something to say.
struct Caught {
    data: Bytes,
    rest: Option<FrameStream>,
    course: attempt::Course,
    splice: Splice,
}

/// Reads until the caller's text has been said again and there is more.
async fn catch_up(
    begun: Begun,
    mut splice: Splice,
    silence: Duration,
    deadline: Instant,
    candidate: &Candidate,
) -> Result<Caught, (Failure, Blame)> {
    let Begun { data: first, mut course, mut rest, .. } = begun;
    let lost = |class, what: String, blame| (Failure::new(class, what), blame);
    let differs =
        |diverged: super::splice::Diverged| lost(ErrorClass::Interrupted, diverged.to_string(), Blame::Deadline);
    let mut data = Vec::new();
    for piece in first {
        data.push(splice.take(&piece).map_err(differs)?);
    }
    while !(splice.caught_up() && data.iter().any(|piece: &Bytes| !piece.is_empty())) {
        let Some(frames) = &mut rest else { break };
        match timeout_at(deadline.min(Instant::now() + silence), frames.next()).await {
            Ok(Some(Frame::Chunk(chunk))) => {
                course.chunk(&chunk.data);
                data.push(splice.take(&chunk.data).map_err(differs)?);
            }
            Ok(Some(Frame::Progress(_) | Frame::Accepted(_))) => {}
            Ok(Some(Frame::End { usage, load })) => {
                course.end(usage, load);
                rest = None;
            }
            Ok(Some(Frame::Error(failure))) => {
                let blame = attempt::blame(&failure, deadline);
                return Err((failure, blame));
            }
            Ok(Some(Frame::Rejected(_)) | None) => {
                return Err(lost(
                    ErrorClass::Interrupted,
                    format!("{} was lost as well", candidate.node_name),
                    Blame::Node,
                ));
            }
            Err(_) if Instant::now() >= deadline => {
                return Err(lost(ErrorClass::Timeout, "the time ran out".to_owned(), Blame::Deadline));
            }
            Err(_) => {
                return Err(lost(
                    ErrorClass::Unavailable,
                    format!("{} fell silent as well", candidate.node_name),
                    Blame::Node,
                ));
            }
        }
    }
    if !splice.caught_up() {
        return Err(lost(
            ErrorClass::Interrupted,
            "its answer ended before what was sent did".to_owned(),
            Blame::Deadline,
        ));
    }
    Ok(Caught { data: Bytes::from(data.concat()), rest, course, splice })
}
