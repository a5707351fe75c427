//! The mesh as the API shows it: nodes, links, capabilities, decisions; and joining it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app::{App, Context};
use super::error::ApiError;
use super::judgement::{DecisionShape, LoggedShape};
use super::limits::read_json;
use super::moment::moment;
use super::openai;
use super::owner::check_owner;
use super::service::{JoinError, Phase};
use crate::capability::{Advert, Capability, PeerId};
use crate::catalog::Snapshot;
use crate::mesh::{Code, LinkTransport, MeshView, PathClass, Token};

/// Decisions in a list, when the caller names no number.
const DECISIONS: usize = 50;
/// Bytes of a join request: an address or an invite.
const JOIN_BODY: usize = 16 * 1024;
/// The node's own join ends sooner; this is for the case that it does not.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct NodeShape {
    id: String,
    /// Empty for a node that is connected and has not said yet.
    name: String,
    #[serde(rename = "self")]
    is_self: bool,
    status: &'static str,
    /// `null`: no live connection, known by its advert only.
    path: Option<PathClass>,
    rtt_ms: Option<f64>,
    version: Option<String>,
    /// Load class, 0 (idle) to 4 (full).
    load: Option<u8>,
    capabilities: usize,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct LinkShape {
    source: String,
    target: String,
    path: PathClass,
    transport: LinkTransport,
    rtt_ms: Option<f64>,
}

#[derive(Serialize)]
struct CapabilityShape<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    node: String,
    node_name: &'a str,
    model: &'a str,
    models: Vec<&'a str>,
    project: Option<&'a str>,
    domain: Option<&'a str>,
    /// Whether its weights are in memory.
    state: crate::capability::Residency,
    /// One round trip to its node; `null` when it was not measured.
    latency_ms: Option<f64>,
    provider: &'a str,
    description: &'a str,
    topics: &'a [String],
    operations: crate::capability::OperationSet,
    modalities: crate::capability::ModalitySet,
    features: crate::capability::FeatureSet,
    context_length: Option<u32>,
    parameter_count: Option<u64>,
    quantization: Option<&'a str>,
    embedding_length: Option<u32>,
    concurrency: Option<u32>,
    cost: crate::capability::Cost,
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn rtt_ms(view: &MeshView, node: &PeerId) -> Option<f64> {
    if *node == view.node { Some(0.0) } else { view.peers.get(node)?.rtt.map(millis) }
}

/// Every node that there is a sign of: an advert, or a connection.
fn node_shapes(app: &App) -> Vec<NodeShape> {
    let (view, catalog) = (app.service.mesh(), app.service.catalog());
    let known: BTreeSet<PeerId> =
        catalog.adverts().keys().chain(view.peers.keys()).copied().chain([view.node]).collect();
    // This node first, the others in the order of their ids.
    let others = known.into_iter().filter(|node| *node != view.node);
    let shape = |node| node_shape(app, &view, &catalog, node);
    std::iter::once(view.node).chain(others).map(shape).collect()
}

fn node_shape(app: &App, view: &MeshView, catalog: &Snapshot, node: PeerId) -> NodeShape {
    let advert: Option<&Advert> = catalog.advert(&node).map(Arc::as_ref);
    let peer = view.peers.get(&node);
    let is_self = node == view.node;
    let status = match (is_self.then(|| app.phase()), advert) {
        (Some(Phase::Draining), _) => "leaving",
        (Some(Phase::Starting), _) | (None, None) => "joining",
        (Some(Phase::Ready), _) | (None, Some(_)) => "online",
    };
    let mut addresses = advert.map(|advert| advert.addresses.clone()).unwrap_or_default();
    if addresses.is_empty() {
        addresses =
            if is_self { view.listening.clone() } else { peer.iter().map(|peer| peer.address.clone()).collect() };
    }
    NodeShape {
        id: node.to_base58(),
        name: if is_self {
            app.service.node_name().to_string()
        } else {
            advert.map(|advert| advert.name.clone()).unwrap_or_default()
        },
        is_self,
        status,
        path: if is_self { Some(PathClass::Itself) } else { peer.map(|peer| peer.path) },
        rtt_ms: rtt_ms(view, &node),
        version: if is_self {
            Some(env!("CARGO_PKG_VERSION").to_owned())
        } else {
            advert.map(|advert| advert.version.clone())
        },
        load: advert.map(|advert| advert.load),
        capabilities: advert.map_or(0, |advert| advert.capabilities.len()),
        addresses,
    }
}

/// The mesh, and this node's membership in it.
pub(super) fn mesh_shape(view: &MeshView) -> Value {
    let membership = view.membership.as_ref().map(|own| {
        json!({
            "role": own.role,
            "expires_at": moment(own.expires_ms),
            "problem": own.denied.as_ref().map(ToString::to_string),
        })
    });
    json!({
        "id": view.mesh_id, "name": view.mesh_name, "closed": view.membership.is_some(), "membership": membership,
    })
}

pub(super) async fn nodes(State(app): State<Arc<App>>) -> Response {
    Json(json!({"nodes": node_shapes(&app)})).into_response()
}

pub(super) async fn topology(State(app): State<Arc<App>>) -> Response {
    let view = app.service.mesh();
    let links: Vec<_> = view
        .peers
        .iter()
        .map(|(node, peer)| LinkShape {
            source: view.node.to_base58(),
            target: node.to_base58(),
            path: peer.path,
            transport: peer.transport,
            rtt_ms: peer.rtt.map(millis),
        })
        .collect();
    Json(json!({
        "mesh": mesh_shape(&view),
        "nodes": node_shapes(&app),
        "links": links,
        "seeds": view.seeds,
    }))
    .into_response()
}

/// What a list of capabilities is narrowed by.
#[derive(Deserialize)]
pub(super) struct Narrow {
    /// A kind, its category or its type.
    #[serde(rename = "type")]
    kind: Option<String>,
    domain: Option<String>,
    /// A node's name or id.
    node: Option<String>,
}

impl Narrow {
    fn keeps(&self, capability: &Capability) -> bool {
        let kind = &capability.kind;
        self.kind.as_deref().is_none_or(|asked| [kind.as_str(), kind.category(), kind.type_name()].contains(&asked))
            && self.domain.as_deref().is_none_or(|asked| {
                capability.domain.as_deref().is_some_and(|domain| domain.eq_ignore_ascii_case(asked))
            })
    }
}

pub(super) async fn capabilities(
    State(app): State<Arc<App>>,
    narrow: Result<Query<Narrow>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(narrow) = narrow.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let (view, catalog) = (app.service.mesh(), app.service.catalog());
    let on = narrow.node.as_deref().map(|name| catalog.nodes_named(name));
    let shapes: Vec<_> = catalog
        .entries()
        .iter()
        .filter(|entry| on.as_ref().is_none_or(|nodes| nodes.contains(&entry.node)) && narrow.keeps(&entry.capability))
        .map(|entry| {
            let capability = &*entry.capability;
            CapabilityShape {
                id: capability.id.as_str(),
                kind: capability.kind.as_str(),
                node: entry.node.to_base58(),
                node_name: &entry.node_name,
                model: &capability.name,
                models: std::iter::once(&capability.name).chain(&capability.aliases).map(String::as_str).collect(),
                project: capability.project.as_deref(),
                domain: capability.domain.as_deref(),
                state: capability.residency,
                latency_ms: rtt_ms(&view, &entry.node),
                provider: &capability.provider,
                description: &capability.description,
                topics: &capability.topics,
                operations: capability.operations,
                modalities: capability.modalities,
                features: capability.features,
                context_length: capability.context_length,
                parameter_count: capability.parameter_count,
                quantization: capability.quantization.as_deref(),
                embedding_length: capability.embedding_length,
                concurrency: capability.concurrency,
                cost: capability.cost,
            }
        })
        .collect();
    Ok(Json(json!({"capabilities": shapes})).into_response())
}

/// Judges a request as if it had been sent to its own route, and does not run it.
pub(super) async fn route(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (settings, mut room) = (&app.settings, app.admission.room());
    let body = read_json(&parts.headers, body, settings.max_body, settings.body_timeout, &mut room).await?;
    let intent = openai::judged_intent(&parts.headers, &context.request_id, body, app.settings.deadline)?;
    let decision = app.service.consider(intent).await;
    Ok(Json(json!({"decision": DecisionShape::from(&decision)})).into_response())
}

#[derive(Deserialize)]
pub(super) struct Last {
    limit: Option<usize>,
}

pub(super) async fn decisions(
    State(app): State<Arc<App>>,
    last: Result<Query<Last>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(last) = last.map_err(|error| ApiError::bad_request(error.body_text()).param("limit"))?;
    let logged = app.service.decisions(last.limit.unwrap_or(DECISIONS));
    let shapes: Vec<_> = logged.iter().map(LoggedShape::from).collect();
    Ok(Json(json!({"decisions": shapes})).into_response())
}

pub(super) async fn decision(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()).param("id"))?;
    match app.service.decision(&id) {
        Some(logged) => Ok(Json(json!({"decision": LoggedShape::from(&logged)})).into_response()),
        None => {
            let message = "there is no such decision, or no longer: only the last ones are kept";
            Err(ApiError::new(StatusCode::NOT_FOUND, "decision_not_found", message).param("id"))
        }
    }
}

#[derive(Deserialize)]
struct Join {
    peer: String,
}

pub(super) async fn join(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read_json(&parts.headers, body, JOIN_BODY, app.settings.body_timeout, &mut app.admission.room()).await?;
    let Join { peer } = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("expected {{\"peer\": \"host:port, or an invite\"}}: {error}")).param("peer")
    })?;
    if Code::is_like(&peer) {
        let message = "this is a spoken code: two people confirm it, so post {\"code\": …} to /v1/mesh/pair, or type `atmosphere join` with it";
        return Err(ApiError::bad_request(message).param("peer"));
    }
    if Token::is_like(&peer) {
        // It takes this node out of the mesh that it is in.
        check_owner(&app, &parts)?;
    }
    let joined = tokio::time::timeout(JOIN_LIMIT, app.service.join(peer.trim()))
        .await
        .unwrap_or_else(|_| Err(JoinError::Unreachable(format!("no answer within {} s", JOIN_LIMIT.as_secs()))));
    let joined = joined.map_err(|error| {
        let (status, code) = match error {
            JoinError::BadAddress(_) => (StatusCode::BAD_REQUEST, "bad_address"),
            JoinError::NotAdmitted(_) => (StatusCode::FORBIDDEN, "not_admitted"),
            JoinError::Unreachable(_) => (StatusCode::BAD_GATEWAY, "unreachable"),
            JoinError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "join_failed"),
        };
        ApiError::new(status, code, error.to_string()).param("peer")
    })?;
    let view = app.service.mesh();
    Ok(Json(json!({
        "mesh": mesh_shape(&view),
        "joined": joined.to_base58(),
        "nodes": node_shapes(&app),
    }))
    .into_response())
}
