//! Protocol doubles: scripted backends on free ports of this machine, for the tests of the adapters.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::BackendSpec;
use crate::capability::{Call, CapabilityId, Frame, FrameStream, Operation};

/// How long a test waits for anything: far longer than it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the double answers at one path.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Pieces of the body, each flushed on its own.
    pub(crate) pieces: Vec<Bytes>,
    /// What comes after the last piece.
    pub(crate) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The body ends.
    End,
    /// The connection breaks.
    Break,
    /// Nothing, for ever; the head of the answer has been sent.
    Hang,
    /// Nothing at all is sent, for ever.
    HangBeforeHead,
}

impl Scripted {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: vec![("content-type", "application/json".into())],
            pieces: vec![Bytes::copy_from_slice(body.as_bytes())],
            then: Then::End,
        }
    }

    pub(crate) fn events(pieces: &[&[u8]], then: Then) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "text/event-stream".into())],
            pieces: pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect(),
            then,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A request that the double got.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// A scripted backend. Unknown paths answer 404; it is gone when dropped.
pub(crate) struct Double {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
    _alive: DropGuard,
}

#[derive(Default)]
struct Inner {
    routes: Mutex<HashMap<String, Scripted>>,
    seen: Mutex<Vec<Seen>>,
    /// Answers that hang at the moment.
    hanging: AtomicUsize,
}

/// Counts an answer as hanging until it is dropped.
struct Hanging(Arc<Inner>);

impl Hanging {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.hanging.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(inner))
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Double {
    pub(crate) async fn start(routes: &[(&str, Scripted)]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), routes).await
    }

    pub(crate) async fn start_at(address: SocketAddr, routes: &[(&str, Scripted)]) -> Self {
        let inner = Arc::new(Inner::default());
        inner.routes.lock().extend(routes.iter().map(|(path, scripted)| ((*path).to_owned(), scripted.clone())));
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let app = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let alive = CancellationToken::new();
        let over = alive.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = axum::serve(listener, app) => {}
                () = over.cancelled() => {}
            }
        });
        Self { address, inner, _alive: alive.drop_guard() }
    }

    pub(crate) fn set(&self, path: &str, scripted: Scripted) {
        self.inner.routes.lock().insert(path.to_owned(), scripted);
    }

    pub(crate) fn spec(&self, kind: &str) -> BackendSpec {
        BackendSpec::parse(&format!("{kind}=http://{}", self.address)).expect("a backend")
    }

    /// The last request at a path.
    pub(crate) fn last(&self, path: &str) -> Seen {
        let seen = self.inner.seen.lock();
        seen.iter().rev().find(|seen| seen.path == path).expect("a request").clone()
    }

    /// The requests at a path.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.inner.seen.lock().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Waits until so many answers hang.
    pub(crate) async fn until_hanging(&self, count: usize) {
        eventually(|| self.inner.hanging.load(Ordering::SeqCst) == count).await;
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = format!("{} {}", head.method, head.uri.path());
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let seen = Seen { path: path.clone(), headers, body: String::from_utf8_lossy(&body).into_owned() };
    inner.seen.lock().push(seen);
    let scripted = inner.routes.lock().get(&path).cloned();
    let Some(scripted) = scripted else {
        return Response::builder().status(404).body(Body::from("not here")).expect("valid");
    };
    if scripted.then == Then::HangBeforeHead {
        let _hanging = Hanging::new(&inner);
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(scripted.status);
    for (name, value) in &scripted.headers {
        response = response.header(*name, value);
    }
    if scripted.then == Then::End && scripted.pieces.len() == 1 {
        return response.body(Body::from(scripted.pieces[0].clone())).expect("valid");
    }
    let hanging = (scripted.then == Then::Hang).then(|| Hanging::new(&inner));
    let pieces = futures::stream::iter(scripted.pieces).then(|piece| async move {
        // Lets the piece before be flushed, so that each arrives on its own.
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok::<_, std::io::Error>(piece)
    });
    let then = scripted.then;
    let tail = futures::stream::once(async move {
        let _hanging = hanging;
        match then {
            Then::Break => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some(Err(std::io::Error::other("broken on purpose")))
            }
            Then::Hang | Then::HangBeforeHead => std::future::pending::<Option<Result<Bytes, std::io::Error>>>().await,
            Then::End => None,
        }
    })
    .filter_map(|end| async { end });
    response.body(Body::from_stream(pieces.chain(tail))).expect("valid")
}

/// Waits for a condition.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("the condition comes true in time");
}

/// A call with this body.
pub(crate) fn call(capability: &CapabilityId, operation: Operation, stream: bool, payload: &str) -> Call {
    Call {
        id: "call-1".into(),
        capability: capability.clone(),
        operation,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        content_type: "application/json".into(),
        stream,
        deadline: PATIENCE,
        headers: BTreeMap::new(),
    }
}

/// All frames of a reply, and the bytes of its chunks.
pub(crate) async fn collect(stream: FrameStream) -> (Vec<Frame>, String) {
    let frames: Vec<Frame> = tokio::time::timeout(PATIENCE, stream.collect()).await.expect("a reply ends");
    let bytes: Vec<u8> = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Chunk(chunk) => Some(chunk.data.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    (frames, String::from_utf8(bytes).expect("whole characters"))
}
