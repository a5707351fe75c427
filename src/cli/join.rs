//! `atmosphere join`: the running node joins a mesh by the address of one of its nodes.

use serde_json::json;

use super::args::JoinArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Output, counted, name};
use super::shapes::Mesh;
use crate::mesh::Seed;

pub(super) async fn run(args: &JoinArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    args.address.parse::<Seed>().map_err(|error| CliError::Usage(error.to_string()))?;
    let client = Client::new(&args.client)?;
    let body = client.post("/v1/mesh/join", &json!({ "peer": args.address })).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let mesh: Mesh = parse(&client, &body)?;
    let nodes = counted(mesh.nodes.len() as u64, "node");
    output.line(format!("joined the mesh {} ({nodes})", output.bold(&name(&mesh.mesh.name))))?;
    Ok(super::nodes::table(&mesh.nodes, output)?)
}
