//! What a finding is.

use serde::Serialize;

/// What was looked at, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The node itself: whether one runs, and can.
    Node,
    /// This node's addresses, and which is told to others first.
    Address,
    /// Whether another process has this node's identity.
    Identity,
    /// The seeds.
    Seeds,
    /// How each other node is reached.
    Paths,
    /// Whether others reach this node's port: the firewall.
    Ports,
    /// Whether multicast passes, by which nodes of one network find each other.
    Multicast,
    /// Whether the internet reaches this node.
    Internet,
    /// Nodes that were turned away.
    Admission,
    /// Whether the clocks agree.
    Clock,
    /// Whether the versions do.
    Version,
    /// The backends.
    Backends,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Something does not work.
    Problem,
}

/// One thing that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it is.
    pub verdict: Verdict,
    /// What is the case, and why.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn ok(check: Check, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, what: what.into(), advice: None }
    }

    /// Good to know.
    #[must_use]
    pub fn note(check: Check, what: impl Into<String>, advice: Option<String>) -> Self {
        Self { check, verdict: Verdict::Note, what: what.into(), advice }
    }

    /// Something does not work.
    #[must_use]
    pub fn problem(check: Check, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, what: what.into(), advice: Some(advice.into()) }
    }
}
