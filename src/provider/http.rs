//! One backend's HTTP side: where its paths are, how it is spoken to, and what goes wrong before an answer.
//!
//! Nothing here waits without a limit, follows a redirect or prints a secret. An answer that comes from an
//! Atmosphere node is refused everywhere: a node that used another's API as a backend could make a loop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::{Request, Uri};
use reqwest::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, SERVER};
use reqwest::{Client, Method, RequestBuilder, redirect};
use serde::de::DeserializeOwned;
use url::Url;

use super::answer::{Answer, BodyError, has_type, read_body, text_of};
use super::connection::{Connections, SendError};
use super::failure;
use super::secret::Secret;
use super::settings::is_own_network;
use crate::capability::{ErrorClass, Failure};

/// How long a connection may take to open. Longer than any healthy network of one's own needs, short
/// enough to try elsewhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an idle connection is kept: shorter than any server keeps it (uvicorn, under vLLM and LlamaFarm, has
/// the shortest: 5 s), for a server that closes a connection just when it is used again fails the call.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per backend: as many as the calls that a busy one runs.
const POOL_CONNECTIONS: usize = 64;

/// How long one request of a discovery may take.
pub(crate) const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest answer to a discovery request: some thousand models with their details.
const DISCOVERY_BYTES: usize = 16 * 1024 * 1024;

/// Longest error body that is read; it is JSON or a page for people.
const ERROR_BYTES: usize = 256 * 1024;

/// How long the body of an error may take once its status is known.
const ERROR_TIMEOUT: Duration = Duration::from_secs(5);

/// How a backend sees this program.
const USER_AGENT: &str = concat!("atmosphere/", env!("CARGO_PKG_VERSION"));

/// The code of the failure that a node's API in a backend's place is.
pub(crate) const NODE_CODE: &str = "backend_is_a_node";

/// The code of the failure that a backend is which takes connections, and closes them without an answer.
pub const UNANSWERED_CODE: &str = "connection_closed";

/// The header by which a node's API can be known, whatever the path.
pub(crate) const NODE_HEADER: &str = "x-atmosphere-node";

/// A backend's HTTP side.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    client: Client,
    /// Keeps no connection: for the second try of a request whose kept connection had ended. Made when it is needed.
    unpooled: Arc<OnceLock<Client>>,
    /// For calls, where nothing more than plain HTTP is needed: no encryption, no proxy.
    plain: Option<Plain>,
    /// Without `/v1`, without slash at its end.
    pub(super) root: Arc<Url>,
    /// With `/v1`, without slash at its end.
    pub(super) api: Arc<Url>,
    label: Arc<str>,
    key: Option<HeaderValue>,
    /// The header that the key is sent in.
    key_header: HeaderName,
}

/// Calls over plain HTTP.
#[derive(Debug, Clone)]
struct Plain {
    connections: Connections,
    host: HeaderValue,
}

impl Plain {
    /// `None` when this URL asks for more.
    fn new(url: &Url) -> Option<Self> {
        if url.scheme() != "http" || !is_own_network(url) || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str()?),
            None => url.host_str()?.to_owned(),
        };
        let origin = Uri::builder().scheme("http").authority(host.as_str()).path_and_query("/").build().ok()?;
        let connections = Connections::new(origin, CONNECT_TIMEOUT, POOL_IDLE, POOL_CONNECTIONS);
        Some(Self { connections, host: HeaderValue::from_str(&host).ok()? })
    }
}

impl Backend {
    /// The backend at `url`. `label` names it in messages.
    ///
    /// # Errors
    ///
    /// When the key cannot be a header, or this machine has no root certificates for `https`.
    pub(crate) fn new(label: &str, url: &Url, key: Option<&Secret>) -> Result<Self, Failure> {
        let fault = |message: String| Failure::new(ErrorClass::Backend, message);
        let key = match key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                    .map_err(|_| fault(format!("the key of {label} holds characters that no HTTP header may hold")))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = client(url)
            .map_err(|cause| fault(format!("cannot prepare connections to {label}: {}", text_of(&cause))))?;
        let (root, api) = bases(url);
        Ok(Self {
            client,
            unpooled: Arc::default(),
            plain: Plain::new(url),
            root: root.into(),
            api: api.into(),
            label: label.into(),
            key,
            key_header: AUTHORIZATION,
        })
    }

    /// Sends its key in this header, without a scheme, instead of as `Authorization: Bearer`.
    pub(crate) fn with_key_in(mut self, header: &'static str) -> Self {
        self.key_header = HeaderName::from_static(header);
        if let Some(key) = &self.key {
            let bare = key.as_bytes().strip_prefix(b"Bearer ").unwrap_or(key.as_bytes());
            // A part of what was a header's value is one.
            self.key = HeaderValue::from_bytes(bare).ok().map(|mut bare| {
                bare.set_sensitive(true);
                bare
            });
        }
        self
    }

    /// Names it in messages.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Whether a key of the owner's is sent along.
    pub(crate) const fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// A request below `/v1`, such as `["chat", "completions"]`.
    pub(crate) fn api(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(method, &self.api, path)
    }

    /// A request below the root, for what is not OpenAI's.
    pub(crate) fn root(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request(method, &self.root, path)
    }

    fn request(&self, method: Method, base: &Url, path: &[&str]) -> RequestBuilder {
        let request = self.client.request(method, below(base, path));
        match &self.key {
            Some(key) => request.header(self.key_header.clone(), key.clone()),
            None => request,
        }
    }

    /// Posts a call's body to a path below `/v1`, and waits for the head of an answer as [`send`](Self::send) does.
    ///
    /// # Errors
    ///
    /// When there is none, or the backend reports an error.
    pub(crate) async fn post(&self, path: &[&str], headers: &HeaderMap, body: &Bytes) -> Result<Answer, Failure> {
        let Some(Plain { connections, host }) = &self.plain else {
            let request = self.api(Method::POST, path).headers(headers.clone()).body(body.clone());
            return self.send(request).await;
        };
        let uri = path_of(&self.api, path);
        let uri: Uri = uri.parse().map_err(|cause| {
            Failure::new(ErrorClass::Internal, format!("{uri:?} is no path to ask {} at: {cause}", self.label))
        })?;
        let request = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri.clone();
            let sent = request.headers_mut();
            sent.reserve(headers.len() + 5);
            sent.insert(HOST, host.clone());
            sent.insert(reqwest::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
            sent.insert(reqwest::header::ACCEPT, HeaderValue::from_static("*/*"));
            if let Some(key) = &self.key {
                sent.insert(self.key_header.clone(), key.clone());
            }
            for (name, value) in headers {
                sent.insert(name.clone(), value.clone());
            }
            request
        };
        match connections.send(request).await {
            Ok(answer) => self.welcome(Answer::Plain(answer)).await,
            Err(SendError::Connect(cause)) => Err(self.not_reached(&text_of(&*cause))),
            Err(SendError::Unanswered(cause)) => Err(self.unanswered(&text_of(&*cause))),
            Err(SendError::Broken(cause)) => Err(self.not_reached(&text_of(&cause))),
        }
    }

    /// Sends a discovery request and reads its JSON.
    ///
    /// # Errors
    ///
    /// When there is no answer in time, or another one than JSON with a status of success.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        self.within(DISCOVERY_TIMEOUT, async {
            let response = self.send(request).await?;
            let body = read_body(response, DISCOVERY_BYTES).await.map_err(|cause| self.broken(&cause))?;
            serde_json::from_slice(&body).map_err(|cause| {
                Failure::new(ErrorClass::Backend, format!("{} answers what cannot be understood: {cause}", self.label))
            })
        })
        .await
    }

    /// Sends a request and waits for the head of an answer with a status of success that is no web page.
    ///
    /// # Errors
    ///
    /// When there is none, or the backend reports an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let again = request.try_clone();
        let response = match (request.send().await, again) {
            (Ok(response), _) => response,
            // A kept connection that the backend was about to close as the request left. To infer twice is
            // harmless, and a new connection tells the truth; another kept one may be about to close as well.
            (Err(cause), Some(again)) if ended_unanswered(&cause) => {
                let again = again.build().map_err(|cause| self.unreachable(cause))?;
                self.unpooled()?.execute(again).await.map_err(|cause| self.unreachable(cause))?
            }
            (Err(cause), _) => return Err(self.unreachable(cause)),
        };
        self.welcome(Answer::Other(response)).await
    }

    /// An answer, unless it is a failure.
    async fn welcome(&self, response: Answer) -> Result<Answer, Failure> {
        if is_node(response.headers()) {
            return Err(self.own_kind());
        }
        let content_type = response.content_type();
        if response.status().is_success() {
            let content_type = content_type.unwrap_or_default();
            if has_type(content_type, "text/html") {
                return Err(Failure::new(
                    ErrorClass::Backend,
                    format!("{} answers with a web page: is this the address of its API?", self.label),
                ));
            }
            return Ok(response);
        }
        let content_type = content_type.unwrap_or_default().to_owned();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = tokio::time::timeout(ERROR_TIMEOUT, read_body(response, ERROR_BYTES)).await;
        let body = self.without_key(body.ok().and_then(Result::ok).unwrap_or_default());
        Err(failure::from_answer(&self.label, self.has_key(), status, &headers, &content_type, &body))
    }

    /// A backend's words without the owner's key, should it quote that: they go to callers, peers and the log.
    pub(crate) fn without_key(&self, words: Bytes) -> Bytes {
        /// What is shorter is no key that anybody keeps secret, and is found in innocent words.
        const SHORTEST: usize = 6;
        let header = self.key.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
        let key = header.strip_prefix(b"Bearer ").unwrap_or(header);
        if key.len() < SHORTEST || memchr::memmem::find(&words, key).is_none() {
            return words;
        }
        let mut clean = BytesMut::with_capacity(words.len());
        let mut from = 0;
        for at in memchr::memmem::find_iter(&words, key) {
            clean.extend_from_slice(&words[from..at]);
            clean.extend_from_slice(b"[redacted]");
            from = at + key.len();
        }
        clean.extend_from_slice(&words[from..]);
        clean.freeze()
    }

    /// Runs `work` for so long at most.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorClass::Timeout,
                format!("{} has not answered within {}", self.label, humantime::format_duration(limit)),
            ))
        })
    }

    /// The failure that another node's API in a backend's place is.
    pub(crate) fn own_kind(&self) -> Failure {
        let advice = "is the API of an Atmosphere node, not a backend: join its mesh with --seed-peer instead";
        let mut failure = Failure::new(ErrorClass::Backend, format!("{} {advice}", self.label));
        failure.code = Some(NODE_CODE.to_owned());
        failure
    }

    fn unpooled(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.unpooled.get() {
            return Ok(client);
        }
        let client = builder(&self.root).pool_max_idle_per_host(0).build();
        let client = client.map_err(|cause| self.unreachable(cause))?;
        Ok(self.unpooled.get_or_init(|| client))
    }

    fn unreachable(&self, cause: reqwest::Error) -> Failure {
        let cause = cause.without_url();
        if ended_unanswered(&cause) { self.unanswered(&text_of(&cause)) } else { self.not_reached(&text_of(&cause)) }
    }

    fn unanswered(&self, cause: &str) -> Failure {
        let message = format!("{} closes its connections without an answer: {cause}", self.label);
        Failure { code: Some(UNANSWERED_CODE.to_owned()), ..Failure::new(ErrorClass::Unavailable, message) }
    }

    fn not_reached(&self, cause: &str) -> Failure {
        let message = format!("cannot reach {}: {cause} (is it running there?)", self.label);
        Failure::new(ErrorClass::Unavailable, message)
    }

    fn broken(&self, cause: &BodyError) -> Failure {
        Failure::new(ErrorClass::Backend, format!("the answer of {} cannot be read: {cause}", self.label))
    }
}

/// The URL of a path below another one.
fn below(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// The same without scheme and host. What needs no encoding, as all paths of OpenAI's, is only put together.
fn path_of(base: &Url, path: &[&str]) -> String {
    let plain = |segment: &&str| {
        !matches!(*segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    if base.query().is_some() || !path.iter().all(plain) {
        let url = below(base, path);
        return match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
    }
    let base = base.path().trim_end_matches('/');
    let mut out = String::with_capacity(base.len() + path.iter().map(|segment| segment.len() + 1).sum::<usize>());
    out.push_str(base);
    for segment in path {
        out.push('/');
        out.push_str(segment);
    }
    out
}

/// Whether the connection ended before one byte of the answer.
fn ended_unanswered(cause: &reqwest::Error) -> bool {
    if cause.is_connect() || cause.is_timeout() {
        return false;
    }
    let mut causes = std::iter::successors(std::error::Error::source(cause), |cause| cause.source());
    causes.any(|cause| {
        let incomplete = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        incomplete || matches!(io, Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
    })
}

/// A client for this URL: no delay for small packets, no redirects, no proxy for one's own network. The root
/// certificates of the system are loaded for `https` only, so that a machine without any can use the rest.
pub(crate) fn client(url: &Url) -> reqwest::Result<Client> {
    builder(url).build()
}

fn builder(url: &Url) -> reqwest::ClientBuilder {
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_CONNECTIONS)
        .redirect(redirect::Policy::none());
    if is_own_network(url) {
        builder = builder.no_proxy();
    }
    if url.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder
}

/// Root and API base of what an owner wrote: `http://h`, `http://h/v1/` and `https://h/openai/v1` all work,
/// and a path with another version in it, such as `/v1beta/openai`, is the API base itself.
fn bases(url: &Url) -> (Url, Url) {
    let path = url.path().trim_end_matches('/').to_owned();
    let is_version = |segment: &str| {
        segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let with = |path: &str| {
        let mut url = url.clone();
        url.set_path(path);
        url
    };
    if let Some(root) = path.strip_suffix("/v1") {
        (with(root), with(&path))
    } else if path.split('/').any(is_version) {
        (with(&path), with(&path))
    } else {
        (with(&path), with(&format!("{path}/v1")))
    }
}

/// A URL without user, password, query and fragment.
#[must_use]
pub(crate) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that cannot have either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// Whether an answer comes from an Atmosphere node.
pub(crate) fn is_node(headers: &HeaderMap) -> bool {
    let server = headers.get(SERVER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    headers.contains_key(NODE_HEADER) || server.to_ascii_lowercase().starts_with("atmosphere")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Says on which connection, and as its how many-eth request, one came; answers whether it is answered.
    type Script = fn(connection: usize, request: usize) -> bool;

    /// A server that reads each request to its end and answers it, or closes the connection instead. Counts requests.
    async fn server(script: Script) -> (Backend, Arc<AtomicUsize>) {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = url(&format!("http://{}", listener.local_addr().expect("an address")));
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            for connection in 0.. {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut read = Vec::new();
                    for request in 0.. {
                        while !read.ends_with(b"\r\n\r\n") {
                            if !matches!(socket.read_buf(&mut read).await, Ok(1..)) {
                                return;
                            }
                        }
                        read.clear();
                        counted.fetch_add(1, Ordering::SeqCst);
                        if !script(connection, request) || socket.write_all(ANSWER).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (Backend::new("b", &url, None).expect("a backend"), count)
    }

    async fn ask(backend: &Backend) -> Result<Bytes, Failure> {
        let response = backend.send(backend.api(Method::GET, &["models"])).await?;
        Ok(read_body(response, 99).await.expect("a body"))
    }

    #[tokio::test]
    async fn a_kept_connection_that_ends_as_it_is_used_again_costs_nobody_anything() {
        // Three are kept, and each ends at its second request: none of the other two is worth a second try.
        let (backend, count) = server(|connection, request| connection > 2 || request == 0).await;
        let first = futures::future::join_all((0..3).map(|_| ask(&backend))).await;
        assert!(first.iter().all(Result::is_ok), "{first:?}");
        let asked = count.load(Ordering::SeqCst);
        assert_eq!(ask(&backend).await.expect("an answer"), "{}");
        assert_eq!(count.load(Ordering::SeqCst), asked + 2);
    }

    #[tokio::test]
    async fn a_backend_that_always_closes_is_unavailable_after_two_tries() {
        let (backend, count) = server(|_, _| false).await;
        let failure = ask(&backend).await.expect_err("no answer");
        assert_eq!((failure.class, failure.status), (ErrorClass::Unavailable, 503));
        assert!(failure.message.starts_with("b closes its connections without an answer"), "{failure}");
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn a_trailing_v1_may_be_there_or_not() {
        let table = [
            ("http://h:1", "http://h:1/", "http://h:1/v1"),
            ("http://h:1/", "http://h:1/", "http://h:1/v1"),
            ("http://h:1/v1/", "http://h:1/", "http://h:1/v1"),
            ("https://h/openai/v1", "https://h/openai", "https://h/openai/v1"),
            ("https://h/v1beta/openai/", "https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://h/api", "https://h/api", "https://h/api/v1"),
        ];
        for (given, root, api) in table {
            let bases = bases(&url(given));
            assert_eq!((bases.0.as_str(), bases.1.as_str()), (root, api), "{given}");
        }
    }

    #[test]
    fn a_printed_url_has_no_secrets() {
        assert_eq!(redacted(&url("https://me:pw@h:8/v1/?key=x#y")), "https://h:8/v1");
    }

    #[test]
    fn names_in_a_path_cannot_leave_it() {
        let backend = Backend::new("b", &url("http://h"), None).expect("a backend");
        let request = backend.api(Method::GET, &["projects", "a/../b", "c d"]).build().expect("a request");
        assert_eq!(request.url().as_str(), "http://h/v1/projects/a%2F..%2Fb/c%20d");
    }

    #[test]
    fn a_path_is_the_same_whether_it_is_put_together_or_encoded() {
        for base in ["http://h/v1", "http://h", "http://h/a/v1/", "http://h/v1?x=1"] {
            for path in [&["chat", "completions"][..], &["projects", "a/../b", "c d"], &["..", "x"], &[]] {
                let url = below(&self::url(base), path);
                let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
                let whole = if url.path().len() > 1 { url.path().trim_end_matches('/') } else { "" };
                assert_eq!(
                    path_of(&self::url(base), path).trim_end_matches('/'),
                    format!("{whole}{query}"),
                    "{base} {path:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn calls_go_over_plain_http_only_where_nothing_more_is_needed() {
        for (given, plain) in [
            ("http://127.0.0.1:1", true),
            ("https://127.0.0.1:1", false),
            ("http://example.com", false),
            ("http://u:p@127.0.0.1:1", false),
        ] {
            assert_eq!(Plain::new(&url(given)).is_some(), plain, "{given}");
        }
    }

    #[test]
    fn a_key_that_a_backend_quotes_is_taken_out() {
        let backend = Backend::new("b", &url("http://h"), Some(&Secret::new("sk-secret"))).expect("a backend");
        for (said, told) in [
            ("no", "no"),
            ("sk-secret", "[redacted]"),
            ("bad key sk-secret, as sk-secret is", "bad key [redacted], as [redacted] is"),
        ] {
            assert_eq!(backend.without_key(Bytes::from_static(said.as_bytes())), told);
        }
        let open = Backend::new("b", &url("http://h"), Some(&Secret::new("x"))).expect("a backend");
        assert_eq!(open.without_key(Bytes::from_static(b"example")), "example");
    }

    #[test]
    fn a_key_that_is_no_header_is_refused_without_printing_it() {
        let failure = Backend::new("b", &url("http://h"), Some(&Secret::new("a\nsecret"))).expect_err("no header");
        assert!(!failure.message.contains("secret"), "{failure}");
    }
}
