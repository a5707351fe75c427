//! Anthropic's routes: messages, and how many tokens one would be.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;

use super::retell::{EVENTS, retell};
use super::{entries_of, known_to_think, read};
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::openai;
use crate::capability::Operation;
use crate::dialect::{MessageWriter, Messages};
use crate::dispatch::Reply;

/// As long as it may take to count. A backend counts in milliseconds; an estimate is there at once.
const COUNT_TIME: Duration = Duration::from_secs(5);
/// Bytes of a count, which is one number.
const COUNT_BYTES: usize = 4096;
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

/// Counted by whoever has the model, where its backend counts; else an estimate, by the same rule by which the router
/// judges who has room for a prompt.
pub(crate) async fn count_tokens(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (_place, body) = read(&app, &parts.headers, body).await?;
    let asked = Messages::read_to_count(&body).map_err(ApiError::refused)?;
    let deadline = COUNT_TIME.min(app.settings.deadline);
    let (headers, id) = (&parts.headers, &context.request_id);
    let intent = openai::intent(Operation::CountTokens, headers, id, asked.chat.into(), deadline)?;
    let estimate = intent.requirements.prompt_tokens;
    let decision = app.service.route(&intent);
    // Whether somebody could answer now is not a matter of counting; whether there is such a model is.
    if let Some(error) = decision.no_route.as_ref().and_then(ApiError::of_no_route) {
        return Err(error);
    }
    // A wish may be answered by another model than would count here, so that its tokens are estimated.
    let named = !entries_of(&app.service.catalog(), &asked.model).is_empty();
    if named && !decision.candidates.is_empty() {
        let limit = intent.deadline;
        let counting = async { counted(app.service.dispatch(intent).await.ok()?).await };
        if let Ok(Some(count)) = tokio::time::timeout(limit, counting).await {
            return Ok(Json(json!({ "input_tokens": count })).into_response());
        }
    }
    let mut response = Json(json!({ "input_tokens": estimate })).into_response();
    response.headers_mut().insert(X_ATMOSPHERE_ESTIMATE, HeaderValue::from_static("true"));
    Ok(response)
}

/// The count that a reply is.
async fn counted(reply: Reply) -> Option<u64> {
    #[derive(Deserialize)]
    struct Count {
        input_tokens: u64,
    }
    let mut body = reply.body;
    let mut whole = Vec::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece.ok()?);
        if whole.len() > COUNT_BYTES {
            return None;
        }
    }
    serde_json::from_slice::<Count>(&whole).ok().map(|count| count.input_tokens)
}
