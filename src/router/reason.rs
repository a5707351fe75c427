//! The sentences of a decision: what a person can take in within ten seconds.

use std::time::Duration;

use super::decision::{Candidate, Rejected, Step, Taken};
use super::meaning::{Meant, Nearest, Verdict};
use super::speciality::{Speciality, subject};
use super::target::{Among, Resolved};
use crate::capability::Operation;
use crate::catalog::Snapshot;

/// What a sentence is made from.
pub(super) struct Grounds<'a> {
    pub(super) target: &'a str,
    pub(super) resolved: &'a Resolved<'a>,
    pub(super) verdict: Option<&'a Verdict>,
    /// Whether the first candidate is of what was meant.
    pub(super) meant: bool,
    pub(super) snapshot: &'a Snapshot,
    pub(super) best_tier: i32,
    /// Not empty.
    pub(super) candidates: &'a [Candidate],
    pub(super) candidates_total: usize,
    pub(super) operation: Operation,
}

/// Why the first candidate is the first.
pub(super) fn chosen(grounds: &Grounds<'_>) -> String {
    let Some(first) = grounds.candidates.first() else { return String::new() };
    let model = &first.capability.name;
    let what = match &grounds.resolved.among {
        Among::Entries(_) => return format!("{} {}", grounds.target, where_by_name(grounds, first)),
        Among::Alias(name, alias) if !alias.models.is_empty() => format!("{name} stands for {model} here"),
        Among::Alias(name, alias) if !alias.kinds.is_empty() => {
            let kinds = alias.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
            if grounds.best_tier > 0 {
                format!("{name}: {model} is the best {kinds} model")
            } else {
                format!("{name}: no {kinds} model can do this, so {model}, the best general one, stands in")
            }
        }
        Among::Alias(name, _) => format!("{name}: {model} suits best"),
        Among::All => by_meaning(grounds, first),
    };
    format!("{what}; {}", where_of_many(grounds, first))
}

fn by_meaning(grounds: &Grounds<'_>, first: &Candidate) -> String {
    let name = first.capability.project.as_deref().unwrap_or(&first.capability.name);
    let Some(verdict) = grounds.verdict else {
        return format!("{name} can do {}", grounds.operation);
    };
    if let Some(taken) = &verdict.taken {
        return by_class(grounds, verdict, taken, name);
    }
    let general = verdict.general;
    match &verdict.meant {
        Some(Meant::Entries(_)) if grounds.meant => {
            let similarity = first.parts.similarity.unwrap_or_default();
            format!("the question means {name} (similarity {similarity:.2}, general conversation {general:.2})")
        }
        Some(Meant::Speciality(kind, similarity)) if grounds.meant => format!(
            "the question is about {} (similarity {similarity:.2}, general conversation {general:.2}), and {name} is made for it",
            subject(*kind)
        ),
        Some(_) => format!("whoever the question means has failed lately, so the best general model: {name}"),
        None => match &verdict.nearest {
            None => format!("nothing in the mesh is made for a special field, so the best general model: {name}"),
            Some((nearest, similarity)) => {
                let nearest = match nearest {
                    Nearest::Entry(id) => grounds
                        .snapshot
                        .entry(*id)
                        .map_or("?", |entry| entry.capability.project.as_deref().unwrap_or(&entry.capability.name)),
                    Nearest::Speciality(kind) => subject(*kind),
                };
                format!(
                    "no speciality is near enough to the question (best: {nearest}, similarity {similarity:.2}; needed {:.2}), so the best general model: {name}",
                    verdict.needed
                )
            }
        },
    }
}

/// What the classifier said.
fn by_class(grounds: &Grounds<'_>, verdict: &Verdict, taken: &Taken, name: &str) -> String {
    let sure = percent(taken.probability);
    let next = match &taken.next {
        Some(next) if taken.next_probability >= 0.005 => format!("; next {next}, {}", percent(taken.next_probability)),
        _ => String::new(),
    };
    match &verdict.meant {
        Some(Meant::Entries(_)) if grounds.meant => format!("the question means {name} ({sure} sure{next})"),
        Some(Meant::Speciality(kind, _)) if grounds.meant => {
            format!("the question is about {} ({sure} sure{next}), and {name} is made for it", subject(*kind))
        }
        Some(_) => format!("whoever the question means has failed lately, so the best general model: {name}"),
        None if taken.beaten => {
            let next = taken.next.as_deref().unwrap_or("something else");
            format!("the question looks like {next}, which nobody here is made for, so the best general model: {name}")
        }
        None if taken.what == subject(Speciality::General) => {
            format!("the question is {} ({sure} sure{next}), so the best general model: {name}", taken.what)
        }
        None => format!(
            "no speciality is near enough to the question (best: {}, {sure} sure, needed {}{next}), so the best general model: {name}",
            taken.what,
            percent(verdict.needed)
        ),
    }
}

pub(super) fn percent(probability: f32) -> String {
    format!("{:.0} %", probability * 100.0)
}

fn where_by_name(grounds: &Grounds<'_>, first: &Candidate) -> String {
    let node = &first.node_name;
    match grounds.candidates.get(1) {
        None => format!("can run on {node} only, expected in {}", time(first.predicted)),
        Some(second) if first.parts.repaid_ms > 0.0 && first.predicted > second.predicted => format!(
            "can run in {} places; {node} must load the model first and is expected in {}, {} in {}, but requests have waited \
             {} longer in all because it is not loaded there",
            grounds.candidates_total,
            time(first.predicted),
            second.node_name,
            time(second.predicted),
            time(Duration::from_secs_f64(first.parts.repaid_ms / 1e3)),
        ),
        Some(second) if first.predicted > second.predicted && cost_ms(first) < cost_ms(second) => {
            format!(
                "can run in {} places; {node} is expected in {}, {} in {}, but there it would hold up the calls that run by {} in all",
                grounds.candidates_total,
                time(first.predicted),
                second.node_name,
                time(second.predicted),
                time(Duration::from_secs_f64(second.parts.others_ms / 1e3)),
            )
        }
        Some(second) => format!(
            "can run in {} places; {node} is expected first, in {}{}, then {} in {}{}",
            grounds.candidates_total,
            time(first.predicted),
            read_before(first, second),
            second.node_name,
            time(second.predicted),
            behind(first, second)
        ),
    }
}

/// Its own time, and what it costs others.
fn cost_ms(candidate: &Candidate) -> f64 {
    candidate.predicted.as_secs_f64() * 1e3 + candidate.parts.others_ms
}

/// Tokens that must be saved for it to be worth a word.
const WORTH_A_WORD: f64 = 64.0;

/// That the first has read some of the prompt before, when that sets it apart.
fn read_before(first: &Candidate, second: &Candidate) -> String {
    let saved = first.parts.cached_tokens - second.parts.cached_tokens;
    if saved < WORTH_A_WORD {
        return String::new();
    }
    format!(" (it has read some {:.0} tokens of the prompt before)", first.parts.cached_tokens)
}

/// What the second loses most of its time with, when that is much.
fn behind(first: &Candidate, second: &Candidate) -> &'static str {
    /// Share of the second's time that is worth a word.
    const MUCH: f64 = 0.15;
    let (a, b) = (&first.parts, &second.parts);
    let reads = if a.cached_tokens - b.cached_tokens >= WORTH_A_WORD { "" } else { ", which reads prompts slower" };
    let losses = [
        (b.load_ms - a.load_ms, ", which must load the model first"),
        (b.queue_ms - a.queue_ms, ", which is busier"),
        (b.decode_ms - a.decode_ms, ", which writes slower"),
        (b.prefill_ms - a.prefill_ms, reads),
        (b.rtt_ms - a.rtt_ms, ", which is farther away"),
    ];
    let most = losses.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
    most.filter(|(loss, _)| *loss > second.predicted.as_secs_f64() * 1e3 * MUCH).map_or("", |(_, word)| word)
}

fn where_of_many(grounds: &Grounds<'_>, first: &Candidate) -> String {
    let time = time(first.predicted);
    match grounds.candidates_total {
        1 => format!("on {}, expected in {time}, as the only candidate", first.node_name),
        total => format!("on {}, expected in {time}, before {} others", first.node_name, total - 1),
    }
}

/// Why somebody is passed over for now.
pub(super) fn cooling(left: Duration, failures: u32) -> String {
    match failures {
        0 => format!("it is overloaded and asked to be left alone for {}", time(left)),
        1 => format!("it failed a moment ago; the next try is due in {}", time(left)),
        _ => format!("it failed {failures} times in a row; the next try is due in {}", time(left)),
    }
}

/// Why nobody can.
pub(super) fn nothing_can(
    target: &str,
    step: Step,
    operation: Operation,
    rejected: &[Rejected],
    total: usize,
) -> String {
    if total == 0 {
        return match step {
            Step::Auto | Step::Alias => format!(
                "no node in the mesh offers anything that can do {operation} yet: start a backend such as Ollama on any node, or name one with --backend URL"
            ),
            _ => format!("nothing called {target:?} can do {operation}"),
        };
    }
    // The commonest reason, and how many share it; the rest is in the decision.
    let count = |reason: &str| rejected.iter().filter(|other| other.reason == reason).count();
    let common = rejected.iter().max_by_key(|one| count(&one.reason)).map_or("", |one| one.reason.as_str());
    let who = match (step, total) {
        (Step::Auto | Step::Alias, _) => format!("none of the {total} capabilities in the mesh can do this"),
        (_, 1) => format!("{target:?} cannot do this"),
        _ => format!("none of the {total} copies of {target:?} can do this"),
    };
    match count(common) {
        same if same == total => format!("{who}: {common}"),
        same => format!("{who}: {common} ({same} of them)"),
    }
}

/// A duration as people say it.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.001 {
        "under 1 ms".to_owned()
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}
