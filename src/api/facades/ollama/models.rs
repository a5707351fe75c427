//! The mesh's models as Ollama lists its own.
//!
//! What no advert tells is left empty, or 0, and never made up: sizes on disk, templates, licences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::rfc3339;
use crate::api::app::App;
use crate::api::error::ApiError;
use crate::api::facades::{entries_of, unknown_model};
use crate::api::limits::read_any;
use crate::capability::{Capability, Feature, Modality, ModelName, Operation, OperationSet, Residency};
use crate::catalog::{Entry, Snapshot};
use crate::dialect::Refusal;

/// Ollama's own far future: a model that is kept until it is told otherwise.
const FOR_NOW: &str = "2318-01-01T00:00:00Z";
/// Where the details of a model that Ollama would read from its file are.
const ARCHITECTURE: &str = "atmosphere";

pub(crate) async fn tags(State(app): State<Arc<App>>) -> Response {
    let catalog = app.service.catalog();
    let modified = rfc3339(UNIX_EPOCH + Duration::from_millis(app.started_at_ms));
    let mut models: Vec<Value> =
        by_name(&catalog, |_| true).values().map(|entries| listed(entries, &modified)).collect();
    // A name that stands for the best one is there while somebody can answer it.
    let talks = catalog.entries().iter().any(|entry| entry.capability.operations.contains(Operation::Chat));
    let wishes = if talks { app.service.aliases() } else { Vec::new() };
    let auto = talks.then(|| "auto".to_owned());
    models.extend(auto.into_iter().chain(wishes).map(|name| {
        json!({"name": name, "model": name, "modified_at": modified, "size": 0, "digest": "", "details": details(None),
            "capabilities": ["completion"]})
    }));
    Json(json!({ "models": models })).into_response()
}

/// What is loaded somewhere, as far as this node knows.
pub(crate) async fn ps(State(app): State<Arc<App>>) -> Response {
    let catalog = app.service.catalog();
    let loaded = by_name(&catalog, |capability| capability.residency == Residency::Warm);
    let models: Vec<Value> = loaded
        .values()
        .map(|entries| {
            let capability = &entries[0].capability;
            json!({
                "name": capability.name, "model": capability.name, "size": 0, "size_vram": 0,
                "digest": capability.digest.as_deref().unwrap_or_default(), "details": details(Some(capability)),
                "expires_at": FOR_NOW, "context_length": context_length(entries).unwrap_or_default(),
                "nodes": nodes(entries),
            })
        })
        .collect();
    Json(json!({ "models": models })).into_response()
}

pub(crate) async fn show(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let settings = &app.settings;
    let mut room = app.admission.room();
    let body = read_any(&parts.headers, body, settings.max_body, settings.body_timeout, &mut room).await?;
    let name = asked(&body)?;
    if let Some(error) = unknown_model(&app, &name) {
        return Err(error);
    }
    let catalog = app.service.catalog();
    let entries = entries_of(&catalog, &name);
    let capability = entries.first().map(|entry| &*entry.capability);
    let mut info = json!({"general.architecture": ARCHITECTURE, "general.basename": name});
    for (key, value) in [
        ("general.parameter_count", capability.and_then(|it| it.parameter_count)),
        ("atmosphere.context_length", context_length(&entries).map(u64::from)),
        ("atmosphere.embedding_length", capability.and_then(|it| it.embedding_length).map(u64::from)),
    ] {
        if let Some(value) = value {
            info[key] = value.into();
        }
    }
    Ok(Json(json!({
        "modelfile": "", "parameters": "", "template": "", "license": "",
        "modified_at": rfc3339(UNIX_EPOCH + Duration::from_millis(app.started_at_ms)),
        "details": details(capability), "model_info": info,
        "capabilities": if entries.is_empty() { json!(["completion"]) } else { json!(abilities(&entries)) },
        "nodes": nodes(&entries),
    }))
    .into_response())
}

fn asked(body: &[u8]) -> Result<String, ApiError> {
    let read: Result<Value, _> = serde_json::from_slice(body);
    let body = read.ok().filter(Value::is_object).ok_or_else(|| ApiError::bad_request("the body is no JSON object"))?;
    let name = body["model"].as_str().or_else(|| body["name"].as_str()).filter(|name| !name.is_empty());
    let missing = || ApiError::refused(Refusal { message: "\"model\" is missing".into(), param: Some("model".into()) });
    name.map(str::to_owned).ok_or_else(missing)
}

/// The models that Ollama's routes can call, each with all who have it, by name.
fn by_name(catalog: &Snapshot, keep: impl Fn(&Capability) -> bool) -> BTreeMap<ModelName, Vec<&Entry>> {
    let callable = OperationSet::of(&[Operation::Chat, Operation::Complete, Operation::Embed]);
    let mut models: BTreeMap<ModelName, Vec<&Entry>> = BTreeMap::new();
    for entry in catalog.entries() {
        let capability = &entry.capability;
        if capability.operations.iter().any(|operation| callable.contains(operation)) && keep(capability) {
            models.entry(ModelName::new(&capability.name)).or_default().push(entry);
        }
    }
    models
}

fn listed(entries: &[&Entry], modified: &str) -> Value {
    let capability = &entries[0].capability;
    json!({
        "name": capability.name, "model": capability.name, "modified_at": modified, "size": 0,
        "digest": capability.digest.as_deref().unwrap_or_default(), "details": details(Some(capability)),
        "capabilities": abilities(entries), "nodes": nodes(entries),
    })
}

fn details(capability: Option<&Capability>) -> Value {
    let size = capability.and_then(|capability| capability.parameter_count).map(size_text).unwrap_or_default();
    let level = capability.and_then(|capability| capability.quantization.clone()).unwrap_or_default();
    json!({
        "parent_model": "", "format": "", "family": "", "families": null, "parameter_size": size,
        "quantization_level": level, "context_length": capability.and_then(|capability| capability.context_length),
        "embedding_length": capability.and_then(|capability| capability.embedding_length),
    })
}

/// Such as `7.6B` and `494M`.
#[allow(clippy::cast_precision_loss, reason = "a digit after the point is shown")]
fn size_text(count: u64) -> String {
    let count = count as f64;
    if count >= 1e9 { format!("{:.1}B", count / 1e9) } else { format!("{:.0}M", count / 1e6) }
}

/// The longest that any of them offers.
fn context_length(entries: &[&Entry]) -> Option<u32> {
    entries.iter().filter_map(|entry| entry.capability.context_length).max()
}

fn nodes(entries: &[&Entry]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.node_name.to_string()).collect()
}

/// What one of those who have it can do, in Ollama's words.
fn abilities(entries: &[&Entry]) -> Vec<&'static str> {
    let any = |what: &dyn Fn(&Capability) -> bool| entries.iter().any(|entry| what(&entry.capability));
    let feature = |feature| any(&|capability: &Capability| capability.features.contains(feature));
    let operation = |operation| any(&|capability: &Capability| capability.operations.contains(operation));
    [
        ("completion", operation(Operation::Chat) || operation(Operation::Complete)),
        ("tools", feature(Feature::Tools)),
        ("insert", feature(Feature::Insert)),
        ("vision", any(&|capability: &Capability| capability.modalities.contains(Modality::Image))),
        ("embedding", operation(Operation::Embed)),
        ("thinking", feature(Feature::Thinking)),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_ollama_tells_them() {
        assert_eq!((size_text(7_615_616_512), size_text(494_032_768)), ("7.6B".into(), "494M".into()));
    }
}
