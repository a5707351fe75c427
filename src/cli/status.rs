//! `atmosphere status`: how the node is, and what needs attention.

use std::time::Duration;

use serde_json::Value;

use super::args::ClientArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Output, counted, milliseconds, name, short_id};
use super::shapes::{Health, Mesh, Node, Seed};

/// Nodes that are shown; `atmosphere nodes` lists all.
const SHOWN_NODES: usize = 8;

pub(super) async fn run(args: &ClientArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(args)?;
    let body = client.get("/v1/health").await?;
    if args.json {
        return Ok(output.json(&body)?);
    }
    let health: Health = parse(&client, &body)?;
    let mesh: Mesh = parse(&client, &client.get("/v1/mesh/topology").await?)?;
    let own = mesh.nodes.iter().find(|node| node.is_self);

    let from_health = health.node_name.as_deref().or_else(|| health.node.get("name").and_then(Value::as_str));
    let node_name = own.map(|node| node.name.as_str()).or(from_health).unwrap_or("node");
    let id = own
        .map(|node| node.id.as_str())
        .or_else(|| health.node.as_str().or_else(|| health.node.get("id")?.as_str()))
        .unwrap_or_default();
    let status = match health.status.as_str() {
        "" | "ok" | "healthy" | "up" => output.good("up"),
        "starting" => "starting".to_owned(),
        other => output.bad(&name(other)),
    };
    output.line(format!("{} is {status}", output.bold(&name(node_name))))?;
    let mut pair = |key: &str, value: String| output.line(format!("  {key:9} {value}"));
    pair("id", name(if id.is_empty() { "-" } else { id }))?;
    if !health.version.is_empty() {
        pair("version", name(&health.version))?;
    }
    if let Some(uptime) = health.uptime_s.filter(|seconds| (0.0..1e12).contains(seconds)) {
        pair("uptime", humantime::format_duration(Duration::from_secs(uptime as u64)).to_string())?;
    }
    pair("API", format!("{}/v1", client.url()))?;
    let mesh_name = if mesh.mesh.name.is_empty() { "-" } else { &mesh.mesh.name };
    let kind = if mesh.mesh.closed { "closed" } else { "open" };
    pair("mesh", format!("{}  {kind}  {}", name(mesh_name), mesh_id(&mesh.mesh.id)).trim_end().to_owned())?;
    if let Some(own) = &mesh.mesh.membership {
        let until = own.expires_at.as_deref().map_or_else(String::new, |until| format!(" until {}", name(until)));
        pair("member", format!("{}{until}", name(&own.role)))?;
    }
    let capabilities: u64 = mesh.nodes.iter().map(|node| node.capabilities).sum();
    pair("nodes", format!("{}, {}", counted(mesh.nodes.len() as u64, "node"), counted(capabilities, "capability")))?;

    if let Some(problem) = mesh.mesh.membership.as_ref().and_then(|own| own.problem.as_deref()) {
        output.line(format!("\nmembership\n  {}", output.bad(&name(problem))))?;
    }
    if !health.providers.is_empty() {
        output.line("\nbackends")?;
        let width = health.providers.iter().map(|provider| provider.id.chars().count()).max().unwrap_or(0);
        for provider in &health.providers {
            let state = if provider.up {
                output.good(&counted(provider.capabilities, "capability"))
            } else {
                let cause = provider.error.as_deref().unwrap_or("no answer");
                output.bad(&format!("down: {}", name(cause)))
            };
            let kind = if provider.id == provider.kind { String::new() } else { format!("  {}", name(&provider.kind)) };
            let url = provider.url.as_deref().map(|url| format!("  {}", name(url))).unwrap_or_default();
            output.line(format!("  {:width$}{kind}  {state}{url}", name(&provider.id)))?;
        }
    }
    let seeds = if health.seeds.is_empty() { &mesh.seeds } else { &health.seeds };
    if !seeds.is_empty() {
        output.line("\nseeds")?;
        let width = seeds.iter().map(|seed| seed.seed.chars().count()).max().unwrap_or(0);
        for seed in seeds {
            let state = match &seed.error {
                _ if seed.connected => output.good("connected"),
                Some(cause) => output.bad(&name(cause)),
                None => "not connected yet".to_owned(),
            };
            output.line(format!("  {:width$}  {state}{}", name(&seed.seed), answers(seed, &mesh.nodes)))?;
        }
    }
    let others: Vec<&Node> = mesh.nodes.iter().filter(|node| !node.is_self).collect();
    if !others.is_empty() {
        output.line("\nother nodes")?;
        let others_shown = &others[..others.len().min(SHOWN_NODES)];
        let path = |node: &Node| node.path.clone().unwrap_or_else(|| "not connected".to_owned());
        let longest = |of: &dyn Fn(&Node) -> usize| others_shown.iter().map(|node| of(node)).max().unwrap_or(0);
        let names = longest(&|node| node.name.chars().count());
        let paths = longest(&|node| path(node).chars().count());
        for node in others_shown {
            let rtt = node.rtt_ms.map(|ms| format!("  {}", milliseconds(ms))).unwrap_or_default();
            output.line(format!("  {:names$}  {:paths$}{rtt}", name(&node.name), name(&path(node))).trim_end())?;
        }
        if others.len() > SHOWN_NODES {
            output.line(format!("  and {} more: `atmosphere nodes`", others.len() - SHOWN_NODES))?;
        }
    }
    Ok(())
}

/// The name of the node that answers at a seed.
fn answers(seed: &Seed, nodes: &[Node]) -> String {
    let node = seed.node.as_deref().filter(|_| seed.connected);
    let found = node.and_then(|id| nodes.iter().find(|node| node.id == id)).filter(|node| !node.name.is_empty());
    found.map(|node| format!("  {}", name(&node.name))).unwrap_or_default()
}

/// Enough of the mesh's id to see whether two nodes are in the same mesh.
fn mesh_id(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("({})", short_id(&name(id))) }
}
