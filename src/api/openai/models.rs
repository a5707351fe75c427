//! Every model of the mesh, once, whoever has it; and the names that stand for "the best one".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::envelope::ANTHROPIC_VERSION;
use crate::api::error::ApiError;
use crate::capability::{FeatureSet, ModalitySet, ModelName, Operation, OperationSet};
use crate::catalog::{Entry, Snapshot};

/// Who owns a name that stands for whichever model is best.
const OWN: &str = "atmosphere";

/// A model as OpenAI's clients know it, and more under a name of our own.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Model {
    id: String,
    object: &'static str,
    /// Backends do not tell: when this node started.
    created: u64,
    owned_by: String,
    atmosphere: Particulars,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Particulars {
    /// Names of the nodes that have it.
    nodes: BTreeSet<String>,
    kinds: BTreeSet<String>,
    operations: OperationSet,
    modalities: ModalitySet,
    features: FeatureSet,
    /// The longest that any of the nodes offers.
    context_length: Option<u32>,
    embedding_length: Option<u32>,
    project: Option<String>,
    domain: Option<String>,
}

impl Particulars {
    fn add(&mut self, entry: &Entry) {
        let capability = &entry.capability;
        self.nodes.insert(entry.node_name.to_string());
        self.kinds.insert(capability.kind.to_string());
        self.operations = self.operations.union(capability.operations);
        self.modalities = self.modalities.union(capability.modalities);
        self.features = self.features.union(capability.features);
        self.context_length = self.context_length.max(capability.context_length);
        self.embedding_length = self.embedding_length.or(capability.embedding_length);
        self.domain = self.domain.take().or_else(|| capability.domain.clone());
    }
}

/// Whether it is called by the name of a model.
fn is_model(entry: &Entry) -> bool {
    use Operation::{Chat, Complete, Embed, GenerateImage, Speak, Transcribe};
    let callable = OperationSet::of(&[Chat, Complete, Embed, GenerateImage, Speak, Transcribe]);
    entry.capability.operations.iter().any(|operation| callable.contains(operation))
}

/// All models by name, then the names of our own.
fn list(catalog: &Snapshot, aliases: Vec<String>, created: u64) -> Vec<Model> {
    let mut models: BTreeMap<ModelName, Model> = BTreeMap::new();
    let mut own = Particulars::default();
    for entry in catalog.entries().iter().filter(|entry| is_model(entry)) {
        let capability = &entry.capability;
        if capability.operations.contains(Operation::Chat) {
            own.add(entry);
        }
        let names = std::iter::once(&capability.name).chain(&capability.aliases).chain(&capability.project);
        for name in names.collect::<BTreeSet<_>>() {
            let model = models.entry(ModelName::new(name)).or_insert_with(|| Model {
                id: name.clone(),
                object: "model",
                created,
                owned_by: capability.provider.clone(),
                atmosphere: Particulars::default(),
            });
            model.atmosphere.add(entry);
            if Some(name) == capability.project.as_ref() {
                model.atmosphere.project = Some(name.clone());
            }
        }
    }
    // A name of our own is offered only while somebody can answer it.
    own.domain = None;
    let own_names = if own.nodes.is_empty() { Vec::new() } else { aliases };
    let auto = (!own.nodes.is_empty()).then(|| "auto".to_owned());
    for name in auto.into_iter().chain(own_names) {
        models.entry(ModelName::new(&name)).or_insert_with(|| Model {
            id: name,
            object: "model",
            created,
            owned_by: OWN.to_owned(),
            atmosphere: own.clone(),
        });
    }
    models.into_values().collect()
}

pub(crate) async fn models(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let models = list(&app.service.catalog(), app.service.aliases(), app.started_at_ms / 1000);
    if headers.contains_key(ANTHROPIC_VERSION) {
        let models: Vec<Value> = models.iter().map(as_anthropic).collect();
        let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
        let (first, last) = (id(models.first()), id(models.last()));
        return Json(json!({"data": models, "has_more": false, "first_id": first, "last_id": last})).into_response();
    }
    Json(json!({"object": "list", "data": models})).into_response()
}

/// A model as Anthropic's clients know it.
fn as_anthropic(model: &Model) -> Value {
    let created = UNIX_EPOCH + Duration::from_secs(model.created);
    json!({
        "type": "model", "id": model.id, "display_name": model.id,
        "created_at": humantime::format_rfc3339_seconds(created).to_string(),
        "max_input_tokens": model.atmosphere.context_length, "atmosphere": model.atmosphere,
    })
}

pub(crate) async fn model(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()).param("model"))?;
    let catalog = app.service.catalog();
    // `model@node` is a model as well, though the list does not multiply models by nodes.
    let (name, node) = match id.rsplit_once('@') {
        Some((name, node)) if catalog.by_model(&id).is_empty() && !catalog.nodes_named(node).is_empty() => {
            (name, Some(node))
        }
        _ => (id.as_str(), None),
    };
    let wanted = ModelName::new(name);
    let found = list(&catalog, app.service.aliases(), app.started_at_ms / 1000)
        .into_iter()
        .find(|model| ModelName::new(&model.id) == wanted)
        .filter(|model| node.is_none_or(|node| on_node(&catalog, model, node)));
    match found {
        Some(model) => {
            let model = Model { id, ..model };
            let anthropic = headers.contains_key(ANTHROPIC_VERSION);
            Ok(if anthropic { Json(as_anthropic(&model)).into_response() } else { Json(model).into_response() })
        }
        None => Err(ApiError::unknown_model(&catalog, &id)),
    }
}

fn on_node(catalog: &Snapshot, model: &Model, node: &str) -> bool {
    let nodes = catalog.nodes_named(node);
    let entries = catalog.by_model(&model.id).iter().chain(catalog.by_project(&model.id));
    entries.filter_map(|id| catalog.entry(*id)).any(|entry| nodes.contains(&entry.node))
        || (model.owned_by == OWN && nodes.iter().any(|node| catalog.advert(node).is_some()))
}
