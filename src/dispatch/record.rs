//! Keeps account of a request: who was tried, what was measured, what became of it. Whatever way a request ends,
//! also by being dropped, its account is closed exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::attempt::{Blame, Course};
use crate::capability::{Failure, Load, PeerId, Usage};
use crate::router::{Attempt, Candidate, Decision, InFlight, Observation, Outcome, Parts, Role, Router};
use crate::telemetry::EventBus;

/// The account of one request.
pub(super) struct Record {
    router: Arc<Router>,
    events: EventBus,
    decision: Arc<Decision>,
    request_id: String,
    prompt_tokens: u32,
    streamed: bool,
    decodes: bool,
    started: Instant,
    /// The attempts under way: one, or two of which the slower will be given up.
    current: Vec<Current>,
    /// Who answered with an error, since when: theirs, if somebody else serves the request; else perhaps the request's.
    suspects: Vec<(usize, Instant)>,
    attempts: u32,
    open: bool,
}

/// An attempt under way.
struct Current {
    candidate: usize,
    role: Role,
    began: Instant,
    in_flight: InFlight,
}

/// What of the request the account needs.
pub(super) struct Facts {
    pub(super) request_id: String,
    pub(super) prompt_tokens: u32,
    pub(super) streamed: bool,
    pub(super) decodes: bool,
}

impl Record {
    /// Opens the account of a decision.
    pub(super) fn open(router: Arc<Router>, events: EventBus, decision: Arc<Decision>, facts: Facts) -> Self {
        router.carry_out(&decision, &facts.request_id, Instant::now());
        let Facts { request_id, prompt_tokens, streamed, decodes } = facts;
        events.emit("decision", || {
            let chosen = decision.candidates.first();
            json!({
                "id": decision.id,
                "request": request_id,
                "target": decision.target,
                "node": chosen.map(|candidate| candidate.node.to_base58()),
                "node_name": chosen.map(|candidate| &*candidate.node_name),
                "model": chosen.map(|candidate| candidate.capability.name.as_str()),
                "reason": decision.reason,
                "abstained": decision.abstained,
                "candidates": decision.candidates_total,
                "rejected": decision.rejected_total,
                "elapsed_us": u64::try_from(decision.elapsed.as_micros()).unwrap_or(u64::MAX),
            })
        });
        Self {
            router,
            events,
            decision,
            request_id,
            prompt_tokens,
            streamed,
            decodes,
            started: Instant::now(),
            current: Vec::new(),
            suspects: Vec::new(),
            attempts: 0,
            open: true,
        }
    }

    /// More are known who can do it: the same candidates in their places, and others after them.
    pub(super) fn widen(&mut self, decision: Arc<Decision>) {
        self.router.log().replace(Arc::clone(&decision));
        self.decision = decision;
    }

    /// How many were tried.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The candidate at that place is about to be tried.
    pub(super) fn attempt(&mut self, candidate: usize, role: Role) {
        if let Some(chosen) = self.decision.candidates.get(candidate) {
            let in_flight = self.router.signals().begin(&chosen.node, &chosen.capability.id);
            self.attempts += 1;
            self.current.push(Current { candidate, role, began: Instant::now(), in_flight });
        }
    }

    /// The callee told its load.
    pub(super) fn load(&self, candidate: usize, load: Option<Load>) {
        if let (Some(load), Some(candidate)) = (load, self.decision.candidates.get(candidate)) {
            let signals = self.router.signals();
            signals.observe_load(&candidate.node, &candidate.capability.id, load, Instant::now());
        }
    }

    /// The attempt at the candidate of that place failed; the request may go on.
    pub(super) fn attempt_failed(&mut self, candidate: usize, failure: &Failure, blame: Blame) {
        let Some(current) = self.take(candidate) else { return };
        let Some(candidate) = self.decision.candidates.get(current.candidate) else { return };
        let (node, id, now) = (&candidate.node, &candidate.capability.id, Instant::now());
        let signals = self.router.signals();
        match blame {
            Blame::Caller | Blame::Deadline => {}
            Blame::Busy(wait) => signals.rest_capability(node, id, wait, now),
            Blame::Either => self.suspects.push((current.candidate, current.began)),
            Blame::Capability => signals.fail_capability(node, id, current.began, now),
            Blame::Node => signals.fail_node(node, current.began, now),
        }
        drop(current.in_flight);
        self.log_attempt(candidate, current.role, &failure.message, current.began.elapsed());
        tracing::debug!(
            request = %self.request_id, node = %candidate.node_name, model = %candidate.capability.name,
            class = ?failure.class, "an attempt failed"
        );
    }

    /// The attempt at the candidate of that place is given up, since another has begun. `hung`: after far longer than expected.
    pub(super) fn overtaken(&mut self, candidate: usize, by: usize, hung: bool) {
        let Some(current) = self.take(candidate) else { return };
        let Some(candidate) = self.decision.candidates.get(candidate) else { return };
        let now = Instant::now();
        if hung {
            let signals = self.router.signals();
            signals.fail_capability(&candidate.node, &candidate.capability.id, current.began, now);
        }
        drop(current.in_flight);
        let by = self.decision.candidates.get(by).map_or("another", |by| &by.node_name);
        self.log_attempt(candidate, current.role, &format!("overtaken by {by}"), current.began.elapsed());
    }

    /// Somebody goes on with an answer that was lost in the middle.
    pub(super) fn went_on(
        &self,
        from: Option<(&PeerId, &str)>,
        to: &Candidate,
        way: &str,
        characters: usize,
        gap: Duration,
    ) {
        tracing::info!(request = %self.request_id, to = %to.node_name, way, characters, "an answer goes on elsewhere");
        self.events.emit("call.failover", || {
            json!({
                "decision": self.decision.id,
                "request": self.request_id,
                "from": from.map(|(node, _)| node.to_base58()),
                "from_name": from.map(|(_, name)| name),
                "node": to.node.to_base58(),
                "node_name": &*to.node_name,
                "model": to.capability.name,
                "by": way,
                "after_characters": characters,
                "gap_ms": u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
            })
        });
    }

    /// All of the answer was there, though whoever gave it did not say so at the end.
    pub(super) fn complete(mut self) {
        self.close(Outcome::Served, 200, None, None);
    }

    /// The answer is complete. `whole`: what it took, where more than one had a part in it.
    pub(super) fn served(mut self, candidate: usize, course: &Course, whole: Option<Usage>) {
        let Some(current) = self.take(candidate) else { return };
        if let Some(candidate) = self.decision.candidates.get(current.candidate) {
            // Before the load: the report of a finished call does not hold it any more.
            drop(current.in_flight);
            let (node, id, now) = (&candidate.node, &candidate.capability.id, Instant::now());
            let seen = self.observation(course, current.began, &candidate.parts, current.role);
            self.router.signals().succeed(node, id, seen, now);
            if let Some(load) = course.load {
                self.router.signals().observe_load(node, id, load, now);
            }
            self.log_attempt(candidate, current.role, "ok", current.began.elapsed());
        }
        self.judge_suspects(true);
        let tokens = whole.or(course.usage).map(|usage| (usage.prompt_tokens, usage.completion_tokens));
        self.close(Outcome::Served, 200, Some(current.candidate), tokens);
    }

    /// Nobody answered, or the answer broke off.
    pub(super) fn failed(mut self, failure: &Failure) {
        let outcome = Outcome::Failed { code: failure.status, message: failure.message.clone() };
        self.close(outcome, failure.status, None, None);
    }

    /// A request that somebody served was sound, and those who failed it did; one that nobody served may be at fault itself.
    fn judge_suspects(&mut self, sound: bool) {
        for (candidate, began) in std::mem::take(&mut self.suspects) {
            let Some(Candidate { node, capability, .. }) = self.decision.candidates.get(candidate) else { continue };
            let signals = self.router.signals();
            if sound {
                signals.fail_capability(node, &capability.id, began, Instant::now());
            } else {
                signals.doubt_capability(node, &capability.id, began, Instant::now());
            }
        }
    }

    fn observation(&self, course: &Course, began: Instant, parts: &Parts, role: Role) -> Option<Observation> {
        let first_chunk = course.until_first_chunk()?;
        // A continuation is another request than the one that was predicted.
        let predicted = matches!(role, Role::First | Role::Retry | Role::Hedge).then(|| {
            let decode_ms = if self.streamed { 0.0 } else { parts.decode_ms };
            parts.rtt_ms + parts.queue_ms + parts.load_ms + parts.prefill_ms + decode_ms
        });
        let first_after = course.first_chunk.map(|first| first.into_std().saturating_duration_since(began));
        let first_ratio = first_after.zip(predicted).map(|(after, ms)| after.as_secs_f64() * 1e3 / ms.max(0.1));
        let rest = course.first_chunk.map(|first| first.into_std().elapsed()).unwrap_or_default();
        let usage = course.usage;
        Some(Observation {
            first_chunk: first_chunk.min(began.elapsed()),
            rest,
            loading: course.loading,
            prompt_tokens: u64::from(self.prompt_tokens),
            completion_tokens: usage.map_or(course.events, |usage| usage.completion_tokens),
            streamed: self.streamed,
            decodes: self.decodes,
            first_ratio,
            company: course.company(),
            cached_tokens: usage
                .and_then(|usage| as_estimated(usage.cached_tokens?, usage.prompt_tokens, self.prompt_tokens)),
            warm_tokens: if role == Role::Prefill { 0.0 } else { parts.warm_tokens },
        })
    }

    fn take(&mut self, candidate: usize) -> Option<Current> {
        let at = self.current.iter().position(|current| current.candidate == candidate)?;
        Some(self.current.swap_remove(at))
    }

    fn log_attempt(&self, candidate: &Candidate, role: Role, result: &str, elapsed: Duration) {
        let attempt = Attempt {
            node: candidate.node,
            node_name: Arc::clone(&candidate.node_name),
            model: candidate.capability.name.clone(),
            role,
            result: result.to_owned(),
            elapsed,
        };
        self.router.log().attempt(&self.decision.id, attempt);
    }

    fn close(&mut self, outcome: Outcome, status: u16, candidate: Option<usize>, tokens: Option<(u64, u64)>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.judge_suspects(false);
        let error = match &outcome {
            Outcome::Failed { message, .. } => Some(message.clone()),
            Outcome::Open | Outcome::Served | Outcome::Cancelled => None,
        };
        self.router.log().finish(&self.decision.id, outcome);
        self.events.emit("call.end", || {
            let served = candidate.and_then(|candidate| self.decision.candidates.get(candidate));
            json!({
                "decision": self.decision.id,
                "request": self.request_id,
                "node": served.map(|candidate| candidate.node.to_base58()),
                "node_name": served.map(|candidate| &*candidate.node_name),
                "model": served.map(|candidate| candidate.capability.name.as_str()),
                "status": status,
                "error": error,
                "attempts": self.attempts,
                "ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "prompt_tokens": tokens.map(|(prompt, _)| prompt),
                "completion_tokens": tokens.map(|(_, completion)| completion),
            })
        });
    }
}

/// Tokens as the backend counts them, in those that the prompt was estimated to have.
fn as_estimated(tokens: u64, of: u64, estimate: u32) -> Option<u64> {
    u64::try_from(u128::from(tokens.min(of)) * u128::from(estimate) / u128::from(of.max(1))).ok()
}

impl Drop for Record {
    /// Dropped while open: the caller has left.
    fn drop(&mut self) {
        /// nginx's word for a client that closed the connection.
        const CLIENT_CLOSED: u16 = 499;
        if !self.open {
            return;
        }
        let left = std::mem::take(&mut self.current);
        for current in &left {
            if let Some(candidate) = self.decision.candidates.get(current.candidate) {
                self.log_attempt(candidate, current.role, "the caller left", current.began.elapsed());
            }
        }
        self.close(Outcome::Cancelled, CLIENT_CLOSED, left.first().map(|current| current.candidate), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cached_is_counted_as_the_prompt_is() {
        // A model that cuts text into three times as many tokens as was thought, and one that said nonsense.
        assert_eq!(as_estimated(2_700, 3_000, 1_000), Some(900));
        assert_eq!(as_estimated(0, 3_000, 1_000), Some(0));
        assert_eq!(as_estimated(5_000, 3_000, 1_000), Some(1_000));
        assert_eq!(as_estimated(7, 0, 1_000), Some(0));
        assert_eq!(as_estimated(u64::MAX, u64::MAX, u32::MAX), Some(u64::from(u32::MAX)));
    }
}
