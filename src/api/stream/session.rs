//! One open socket: reads what the client wants, runs its requests beside each other, and ends when the client leaves,
//! falls silent, or the node stops.
//!
//! Everything that was begun for the client is part of this one future: when it is dropped, its requests are, and the work
//! stops wherever it runs.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, close_code};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use futures::stream::SplitStream;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use super::asked::{Asked, Bad, Request, read};
use super::filter::Filter;
use super::outbox::{Outbox, Watch, send};
use super::run::{self, Complete};
use super::told::{Limits, Told};
use crate::api::app::App;
use crate::api::error::ApiError;
use crate::api::service::Phase;

/// Requests that one socket may run at once: what an application of one person asks for, and a few sockets fill the node.
const REQUESTS: usize = 16;
/// Those and requests that are over but have not said so yet. A client beyond it is not read from.
const TASKS: usize = 2 * REQUESTS;
/// A client that has sent nothing for so many beats, not even the answers to pings, is gone.
const SILENT_BEATS: u32 = 3;
/// How long the client has to take what is left, and to answer the goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Requests that run, by their ids, with what cancels each.
type Ids = Arc<Mutex<HashMap<String, CancellationToken>>>;

/// What a socket is opened with.
pub(super) struct Opened {
    pub(super) app: Arc<App>,
    /// The first subscription.
    pub(super) filter: Filter,
    /// The key that it was opened with, for all of its requests.
    pub(super) authorization: Option<HeaderValue>,
    /// Bytes of a message.
    pub(super) message_bytes: usize,
}

/// Serves a socket to its end.
pub(super) async fn serve(opened: Opened, socket: WebSocket) {
    let Opened { app, filter, authorization, message_bytes } = opened;
    let (sink, mut stream) = socket.split();
    let (out, queue) = Outbox::new();
    let (watch, seq) = Watch::new(app.service.events(), filter.clone());
    let node_name = app.service.node_name();
    out.say(&Told::Hello {
        node: app.service.mesh().node.to_base58(),
        node_name: &node_name,
        version: env!("CARGO_PKG_VERSION"),
        started_at_ms: app.started_at_ms,
        seq,
        events: filter.patterns(),
        limits: Limits { requests: REQUESTS, message_bytes },
    })
    .await;
    let every = app.settings.keepalive;
    let kill = app.kill.clone();
    let session =
        Session { app, out, authorization, message_bytes, ids: Ids::default(), tasks: JoinSet::new(), draining: false };
    let serving = async {
        let mut sending = pin!(send(sink, queue, watch, every));
        tokio::select! {
            // The client cannot be written to: dropping the rest ends its requests.
            () = &mut sending => return,
            () = session.listen(&mut stream) => {}
        }
        // Nothing more is put in, so that this ends when all of it is out.
        let _ = timeout(GOODBYE, sending).await;
        // A connection that is closed with something unread in it is cut, and the goodbye may be lost with it.
        let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    };
    tokio::select! {
        () = kill.cancelled() => {}
        () = serving => {}
    }
}

struct Session {
    app: Arc<App>,
    out: Outbox,
    authorization: Option<HeaderValue>,
    message_bytes: usize,
    ids: Ids,
    tasks: JoinSet<()>,
    /// The node stops, and the client knows.
    draining: bool,
}

impl Session {
    /// Until the client leaves or has been told why it is to go. What still runs then is dropped.
    async fn listen(mut self, stream: &mut SplitStream<WebSocket>) {
        let silence = self.app.settings.keepalive * SILENT_BEATS;
        let mut heard = Instant::now();
        let shutdown = self.app.shutdown.clone();
        loop {
            if self.draining && self.tasks.is_empty() {
                return self.out.close(close_code::AWAY, "the node stops").await;
            }
            tokio::select! {
                // What was said before counts as heard, however late it is read.
                biased;
                () = shutdown.cancelled(), if !self.draining => {
                    self.draining = true;
                    let message = "this node stops: it takes nothing new, and closes this socket when what runs is over";
                    let running = self.ids.lock().len();
                    self.out.say(&Told::Closing { message, running }).await;
                }
                Some(_) = self.tasks.join_next() => {}
                message = stream.next(), if self.tasks.len() < TASKS => {
                    match message {
                        Some(Ok(Message::Text(text))) => self.take(text.into()).await,
                        Some(Ok(Message::Binary(_))) => {
                            let error = ApiError::bad_request("messages are JSON in text frames; this one was binary");
                            self.out.say(&Told::error(None, error)).await;
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_))) | None => return,
                        Some(Err(error)) => return self.broken(error).await,
                    }
                    heard = Instant::now();
                }
                () = sleep_until(heard + silence) => {
                    return self.out.close(close_code::POLICY, "nothing was heard, not even answers to pings").await;
                }
            }
        }
    }

    /// The client said something that is no message.
    async fn broken(&self, error: axum::Error) {
        let inner = error.into_inner();
        if !matches!(inner.downcast_ref(), Some(tungstenite::Error::Capacity(_))) {
            return;
        }
        let most = self.message_bytes;
        let message = format!("the message is larger than {most} bytes; send the request over HTTP");
        let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message);
        self.out.say(&Told::error(None, error)).await;
        self.out.close(close_code::SIZE, "the message is too large").await;
    }

    async fn take(&mut self, message: Bytes) {
        match read(&message) {
            Ok(Asked::Subscribe(filter)) => self.out.subscribe(filter).await,
            Ok(Asked::Cancel(id)) => {
                let running = self.ids.lock().get(&id).cloned();
                match running {
                    // The request says so itself, after whatever it is just saying.
                    Some(cancel) => cancel.cancel(),
                    None => self.out.say(&Told::Cancelled { id: &id, was_running: false }).await,
                }
            }
            Ok(Asked::Request(request)) => {
                let id = request.id.clone();
                if let Err(error) = self.begin(request) {
                    self.out.say(&Told::error(Some(&id), error)).await;
                }
            }
            Err(Bad { id, error }) => self.out.say(&Told::error(id.as_deref(), error)).await,
        }
    }

    fn begin(&mut self, mut request: Request) -> Result<(), ApiError> {
        if self.app.phase() == Phase::Draining {
            let message = "this node is stopping: it finishes what it has and takes nothing new";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message));
        }
        let cancel = CancellationToken::new();
        {
            let mut ids = self.ids.lock();
            if ids.contains_key(&request.id) {
                let message = "a request of this id runs already; wait for its end, or give this one another id";
                return Err(ApiError::new(StatusCode::CONFLICT, "id_in_use", message).param("id"));
            }
            if ids.len() >= REQUESTS {
                let message =
                    format!("this socket runs {REQUESTS} requests, as many as it may; wait for one, or open another");
                return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
                    .retry_after(Duration::from_secs(1)));
            }
            ids.insert(request.id.clone(), cancel.clone());
        }
        if let Some(authorization) = &self.authorization {
            request.headers.insert(AUTHORIZATION, authorization.clone());
        }
        let (app, out, ids) = (Arc::clone(&self.app), self.out.clone(), Arc::clone(&self.ids));
        self.tasks.spawn(Box::pin(to_its_end(app, request, cancel, ids, out)));
        Ok(())
    }
}

/// Runs a request and says how it ended: complete, failed or cancelled, and one of them only.
async fn to_its_end(app: Arc<App>, request: Request, cancel: CancellationToken, ids: Ids, out: Outbox) {
    let id = request.id.clone();
    // A panic is our mistake. It ends this request and nothing else.
    let running = AssertUnwindSafe(run::run(&app, request, &out)).catch_unwind();
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        () = app.closing.cancelled() => Some(Err(cut())),
        ended = running => Some(ended.unwrap_or_else(|_| Err(panicked(&id)))),
    };
    // Before it is said, so that whoever hears it can use the id again.
    ids.lock().remove(&id);
    let error = match ended {
        None => return out.say(&Told::Cancelled { id: &id, was_running: true }).await,
        Some(Ok(Complete { usage, ms })) => return out.say(&Told::Done { id: &id, usage: usage.as_deref(), ms }).await,
        Some(Err(error)) => error,
    };
    out.say(&Told::error(Some(&id), error)).await;
}

fn cut() -> ApiError {
    let message = "this node is stopping and could not wait for the end of the answer; try again";
    ApiError::new(StatusCode::BAD_GATEWAY, "interrupted", message)
}

fn panicked(id: &str) -> ApiError {
    tracing::error!(id, "a request over a socket made this program panic; please report it");
    let message = "this node made a mistake; its log says more";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
}
