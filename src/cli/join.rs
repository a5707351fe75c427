//! `atmosphere join`: the running node joins a mesh; with an invite a node need not run.

use serde_json::json;

use super::args::{ClientArgs, JoinArgs};
use super::client::{Client, parse};
use super::error::CliError;
use super::meshes::{Offline, offline};
use super::output::{Output, counted, name};
use super::shapes::Mesh;
use crate::mesh::{self, Code, EntryError, KnockError, Seed, Token};

pub(super) async fn run(joining: &JoinArgs, peer: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    let args = &joining.client;
    if Code::is_like(peer) {
        let code = peer.parse::<Code>().map_err(|error| CliError::Usage(error.to_string()))?;
        return super::nearby::join(joining, &code, output).await;
    }
    if joining.yes || !joining.peers.is_empty() {
        return Err(CliError::Usage("--yes and --peer go with a spoken code, such as 7-otter-lamp".into()));
    }
    if Token::is_like(peer) {
        let token = peer.parse::<Token>().map_err(|error| CliError::Usage(error.to_string()))?;
        if let Some(stopped) = offline(args)? {
            return knock(args, &stopped, &token, output).await;
        }
    } else {
        peer.parse::<Seed>().map_err(|error| CliError::Usage(error.to_string()))?;
    }
    let client = Client::new(args)?;
    let body = client.post("/v1/mesh/join", &json!({ "peer": peer })).await?;
    if args.json {
        return Ok(output.json(&body)?);
    }
    let mesh: Mesh = parse(&client, &body)?;
    let nodes = counted(mesh.nodes.len() as u64, "node");
    output.line(format!("joined the mesh {} ({nodes})", output.bold(&name(&mesh.mesh.name))))?;
    Ok(super::nodes::table(&mesh.nodes, output)?)
}

/// No node runs: gets the membership, and leaves it for the next start.
async fn knock(args: &ClientArgs, stopped: &Offline, token: &Token, output: &mut Output<'_>) -> Result<(), CliError> {
    let entered = mesh::enter(Some(stopped.data_dir.path()), &stopped.identity, token).await;
    let closed = entered.map_err(|error| match &error {
        EntryError::Knock(KnockError::Unreachable { .. }) => CliError::NotReachable(error.to_string()),
        _ => CliError::Failed(error.to_string()),
    })?;
    if args.json {
        let mesh = json!({"id": closed.mesh().to_hex(), "name": closed.name(), "closed": true, "membership": {"role": closed.role()}});
        let node = stopped.identity.peer_id().to_base58();
        return Ok(output.json(json!({"mesh": mesh, "joined": node, "nodes": []}).to_string().as_bytes())?);
    }
    output.line(format!("joined the mesh {} as {}", output.bold(&name(closed.name())), closed.role()))?;
    Ok(output.line(format!("the next `atmosphere start{}` is in it", stopped.flag(args)))?)
}
