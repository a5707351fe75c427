//! Listens, accepts, and stops without cutting anybody off before their time.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::header::UPGRADE;
use futures::future::{BoxFuture, join_all};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::answer;
use super::app::{App, Caller, Seat};
use super::face::Face;
use super::routes;
use super::service::Service;
use super::settings::Settings;
use super::socket::Socket;
use crate::telemetry::Metrics;
use crate::waiting::Stop;

/// After a failed accept, such as for want of file descriptors, wait this long: it will not be better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What streams that are told to end get to say so.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Probes of a silent client: one that vanished without a word (power, cable) is noticed within some 90 s.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Bytes of a request's head and of the connection's read buffer. Long bearer tokens and cookies fit many times.
const READ_BUFFER: usize = 128 * 1024;
/// What is said to a client beyond the connection limit.
const TOO_MANY_CONNECTIONS: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\nserver: atmosphere\r\ncontent-type: application/json\r\n",
    "retry-after: 1\r\nconnection: close\r\ncontent-length: 137\r\n\r\n",
    r#"{"error":{"message":"this node has as many connections open as it may","type":"server_error","param":null,"code":"too_many_connections"}}"#,
);

/// Why the API could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nothing to listen on.
    #[error("the API has no address to listen on: name one, such as 127.0.0.1:11451")]
    NoAddress,
    /// Others could use this node without a key.
    #[error(
        "the API would be open to everybody who reaches {0}: configure an API key, bind to 127.0.0.1, or say \
         --insecure-no-auth if that is what you want"
    )]
    NoKeys(SocketAddr),
    /// Somebody else listens there.
    #[error(
        "{0} is in use, perhaps by another atmosphere: stop it, or choose another port with --port \
         (see who it is: ss -ltnp 'sport = :{port}')",
        port = .0.port()
    )]
    InUse(SocketAddr),
    /// Somebody else listens where Ollama's clients shall be served.
    #[error(
        "{0} is in use, most likely by an Ollama of this machine: its models are found there and offered by the API \
         as well. Leave --ollama-port out, or choose another one"
    )]
    OllamaInUse(SocketAddr),
    /// The system does not let us listen there.
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
}

/// An API that listens.
pub struct Serving {
    /// Where it listens, with the ports that it got.
    pub addresses: Vec<SocketAddr>,
    /// Where it listens for Ollama's clients, if it shall.
    pub ollama: Option<SocketAddr>,
    /// The API itself: it answers while this is polled, and is over once it has drained after the shutdown.
    pub done: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Starts to listen. Connections are answered once [`Serving::done`] is polled, and until `shutdown` is cancelled and
/// what runs has finished, or the drain limit is over.
///
/// # Errors
///
/// When an address cannot be listened on, or would be open to strangers.
pub async fn serve(
    settings: Settings,
    service: Arc<dyn Service>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<Serving, ServeError> {
    if settings.bind.is_empty() {
        return Err(ServeError::NoAddress);
    }
    let open = settings.keys.is_empty() && !settings.insecure_no_auth;
    let mut all = settings.bind.iter().chain(&settings.ollama);
    if let Some(address) = all.find(|address| open && !address.ip().to_canonical().is_loopback()) {
        return Err(ServeError::NoKeys(*address));
    }
    let mut listeners = Vec::with_capacity(settings.bind.len() + 1);
    let mut addresses = Vec::with_capacity(settings.bind.len());
    for address in settings.bind.iter().copied() {
        let (listener, local) = listen(address).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => ServeError::InUse(address),
            _ => ServeError::Bind { address, cause },
        })?;
        listeners.push((Face::Api, listener));
        addresses.push(local);
    }
    let mut ollama = None;
    if let Some(address) = settings.ollama {
        let (listener, local) = listen(address).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => ServeError::OllamaInUse(address),
            _ => ServeError::Bind { address, cause },
        })?;
        listeners.push((Face::Ollama, listener));
        ollama = Some(local);
    }
    let app = Arc::new(App::new(settings, service, metrics, shutdown));
    Ok(Serving { addresses, ollama, done: Box::pin(run(app, listeners)) })
}

async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

async fn run(app: Arc<App>, listeners: Vec<(Face, TcpListener)>) {
    let acceptor = Acceptor {
        api: routes::router(Arc::clone(&app), Face::Api),
        ollama: routes::router(Arc::clone(&app), Face::Ollama),
        places: Arc::new(Semaphore::new(app.settings.max_connections.clamp(1, Semaphore::MAX_PERMITS))),
        app,
    };
    // Should this future be dropped instead of driven to its end, its connections end with it.
    let _kill = acceptor.app.kill.clone().drop_guard();
    join_all(listeners.into_iter().map(|(face, listener)| acceptor.accept(face, listener))).await;
    acceptor.drain().await;
}

struct Acceptor {
    app: Arc<App>,
    api: Router,
    ollama: Router,
    places: Arc<Semaphore>,
}

impl Acceptor {
    async fn accept(&self, face: Face, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.app.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.admit(face, stream),
                // The client has left before it was greeted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, face: Face, stream: TcpStream) {
        // Without nodelay, the second small write of a response waits for the client's delayed acknowledgement: every
        // stream after the first on a connection would stall some 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE / 6);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
            tracing::debug!(%error, "no TCP keepalive");
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // Best effort: it fits the socket's empty send buffer, or the client sees a closed connection.
            let _ = stream.try_write(TOO_MANY_CONNECTIONS.as_bytes());
            return;
        };
        let app = Arc::clone(&self.app);
        let router = match face {
            Face::Api => self.api.clone(),
            Face::Ollama => self.ollama.clone(),
        };
        let seat = Arc::new(Seat::take(place, app.measures.connections.clone()));
        self.app.connections.spawn(connection(app, face, router, stream, seat));
    }

    async fn drain(self) {
        let App { connections, closing, kill, settings, .. } = &*self.app;
        connections.close();
        if tokio::time::timeout(settings.drain_limit, connections.wait()).await.is_ok() {
            return;
        }
        tracing::info!(connections = connections.len(), "the drain limit is over, ending what still runs");
        closing.cancel();
        if tokio::time::timeout(CLOSE_GRACE, connections.wait()).await.is_err() {
            kill.cancel();
            connections.wait().await;
        }
    }
}

async fn connection(app: Arc<App>, face: Face, router: Router, stream: TcpStream, seat: Arc<Seat>) {
    let (mut shutdown, mut kill) = (Stop::of(app.shutdown.clone()), Stop::of(app.kill.clone()));
    let caller = stream.peer_addr().ok().map(Caller);
    let io = TokioIo::new(Socket::new(stream, app.settings.write_timeout));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(app.settings.header_timeout).max_buf_size(READ_BUFFER);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(Arc::clone(&seat));
        }
        let answer = answer(Arc::clone(&app), face, router.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = builder.serve_connection(io, service).with_upgrades();
    let mut serving = pin!(serving);
    let mut leaving = false;
    let ended = poll_fn(|cx| {
        if kill.poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !leaving && shutdown.poll(cx).is_ready() {
            leaving = true;
            serving.as_mut().graceful_shutdown();
        }
        serving.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a client's connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_announces_its_length() {
        let (head, body) = TOO_MANY_CONNECTIONS.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    }
}
