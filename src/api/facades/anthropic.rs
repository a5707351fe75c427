//! Anthropic's routes: messages, and how many tokens one would be.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::retell::{EVENTS, retell};
use super::{known_to_think, read};
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::openai;
use crate::capability::Operation;
use crate::dialect::{MessageWriter, Messages};

/// Says that a count is an estimate.
const X_ATMOSPHERE_ESTIMATE: HeaderName = HeaderName::from_static("x-atmosphere-estimate");

pub(crate) async fn messages(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (place, body) = read(&app, &parts.headers, body).await?;
    let asked = Messages::read(&body, |model| known_to_think(&app, model) == Some(true)).map_err(ApiError::refused)?;
    drop(body);
    let Messages { chat, stream, stops, model } = asked;
    let writer = MessageWriter::new(&model, stops, context.request_id.to_str().unwrap_or_default(), stream);
    let answer = openai::run(&app, &context, Operation::Chat, &parts.headers, chat.into(), place).await?;
    retell(answer, writer, stream, EVENTS).await
}

/// An estimate, as Anthropic's own count is: by the same rule by which the router judges who has room for a prompt.
pub(crate) async fn count_tokens(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (_place, body) = read(&app, &parts.headers, body).await?;
    let asked = Messages::read_to_count(&body).map_err(ApiError::refused)?;
    let deadline = app.settings.deadline;
    let intent = openai::intent(Operation::Chat, &parts.headers, &context.request_id, asked.chat.into(), deadline)?;
    let decision = app.service.route(&intent);
    // Whether somebody could answer now is not a matter of counting; whether there is such a model is.
    if let Some(error) = decision.no_route.as_ref().and_then(ApiError::of_no_route) {
        return Err(error);
    }
    let mut response = Json(json!({"input_tokens": intent.requirements.prompt_tokens})).into_response();
    response.headers_mut().insert(X_ATMOSPHERE_ESTIMATE, HeaderValue::from_static("true"));
    Ok(response)
}
