//! Plain HTTP/1.1 to a backend of one's own network, over connections that are kept.
//!
//! Whoever waits for an answer drives its connection: there is no task between the socket and the reader, so that a
//! token costs one turn of one task. Dropping the request, or its answer before the end, closes the connection at once.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::Service as _;

use crate::waiting::Asker;

/// Probes of a silent backend: one that vanished without a word is noticed within a minute or so, deadlines aside.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// No connection could be opened.
    Connect(Box<dyn Error + Send + Sync>),
    /// The connection ended before one byte of the answer.
    Unanswered(Box<dyn Error + Send + Sync>),
    /// The answer is none that can be understood.
    Broken(hyper::Error),
}

/// The connections to one backend. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    /// Scheme, host and port.
    origin: Uri,
    connector: HttpConnector,
    /// How long an idle connection is kept, and how many.
    idle: Duration,
    most: usize,
    /// Idle connections, the one that was used last at the end.
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    connections: VecDeque<(Instant, Box<Connection>)>,
    /// Whether a task will close those that nobody uses.
    swept: bool,
}

impl Connections {
    /// Connections to this origin, each opened within `connect`; of idle ones so many are kept for so long.
    pub(crate) fn new(origin: Uri, connect: Duration, idle: Duration, most: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect));
        connector.set_keepalive(Some(TCP_KEEPALIVE));
        Self(Arc::new(Kept { origin, connector, idle, most, free: Mutex::default() }))
    }

    /// Sends a request and waits for the head of its answer. A request that a kept connection did not answer is made once
    /// more, for a new one: the backend was about to close the old one as it left.
    pub(crate) async fn send(&self, request: impl Fn() -> Request<Full<Bytes>>) -> Result<Answer, SendError> {
        if let Some(kept) = self.take() {
            match self.ask(kept, request()).await {
                Err(SendError::Unanswered(_)) => {}
                other => return other,
            }
        }
        let connection = self.open().await.map_err(SendError::Connect)?;
        self.ask(connection, request()).await
    }

    async fn open(&self) -> Result<Box<Connection>, Box<dyn Error + Send + Sync>> {
        let mut connector = self.0.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        let socket = connector.call(self.0.origin.clone()).await?;
        let (sender, driver) = http1::handshake(socket).await?;
        let turns = Arc::new(Turns::default());
        let waker = Waker::from(Arc::clone(&turns));
        Ok(Box::new(Connection { sender, driver: Some(driver), turns, waker, asker: Asker::default() }))
    }

    async fn ask(&self, mut connection: Box<Connection>, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
        let mut sending = pin!(connection.sender.send_request(request));
        let answer = poll_fn(|cx| connection.turn(cx, |cx| sending.as_mut().poll(cx))).await;
        match answer {
            Some(Ok(response)) => {
                let (head, body) = response.into_parts();
                let (status, headers) = (head.status, head.headers);
                Ok(Answer { status, headers, body, connection: Some(connection), home: self.clone() })
            }
            Some(Err(cause)) if is_end(&cause) => Err(SendError::Unanswered(cause.into())),
            Some(Err(cause)) => Err(SendError::Broken(cause)),
            None => Err(SendError::Unanswered("the connection was closed".into())),
        }
    }

    /// A kept connection that is still open.
    fn take(&self) -> Option<Box<Connection>> {
        let mut free = self.0.free.lock();
        let now = Instant::now();
        while free.connections.front().is_some_and(|(since, _)| now - *since > self.0.idle) {
            free.connections.pop_front();
        }
        while let Some((_, mut connection)) = free.connections.pop_back() {
            // It is watched by nobody: what has happened to it since shows now.
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    fn put(&self, mut connection: Box<Connection>) {
        if !connection.is_ready() {
            return;
        }
        let mut free = self.0.free.lock();
        free.connections.push_back((Instant::now(), connection));
        while free.connections.len() > self.0.most {
            free.connections.pop_front();
        }
        if !free.swept
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            free.swept = true;
            let kept = Arc::downgrade(&self.0);
            let idle = self.0.idle;
            // One task for all, and only while there are any.
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(idle).await;
                    let Some(kept) = kept.upgrade() else { return };
                    let mut free = kept.free.lock();
                    let now = Instant::now();
                    free.connections.retain(|(since, _)| now - *since < idle);
                    if free.connections.is_empty() {
                        free.swept = false;
                        return;
                    }
                }
            });
        }
    }
}

/// Whether the connection ended before one byte of the answer.
fn is_end(cause: &hyper::Error) -> bool {
    let io = cause.source().and_then(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    cause.is_incomplete_message()
        || cause.is_canceled()
        || cause.is_closed()
        || matches!(io, Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// An answer: its head, and its body as it comes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// `None` once all of it was read.
    connection: Option<Box<Connection>>,
    home: Connections,
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// As [`chunk`](Self::chunk).
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, hyper::Error>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            let body = &mut self.body;
            let frame = std::task::ready!(connection.turn(cx, |cx| Pin::new(&mut *body).poll_frame(cx)));
            match frame.flatten() {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
                    // Trailers.
                    _ => {}
                },
                Some(Err(cause)) => {
                    self.connection = None;
                    return Poll::Ready(Err(cause));
                }
                None => {
                    if let Some(connection) = self.connection.take() {
                        self.home.put(connection);
                    }
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }
}

/// One connection, and the state of HTTP on it.
#[derive(Debug)]
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it is over.
    driver: Option<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>,
    turns: Arc<Turns>,
    waker: Waker,
    /// Who waits since the last turn.
    asker: Asker,
}

impl Connection {
    /// Lets the connection do what it can, and looks for what is waited for. `None`: the connection is over, and it will
    /// never be there.
    fn turn<T>(&mut self, cx: &mut Context<'_>, mut look: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<Option<T>> {
        if self.asker.is(cx) && self.turns.is_quiet() {
            return Poll::Pending;
        }
        self.asker = Asker::default();
        self.turns.outer.register(cx.waker());
        let mut inner = Context::from_waker(&self.waker);
        loop {
            self.turns.begin();
            if let Some(driver) = &mut self.driver
                && Pin::new(driver).poll(&mut inner).is_ready()
            {
                // Why it is over is told to those who look.
                self.driver = None;
            }
            let found = look(&mut inner);
            let again = self.turns.end();
            match found {
                Poll::Ready(found) => return Poll::Ready(Some(found)),
                Poll::Pending if self.driver.is_none() => return Poll::Ready(None),
                Poll::Pending if again => {}
                Poll::Pending => {
                    self.asker.waits(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether it can take a request now.
    fn is_ready(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let Self { sender, driver, turns, waker, asker } = self;
        *asker = Asker::default();
        let mut inner = Context::from_waker(waker);
        turns.begin();
        let open = driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(&mut inner).is_pending());
        turns.end();
        open && matches!(sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

/// Wakes whoever waits for an answer; but what wakes it during a turn only makes the turn longer, so that the parts of a
/// connection, which wake each other, do not wake the whole task.
#[derive(Debug, Default)]
struct Turns {
    outer: AtomicWaker,
    state: AtomicU8,
}

const TURNING: u8 = 1;
const AGAIN: u8 = 2;

impl Turns {
    fn begin(&self) {
        self.state.store(TURNING, Ordering::SeqCst);
    }

    /// Whether nothing has happened since the last turn.
    fn is_quiet(&self) -> bool {
        self.state.load(Ordering::SeqCst) == 0
    }

    /// Whether there is more to do.
    fn end(&self) -> bool {
        self.state.swap(0, Ordering::SeqCst) & AGAIN != 0
    }
}

impl Wake for Turns {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either the turn's end sees it, or there is no turn.
        if self.state.fetch_or(AGAIN, Ordering::SeqCst) & TURNING == 0 {
            self.outer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// What a server does with a request: on which connection it came, and as its how many-eth.
    type Script = fn(connection: usize, request: usize) -> Option<&'static [u8]>;

    struct Server {
        connections: Connections,
        opened: Arc<AtomicUsize>,
        closed: Arc<AtomicUsize>,
    }

    /// Answers each request as the script says; `None` closes the connection.
    async fn server(script: Script) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
        let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&opened), Arc::clone(&closed));
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let (opened, closed) = counts.clone();
                let connection = opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    'requests: for request in 0.. {
                        while !read.ends_with(b"\r\n\r\nbody") {
                            if !matches!(socket.read_buf(&mut read).await, Ok(1..)) {
                                break 'requests;
                            }
                        }
                        read.clear();
                        let Some(answer) = script(connection, request) else { break };
                        if socket.write_all(answer).await.is_err() {
                            break;
                        }
                    }
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        let second = Duration::from_secs(1);
        Server { connections: Connections::new(origin, second, second, 2), opened, closed }
    }

    fn request() -> Request<Full<Bytes>> {
        Request::post("/x").header("host", "h").body(Full::from("body")).expect("a request")
    }

    async fn body(mut answer: Answer) -> Result<String, hyper::Error> {
        let mut all = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            all.extend_from_slice(&piece);
        }
        Ok(String::from_utf8(all).expect("text"))
    }

    async fn ask(server: &Server) -> Result<String, SendError> {
        let answer = server.connections.send(request).await?;
        Ok(body(answer).await.expect("a body"))
    }

    async fn eventually(what: &str, holds: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < limit, "it never came to this: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_as_many_as_are_needed_are_opened() {
        let server = server(|_, _| Some(ANSWER)).await;
        for _ in 0..5 {
            assert_eq!(ask(&server).await.expect("an answer"), "ok");
        }
        assert_eq!(server.opened.load(Ordering::SeqCst), 1);
        let first = server.connections.send(request).await.expect("an answer");
        assert_eq!(ask(&server).await.expect("an answer"), "ok");
        assert_eq!(server.opened.load(Ordering::SeqCst), 2, "the first is still being read");
        assert_eq!(body(first).await.expect("a body"), "ok");
    }

    #[tokio::test]
    async fn a_kept_connection_that_ends_as_it_is_used_again_costs_nobody_anything() {
        let server = server(|connection, request| (connection > 0 || request == 0).then_some(ANSWER)).await;
        for _ in 0..3 {
            assert_eq!(ask(&server).await.expect("an answer"), "ok");
        }
        assert_eq!(server.opened.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_new_connection_that_closes_without_an_answer_tells_the_truth() {
        let server = server(|_, _| None).await;
        assert!(matches!(ask(&server).await, Err(SendError::Unanswered(_))));
        assert_eq!(server.opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn dropping_an_unfinished_answer_closes_its_connection_and_idle_ones_are_closed_in_time() {
        let server = server(|connection, _| {
            Some(if connection == 0 { b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf" } else { ANSWER })
        })
        .await;
        let mut half = server.connections.send(request).await.expect("an answer");
        assert_eq!(half.chunk().await.expect("a piece").expect("a piece"), "half");
        drop(half);
        eventually("it is closed", || server.closed.load(Ordering::SeqCst) == 1).await;
        assert_eq!(ask(&server).await.expect("an answer"), "ok");
        assert_eq!(server.closed.load(Ordering::SeqCst), 1, "an idle one is kept for a while");
        eventually("nobody used it", || server.closed.load(Ordering::SeqCst) == 2).await;
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error_and_no_end() {
        for head in ["content-length: 9", "transfer-encoding: chunked"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let origin = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
            tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut read = [0; 1024];
                let _ = socket.read(&mut read).await;
                let _ = socket.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nhal").as_bytes()).await;
            });
            let connections = Connections::new(origin, Duration::from_secs(1), Duration::from_secs(1), 1);
            let answer = connections.send(request).await.expect("a head");
            assert!(body(answer).await.is_err(), "{head}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
        drop(listener);
        let connections = Connections::new(origin, Duration::from_secs(1), Duration::from_secs(1), 1);
        assert!(matches!(connections.send(request).await, Err(SendError::Connect(_))));
    }
}
