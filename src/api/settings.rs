//! What an owner can set about the API, with the values it has when they do not.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::auth::Keys;

/// Settings of the API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen. Port 0 takes a free one.
    pub bind: Vec<SocketAddr>,
    /// Where to listen for clients that speak only Ollama's API; port 0 takes a free one.
    pub ollama: Option<SocketAddr>,
    /// API keys; with one or more, every request must name one.
    pub keys: Keys,
    /// The owner said in so many words that an address that others can reach shall be open to everybody.
    pub insecure_no_auth: bool,
    /// Origins of web pages that may use this API from a browser, such as `http://localhost:3000`; `*` is all of them.
    pub allowed_origins: Vec<String>,
    /// Further names by which clients may call this node in the `Host` header; `*` is all of them.
    pub allowed_hosts: Vec<String>,
    /// Bytes of a request body, at the most.
    pub max_body: usize,
    /// Requests to a model that run at once, at the most.
    pub max_concurrency: usize,
    /// Connections at once, at the most.
    pub max_connections: usize,
    /// Time of a request that names none, and the most that one can name.
    pub deadline: Duration,
    /// How long a client may take to send the head of a request; idle connections are closed after it as well.
    pub header_timeout: Duration,
    /// How long a client may send nothing of a body that it announced.
    pub body_timeout: Duration,
    /// How long a client may leave its answer unread.
    pub write_timeout: Duration,
    /// A stream that has nothing to say says so this often.
    pub keepalive: Duration,
    /// How long answers that run may still take when the node stops.
    pub drain_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bind: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 11451))],
            ollama: None,
            keys: Keys::default(),
            insecure_no_auth: false,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            // A dozen photographs as base64 in one request.
            max_body: 32 * 1024 * 1024,
            // Far above what the models of a home mesh run at once, and a bound for the memory of bodies.
            max_concurrency: 256,
            // Browsers and SDKs hold up to a few dozen idle ones each.
            max_connections: 1024,
            // The timeout of OpenAI's own SDKs.
            deadline: Duration::from_secs(600),
            // Longer than the idle time after which common clients drop a pooled connection themselves (5 to 90 s is
            // common; 5 s for Python's and Node's), short enough for a client that trickles to be gone soon.
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            // Proxies cut silent connections after 30 to 60 s.
            keepalive: Duration::from_secs(15),
            drain_limit: Duration::from_secs(30),
        }
    }
}
