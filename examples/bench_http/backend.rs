//! The fastest backend that speaks the protocol: one model, a fixed answer, a fixed stream.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde_json::json;

/// The model that it has.
pub const MODEL: &str = "bench-8b";
/// Events of a streamed answer.
pub const EVENTS: usize = 100;

/// Serves on a free port of loopback, prints that, and never ends.
pub async fn serve() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    let listener = listener.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    let models =
        json!({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}]});
    let app = Router::new()
        .route("/v1/models", get(move || async move { Json(models) }))
        .route("/v1/chat/completions", post(chat));
    axum::serve(listener, app).await?;
    Ok(())
}

async fn chat(request: Bytes) -> Response {
    // Looked for, not parsed: the backend is to cost as little as can be.
    if memchr::memmem::find(&request, b"\"stream\":true").is_some() {
        let events = async_stream::stream! {
            for index in 0..=EVENTS {
                yield Ok::<_, std::io::Error>(event(index));
                // Each event is a write of its own, as tokens are.
                tokio::task::yield_now().await;
            }
        };
        return ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response();
    }
    let answer = json!({
        "id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A llama likes hay and company."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20},
    });
    Json(answer).into_response()
}

fn event(index: usize) -> Bytes {
    if index == EVENTS {
        return Bytes::from_static(b"data: [DONE]\n\n");
    }
    let finish = if index + 1 == EVENTS { "\"stop\"" } else { "null" };
    Bytes::from(format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{MODEL}\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token\"}},\"finish_reason\":{finish}}}]}}\n\n"
    ))
}
