//! Other protocols over the same core: each request becomes a chat, runs as every chat does, and its answer is told as
//! its client expects it.
//!
//! What a protocol says is [`dialect`](crate::dialect)'s; here is only the way there and back. A body is read once within
//! the API's limits, and then takes the way of OpenAI's routes, so that deadlines, cancellation, metrics and
//! route headers are the same. `retell` turns the answer around: a stream as it comes, anything else at once.

mod anthropic;
pub(super) mod ollama;
mod responses;
mod retell;

pub(super) use anthropic::{count_tokens, messages};
pub(super) use responses::responses;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;

use super::app::App;
use super::error::ApiError;
use super::limits::{Place, read_json};
use crate::capability::{Feature, Target, normalise_name};
use crate::catalog::{Entry, Snapshot};

/// A request's place and body.
async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<(Place, Bytes), ApiError> {
    let mut place = app.admission.enter()?;
    let settings = &app.settings;
    let body = read_json(headers, body, settings.max_body, settings.body_timeout, &mut place.room).await?;
    Ok((place, body))
}

/// Who has the model of this name, which may be followed by `@` and a node's.
fn entries_of<'a>(catalog: &'a Snapshot, model: &str) -> Vec<&'a Entry> {
    let (name, node) = match catalog.by_model(model) {
        [] => model.rsplit_once('@').map_or((model, None), |(name, node)| (name, Some(node))),
        _ => (model, None),
    };
    let on_node = |entry: &&Entry| node.is_none_or(|node| catalog.nodes_named(node).contains(&entry.node));
    let ids = catalog.by_model(name).iter().chain(catalog.by_project(name));
    ids.filter_map(|id| catalog.entry(*id)).filter(on_node).collect()
}

/// Whether a model of this name is known to think; `None` when it is not known who will answer, as for an alias. Others
/// are not asked to, since many servers refuse that.
fn known_to_think(app: &App, model: &str) -> Option<bool> {
    let catalog = app.service.catalog();
    let entries = entries_of(&catalog, model);
    let thinks = |entry: &&Entry| entry.capability.features.contains(Feature::Thinking);
    (!entries.is_empty()).then(|| entries.iter().any(thinks))
}

/// The error that a name is which nobody has.
fn unknown_model(app: &App, model: &str) -> Option<ApiError> {
    let catalog = app.service.catalog();
    let same = |name: &String| normalise_name(name) == normalise_name(model);
    let a_wish = Target::from_model(Some(model)) == Target::Auto || app.service.aliases().iter().any(same);
    (!a_wish && entries_of(&catalog, model).is_empty()).then(|| ApiError::unknown_model(&catalog, model))
}
