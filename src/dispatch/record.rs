//! Keeps account of a request: who was tried, what was measured, what became of it. Whatever way a request ends,
//! also by being dropped, its account is closed exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::attempt::{Blame, Course};
use crate::capability::{Failure, Load};
use crate::router::{Attempt, Candidate, Decision, InFlight, Observation, Outcome, Router};
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
    current: Option<Current>,
    /// Who answered with an error, since when: theirs, if somebody else serves the request; else perhaps the request's.
    suspects: Vec<(usize, Instant)>,
    attempts: u32,
    open: bool,
}

/// The attempt under way.
struct Current {
    candidate: usize,
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
        router.log().record(Arc::clone(&decision), &facts.request_id);
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
            current: None,
            suspects: Vec::new(),
            attempts: 0,
            open: true,
        }
    }

    /// How many were tried.
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The candidate at that place is about to be tried.
    pub(super) fn attempt(&mut self, candidate: usize) {
        if let Some(chosen) = self.decision.candidates.get(candidate) {
            let in_flight = self.router.signals().begin(&chosen.node, &chosen.capability.id);
            self.attempts += 1;
            self.current = Some(Current { candidate, began: Instant::now(), in_flight });
        }
    }

    /// The callee told its load.
    pub(super) fn load(&self, load: Option<Load>) {
        if let (Some(load), Some(candidate)) = (load, self.candidate()) {
            let signals = self.router.signals();
            signals.observe_load(&candidate.node, &candidate.capability.id, load, Instant::now());
        }
    }

    /// The present attempt failed; the request may go on.
    pub(super) fn attempt_failed(&mut self, failure: &Failure, blame: Blame) {
        let Some(current) = self.current.take() else { return };
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
        self.log_attempt(candidate, &failure.message, current.began.elapsed());
        tracing::debug!(
            request = %self.request_id, node = %candidate.node_name, model = %candidate.capability.name,
            class = ?failure.class, "an attempt failed"
        );
    }

    /// The answer is complete.
    pub(super) fn served(mut self, course: &Course) {
        let Some(current) = self.current.take() else { return };
        if let Some(candidate) = self.decision.candidates.get(current.candidate) {
            // Before the load: the report of a finished call does not hold it any more.
            drop(current.in_flight);
            let (node, id, now) = (&candidate.node, &candidate.capability.id, Instant::now());
            let seen = self.observation(course, current.began);
            self.router.signals().succeed(node, id, seen, now);
            if let Some(load) = course.load {
                self.router.signals().observe_load(node, id, load, now);
            }
            self.log_attempt(candidate, "ok", current.began.elapsed());
        }
        self.judge_suspects(true);
        let tokens = course.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens));
        self.close(Outcome::Served, 200, Some(current.candidate), tokens);
    }

    /// Nobody answered, or the answer broke off.
    pub(super) fn failed(mut self, failure: &Failure) {
        let served = self.current.as_ref().map(|current| current.candidate);
        let outcome = Outcome::Failed { code: failure.status, message: failure.message.clone() };
        self.close(outcome, failure.status, served, None);
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

    fn observation(&self, course: &Course, began: Instant) -> Option<Observation> {
        let first_chunk = course.until_first_chunk()?;
        let rest = course.first_chunk.map(|first| first.into_std().elapsed()).unwrap_or_default();
        let usage = course.usage;
        Some(Observation {
            first_chunk: first_chunk.min(began.elapsed()),
            rest,
            loading: course.loading,
            prompt_tokens: usage.map_or(u64::from(self.prompt_tokens), |usage| usage.prompt_tokens),
            completion_tokens: usage.map_or(course.events, |usage| usage.completion_tokens),
            streamed: self.streamed,
            decodes: self.decodes,
        })
    }

    fn candidate(&self) -> Option<&Candidate> {
        self.current.as_ref().and_then(|current| self.decision.candidates.get(current.candidate))
    }

    fn log_attempt(&self, candidate: &Candidate, result: &str, elapsed: Duration) {
        let attempt = Attempt {
            node: candidate.node,
            node_name: Arc::clone(&candidate.node_name),
            model: candidate.capability.name.clone(),
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
                "attempts": self.attempts,
                "ms": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "prompt_tokens": tokens.map(|(prompt, _)| prompt),
                "completion_tokens": tokens.map(|(_, completion)| completion),
            })
        });
    }
}

impl Drop for Record {
    /// Dropped while open: the caller has left.
    fn drop(&mut self) {
        /// nginx's word for a client that closed the connection.
        const CLIENT_CLOSED: u16 = 499;
        if !self.open {
            return;
        }
        let current = self.current.take();
        if let Some(current) = &current
            && let Some(candidate) = self.decision.candidates.get(current.candidate)
        {
            self.log_attempt(candidate, "the caller left", current.began.elapsed());
        }
        self.close(Outcome::Cancelled, CLIENT_CLOSED, current.map(|current| current.candidate), None);
    }
}
