//! Letting a nearby machine in with a spoken code, and joining with one. For the node's owner only, looking on as well: the
//! code is a secret.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::members::{Length, entry_refusal, of_owner, refusal};
use super::moment::moment;
use super::owner::check_owner;
use crate::mesh::{CODE_LIFE, Code, PairView, Role, Seed};

/// How long a look at a pairing waits for a change.
const LOOK: Duration = Duration::from_secs(20);

/// Places that a newcomer may be told to look at.
const MAX_PEERS: usize = 16;

fn shape(view: &PairView) -> Value {
    json!({"pairing": {
        "id": view.id,
        "revision": view.revision,
        "side": view.side,
        "stage": view.stage,
        "code": view.code,
        "mesh": view.mesh,
        "role": view.role,
        "node": view.node.map(|node| node.to_base58()),
        "node_name": view.node_name,
        "check": view.check,
        "far_agreed": view.far_agreed,
        "attempts_left": view.attempts_left,
        "expires_at": moment(view.expires_ms),
        "problem": view.problem,
    }})
}

fn unknown() -> ApiError {
    let message = "there is no such pairing, or no longer: a node has one code open and joins with one at a time";
    ApiError::new(StatusCode::NOT_FOUND, "pairing_not_found", message).param("id")
}

#[derive(Deserialize)]
struct Pair {
    /// Given by who wants to join; without it a code is offered.
    code: Option<String>,
    #[serde(default)]
    peers: Vec<String>,
    expires: Option<Length>,
    role: Option<String>,
}

pub(super) async fn begin(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let wanted: Pair = of_owner(&app, request).await?;
    let view = match wanted.code {
        Some(code) => {
            let code: Code = code
                .parse()
                .map_err(|error: crate::mesh::CodeError| ApiError::bad_request(error.to_string()).param("code"))?;
            if wanted.peers.len() > MAX_PEERS {
                let message = format!("peers: {} are more than the {MAX_PEERS} that are tried", wanted.peers.len());
                return Err(ApiError::bad_request(message).param("peers"));
            }
            let peers = wanted.peers.iter().map(|peer| peer.parse::<Seed>()).collect::<Result<Vec<_>, _>>();
            let peers = peers.map_err(|error| ApiError::bad_request(error.to_string()).param("peers"))?;
            app.service.join_nearby(code, peers).map_err(|error| entry_refusal(&error))?
        }
        None => {
            let life = wanted.expires.map_or(Ok(CODE_LIFE), Length::duration)?;
            let role = match wanted.role {
                None => Role::default(),
                Some(text) => text
                    .parse()
                    .map_err(|error: crate::mesh::RoleError| ApiError::bad_request(error.to_string()).param("role"))?,
            };
            app.service.offer_pairing(role, life).map_err(|error| refusal(&error))?
        }
    };
    Ok(Json(shape(&view)).into_response())
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

pub(super) async fn look(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    after: Result<Query<After>, QueryRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    check_owner(&app, &parts)?;
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()).param("id"))?;
    let Query(After { after }) = after.map_err(|error| ApiError::bad_request(error.body_text()).param("after"))?;
    let view = app.service.pairing(&id, after, LOOK).await.ok_or_else(unknown)?;
    Ok(Json(shape(&view)).into_response())
}

#[derive(Deserialize)]
struct Answer {
    yes: bool,
}

pub(super) async fn answer(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()).param("id"))?;
    let Answer { yes } = of_owner(&app, request).await?;
    let view = app.service.answer_pairing(&id, yes).await.map_err(|error| refusal(&error))?.ok_or_else(unknown)?;
    Ok(Json(shape(&view)).into_response())
}
