//! A scripted OpenAI-compatible server: answers as its mode says, and counts what happens to its requests.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// How a backend behaves from the next request on.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Answers with as many tokens, each after a pause.
    Answer {
        /// Tokens of the answer.
        tokens: usize,
        /// Pause before each.
        gap: Duration,
    },
    /// Answers with as many tokens of so many bytes each, as fast as they are taken.
    Bulk {
        /// Tokens of the answer.
        tokens: usize,
        /// Size of each.
        bytes: usize,
    },
    /// Takes the request and never says anything.
    Hang,
    /// Streams some tokens, then says nothing more.
    Stall {
        /// Tokens before that.
        after: usize,
    },
    /// Streams some tokens, then the connection breaks.
    Die {
        /// Tokens before that.
        after: usize,
    },
    /// Streams some tokens, then an error event.
    ErrorInside {
        /// Tokens before that.
        after: usize,
    },
    /// Streams some tokens, then ends cleanly without a finish reason or `[DONE]`.
    Truncate {
        /// Tokens before that.
        after: usize,
    },
    /// Answers 200 with what no client can read.
    Garbage,
    /// Streams some tokens, then bytes that are no event and no UTF-8.
    GarbageInside {
        /// Tokens before that.
        after: usize,
    },
    /// Streams `Backend::SPLIT_TEXT`, every byte in a write of its own.
    SplitUtf8,
    /// Answers with a status, a body and perhaps `Retry-After`.
    Refuse {
        /// HTTP status.
        status: u16,
        /// JSON body.
        body: Value,
        /// Seconds of `Retry-After`.
        retry_after: Option<u32>,
    },
}

impl Mode {
    /// Eight tokens at once.
    pub fn quick() -> Self {
        Self::Answer { tokens: 8, gap: Duration::ZERO }
    }

    /// So many tokens, one every 20 ms.
    pub fn slow(tokens: usize) -> Self {
        Self::Answer { tokens, gap: Duration::from_millis(20) }
    }

    /// 429 with `Retry-After`.
    pub fn too_many(retry_after: u32) -> Self {
        let body = json!({"error": {"message": "slow down", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"}});
        Self::Refuse { status: 429, body, retry_after: Some(retry_after) }
    }

    /// 500 with an OpenAI error.
    pub fn broken() -> Self {
        let body = json!({"error": {"message": "out of memory", "type": "server_error", "param": null, "code": null}});
        Self::Refuse { status: 500, body, retry_after: None }
    }
}

/// What happened to the requests of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Came.
    pub started: usize,
    /// Were answered to the end as the mode says.
    pub finished: usize,
    /// Were given up by the caller before that.
    pub cancelled: usize,
}

/// A running double.
pub struct Backend {
    shared: Arc<Shared>,
    server: Server,
}

pub(super) struct Shared {
    name: String,
    models: Mutex<Vec<String>>,
    lists_after: Mutex<Duration>,
    mode: Mutex<Mode>,
    requests: Mutex<Vec<Value>>,
    headers: Mutex<Vec<HeaderMap>>,
    started: AtomicUsize,
    finished: AtomicUsize,
    cancelled: AtomicUsize,
    embedder: Mutex<Option<Embedder>>,
}

/// What a backend's embedding model makes of a text.
pub type Embedder = Box<dyn Fn(&str) -> Vec<f64> + Send + Sync>;

/// Requests whose bodies are kept for a test to look at.
const KEPT_REQUESTS: usize = 256;

impl Backend {
    /// What `Mode::SplitUtf8` says: characters of two, three and four bytes.
    pub const SPLIT_TEXT: &str = "Grüße 안녕 🦙🏔️ — ok";

    /// Starts one that has `models`. Its answers begin with `name`, so that a test sees who answered.
    pub fn start(name: &str, models: &[&str]) -> Self {
        let shared = Shared::new(name, models);
        let app = Router::new()
            .route("/v1/models", get(models_list))
            .route("/v1/chat/completions", post(completions))
            .route("/v1/completions", post(completions))
            .route("/v1/embeddings", post(embeddings))
            .with_state(Arc::clone(&shared));
        Self { shared, server: Server::start(app) }
    }

    /// Its base URL, without a path.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How it behaves from now on.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock() = mode;
    }

    /// Gives it one more model.
    pub fn pull(&self, model: &str) {
        self.shared.models.lock().push(model.to_owned());
    }

    /// It lists its models only after this, as one does that is busy.
    pub fn lists_after(&self, wait: Duration) {
        *self.shared.lists_after.lock() = wait;
    }

    /// What its embedding model makes of texts, instead of one vector for all.
    pub fn embeds(&self, embedder: impl Fn(&str) -> Vec<f64> + Send + Sync + 'static) {
        *self.shared.embedder.lock() = Some(Box::new(embedder));
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The bodies of the requests so far, the last 256.
    pub fn requests(&self) -> Vec<Value> {
        self.shared.requests.lock().clone()
    }

    /// The headers of the requests so far, the last 256.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.shared.headers.lock().clone()
    }

    /// Stops it: new connections are refused, open ones break.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again at the same URL after it was stopped.
    pub fn start_again(&self) {
        self.server.start_again();
    }
}

impl Shared {
    pub(super) fn new(name: &str, models: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            models: Mutex::new(models.iter().map(|model| (*model).to_owned()).collect()),
            lists_after: Mutex::default(),
            mode: Mutex::new(Mode::quick()),
            requests: Mutex::default(),
            headers: Mutex::default(),
            started: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            embedder: Mutex::new(None),
        })
    }

    pub(super) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    pub(super) fn requests(&self) -> Vec<Value> {
        self.requests.lock().clone()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            started: self.started.load(Ordering::SeqCst),
            finished: self.finished.load(Ordering::SeqCst),
            cancelled: self.cancelled.load(Ordering::SeqCst),
        }
    }
}

/// A server on a free port of loopback, with threads of its own: stopping it breaks every open connection.
pub(super) struct Server {
    address: std::net::SocketAddr,
    app: Router,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
}

impl Server {
    pub(super) fn start(app: Router) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let server = Self { address, app, runtime: Mutex::new(None) };
        server.listen(listener);
        server
    }

    /// Starts again on the same port after it was stopped.
    pub(super) fn start_again(&self) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => return self.listen(listener),
                // Its threads let go of the port a moment after they were told to stop.
                Err(error) => assert!(std::time::Instant::now() < end, "{}: {error}", self.address),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn listen(&self, listener: std::net::TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let app = self.app.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes listeners");
            let listener = listener.tap_io(|socket| {
                let _ = socket.set_nodelay(true);
            });
            let _ = axum::serve(listener, app).await;
        });
        *self.runtime.lock() = Some(runtime);
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Counts one request: cancelled, unless somebody says that it is finished.
struct Running {
    shared: Arc<Shared>,
    finished: bool,
}

impl Running {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.started.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), finished: false }
    }

    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let counter = if self.finished { &self.shared.finished } else { &self.shared.cancelled };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) async fn models_list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let wait = *shared.lists_after.lock();
    tokio::time::sleep(wait).await;
    let models: Vec<Value> = shared
        .models
        .lock()
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "double"}))
        .collect();
    Json(json!({"object": "list", "data": models}))
}

fn keep<T>(list: &Mutex<Vec<T>>, one: T) {
    let mut list = list.lock();
    if list.len() == KEPT_REQUESTS {
        list.remove(0);
    }
    list.push(one);
}

async fn embeddings(State(shared): State<Arc<Shared>>, Json(request): Json<Value>) -> Json<Value> {
    let running = Running::begin(&shared);
    let input = &request["input"];
    let texts: Vec<String> = match input.as_array() {
        Some(texts) => texts.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect(),
        None => vec![input.as_str().unwrap_or_default().to_owned()],
    };
    keep(&shared.requests, request);
    let mode = shared.mode.lock().clone();
    if matches!(mode, Mode::Hang) {
        let _running = running;
        std::future::pending::<Infallible>().await;
        unreachable!("it hangs");
    }
    let embed =
        |text: &String| shared.embedder.lock().as_ref().map_or_else(|| vec![0.6, 0.8, 0.0], |embed| embed(text));
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": embed(text)}))
        .collect();
    running.finish();
    Json(json!({"object": "list", "model": "double", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}))
}

pub(super) async fn completions(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response {
    let running = Running::begin(&shared);
    let mode = shared.mode.lock().clone();
    keep(&shared.requests, request.clone());
    keep(&shared.headers, headers);
    let model = request["model"].as_str().unwrap_or("none").to_owned();
    let streamed = request["stream"] == true;
    match mode {
        Mode::Hang => {
            let _running = running;
            std::future::pending().await
        }
        Mode::Refuse { status, body, retry_after } => {
            running.finish();
            let mut response = Json(body).into_response();
            *response.status_mut() = StatusCode::from_u16(status).expect("a test's status is one");
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        Mode::Garbage => {
            running.finish();
            ([(header::CONTENT_TYPE, "application/json")], "<html>{{{ not JSON \u{0}").into_response()
        }
        mode if streamed => {
            let usage = request["stream_options"]["include_usage"] == true;
            sse(events(running, shared.name.clone(), model, mode, usage))
        }
        Mode::Answer { tokens, gap } => {
            tokio::time::sleep(gap * u32::try_from(tokens).unwrap_or(u32::MAX)).await;
            running.finish();
            Json(whole(&shared.name, &model, tokens)).into_response()
        }
        Mode::Bulk { tokens, bytes } => {
            running.finish();
            Json(message(&model, &"x".repeat(tokens * bytes), tokens)).into_response()
        }
        Mode::SplitUtf8 => {
            running.finish();
            Json(message(&model, Backend::SPLIT_TEXT, 8)).into_response()
        }
        Mode::Stall { .. } => {
            let _running = running;
            std::future::pending().await
        }
        // Not streamed, the rest comes to a connection that breaks in the middle of the body.
        Mode::Die { .. } | Mode::ErrorInside { .. } | Mode::Truncate { .. } | Mode::GarbageInside { .. } => {
            running.finish();
            let body = futures::stream::iter([Ok(Bytes::from_static(b"{\"id\":\"cut")), Err(io::Error::other("cut"))]);
            ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
        }
    }
}

fn message(model: &str, content: &str, tokens: usize) -> Value {
    json!({
        "id": "chatcmpl-double", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "text": content, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
        "x_unknown_field": {"kept": true},
    })
}

fn whole(name: &str, model: &str, tokens: usize) -> Value {
    let content: String =
        std::iter::once(format!("{name}:")).chain((0..tokens).map(|index| format!(" t{index}"))).collect();
    message(model, &content, tokens)
}

fn delta(model: &str, delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-double", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "x_unknown_field": {"kept": true},
    })
}

type Pieces = futures::stream::BoxStream<'static, io::Result<Bytes>>;

fn sse(pieces: Pieces) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

fn event(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn events(running: Running, name: String, model: String, mode: Mode, usage: bool) -> Pieces {
    let (tokens, gap) = match mode {
        Mode::Answer { tokens, gap } => (tokens, gap),
        Mode::Stall { after }
        | Mode::Die { after }
        | Mode::ErrorInside { after }
        | Mode::Truncate { after }
        | Mode::GarbageInside { after } => (after, Duration::from_millis(5)),
        _ => (0, Duration::ZERO),
    };
    Box::pin(async_stream::stream! {
        yield Ok(event(&delta(&model, &json!({"role": "assistant", "content": format!("{name}:")}), None)));
        for index in 0..tokens {
            if gap.is_zero() { tokio::task::yield_now().await } else { tokio::time::sleep(gap).await }
            yield Ok(event(&delta(&model, &json!({"content": format!(" t{index}")}), None)));
        }
        match mode {
            Mode::Stall { .. } => {
                let _running = running;
                std::future::pending::<Infallible>().await;
                return;
            }
            Mode::Die { .. } => {
                running.finish();
                // What was said before must be on its way first.
                tokio::time::sleep(Duration::from_millis(30)).await;
                yield Err(io::Error::other("the backend died"));
                return;
            }
            Mode::ErrorInside { .. } => {
                running.finish();
                yield Ok(event(&json!({"error": {"message": "context is full", "type": "server_error", "code": 500}})));
                return;
            }
            Mode::Truncate { .. } => {
                running.finish();
                return;
            }
            Mode::GarbageInside { .. } => {
                running.finish();
                yield Ok(Bytes::from_static(b"data: {\"choices\":[\xff\xfe\n\n\x00\x01nonsense\n\n"));
                return;
            }
            Mode::Bulk { tokens, bytes } => {
                let token = event(&delta(&model, &json!({"content": "x".repeat(bytes)}), None));
                for _ in 0..tokens {
                    tokio::task::yield_now().await;
                    yield Ok(token.clone());
                }
            }
            Mode::SplitUtf8 => {
                let bytes = event(&delta(&model, &json!({"content": Backend::SPLIT_TEXT}), None));
                for byte in bytes {
                    tokio::task::yield_now().await;
                    yield Ok(Bytes::copy_from_slice(&[byte]));
                }
            }
            _ => {}
        }
        yield Ok(event(&delta(&model, &json!({}), Some("stop"))));
        if usage {
            yield Ok(event(&json!({
                "id": "chatcmpl-double", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": model, "choices": [],
                "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
            })));
        }
        running.finish();
        yield Ok(Bytes::from_static(b"data: [DONE]\n\n"));
    })
}
