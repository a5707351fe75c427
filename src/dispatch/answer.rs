//! The pieces of an answer that has begun, from whoever serves it.
//!
//! While it runs the pieces go on as they come. When the one who serves it is lost, another goes on with it where that is
//! honest (`resume` decides, `splice` joins), which the caller sees as a comment in the stream; where it is not, the
//! answer ends with a failure and never looks complete.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::alarm::Alarm;
use super::attempt::{self, Begun, Blame, Course};
use super::record::Record;
use super::resume::{Resume, Way};
use super::splice::Splice;
use super::transcript::Transcript;
use super::ways::{Settings, Ways, call, limits, ms, who};
use crate::capability::{ErrorClass, Failure, Frame, FrameStream, Intent, Load, PeerId, Usage};
use crate::router::{Candidate, Decision, Rejected, Step};

/// All that a running answer needs, whoever serves it.
pub(super) struct Job {
    pub(super) ways: Arc<Ways>,
    pub(super) settings: Settings,
    pub(super) intent: Intent,
    pub(super) decision: Arc<Decision>,
    pub(super) record: Record,
    pub(super) deadline: Instant,
    /// Who serves it: a place among the decision's candidates.
    pub(super) place: usize,
    pub(super) transcript: Transcript,
    /// Places that have failed this answer.
    pub(super) failed: Vec<usize>,
}

/// What came next.
enum Next {
    Piece(Bytes),
    Alive,
    End(Option<Usage>, Option<Load>),
    Failed(Failure, Blame),
}

/// Who goes on with an answer, and in which way.
struct Plan {
    place: usize,
    way: Way,
}

/// Somebody goes on with it.
struct Resumed {
    place: usize,
    way: Way,
    data: Bytes,
    rest: Option<FrameStream>,
    course: Course,
    splice: Splice,
}

/// The pieces of an answer that has begun.
pub(super) fn pieces(
    data: Vec<Bytes>,
    rest: FrameStream,
    course: Course,
    mut job: Job,
) -> impl futures::Stream<Item = Result<Bytes, Failure>> + Send {
    stream! {
        for piece in data {
            job.transcript.add(&piece);
            yield Ok(piece);
        }
        let (mut rest, mut course) = (Some(rest), course);
        let mut splice: Option<Splice> = None;
        let mut alarm = Alarm::default();
        loop {
            let (failure, blame) = loop {
                let next = match &mut rest {
                    Some(rest) => job.next(rest, &mut alarm).await,
                    None => Next::End(course.usage, course.load),
                };
                match next {
                    Next::Piece(piece) => {
                        course.chunk(&piece, Instant::now());
                        let piece = match &mut splice {
                            None => piece,
                            Some(splice) => match splice.take(&piece) {
                                Ok(piece) => piece,
                                Err(diverged) => {
                                    let message = format!("{}: {diverged}", job.who());
                                    break (Failure::new(ErrorClass::Interrupted, message), Blame::Deadline);
                                }
                            },
                        };
                        if !piece.is_empty() {
                            job.transcript.add(&piece);
                            yield Ok(piece);
                        }
                    }
                    Next::Alive => {}
                    Next::End(usage, load) => {
                        course.end(usage, load);
                        let whole = splice.as_ref().zip(usage).map(|(splice, usage)| splice.usage(usage));
                        job.record.served(job.place, &course, whole);
                        return;
                    }
                    Next::Failed(failure, blame) => break (failure, blame),
                }
            };
            // The work stops, and the account of the attempt is closed, before anybody else is asked.
            rest = None;
            job.record.attempt_failed(job.place, &failure, blame);
            let lost = Instant::now();
            job.look_again();
            let why_not = match job.plans(blame) {
                Err(why) => Some(why.to_owned()),
                Ok((resume, _)) if resume.is_complete() => {
                    yield Ok(lost_comment(&job.who(), "after all of it was said"));
                    if !resume.sent.done {
                        yield Ok(Bytes::from_static(b"data: [DONE]\n\n"));
                    }
                    job.record.complete();
                    return;
                }
                Ok((resume, plans)) => {
                    yield Ok(lost_comment(&job.who(), "in the middle of it"));
                    match job.go_on(&resume, plans).await {
                        Ok(resumed) => {
                            let characters = resume.sent.said.chars().count();
                            yield Ok(job.went_on(&resumed, characters, lost.elapsed()));
                            if !resumed.data.is_empty() {
                                job.transcript.add(&resumed.data);
                                yield Ok(resumed.data);
                            }
                            job.failed.push(job.place);
                            job.place = resumed.place;
                            (rest, course, splice) = (resumed.rest, resumed.course, Some(resumed.splice));
                            None
                        }
                        Err(why) => Some(why),
                    }
                }
            };
            if let Some(why) = why_not {
                let failure = job.told(failure, blame, &why);
                job.record.failed(&failure);
                yield Err(failure);
                return;
            }
        }
    }
}

impl Job {
    fn candidate(&self) -> Option<&Candidate> {
        self.decision.candidates.get(self.place)
    }

    fn who(&self) -> String {
        self.candidate().map(who).unwrap_or_default()
    }

    /// The next of the frames. Silence is told from death sooner when somebody else can go on.
    async fn next(&mut self, rest: &mut FrameStream, alarm: &mut Alarm) -> Next {
        let heard = Instant::now();
        let rtt = self.candidate().map_or(Duration::ZERO, |candidate| ms(candidate.parts.rtt_ms * 4.0));
        let long = heard + self.settings.silence_streaming + rtt;
        let short =
            if self.transcript.is_whole() { (heard + self.settings.silence_resumable + rtt).min(long) } else { long };
        let mut next = alarm.until(self.deadline.min(short), rest.next()).await;
        if next.is_err() && short < long && Instant::now() < self.deadline {
            self.look_again();
            if self.plans(Blame::Node).is_err() {
                next = alarm.until(self.deadline.min(long), rest.next()).await;
            }
        }
        let failed = |class, what: &str, blame| {
            let message = format!("{} {what}", self.who());
            Next::Failed(Failure::new(class, message), blame)
        };
        match next {
            Ok(Some(Frame::Chunk(chunk))) => Next::Piece(chunk.data),
            Ok(Some(Frame::Progress(_) | Frame::Accepted(_))) => Next::Alive,
            Ok(Some(Frame::End { usage, load })) => Next::End(usage, load),
            Ok(Some(Frame::Error(failure))) => {
                let blame = attempt::blame(&failure, self.deadline);
                Next::Failed(failure, blame)
            }
            Ok(Some(Frame::Rejected(_))) => {
                failed(ErrorClass::Internal, "broke the call protocol in the middle of its answer", Blame::Node)
            }
            Ok(None) => failed(ErrorClass::Interrupted, "was lost in the middle of its answer", Blame::Node),
            Err(_) if Instant::now() >= self.deadline => {
                failed(ErrorClass::Timeout, "was writing its answer when the time ran out", Blame::Deadline)
            }
            Err(_) => failed(ErrorClass::Interrupted, "fell silent in the middle of its answer", Blame::Node),
        }
    }

    /// Finds out who has the model by now: since the decision was made nodes have come, come back, or rested enough.
    fn look_again(&mut self) {
        // Who named a node wants that one only.
        let Some(served) = self.candidate().filter(|_| self.transcript.is_whole() && self.decision.step != Step::Node)
        else {
            return;
        };
        let known = |new: &Candidate| {
            let mut all = self.decision.candidates.iter();
            all.any(|old| old.node == new.node && old.capability.id == new.capability.id)
        };
        let mut more = self.ways.router.holders(&self.intent, &served.capability.name);
        more.retain(|new| !known(new));
        if more.is_empty() {
            return;
        }
        let mut decision = Decision::clone(&self.decision);
        decision.candidates_total = decision.candidates_total.max(decision.candidates.len() + more.len());
        let before = decision.rejected.len();
        let same = |old: &Rejected, new: &Candidate| old.node == new.node && old.capability.id == new.capability.id;
        decision.rejected.retain(|old| !more.iter().any(|new| same(old, new)));
        decision.rejected_total -= before - decision.rejected.len();
        decision.candidates.extend(more);
        self.decision = Arc::new(decision);
        self.record.widen(Arc::clone(&self.decision));
    }

    /// Who could go on with the answer, the best first, when whoever serves it has failed for this reason.
    fn plans(&self, blame: Blame) -> Result<(Resume, Vec<Plan>), &'static str> {
        if !self.transcript.is_whole() {
            return Err("");
        }
        if matches!(blame, Blame::Caller | Blame::Deadline) {
            return Err("");
        }
        let Some(served) = self.candidate() else { return Err("") };
        let sent = self.transcript.read()?;
        let resume = Resume::new(self.intent.operation, &self.intent.payload, sent)?;
        let (signals, now) = (self.ways.router.signals(), std::time::Instant::now());
        let (mut plans, mut resting) = (Vec::new(), Vec::new());
        let mut holders = false;
        for (place, candidate) in self.decision.candidates.iter().enumerate() {
            let same_fate = place == self.place || (blame == Blame::Node && candidate.node == served.node);
            if same_fate || self.failed.contains(&place) {
                continue;
            }
            let parts = &candidate.parts;
            let token_ms = if parts.answer_tokens > 0.0 { parts.decode_ms / parts.answer_tokens } else { 0.0 };
            let replay_s = (parts.prefill_ms + token_ms * resume.sent.pieces as f64) / 1e3;
            let ways = resume.ways(&served.capability, &candidate.capability, replay_s);
            holders |= candidate.capability.name == served.capability.name;
            // Who has failed lately may be back: it is asked when nobody else is left, as the answer is lost otherwise.
            let rests = signals.cooling(&candidate.node, &candidate.capability.id, now).is_some();
            let plans = if rests { &mut resting } else { &mut plans };
            plans.extend(ways.into_iter().map(|way| Plan { place, way }));
        }
        plans.append(&mut resting);
        match plans.is_empty() {
            true if resume.is_complete() => Ok((resume, plans)),
            true if holders => Err(resume.why_not()),
            true => Err("nobody else has the model"),
            false => Ok((resume, plans)),
        }
    }

    /// Asks one after the other to go on, until one does.
    async fn go_on(&mut self, resume: &Resume, plans: Vec<Plan>) -> Result<Resumed, String> {
        let mut tried: Vec<String> = Vec::new();
        let mut gone: Vec<usize> = Vec::new();
        let decision = Arc::clone(&self.decision);
        let most = self.settings.attempts.max(1) as usize;
        for (index, Plan { place, way }) in plans.iter().map(|plan| Plan { ..*plan }).enumerate() {
            let Some(candidate) = decision.candidates.get(place) else { continue };
            let left = self.deadline.saturating_duration_since(Instant::now());
            if tried.len() >= most || left.is_zero() || gone.contains(&place) {
                continue;
            }
            if !self.ways.budget.take() {
                tried.push("too much is being tried again already".to_owned());
                break;
            }
            self.record.attempt(place, way.into());
            let another = index + 1 < plans.len();
            let limits = limits(&self.settings, &self.intent, &candidate.parts, self.deadline, another);
            let mut call = call(&self.intent, candidate, left);
            call.payload = resume.payload(way, &self.intent.payload);
            let begun = Box::pin(attempt::begin(self.ways.open(candidate.node, call), limits, &|| (), &|_| ())).await;
            let (failure, blame) = match begun {
                Ok(begun) => {
                    self.record.load(place, begun.course.load);
                    let splice = Splice::new(way, resume.sent.clone());
                    let silence = self.settings.silence + ms(candidate.parts.rtt_ms * 4.0);
                    match catch_up(begun, splice, silence, self.deadline, candidate).await {
                        Ok(caught) => {
                            let Caught { data, rest, course, splice } = caught;
                            return Ok(Resumed { place, way, data, rest, course, splice });
                        }
                        Err(lost) => lost,
                    }
                }
                Err(problem) => {
                    self.record.load(place, problem.load);
                    (problem.failure, problem.blame)
                }
            };
            // The request was good enough for whoever began: that it cannot be continued here is nobody's fault.
            let blame = if blame == Blame::Caller { Blame::Deadline } else { blame };
            if blame != Blame::Deadline {
                gone.push(place);
            }
            self.record.attempt_failed(place, &failure, blame);
            tried.push(format!("{}: {}", who(candidate), failure.message));
        }
        Err(tried.join("; "))
    }

    /// Tells everybody that somebody goes on; the caller by a comment.
    fn went_on(&self, resumed: &Resumed, characters: usize, gap: Duration) -> Bytes {
        let Some(to) = self.decision.candidates.get(resumed.place) else { return Bytes::new() };
        let from: Option<(&PeerId, &str)> = self.candidate().map(|from| (&from.node, &*from.node_name));
        self.record.went_on(from, to, resumed.way.as_str(), characters, gap);
        comment(&format!(
            "atmosphere continued node={} model={} by={} after={characters} gap_ms={}",
            to.node_name,
            to.capability.name,
            resumed.way.as_str(),
            gap.as_millis(),
        ))
    }

    /// What the caller is told at last.
    fn told(&self, mut failure: Failure, blame: Blame, why_not: &str) -> Failure {
        if !why_not.is_empty() && !matches!(blame, Blame::Caller | Blame::Deadline) {
            failure.message = format!("{}; nobody went on with it: {why_not}", failure.message);
        }
        failure
    }
}

/// A continuation that has something to say.
struct Caught {
    data: Bytes,
    rest: Option<FrameStream>,
    course: Course,
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
                course.chunk(&chunk.data, Instant::now());
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

fn lost_comment(who: &str, when: &str) -> Bytes {
    comment(&format!("atmosphere failover {who} was lost {when}"))
}

/// A comment of the stream, which clients skip.
fn comment(text: &str) -> Bytes {
    // A line break in a name would end the comment.
    let line: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!(": {line}\n\n").into()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
