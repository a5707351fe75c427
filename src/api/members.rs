//! Closed meshes: who belongs to it, inviting, revoking, and making or leaving one.
//!
//! What changes anything here is for the node's owner only: with a key, or without one from this very machine and not
//! from a web page of another site, whatever else these may do.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::limits::read_json;
use super::mesh::mesh_shape;
use super::moment::moment;
use super::owner::check_owner;
use crate::capability::PeerId;
use crate::mesh::{Denied, EntryError, InviteOptions, MemberError, MemberView, Role};

/// Bytes of a request: a few words.
const BODY: usize = 16 * 1024;

/// Letters of the end of a node's id that are enough to name it.
const LEAST_ID: usize = 6;

/// Reads a request of the owner's; an empty body is an empty object.
pub(super) async fn of_owner<T: DeserializeOwned>(app: &App, request: Request<Body>) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    check_owner(app, &parts)?;
    let body = read_json(&parts.headers, body, BODY, app.settings.body_timeout, &mut app.admission.room()).await?;
    let body = if body.trim_ascii().is_empty() { &b"{}"[..] } else { &body[..] };
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the request is not as expected: {error}")))
}

pub(super) fn refusal(error: &MemberError) -> ApiError {
    let (status, code) = match error {
        MemberError::Open => (StatusCode::CONFLICT, "open_mesh"),
        MemberError::NotAdmin(_) | MemberError::Denied(_) => (StatusCode::FORBIDDEN, "not_admin"),
        MemberError::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        MemberError::NoAddress => (StatusCode::CONFLICT, "no_address"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "members_failed"),
    };
    ApiError::new(status, code, error.to_string())
}

pub(super) fn entry_refusal(error: &EntryError) -> ApiError {
    match error {
        EntryError::Member(error) => refusal(error),
        EntryError::Elsewhere(_) => ApiError::new(StatusCode::CONFLICT, "closed_mesh", error.to_string()),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "members_failed", error.to_string()),
    }
}

fn name_of(app: &App, node: &PeerId) -> Option<String> {
    if *node == app.service.mesh().node {
        return Some(app.service.node_name().to_string());
    }
    app.service.catalog().advert(node).map(|advert| advert.name.clone())
}

fn member_shape(app: &App, own: &PeerId, member: &MemberView) -> Value {
    let status = match &member.denied {
        None => "member",
        Some(Denied::Revoked | Denied::IssuerRevoked) => "revoked",
        Some(Denied::Expired(_)) => "expired",
        Some(_) => "pending",
    };
    json!({
        "node": member.node.to_base58(),
        // While it is away: the last that was heard.
        "name": name_of(app, &member.node).or_else(|| member.name.clone()),
        "self": member.node == *own,
        "role": member.role,
        "status": status,
        "problem": member.denied.as_ref().map(ToString::to_string),
        "issued_at": moment(member.issued_ms),
        "expires_at": moment(member.expires_ms),
        "issuer": member.issuer.map(|issuer| issuer.to_base58()),
        "revoked_at": member.revoked_ms.and_then(moment),
        "reason": member.reason,
    })
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let members = app.service.members().ok_or_else(|| refusal(&MemberError::Open))?;
    let view = app.service.mesh();
    let shapes: Vec<_> = members.iter().map(|member| member_shape(&app, &view.node, member)).collect();
    Ok(Json(json!({"mesh": mesh_shape(&view), "members": shapes})).into_response())
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Length {
    Seconds(u64),
    Text(String),
}

impl Length {
    pub(super) fn duration(self) -> Result<Duration, ApiError> {
        match self {
            Self::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
            Self::Text(text) => humantime::parse_duration(text.trim()).map_err(|_| {
                ApiError::bad_request(format!("expires: {text:?} is not a length of time; give one such as 24h"))
                    .param("expires")
            }),
        }
    }
}

#[derive(Deserialize)]
struct Invite {
    expires: Option<Length>,
    uses: Option<u32>,
    role: Option<String>,
}

pub(super) async fn invite(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let wanted: Invite = of_owner(&app, request).await?;
    let usual = InviteOptions::default();
    let life = wanted.expires.map_or(Ok(usual.life), Length::duration)?;
    let role = match wanted.role {
        None => usual.role,
        Some(text) => text.parse::<Role>().map_err(|error| ApiError::bad_request(error.to_string()).param("role"))?,
    };
    let options = InviteOptions { life, uses: wanted.uses.unwrap_or(usual.uses), role };
    let invited = app.service.invite(options).await.map_err(|error| refusal(&error))?;
    let token = &invited.token;
    Ok(Json(json!({
        "token": token.to_string(),
        "link": token.link(),
        "mesh": {"id": token.mesh().to_hex(), "name": token.mesh_name},
        "role": token.role,
        "uses": invited.uses,
        "expires_at": moment(token.expires.saturating_mul(1000)),
        "addresses": token.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
    .into_response())
}

#[derive(Deserialize)]
struct Revoke {
    node: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    with_admitted: bool,
}

/// The node that an owner means by its id, the end of it, or its name.
fn find_node(app: &App, members: &[MemberView], text: &str) -> Result<PeerId, ApiError> {
    let text = text.trim();
    if let Ok(node) = text.parse::<PeerId>() {
        return Ok(node);
    }
    let name = |member: &MemberView| name_of(app, &member.node).or_else(|| member.name.clone());
    let by_name = |member: &MemberView| name(member).is_some_and(|name| name == text);
    let by_end = |node: &PeerId| text.len() >= LEAST_ID && node.to_base58().ends_with(text);
    let is_meant = |member: &&MemberView| by_name(member) || by_end(&member.node);
    let meant: Vec<PeerId> = members.iter().filter(is_meant).map(|member| member.node).collect();
    match meant.as_slice() {
        [node] => Ok(*node),
        [] => {
            let message = format!(
                "there is no member {:?} (`atmosphere members` lists all, also those that are away, with their ids)",
                text.chars().take(80).collect::<String>()
            );
            Err(ApiError::new(StatusCode::NOT_FOUND, "member_not_found", message).param("node"))
        }
        many => {
            let ids: Vec<_> = many.iter().map(|node| node.to_base58()).collect();
            let message = format!("{text:?} may be any of {}; give the id", ids.join(", "));
            Err(ApiError::new(StatusCode::CONFLICT, "member_ambiguous", message).param("node"))
        }
    }
}

pub(super) async fn revoke(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let Revoke { node, reason, with_admitted } = of_owner(&app, request).await?;
    let members = app.service.members().ok_or_else(|| refusal(&MemberError::Open))?;
    let node = find_node(&app, &members, &node)?;
    let name = name_of(&app, &node);
    let revoked = app.service.revoke(node, reason, with_admitted).await.map_err(|error| refusal(&error))?;
    let shape = |nodes: &[PeerId]| -> Vec<Value> {
        nodes.iter().map(|node| json!({"node": node.to_base58(), "name": name_of(&app, node)})).collect()
    };
    Ok(Json(json!({
        "node": node.to_base58(),
        "name": name,
        "reissued": shape(&revoked.reissued),
        "also_revoked": shape(&revoked.cut),
    }))
    .into_response())
}

#[derive(Deserialize)]
struct Create {
    name: String,
}

pub(super) async fn create(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let Create { name } = of_owner(&app, request).await?;
    app.service.create_mesh(name).await.map_err(|error| entry_refusal(&error))?;
    Ok(Json(json!({"mesh": mesh_shape(&app.service.mesh())})).into_response())
}

pub(super) async fn leave(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, ApiError> {
    let _: serde_json::Map<String, Value> = of_owner(&app, request).await?;
    let kept = app.service.leave_mesh().await.map_err(|error| entry_refusal(&error))?;
    let kept: Vec<_> = kept.iter().map(|path| path.display().to_string()).collect();
    Ok(Json(json!({"mesh": mesh_shape(&app.service.mesh()), "kept": kept})).into_response())
}
