//! `atmosphere status`: how the node is, and what needs attention.

use std::time::Duration;

use serde_json::Value;

use super::args::ClientArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Output, counted, name, short_id};
use super::shapes::{Health, Mesh, Seed};

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
    pair("mesh", format!("{}  {}", name(mesh_name), mesh_id(&mesh.mesh.id)).trim_end().to_owned())?;
    let capabilities: u64 = mesh.nodes.iter().map(|node| node.capabilities).sum();
    pair("nodes", format!("{}, {}", counted(mesh.nodes.len() as u64, "node"), counted(capabilities, "capability")))?;

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
    let seeds: Vec<&Seed> = seeds.iter().filter(|seed| !seed.connected).collect();
    if !seeds.is_empty() {
        output.line("\nseeds that do not answer")?;
        for seed in seeds {
            let cause = seed.error.as_deref().unwrap_or("not connected yet");
            output.line(format!("  {}  {}", name(&seed.seed), output.bad(&name(cause))))?;
        }
    }
    Ok(())
}

/// Enough of the mesh's id to see whether two nodes are in the same mesh.
fn mesh_id(id: &str) -> String {
    if id.is_empty() { String::new() } else { format!("({})", short_id(&name(id))) }
}
