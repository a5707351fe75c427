//! `atmosphere members` and `atmosphere revoke`: who belongs to the closed mesh, and who does no more.

use serde_json::json;

use super::args::{ClientArgs, RevokeArgs};
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Column, Output, name};
use super::shapes::{Member, Members, Revoked};

pub(super) async fn list(args: &ClientArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    const COLUMNS: &[Column] = &[
        Column::text("name"),
        Column::text("role"),
        Column::text("status"),
        Column::text("expires").minor(),
        Column::text("id"),
        Column::sentence("reason").minor(),
    ];
    let client = Client::new(args)?;
    let body = client.get("/v1/mesh/members").await?;
    if args.json {
        return Ok(output.json(&body)?);
    }
    let Members { mesh, mut members } = parse(&client, &body)?;
    output.line(format!("members of the closed mesh {}", output.bold(&name(&mesh.name))))?;
    let rank = |member: &Member| (!member.is_self, member.status != "member");
    members.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.node.cmp(&b.node)));
    let row = |member: &Member| {
        // Enough to see when; the time of day is in the JSON.
        let day = |text: &Option<String>| text.as_deref().and_then(|text| text.get(..10)).unwrap_or("-").to_owned();
        vec![
            member.name.clone().unwrap_or_else(|| "-".to_owned()),
            member.role.clone(),
            member.status.clone(),
            day(&member.expires_at),
            member.node.clone(),
            member.reason.clone().unwrap_or_default(),
        ]
    };
    Ok(output.table(COLUMNS, &members.iter().map(row).collect::<Vec<_>>())?)
}

pub(super) async fn revoke(args: &RevokeArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&args.client)?;
    let wanted = json!({"node": args.node, "reason": args.reason, "with_admitted": args.with_admitted});
    let body = client.post("/v1/mesh/revoke", &wanted).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let revoked: Revoked = parse(&client, &body)?;
    let called = |node: &Member| match &node.name {
        Some(known) => format!("{} ({})", name(known), name(&node.node)),
        None => name(&node.node),
    };
    let node = Member { node: revoked.node, name: revoked.name, ..Member::default() };
    output.line(format!("revoked {}; the nodes of the mesh hang up on it as they hear of it", called(&node)))?;
    if !revoked.reissued.is_empty() {
        output.line("it had let these in, and they stay (revoke those that you do not know):")?;
        for node in &revoked.reissued {
            output.line(format!("  {}", called(node)))?;
        }
    }
    if !revoked.also_revoked.is_empty() {
        output.line("it had let these in, and they are out with it:")?;
        for node in &revoked.also_revoked {
            output.line(format!("  {}", called(node)))?;
        }
    }
    Ok(())
}
