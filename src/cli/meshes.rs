//! `atmosphere mesh create` and `mesh leave`: of the running node, or on disk when none runs.

use std::path::PathBuf;

use serde_json::json;

use super::args::{ClientArgs, MeshCreateArgs};
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Output, name};
use super::shapes::{Left, Mesh};
use crate::config::{DataDir, DataDirError, default_data_dir};
use crate::mesh::{Closed, Identity};

/// The data directory of a node that does not run, taken for as long as this lives.
pub(super) struct Offline {
    pub(super) data_dir: DataDir,
    pub(super) identity: Identity,
}

impl Offline {
    /// The flag that leads to this directory, when it is not the usual one.
    pub(super) fn flag(&self, args: &ClientArgs) -> String {
        let path = self.data_dir.path().display();
        if args.data_dir.is_some() { format!(" --data-dir {path}") } else { String::new() }
    }
}

/// The data directory that is meant, when no node runs in it; `None` when one does, or one is named by its URL.
pub(super) fn offline(args: &ClientArgs) -> Result<Option<Offline>, CliError> {
    if args.url.is_some() {
        return Ok(None);
    }
    let Some(path) = args.data_dir.clone().or_else(default_data_dir) else {
        return Err(CliError::Usage("this user has no home directory; name one with --data-dir".into()));
    };
    let data_dir = match DataDir::open(&path) {
        Ok(data_dir) => data_dir,
        Err(DataDirError::InUse { .. }) => return Ok(None),
        Err(error) => return Err(CliError::Failed(error.to_string())),
    };
    let identity = Identity::load_or_create(data_dir.path()).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(Some(Offline { data_dir, identity }))
}

pub(super) async fn create(args: &MeshCreateArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let root = |dir: PathBuf| format!("keep a copy of its root key, {}", dir.join("mesh-root.key").display());
    let failed = |error: &dyn std::error::Error| CliError::Failed(error.to_string());
    if let Some(stopped) = offline(&args.client)? {
        let dir = stopped.data_dir.path();
        if let Some(closed) = Closed::open(dir, &stopped.identity).map_err(|error| failed(&error))? {
            let known = closed.name();
            return Err(CliError::Failed(format!(
                "this node is a member of the closed mesh {known} already; to change, first leave that one: atmosphere mesh leave"
            )));
        }
        let closed = Closed::create(Some(dir), &stopped.identity, &args.name).map_err(|error| failed(&error))?;
        if args.client.json {
            let mesh = json!({"id": closed.mesh().to_hex(), "name": closed.name(), "closed": true, "membership": {"role": "admin"}});
            return Ok(output.json(json!({ "mesh": mesh }).to_string().as_bytes())?);
        }
        output.line(format!(
            "made the closed mesh {}; this node is its first admin",
            output.bold(&name(closed.name()))
        ))?;
        output.line(root(dir.to_owned()))?;
        let flag = stopped.flag(&args.client);
        return Ok(output
            .line(format!("next: atmosphere start{flag}, and then atmosphere invite{flag} for each other machine"))?);
    }
    let client = Client::new(&args.client)?;
    let body = client.post("/v1/mesh/create", &json!({ "name": args.name })).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let mesh: Mesh = parse(&client, &body)?;
    output.line(format!(
        "made the closed mesh {}, and went into it as its first admin",
        output.bold(&name(&mesh.mesh.name))
    ))?;
    output.line("keep a copy of its root key, mesh-root.key in the node's data directory")?;
    Ok(output.line("next: atmosphere invite, for each other machine")?)
}

pub(super) async fn leave(args: &ClientArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::Failed(error.to_string());
    let kept: Vec<String> = if let Some(stopped) = offline(args)? {
        let closed = Closed::open(stopped.data_dir.path(), &stopped.identity).map_err(|error| failed(&error))?;
        let closed = closed.ok_or_else(|| CliError::Failed("this node is in no closed mesh".into()))?;
        let kept = closed.set_aside().map_err(|error| failed(&error))?;
        let kept: Vec<_> = kept.iter().map(|path| path.display().to_string()).collect();
        if args.json {
            return Ok(output.json(json!({ "kept": kept }).to_string().as_bytes())?);
        }
        kept
    } else {
        let client = Client::new(args)?;
        let body = client.post("/v1/mesh/leave", &json!({})).await?;
        if args.json {
            return Ok(output.json(&body)?);
        }
        parse::<Left>(&client, &body)?.kept
    };
    output.line("left the closed mesh; its files are kept:")?;
    for path in kept {
        output.line(format!("  {}", name(&path)))?;
    }
    Ok(())
}
