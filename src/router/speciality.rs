//! What a capability is made for, as far as a conversation is concerned.

use crate::capability::{Capability, Kind};

/// What it is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Speciality {
    /// Anything.
    General,
    /// A field of knowledge, or somebody's project.
    Domain,
    /// Programming.
    Code,
    /// Thinking before answering.
    Reasoning,
    /// Summaries.
    Summarize,
    /// Something else: not for conversation.
    Other,
}

/// What this capability is made for.
pub(super) fn speciality(capability: &Capability) -> Speciality {
    if capability.kind.category() != "llm" || capability.kind == Kind::LLM_EMBED {
        return Speciality::Other;
    }
    if capability.project.is_some() || capability.domain.is_some() {
        return Speciality::Domain;
    }
    speciality_of_kind(&capability.kind)
}

/// What capabilities of a kind are made for.
pub(super) fn speciality_of_kind(kind: &Kind) -> Speciality {
    if kind.category() != "llm" || *kind == Kind::LLM_EMBED {
        return Speciality::Other;
    }
    match kind.type_name() {
        "code" => Speciality::Code,
        "reasoning" => Speciality::Reasoning,
        "summarize" => Speciality::Summarize,
        _ => Speciality::General,
    }
}

/// A speciality in words.
pub(super) fn subject(speciality: Speciality) -> &'static str {
    match speciality {
        Speciality::Code => "programming",
        Speciality::Reasoning => "reasoning",
        Speciality::Summarize => "summarising",
        Speciality::General => "general conversation",
        Speciality::Domain | Speciality::Other => "something else",
    }
}
