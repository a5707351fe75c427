//! `GET /v1/stream`: one WebSocket that carries live events to the client and requests to the mesh.
//!
//! All messages are JSON objects in text frames, with a `type`. The node begins with `hello`.
//!
//! | from the client | |
//! |---|---|
//! | `{"type":"subscribe","events":["node.*","decision"]}` | these events from now on, in place of those before; `[]` is none. Until then it is what `?events=` says, or all |
//! | `{"type":"request","id":"a","path":"/v1/chat/completions","body":{…},"headers":{…}}` | runs what the HTTP route of that path runs |
//! | `{"type":"cancel","id":"a"}` | ends a request; the work stops wherever it runs |
//!
//! | to the client | |
//! |---|---|
//! | `hello` | the node, its limits, and the number of the last event |
//! | `subscribed` | the subscription, from the event after `seq` |
//! | `event` | `seq` counts all events of the node, those that were not subscribed to as well |
//! | `lagged` | so many events, of any kind, are lost since they were not read in time |
//! | `accepted`, `progress`…, `head`, `data`…, then one of `done`, `error`, `cancelled` | a request, each with its `id` |
//! | `closing` | the node stops; what runs may finish |
//!
//! What is unread holds nothing up but the client's own requests: there is a bounded queue for each socket (`outbox`), and
//! behind it the backend waits. `asked` reads messages, `told` writes them, `filter` is a subscription, `run` one request,
//! `session` the socket.
//!
//! Who may open one is decided as for every route, with two differences: a browser's page is looked at as if it posted,
//! since nothing keeps it from reading what a socket says; and it may name a key among the subprotocols (see `auth`).

mod asked;
mod filter;
mod outbox;
mod run;
mod session;
mod told;

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection as Rejection;
use axum::extract::{FromRequestParts as _, Query, Request, State};
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use self::filter::Filter;
use self::session::Opened;
use super::app::{App, Seat};
use super::auth;
use super::error::ApiError;
use super::service::Phase;

/// The subprotocol: these messages.
const PROTOCOL: &str = "atmosphere.v1";
/// Bytes of a message from a client. A message is in memory before it can be counted, so this is less than what a request may
/// have over HTTP: some photographs.
const MESSAGE: usize = 8 * 1024 * 1024;
/// What a message has around the body of its request.
const ENVELOPE: usize = 64 * 1024;
/// Bytes that are read at once, and that are gathered for one write: tokens are small, and there may be many sockets.
const BUFFER: usize = 16 * 1024;

#[derive(Deserialize)]
struct Wish {
    /// The first subscription, with commas.
    events: Option<String>,
}

/// Opens a socket.
pub(super) async fn stream(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let filter = first_filter(&parts)?;
    let upgrade =
        WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|rejection| refusal(&rejection))?;
    if app.phase() == Phase::Draining {
        let message = "this node is stopping: it finishes what it has and takes nothing new";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message));
    }
    let Ok(place) = Arc::clone(&app.sockets).try_acquire_owned() else {
        let message = "this node has as many WebSockets open as it may; one of them can carry many requests at once";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_sockets", message));
    };
    let message_bytes = app.settings.max_body.saturating_add(ENVELOPE).min(MESSAGE);
    let opened =
        Opened { app: Arc::clone(&app), filter, authorization: auth::authorization_of(&parts.headers), message_bytes };
    // From here on, so that a node that stops waits for it.
    let socket = Seat::take(place, app.measures.sockets.clone());
    let held = (socket, app.connections.token(), parts.extensions.remove::<Arc<Seat>>());
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(message_bytes)
        .max_frame_size(message_bytes)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _held = held;
        Box::pin(session::serve(opened, socket)).await;
    }))
}

fn first_filter(parts: &Parts) -> Result<Filter, ApiError> {
    let wrong = |message: String| ApiError::bad_request(message).param("events");
    let Query(wish) = Query::<Wish>::try_from_uri(&parts.uri).map_err(|error| wrong(error.body_text()))?;
    match wish.events {
        None => Ok(Filter::default()),
        Some(list) => Filter::of_list(&list).map_err(|unknown| wrong(unknown.to_string())),
    }
}

/// Why there is no socket.
fn refusal(rejection: &Rejection) -> ApiError {
    let upgrade = |message: &str| {
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
            .header(UPGRADE, HeaderValue::from_static("websocket"))
            .header(CONNECTION, HeaderValue::from_static("upgrade"))
    };
    match rejection {
        Rejection::InvalidWebSocketVersionHeader(_) => upgrade("this node speaks version 13 of the WebSocket protocol")
            .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        Rejection::WebSocketKeyHeaderMissing(_) => {
            ApiError::bad_request("the request for a WebSocket has no Sec-WebSocket-Key").param("sec-websocket-key")
        }
        _ => upgrade(
            "this route is a WebSocket: open it with a WebSocket client at ws:// (or wss://) instead of http://, or see \
             what happens with `atmosphere watch`",
        ),
    }
}
