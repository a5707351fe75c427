//! Runs what an Ollama client asks, and tells the answer line by line.

use std::sync::Arc;
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;

use super::rfc3339;
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::facades::retell::retell;
use crate::api::facades::{known_to_think, unknown_model};
use crate::api::limits::{Place, read_any};
use crate::api::openai;
use crate::capability::Operation;
use crate::dialect::Refusal;
use crate::dialect::ollama::{self, Asked, Embedded, LineWriter, Moment};

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

pub(crate) async fn chat(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (place, body) = read(&app, &parts.headers, body).await?;
    let asked = ollama::chat(&body, |model| known_to_think(&app, model)).map_err(ApiError::refused)?;
    answer(&app, &context, &parts.headers, asked, place).await
}

pub(crate) async fn generate(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (place, body) = read(&app, &parts.headers, body).await?;
    let asked = ollama::generate(&body, |model| known_to_think(&app, model)).map_err(ApiError::refused)?;
    answer(&app, &context, &parts.headers, asked, place).await
}

pub(crate) async fn embed(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    vectors(&app, &context, request, ollama::embed).await
}

pub(crate) async fn embeddings(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    vectors(&app, &context, request, ollama::embedding).await
}

/// A body of whatever type: curl sends forms unless it is told otherwise, and Ollama never looks.
async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<(Place, Bytes), ApiError> {
    let mut place = app.admission.enter()?;
    let settings = &app.settings;
    let body = read_any(headers, body, settings.max_body, settings.body_timeout, &mut place.room).await?;
    Ok((place, body))
}

fn moment(context: &Context) -> Moment {
    Moment { at: rfc3339(SystemTime::now()), elapsed: context.started.elapsed() }
}

async fn answer(
    app: &App,
    context: &Context,
    headers: &HeaderMap,
    asked: Asked,
    place: Place,
) -> Result<Response, ApiError> {
    let ask = match asked {
        Asked::Ask(ask) => ask,
        // Whoever has the model loads it when it is needed, and keeps it as its owner said.
        Asked::Load { model, unload, form } => {
            if let Some(error) = unknown_model(app, &model) {
                return Err(error);
            }
            return Ok(json(ollama::loaded(&model, form, unload, &moment(context))));
        }
    };
    let started = context.clone();
    let writer = LineWriter::new(&ask.model, ask.form, ask.stream, Box::new(move || moment(&started)));
    let reply = openai::run(app, context, ask.operation, headers, ask.body.into(), place).await?;
    retell(reply, writer, ask.stream, LINES).await
}

async fn vectors(
    app: &App,
    context: &Context,
    request: Request,
    read_as: fn(&[u8]) -> Result<Embedded, Refusal>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (place, body) = read(app, &parts.headers, body).await?;
    let mut asked = read_as(&body).map_err(ApiError::refused)?;
    let payload = std::mem::take(&mut asked.body);
    let reply = openai::run(app, context, Operation::Embed, &parts.headers, payload.into(), place).await?;
    let (mut head, body) = reply.into_parts();
    // It is there already, and was bounded when it was gathered.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let told = asked.told(&body, &moment(context)).map_err(ApiError::untellable)?;
    head.headers.insert(CONTENT_TYPE, JSON);
    Ok(Response::from_parts(head, Body::from(told)))
}

fn json(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
