//! `atmosphere route`: who would answer, and why, so that a person understands it in ten seconds.

use std::io;

use serde_json::{Value, json};

use super::args::RouteArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Column, Output, counted, milliseconds, name, short_id};
use super::shapes::{Candidate, Decision, Routed};

/// Rows that are shown of each table: what one sees without scrolling.
const SHOWN: usize = 12;

pub(super) async fn run(args: &RouteArgs, prompt: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&args.client)?;
    let body = json!({ "model": args.model, "messages": [{ "role": "user", "content": prompt }] });
    let answer = client.post("/v1/mesh/route", &body).await?;
    let Routed { decision } = parse(&client, &answer)?;
    if args.client.json {
        output.json(&answer)?;
    } else {
        explain(&decision, output)?;
    }
    if decision.chosen.is_some() {
        return Ok(());
    }
    let (code, message) = decision.no_route.as_ref().map_or(("", ""), |why| (&why.code, &why.message));
    let why = name(if message.is_empty() { &decision.reason } else { message });
    let unknown = match code {
        // An older node gives no code; when nobody was even looked at, there is no such name.
        "" => decision.rejected.is_empty(),
        code => code.ends_with("not_found") || code.starts_with("unknown"),
    };
    Err(if unknown { CliError::NotFound(why) } else { CliError::Unavailable(why) })
}

fn explain(decision: &Decision, output: &mut Output<'_>) -> io::Result<()> {
    match &decision.chosen {
        Some(chosen) => {
            let node = chosen.node_name.as_deref().unwrap_or_else(|| short_id(&chosen.node));
            let model = chosen.model.as_deref().filter(|model| !model.is_empty()).unwrap_or(&chosen.capability);
            let headline = format!("{} on {}", name(model), name(node));
            output.line(output.good(&output.bold(&headline)))?;
            output.paragraph("  ", &name(&decision.reason))?;
        }
        // Why not is the error that this verb ends with.
        None => output.line(output.bad("nobody can answer this"))?,
    }
    if !decision.candidates.is_empty() {
        output.line("")?;
        candidates(&decision.candidates, output)?;
    }
    if !decision.rejected.is_empty() {
        output.line("\nrejected")?;
        rejected(&decision.rejected, output)?;
    }
    let took = match decision.elapsed_us {
        // Somebody was asked.
        Some(us) if us >= 10_000.0 => format!(" in {}", milliseconds(us / 1e3)),
        Some(us) => format!(" in {us:.0} µs"),
        None => String::new(),
    };
    let last = format!("target {}, decided{took}, decision {}", name(&decision.target), name(&decision.id));
    output.line("")?;
    output.paragraph("", &last)
}

/// Who cannot do it, and why. Nodes that lack the same are one row: every node has the built-in embedder, and none of
/// them chats.
fn rejected(rejected: &[Candidate], output: &mut Output<'_>) -> io::Result<()> {
    const COLUMNS: &[Column] = &[Column::text("model"), Column::text("node"), Column::sentence("reason")];
    /// More names than these are only counted.
    const NAMED: usize = 2;
    let mut groups: Vec<(&Candidate, Vec<String>)> = Vec::new();
    for candidate in rejected {
        let same = |(other, _): &&mut (&Candidate, Vec<String>)| {
            other.reason == candidate.reason && model(other) == model(candidate)
        };
        match groups.iter_mut().find(same) {
            Some((_, nodes)) => nodes.push(node(candidate)),
            None => groups.push((candidate, vec![node(candidate)])),
        }
    }
    let row = |(candidate, nodes): &(&Candidate, Vec<String>)| {
        let nodes = if nodes.len() > NAMED { counted(nodes.len() as u64, "node") } else { nodes.join(", ") };
        vec![model(candidate), nodes, candidate.reason.clone()]
    };
    output.table(COLUMNS, &groups.iter().take(SHOWN).map(row).collect::<Vec<_>>())?;
    rest(groups.len(), output)
}

/// The candidates, best first, with the predicted time and what it is made of. Rates that are guessed and not
/// measured are marked.
fn candidates(candidates: &[Candidate], output: &mut Output<'_>) -> io::Result<()> {
    let anybody = |part: &str| candidates.iter().any(|c| c.part(part).is_some_and(|value| value != 0.0));
    let (has_match, has_quality) = (anybody("similarity"), anybody("quality"));
    let mut columns =
        vec![Column::number(""), Column::text("model"), Column::text("node"), Column::number("answer in")];
    columns.extend(has_match.then_some(Column::number("match")));
    columns.extend(has_quality.then_some(Column::number("quality").minor()));
    columns.push(Column::sentence("of that").minor());
    let is_guess = |candidate: &Candidate| candidate.parts.get("measured").and_then(Value::as_bool) == Some(false);
    let shown = &candidates[..candidates.len().min(SHOWN)];
    let rows: Vec<Vec<String>> = shown
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let predicted = candidate.predicted_ms.map(milliseconds).unwrap_or_default();
            let mark = if is_guess(candidate) { "~" } else { "" };
            let mut row =
                vec![(index + 1).to_string(), model(candidate), node(candidate), format!("{mark}{predicted}")];
            let two = |part: &str| candidate.part(part).map(|value| format!("{value:.2}")).unwrap_or_default();
            row.extend(has_match.then(|| two("similarity")));
            row.extend(has_quality.then(|| two("quality")));
            row.push(made_of(candidate));
            row
        })
        .collect();
    output.table(&columns, &rows)?;
    rest(candidates.len(), output)?;
    if shown.iter().any(is_guess) {
        output.paragraph("", "~ guessed: no answer of this model on this node has been measured yet")?;
    }
    Ok(())
}

/// The parts of a candidate's time that matter, in the order in which they pass, and what it costs others.
fn made_of(candidate: &Candidate) -> String {
    const TIMES: &[(&str, &str)] = &[
        ("rtt_ms", "network"),
        ("queue_ms", "queue"),
        ("load_ms", "load"),
        ("prefill_ms", "read"),
        ("decode_ms", "write"),
    ];
    /// A part below a hundredth of the whole decides nothing.
    const MATTERS: f64 = 0.01;
    let whole = candidate.predicted_ms.unwrap_or_default();
    let others = candidate.part("others_ms").filter(|ms| *ms > 0.0 && *ms >= whole * MATTERS);
    let others = others.map(|ms| format!("; holds others up by {}", milliseconds(ms))).unwrap_or_default();
    let own = TIMES
        .iter()
        .filter_map(|(part, word)| Some((word, candidate.part(part)?)))
        .filter(|(_, ms)| *ms > 0.0 && *ms >= whole * MATTERS)
        .map(|(word, ms)| match candidate.part("cached_tokens") {
            Some(cached) if *word == "read" && cached >= 1.0 => {
                format!("{word} {} ({cached:.0} tokens cached)", milliseconds(ms))
            }
            _ => format!("{word} {}", milliseconds(ms)),
        })
        .collect::<Vec<_>>()
        .join(", ");
    format!("{own}{others}")
}

/// Says how many are not shown.
fn rest(count: usize, output: &mut Output<'_>) -> io::Result<()> {
    if count > SHOWN { output.line(format!("and {} more; --json has them all", count - SHOWN)) } else { Ok(()) }
}

fn node(candidate: &Candidate) -> String {
    candidate.node_name.clone().unwrap_or_else(|| short_id(&candidate.node).to_owned())
}

fn model(candidate: &Candidate) -> String {
    candidate.model.clone().filter(|model| !model.is_empty()).unwrap_or_else(|| candidate.capability.clone())
}
