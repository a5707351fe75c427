//! `atmosphere nodes`: who is in the mesh.

use std::io;

use super::args::ClientArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Column, Output, milliseconds, short_id};
use super::shapes::{Mesh, Node};

pub(super) async fn run(args: &ClientArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(args)?;
    let body = client.get("/v1/mesh/nodes").await?;
    if args.json {
        return Ok(output.json(&body)?);
    }
    let mesh: Mesh = parse(&client, &body)?;
    Ok(table(&mesh.nodes, output)?)
}

/// The nodes, this one first, then the nearest.
pub(super) fn table(nodes: &[Node], output: &mut Output<'_>) -> io::Result<()> {
    const COLUMNS: &[Column] = &[
        Column::text("name"),
        Column::text("id").minor(),
        Column::text("status"),
        Column::text("path").minor(),
        Column::number("round trip"),
        Column::text("load").minor(),
        Column::number("capabilities"),
        Column::text("version").minor(),
    ];
    let mut nodes: Vec<&Node> = nodes.iter().collect();
    nodes.sort_by(|a, b| {
        let rtt = |node: &Node| node.rtt_ms.unwrap_or(f64::MAX);
        b.is_self.cmp(&a.is_self).then(rtt(a).total_cmp(&rtt(b))).then_with(|| a.name.cmp(&b.name))
    });
    let row = |node: &&Node| {
        vec![
            node.name.clone(),
            short_id(&node.id).to_owned(),
            node.status.clone(),
            node.path.clone().unwrap_or_default(),
            node.rtt_ms.filter(|_| !node.is_self).map(milliseconds).unwrap_or_default(),
            node.load.map(load).unwrap_or_default(),
            node.capabilities.to_string(),
            node.version.clone().unwrap_or_default(),
        ]
    };
    output.table(COLUMNS, &nodes.iter().map(row).collect::<Vec<_>>())
}

/// A node's load class in words.
fn load(class: u64) -> String {
    match class {
        0 => "idle".to_owned(),
        1 => "light".to_owned(),
        2 => "half".to_owned(),
        3 => "busy".to_owned(),
        4 => "full".to_owned(),
        other => other.to_string(),
    }
}
