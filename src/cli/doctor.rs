//! `atmosphere doctor`: what hinders this node, why, and what to do about it. Without a running node, what hinders its start.

use serde_json::json;

use super::args::DoctorArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::offline;
use super::output::{Output, counted, name};
use super::shapes::{Diagnosis, Finding};

pub(super) async fn run(args: &DoctorArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&args.client)?;
    let query = args.node.as_deref().map(|node| {
        let encoded: String = url::form_urlencoded::byte_serialize(node.as_bytes()).collect();
        format!("?node={encoded}")
    });
    match client.get(&format!("/v1/mesh/doctor{}", query.unwrap_or_default())).await {
        Ok(body) => {
            let found: Diagnosis = parse(&client, &body)?;
            if args.client.json {
                output.json(&body)?;
            } else {
                show(&name(&found.node.name), &found.findings, output)?;
            }
            if found.healthy { Ok(()) } else { Err(CliError::Unhealthy) }
        }
        // Another machine's ports and files cannot be looked at from here.
        Err(CliError::NotReachable(why)) if args.client.url.is_none() => {
            let findings = offline::examine(args.client.data_dir.as_deref(), &why)?;
            let hindered = findings.iter().any(|finding| finding.verdict == "problem");
            if args.client.json {
                output.json(
                    &serde_json::to_vec(&json!({ "healthy": false, "findings": findings })).unwrap_or_default(),
                )?;
            } else {
                show("this machine", &findings, output)?;
            }
            if hindered { Err(CliError::Unhealthy) } else { Err(CliError::NotReachable(why)) }
        }
        Err(error) => Err(error),
    }
}

/// The findings, the worst first.
pub(super) fn show(who: &str, findings: &[Finding], output: &mut Output<'_>) -> Result<(), CliError> {
    let count = |verdict: &str| findings.iter().filter(|finding| finding.verdict == verdict).count() as u64;
    let problems = count("problem");
    let state = match problems {
        0 => output.good("healthy"),
        _ => output.bad(&format!("not well: {}", counted(problems, "problem"))),
    };
    output.line(format!("{} is {state}", output.bold(who)))?;
    let rank = |verdict: &str| ["problem", "note"].iter().position(|known| *known == verdict).unwrap_or(2);
    let mut findings: Vec<&Finding> = findings.iter().collect();
    findings.sort_by_key(|finding| rank(&finding.verdict));
    let mut above = None;
    for finding in findings {
        let kind = rank(&finding.verdict);
        if above.replace(kind) != Some(kind) {
            output.line("")?;
        }
        let label = format!("{:8}", name(&finding.verdict));
        let label = match kind {
            0 => output.bad(&label),
            1 => label,
            _ => output.good(&label),
        };
        let what = format!("{:10} {}", name(&finding.check), name(&finding.what));
        hanging(&label, &what, output)?;
        if let Some(advice) = &finding.advice {
            hanging(&" ".repeat(8), &format!("{:10} to do: {}", "", name(advice)), output)?;
        }
    }
    Ok(())
}

/// A line whose continuations stand below its text.
fn hanging(label: &str, text: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    const INDENT: usize = 22;
    let width = output.look.width.filter(|_| output.look.terminal).map_or(usize::MAX, usize::from);
    let room = width.saturating_sub(INDENT).max(30);
    let (head, rest) = text.split_at_checked(11).unwrap_or((text, ""));
    let mut lines: Vec<String> = vec![String::new()];
    for word in rest.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > room {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            output.line(format!("  {label} {head}{line}"))?;
        } else {
            output.line(format!("{:INDENT$}{line}", ""))?;
        }
    }
    Ok(())
}
