//! OpenAI's route of responses.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Extension, Request, State};
use axum::response::Response;

use super::retell::{EVENTS, retell};
use super::{known_to_think, read};
use crate::api::app::{App, Context};
use crate::api::error::ApiError;
use crate::api::openai;
use crate::capability::Operation;
use crate::dialect::{ResponseRequest, ResponseWriter};

pub(crate) async fn responses(
    app: State<Arc<App>>,
    context: Extension<Context>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (place, body) = read(&app, &parts.headers, body).await?;
    let asked = ResponseRequest::read(&body, |model| known_to_think(&app, model)).map_err(ApiError::refused)?;
    drop(body);
    let ResponseRequest { chat, stream, model, repeated } = asked;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let id = context.request_id.to_str().unwrap_or_default();
    let writer = ResponseWriter::new(&model, id, created, repeated);
    let answer = openai::run(&app, &context, Operation::Chat, &parts.headers, chat.into(), place).await?;
    retell(answer, writer, stream, EVENTS).await
}
