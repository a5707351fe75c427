//! Decisions as the API shows them.

use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::router::{
    Attempt, Candidate, Decision, Logged, NoRoute, Outcome, Parts, Rejected, Role, Said, Second, Taken, Weights,
};

/// A decision as the API shows it.
#[derive(Serialize)]
pub(super) struct DecisionShape<'a> {
    id: &'a str,
    target: &'a str,
    chosen: Option<Chosen<'a>>,
    reason: &'a str,
    /// What the question was taken for, with the probability and the runner-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<&'a Taken>,
    /// Whether that is unsure, and matters.
    doubtful: bool,
    /// What somebody who was asked about it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    second: Option<SecondShape<'a>>,
    abstained: bool,
    /// What the parts of the candidates' scores are worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Weights>,
    candidates: Vec<CandidateShape<'a>>,
    rejected: Vec<RejectedShape<'a>>,
    /// Why nobody can do it, as a code and a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_route: Option<NoRouteShape>,
    elapsed_us: u64,
}

#[derive(Serialize)]
struct SecondShape<'a> {
    node: String,
    node_name: &'a str,
    model: &'a str,
    /// `changed`, `agreed`, `late` or `failed`.
    outcome: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Whether the answer was known from before, so that nobody was asked.
    remembered: bool,
    elapsed_ms: f64,
    /// What the question was taken for at first.
    first: Option<&'a Taken>,
}

/// A decision and what became of it.
#[derive(Serialize)]
pub(super) struct LoggedShape<'a> {
    #[serde(flatten)]
    decision: DecisionShape<'a>,
    request_id: &'a str,
    /// Unix milliseconds.
    at_ms: u64,
    attempts: Vec<AttemptShape<'a>>,
    outcome: &'a Outcome,
}

#[derive(Serialize)]
struct AttemptShape<'a> {
    node: String,
    node_name: &'a str,
    model: &'a str,
    role: Role,
    /// `ok`, or why it failed.
    result: &'a str,
    elapsed_ms: f64,
}

#[derive(Serialize)]
struct Chosen<'a> {
    node: String,
    node_name: &'a str,
    capability: &'a str,
    model: &'a str,
}

#[derive(Serialize)]
struct CandidateShape<'a> {
    node: String,
    node_name: &'a str,
    capability: &'a str,
    model: &'a str,
    score: f64,
    predicted_ms: f64,
    parts: Parts,
}

#[derive(Serialize)]
struct RejectedShape<'a> {
    node: String,
    node_name: &'a str,
    capability: &'a str,
    model: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct NoRouteShape {
    code: &'static str,
    message: String,
    near: Vec<String>,
}

impl<'a> From<&'a Decision> for DecisionShape<'a> {
    fn from(decision: &'a Decision) -> Self {
        Self {
            id: &decision.id,
            target: &decision.target,
            chosen: decision.candidates.first().map(Chosen::from),
            reason: &decision.reason,
            taken: decision.taken.as_ref(),
            doubtful: decision.doubtful,
            second: decision.second.as_ref().map(SecondShape::from),
            abstained: decision.abstained,
            weights: decision.weights,
            candidates: decision.candidates.iter().map(CandidateShape::from).collect(),
            rejected: decision.rejected.iter().map(RejectedShape::from).collect(),
            no_route: decision.no_route.as_ref().map(NoRouteShape::from),
            elapsed_us: u64::try_from(decision.elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl<'a> From<&'a Second> for SecondShape<'a> {
    fn from(second: &'a Second) -> Self {
        let message = match &second.said {
            Said::Failed(why) => Some(why.as_str()),
            Said::Changed | Said::Agreed | Said::Late(_) => None,
        };
        Self {
            node: second.node.to_base58(),
            node_name: &second.node_name,
            model: &second.model,
            outcome: second.said.word(),
            message,
            remembered: second.remembered,
            elapsed_ms: second.elapsed.as_secs_f64() * 1000.0,
            first: second.first.as_ref(),
        }
    }
}

impl<'a> From<&'a Logged> for LoggedShape<'a> {
    fn from(logged: &'a Logged) -> Self {
        let since = logged.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            decision: DecisionShape::from(&*logged.decision),
            request_id: &logged.request_id,
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            attempts: logged.attempts.iter().map(AttemptShape::from).collect(),
            outcome: &logged.outcome,
        }
    }
}

impl<'a> From<&'a Attempt> for AttemptShape<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        Self {
            node: attempt.node.to_base58(),
            node_name: &attempt.node_name,
            model: &attempt.model,
            role: attempt.role,
            result: &attempt.result,
            elapsed_ms: attempt.elapsed.as_secs_f64() * 1000.0,
        }
    }
}

impl<'a> From<&'a Candidate> for Chosen<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        Self {
            node: candidate.node.to_base58(),
            node_name: &candidate.node_name,
            capability: candidate.capability.id.as_str(),
            model: &candidate.capability.name,
        }
    }
}

impl<'a> From<&'a Candidate> for CandidateShape<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        Self {
            node: candidate.node.to_base58(),
            node_name: &candidate.node_name,
            capability: candidate.capability.id.as_str(),
            model: &candidate.capability.name,
            score: candidate.score,
            predicted_ms: candidate.predicted.as_secs_f64() * 1000.0,
            parts: candidate.parts,
        }
    }
}

impl<'a> From<&'a Rejected> for RejectedShape<'a> {
    fn from(rejected: &'a Rejected) -> Self {
        Self {
            node: rejected.node.to_base58(),
            node_name: &rejected.node_name,
            capability: rejected.capability.id.as_str(),
            model: &rejected.capability.name,
            reason: &rejected.reason,
        }
    }
}

impl From<&NoRoute> for NoRouteShape {
    fn from(no_route: &NoRoute) -> Self {
        let (code, near) = match no_route {
            NoRoute::UnknownModel { near, .. } => ("model_not_found", near.clone()),
            NoRoute::UnknownNode { near, .. } => ("node_not_found", near.clone()),
            NoRoute::NothingCan(_) => ("nothing_can", Vec::new()),
            NoRoute::AllCooling { .. } => ("all_cooling", Vec::new()),
        };
        Self { code, message: no_route.to_string(), near }
    }
}
