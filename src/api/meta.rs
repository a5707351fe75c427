//! What a node says of itself: probes, metrics, health, the contract, the landing page.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;
use super::mesh::mesh_shape;
use super::service::Phase;
use crate::telemetry::METRICS_CONTENT_TYPE;

/// The contract, kept by hand; a test compares it with the table of routes.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// The process is alive.
pub(super) async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// It answers requests: not yet while it starts, no longer while it drains.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let phase = app.phase();
    if phase == Phase::Ready {
        return Json(json!({"status": phase})).into_response();
    }
    let (code, message) = match phase {
        Phase::Draining => ("draining", "this node is stopping: it finishes what it has and takes nothing new"),
        _ => ("starting", "this node is still starting"),
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message).header(RETRY_AFTER, 1.into()).into_response()
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, METRICS_CONTENT_TYPE)], app.metrics.encode()).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let (view, catalog) = (app.service.mesh(), app.service.catalog());
    let connected = view.peers.keys().filter(|node| catalog.advert(node).is_none()).count();
    let nodes = catalog.adverts().len() + connected + usize::from(catalog.advert(&view.node).is_none());
    Json(json!({
        "status": app.phase(),
        "node": {"id": view.node.to_base58(), "name": app.service.node_name()},
        "version": env!("CARGO_PKG_VERSION"),
        "mesh": mesh_shape(&view),
        "nodes": nodes,
        "capabilities": catalog.entries().len(),
        "providers": app.service.providers(),
        "seeds": view.seeds,
        "uptime_s": app.started.elapsed().as_secs(),
    }))
    .into_response()
}

/// `METHOD pattern  summary`, one per operation of the contract.
static LISTING: LazyLock<Vec<(String, String, String)>> = LazyLock::new(|| {
    let contract: Value = serde_json::from_str(OPENAPI).unwrap_or_default();
    let paths = contract["paths"].as_object().cloned().unwrap_or_default();
    paths
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().into_iter().flatten().map(move |(method, operation)| {
                let summary = operation["summary"].as_str().unwrap_or_default().to_owned();
                (method.to_uppercase(), path.clone(), summary)
            })
        })
        .collect()
});

/// What this is and what it answers, for a person who opens the address in a browser or with curl.
pub(super) async fn landing(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let html = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    let view = app.service.mesh();
    let about = format!(
        "This is atmosphere {} on {}, a node of the mesh {}. It offers everything the mesh's machines can do behind \
         one OpenAI-compatible API: point a client's base URL at /v1 of this address.",
        env!("CARGO_PKG_VERSION"),
        app.service.node_name(),
        view.mesh_name
    );
    let mut out = String::with_capacity(8 * 1024);
    // Writing to a String cannot fail.
    let _ = if html { write_html(&mut out, &about) } else { write_text(&mut out, &about) };
    let content_type = if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    ([(CONTENT_TYPE, content_type)], out).into_response()
}

fn write_text(out: &mut String, about: &str) -> std::fmt::Result {
    writeln!(out, "{about}\n")?;
    for (method, path, summary) in LISTING.iter() {
        writeln!(out, "{method:<5} {path:<28} {summary}")?;
    }
    Ok(())
}

fn write_html(out: &mut String, about: &str) -> std::fmt::Result {
    out.push_str(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>atmosphere</title><style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:56rem;padding:0 1rem}\
         td{padding:.15rem 1rem .15rem 0;vertical-align:top}</style><h1>atmosphere</h1>",
    );
    writeln!(out, "<p>{}</p><table>", escape(about))?;
    for (method, path, summary) in LISTING.iter() {
        let (path, summary) = (escape(path), escape(summary));
        writeln!(out, "<tr><td>{method}<td><code>{path}</code><td>{summary}")?;
    }
    out.push_str("</table>");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
