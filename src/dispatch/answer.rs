//! The pieces of an answer that has begun, from whoever serves it.
//!
//! While it runs the pieces go on as they come. When the one who serves it is lost, another goes on with it where that is
//! honest (`resume` decides, `onward` asks, `splice` joins), which the caller sees as a comment in the stream; where it is not, the
//! answer ends with a failure and never looks complete.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::attempt::{self, Blame, Course};
use super::onward::{self, Plan, Resumed};
use super::record::Record;
use super::resume::Resume;
use super::splice::Splice;
use super::transcript::Transcript;
use super::ways::{Settings, Task, Ways, ms, who};
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
    /// Places that failed before it began.
    pub(super) doubtful: Vec<usize>,
}

/// What came next.
enum Next {
    Piece(Bytes),
    Alive,
    End(Option<Usage>, Option<Load>),
    Failed(Failure, Blame),
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
            let rtt = job.rtt();
            let (failure, blame) = loop {
                let next = match &mut rest {
                    Some(rest) => job.next(rest, rtt, &mut alarm).await,
                    None => Next::End(course.usage, course.load),
                };
                match next {
                    Next::Piece(piece) => {
                        course.chunk(&piece);
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
                    let task = Task {
                        ways: &job.ways,
                        settings: &job.settings,
                        intent: &job.intent,
                        decision: &job.decision,
                        deadline: job.deadline,
                    };
                    match onward::go_on(task, &resume, plans, &mut job.record).await {
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

    /// How far away whoever serves it is.
    fn rtt(&self) -> Duration {
        self.candidate().map_or(Duration::ZERO, |candidate| ms(candidate.parts.rtt_ms))
    }

    /// The next of the frames. Silence is told from death sooner when somebody else can go on.
    async fn next(&mut self, rest: &mut FrameStream, rtt: Duration, alarm: &mut Alarm) -> Next {
        let heard = Instant::now() + 4 * rtt;
        let long = heard + self.settings.silence_streaming;
        let short = if self.transcript.is_whole() { (heard + self.settings.silence_resumable).min(long) } else { long };
        let mut next = alarm.until(self.deadline.min(short), rest.next()).await;
        if next.is_err() && short < long && Instant::now() < self.deadline {
            self.look_again();
            if !self.is_better_off_elsewhere() {
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

    /// Whether this answer may well go on with somebody else. Who has failed lately is no reason to give up one that has only
    /// fallen silent.
    fn is_better_off_elsewhere(&self) -> bool {
        let plans = self.plans(Blame::Node);
        plans.is_ok_and(|(resume, plans)| resume.is_complete() || plans.iter().any(|plan| !plan.is_last_resort))
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
            let is_last_resort = self.doubtful.contains(&place)
                || signals.cooling(&candidate.node, &candidate.capability.id, now).is_some();
            let plans = if is_last_resort { &mut resting } else { &mut plans };
            plans.extend(ways.into_iter().map(|way| Plan { place, way, is_last_resort }));
        }
        plans.append(&mut resting);
        match plans.is_empty() {
            true if resume.is_complete() => Ok((resume, plans)),
            true if holders => Err(resume.why_not()),
            true => Err("nobody else has the model"),
            false => Ok((resume, plans)),
        }
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
