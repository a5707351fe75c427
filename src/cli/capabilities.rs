//! `atmosphere capabilities`: what the mesh can do, and with which models.

use super::args::CapabilitiesArgs;
use super::client::{Client, parse};
use super::error::CliError;
use super::output::{Column, Output, milliseconds, short_id};
use super::shapes::{Capabilities, Capability};

const COLUMNS: &[Column] = &[
    Column::text("type"),
    Column::text("model"),
    Column::text("node"),
    Column::text("project").minor(),
    Column::text("domain").minor(),
    Column::text("state").minor(),
    Column::number("round trip").minor(),
];

pub(super) async fn run(args: &CapabilitiesArgs, output: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&args.client)?;
    let query: String = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(
            [("type", &args.kind), ("domain", &args.domain)].into_iter().filter_map(|(k, v)| Some((k, v.as_ref()?))),
        )
        .finish();
    let path = if query.is_empty() { "/v1/capabilities".to_owned() } else { format!("/v1/capabilities?{query}") };
    let body = client.get(&path).await?;
    if args.client.json {
        return Ok(output.json(&body)?);
    }
    let mut found: Capabilities = parse(&client, &body)?;
    if found.capabilities.is_empty() {
        output.note(if query.is_empty() {
            "The mesh can do nothing yet; `atmosphere status` shows why."
        } else {
            "Nothing in the mesh is of that kind; `atmosphere capabilities` without filters lists everything."
        });
        return Ok(());
    }
    let model = |capability: &Capability| {
        let names = capability.models.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        capability.model.clone().filter(|model| !model.is_empty()).unwrap_or(names)
    };
    let node =
        |capability: &Capability| capability.node_name.clone().unwrap_or_else(|| short_id(&capability.node).to_owned());
    found.capabilities.sort_by_cached_key(|c| (c.kind.clone(), model(c), node(c)));
    let row = |capability: &Capability| {
        let named = model(capability);
        vec![
            capability.kind.clone(),
            if named.is_empty() { capability.name.clone().unwrap_or_default() } else { named },
            node(capability),
            capability.project.clone().unwrap_or_default(),
            capability.domain.clone().unwrap_or_default(),
            capability.state.clone().filter(|state| state != "unknown").unwrap_or_default(),
            // None to this node itself.
            capability.latency_ms.filter(|ms| *ms > 0.0).map(milliseconds).unwrap_or_default(),
        ]
    };
    Ok(output.table(COLUMNS, &found.capabilities.iter().map(row).collect::<Vec<_>>())?)
}
