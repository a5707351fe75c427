//! One attempt: from opening a call to its first piece of content, or to the reason why there was none.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use memchr::memmem::Finder;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::failures;
use crate::capability::{Chunk, ErrorClass, Failure, Frame, FrameStream, Load, Phase, Progress, Usage};
use crate::provider::UNANSWERED_CODE;

/// How long what may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of the whole request.
    pub(super) deadline: Instant,
    /// Until the callee has said whether it takes the call.
    pub(super) open: Duration,
    /// Between two frames.
    pub(super) silence: Duration,
    /// Without content, queueing and loading aside, until somebody else is asked too. `None`: nobody is.
    pub(super) patience: Option<Duration>,
    /// Whether a stream was asked for.
    pub(super) stream: bool,
}

/// Content has begun, or the answer was empty.
pub(super) struct Begun {
    /// What came so far.
    pub(super) data: Vec<Bytes>,
    pub(super) content_type: Option<String>,
    pub(super) course: Course,
    /// The rest; `None` when the answer is complete already.
    pub(super) rest: Option<FrameStream>,
}

/// No content came.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) blame: Blame,
    pub(super) load: Option<Load>,
}

/// Whom a failure says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nobody: the caller's own mistake.
    Caller,
    /// Nobody: the caller's time ran out.
    Deadline,
    /// Nobody: it is busy, and back after this time.
    Busy(Duration),
    /// The capability or the request: its backend is there and answers this one with an error.
    Either,
    /// The capability or its backend.
    Capability,
    /// The node or the way to it.
    Node,
}

/// Rest of an overloaded capability that does not say how long.
const BUSY: Duration = Duration::from_secs(1);

/// As far as another machine's clock may be ahead at the end of a long call.
const OTHER_CLOCK: Duration = Duration::from_millis(50);

/// What an event with content looks like; made once, for that takes longer than to use it.
static EVENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"data: {"));

/// When what happened in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// Since when it is neither queued nor loading.
    working_since: Instant,
    loading_since: Option<Instant>,
    pub(super) loading: Option<Duration>,
    pub(super) first_chunk: Option<Instant>,
    pub(super) load: Option<Load>,
    /// The load when it was accepted.
    accepted: Option<Load>,
    pub(super) usage: Option<Usage>,
    phase: Phase,
    queue_position: u32,
    /// Whether the callee has said where it is.
    told: bool,
    /// Events that came: what is known of the number of tokens when the backend does not tell.
    pub(super) events: u64,
}

impl Course {
    fn new(now: Instant) -> Self {
        Self {
            working_since: now,
            loading_since: None,
            loading: None,
            first_chunk: None,
            load: None,
            accepted: None,
            usage: None,
            phase: Phase::Prefill,
            queue_position: 0,
            told: false,
            events: 0,
        }
    }

    /// Whether it says anything new.
    fn progress(&mut self, progress: Progress, now: Instant) -> bool {
        let new = !self.told || (self.phase, self.queue_position) != (progress.phase, progress.queue_position);
        self.told = true;
        self.phase = progress.phase;
        self.queue_position = progress.queue_position;
        match progress.phase {
            Phase::Queued => self.working_since = now,
            Phase::Loading => {
                self.working_since = now;
                let since = *self.loading_since.get_or_insert(now);
                self.loading = Some(now.saturating_duration_since(since));
            }
            Phase::Prefill | Phase::Decode => {}
        }
        new
    }

    /// A piece of content came.
    pub(super) fn chunk(&mut self, data: &[u8]) {
        self.first_chunk.get_or_insert_with(Instant::now);
        self.events += EVENT.find_iter(data).count() as u64;
    }

    /// The answer is complete.
    pub(super) fn end(&mut self, usage: Option<Usage>, load: Option<Load>) {
        self.usage = usage;
        self.load = load.or(self.load);
    }

    /// Calls that ran beside it, on average of its begin and its end, as far as the callee told.
    pub(super) fn company(&self) -> f64 {
        // It was one of those that ran when it was accepted, and is none of them at its end.
        let first = self.accepted.map(|load| load.running.saturating_sub(1));
        let last = self.load.map(|load| load.running);
        match (first, last) {
            (Some(first), Some(last)) => (f64::from(first) + f64::from(last)) / 2.0,
            (Some(one), None) | (None, Some(one)) => f64::from(one),
            (None, None) => 0.0,
        }
    }

    /// From the start of the work to the first chunk.
    pub(super) fn until_first_chunk(&self) -> Option<Duration> {
        self.first_chunk.map(|first| first.saturating_duration_since(self.working_since))
    }

    /// What it was at, for people.
    fn doing(&self) -> String {
        match self.phase {
            Phase::Queued => format!("it waited in place {} of the queue", self.queue_position),
            Phase::Loading => "the model was being loaded".to_owned(),
            Phase::Prefill | Phase::Decode => "no answer had begun".to_owned(),
        }
    }
}

/// Opens a call and waits for its first content. `late` is called once when that takes longer than the limits have patience
/// for, and `told` whenever the callee says something new of where the call is.
pub(super) async fn begin(
    open: impl Future<Output = Result<FrameStream, Failure>>,
    limits: Limits,
    late: &(dyn Fn() + Sync),
    told: &(dyn Fn(Progress) + Sync),
) -> Result<Begun, Box<Failed>> {
    let start = Instant::now();
    let mut course = Course::new(start);
    let opened = (start + limits.open).min(limits.deadline);
    let no_answer = |course: &Course| {
        if Instant::now() >= limits.deadline {
            return timed_out(course, start, &limits);
        }
        let message = format!("it did not answer within {:.1} s", limits.open.as_secs_f64());
        failed(Failure::new(ErrorClass::Unavailable, message), Blame::Node, None)
    };
    let mut alarm = Alarm::default();
    let mut source = match alarm.until(opened, open).await {
        Ok(Ok(source)) => source,
        Ok(Err(failure)) => {
            let blame = match blame(&failure, limits.deadline) {
                Blame::Capability | Blame::Either => Blame::Node,
                other => other,
            };
            return Err(failed(failure, blame, None));
        }
        Err(_) => return Err(no_answer(&course)),
    };
    match alarm.until(opened, source.next()).await {
        Ok(Some(Frame::Accepted(load))) => (course.load, course.accepted) = (Some(load), Some(load)),
        Ok(Some(Frame::Rejected(rejection))) => {
            let load = rejection.load;
            let failure = failures::of_rejection(rejection);
            return Err(failed_with(failure, load, &limits));
        }
        Ok(Some(Frame::Error(failure))) => return Err(failed_with(failure, None, &limits)),
        Ok(Some(_)) => {
            let failure =
                Failure::new(ErrorClass::Internal, "it broke the call protocol: neither accepted nor rejected");
            return Err(failed(failure, Blame::Node, None));
        }
        Ok(None) => {
            let failure = Failure::new(ErrorClass::Interrupted, "the connection closed before it took the call");
            return Err(failed(failure, Blame::Node, None));
        }
        Err(_) => return Err(no_answer(&course)),
    }
    course.working_since = Instant::now();
    first_content(source, course, start, limits, alarm, late, told).await
}

async fn first_content(
    mut source: FrameStream,
    mut course: Course,
    start: Instant,
    limits: Limits,
    mut alarm: Alarm,
    late: &(dyn Fn() + Sync),
    told: &(dyn Fn(Progress) + Sync),
) -> Result<Begun, Box<Failed>> {
    let mut data = Vec::new();
    let mut content_type = None;
    let mut patient = limits.patience;
    loop {
        let patience = patient.map_or(limits.deadline, |patience| course.working_since + patience);
        let silent = Instant::now() + limits.silence;
        let next = alarm.until(silent.min(patience).min(limits.deadline), source.next()).await;
        let now = Instant::now();
        match next {
            Ok(Some(Frame::Progress(progress))) => {
                if course.progress(progress, now) {
                    told(progress);
                }
            }
            Ok(Some(Frame::Chunk(Chunk { data: piece, content_type: media }))) => {
                content_type = content_type.or(media);
                if limits.stream && failures::is_comment(&piece) {
                    data.push(piece);
                } else if limits.stream && failures::is_error_event(&piece) {
                    let mut failure = Failure::new(ErrorClass::Backend, "its stream began with an error");
                    failure.body = error_body(&piece);
                    return Err(failed_with(failure, course.load, &limits));
                } else {
                    course.chunk(&piece);
                    data.push(piece);
                    return Ok(Begun { data, content_type, course, rest: Some(source) });
                }
            }
            Ok(Some(Frame::End { usage, load })) => {
                course.end(usage, load);
                return Ok(Begun { data, content_type, course, rest: None });
            }
            Ok(Some(Frame::Error(failure))) => return Err(failed_with(failure, course.load, &limits)),
            Ok(Some(Frame::Rejected(rejection))) => {
                return Err(failed_with(failures::of_rejection(rejection), course.load, &limits));
            }
            Ok(Some(Frame::Accepted(load))) => course.load = Some(load),
            Ok(None) => {
                let failure = Failure::new(ErrorClass::Interrupted, "it stopped before it answered");
                return Err(failed(failure, Blame::Node, course.load));
            }
            Err(_) if now >= limits.deadline => return Err(timed_out(&course, start, &limits)),
            Err(_) if now >= patience && patient.is_some() => {
                // It is not cut off: it may be reading a long prompt.
                patient = None;
                late();
            }
            Err(_) => {
                let message = format!("it fell silent for {:.1} s", limits.silence.as_secs_f64());
                return Err(failed(Failure::new(ErrorClass::Unavailable, message), Blame::Node, course.load));
            }
        }
    }
}

/// The error object of an error event, as a body to pass on.
fn error_body(event: &Bytes) -> Option<(Bytes, String)> {
    let start = memchr::memchr(b'{', event)?;
    let end = memchr::memchr(b'\n', &event[start..]).map_or(event.len(), |length| start + length);
    Some((event.slice(start..end), "application/json".to_owned()))
}

fn timed_out(course: &Course, start: Instant, limits: &Limits) -> Box<Failed> {
    let waited = start.elapsed();
    let doing = course.doing();
    let failure = Failure::new(
        ErrorClass::Timeout,
        format!("the time ran out after {:.1} s while {doing}", waited.as_secs_f64()),
    );
    // Whoever was given all the patience there is and did not begin has failed; a hasty caller proves nothing.
    let blame = match limits.patience {
        Some(patience) if waited >= patience && course.phase != Phase::Queued => Blame::Capability,
        _ => Blame::Deadline,
    };
    failed(failure, blame, course.load)
}

fn failed(failure: Failure, blame: Blame, load: Option<Load>) -> Box<Failed> {
    Box::new(Failed { failure, blame, load })
}

fn failed_with(failure: Failure, load: Option<Load>, limits: &Limits) -> Box<Failed> {
    let blame = blame(&failure, limits.deadline);
    failed(failure, blame, load)
}

/// Whom a failure that the callee reported says something about.
pub(super) fn blame(failure: &Failure, deadline: Instant) -> Blame {
    match failure.class {
        ErrorClass::Request => Blame::Caller,
        ErrorClass::Overloaded => Blame::Busy(failure.retry_after.unwrap_or(BUSY)),
        // The callee keeps the deadline too, and may be the first to say that it is over: a hasty caller proves nothing.
        ErrorClass::Timeout if Instant::now() + OTHER_CLOCK >= deadline => Blame::Deadline,
        // What broke off, or an error that the backend put into its stream in so many words.
        ErrorClass::Interrupted if failure.body.is_some() && is_callers(failure.status) => Blame::Caller,
        ErrorClass::Interrupted if failure.body.is_some() => Blame::Either,
        ErrorClass::Backend | ErrorClass::Internal => Blame::Either,
        // Something listens there, and gives up on this request.
        ErrorClass::Unavailable if failure.code.as_deref() == Some(UNANSWERED_CODE) => Blame::Either,
        ErrorClass::Unavailable | ErrorClass::Timeout | ErrorClass::Interrupted => Blame::Capability,
    }
}

/// Whether a status means that the request is wrong, and not that it came at the wrong time.
fn is_callers(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 409 | 425 | 429)
}
