//! Keeps one backend's capabilities current: asks it again and again, withdraws what it offered when it stops
//! answering, and brings it back when it answers. One task per backend, which ends with the node.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::http::{NODE_CODE, redacted};
use super::settings::{BackendKind, BackendSpec, is_own_network};
use super::table::{SlotId, Table};
use super::{Anthropic, LlamaFarm, Ollama, OpenAi, Provider, Universal, probe};
use crate::capability::{Call, Capability, ErrorClass, Failure, Frame, FrameStream};

/// Failures in a row after which a backend's capabilities are withdrawn. One may be a hiccup; the second
/// question follows at once.
const WITHDRAW_AFTER: u32 = 2;

/// Longest discovery, all its requests together; a first look at a hundred models fits.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(20);

/// Shortest time between two discoveries, however many calls fail.
const SHORTEST_GAP: Duration = Duration::from_millis(250);

/// How often a backend is asked.
#[derive(Debug, Clone, Copy)]
struct Pace {
    healthy: Duration,
    longest: Duration,
}

impl Pace {
    /// One's own network costs nothing to ask. A cloud's list changes once a month, and asking it counts
    /// against an account's limits.
    fn of(url: &Url) -> Self {
        if is_own_network(url) {
            Self { healthy: Duration::from_secs(5), longest: Duration::from_secs(15) }
        } else {
            Self { healthy: Duration::from_secs(60), longest: Duration::from_secs(60) }
        }
    }

    /// How long to wait after so many failures in a row.
    fn after(self, failures: u32) -> Duration {
        match failures {
            0 => self.healthy,
            1 => Duration::from_millis(500),
            more => Duration::from_secs(1 << (more - 2).min(10)).min(self.longest),
        }
    }
}

/// Asks the backend of `spec` until the node shuts down. `kind`: what it is, when that is known already.
pub(crate) async fn supervise(
    table: Arc<Table>,
    slot: SlotId,
    spec: BackendSpec,
    mut kind: Option<BackendKind>,
    shutdown: CancellationToken,
) {
    let pace = Pace::of(&spec.url);
    let nudge = Arc::new(Notify::new());
    let mut provider: Option<Arc<dyn Provider>> = None;
    let mut failures: u32 = 0;
    loop {
        let round = async {
            // Another server may have taken the place of one that was down for a while.
            if spec.kind.is_none() && (kind.is_none() || failures >= WITHDRAW_AFTER) {
                let found = probe::identify(&redacted(&spec.url), &spec.url, spec.key.as_ref()).await?;
                if kind != Some(found) {
                    (kind, provider) = (Some(found), None);
                }
            }
            let kind = spec.kind.or(kind).unwrap_or(BackendKind::OpenAi);
            let current = match &provider {
                Some(provider) => Arc::clone(provider),
                None => {
                    if spec.kind.is_some() {
                        // Named by the owner, but a node is a node.
                        refuse_node(&spec).await?;
                    }
                    let id = table.rename(slot, &provider_id(kind, &spec), kind.as_str());
                    let inner = build(kind, &id, &spec)?;
                    let watched: Arc<dyn Provider> = Arc::new(Watched { inner, nudge: Arc::clone(&nudge) });
                    provider = Some(Arc::clone(&watched));
                    watched
                }
            };
            let found = discover(&*current).await?;
            table.up(slot, &current, found);
            Ok::<(), Failure>(())
        };
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = round => outcome,
        };
        match outcome {
            Ok(()) => failures = 0,
            Err(failure) => {
                failures = failures.saturating_add(1);
                table.down(slot, &failure.message, failures >= WITHDRAW_AFTER);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pace.after(failures)) => {}
            () = nudge.notified() => tokio::time::sleep(SHORTEST_GAP).await,
        }
    }
}

/// Refuses what turns out to be a node's own API.
async fn refuse_node(spec: &BackendSpec) -> Result<(), Failure> {
    match probe::identify(&redacted(&spec.url), &spec.url, spec.key.as_ref()).await {
        Err(failure) if failure.code.as_deref() == Some(NODE_CODE) => Err(failure),
        // Whatever else it says: the owner knows better.
        _ => Ok(()),
    }
}

/// One discovery, within its limit; a panic of the adapter is a failure like any other.
pub(crate) async fn discover(provider: &dyn Provider) -> Result<Vec<Capability>, Failure> {
    let guarded = AssertUnwindSafe(async { provider.discover().await }).catch_unwind();
    match tokio::time::timeout(DISCOVERY_LIMIT, guarded).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => {
            let message = format!("the adapter of {} failed: this is a fault of atmosphere", provider.id());
            Err(Failure::new(ErrorClass::Internal, message))
        }
        Err(_) => {
            let limit = humantime::format_duration(DISCOVERY_LIMIT);
            Err(Failure::new(ErrorClass::Timeout, format!("{} has not told its models within {limit}", provider.id())))
        }
    }
}

/// The adapter for a kind of backend. A new kind is one line here.
fn build(kind: BackendKind, id: &str, spec: &BackendSpec) -> Result<Arc<dyn Provider>, Failure> {
    Ok(match kind {
        BackendKind::Anthropic => Arc::new(Anthropic::new(id, spec)?),
        BackendKind::Ollama => Arc::new(Ollama::new(id, spec)?),
        BackendKind::LlamaFarm => Arc::new(LlamaFarm::new(id, spec)?),
        BackendKind::Universal => Arc::new(Universal::new(id, spec)?),
        _ => Arc::new(OpenAi::new(id, kind, spec)?),
    })
}

/// A provider's name: the owner's, else the kind when it is where that kind is by default, else kind and place.
fn provider_id(kind: BackendKind, spec: &BackendSpec) -> String {
    if let Some(name) = &spec.name {
        return name.clone();
    }
    let port = spec.url.port_or_known_default().unwrap_or_default();
    let path = spec.url.path().trim_end_matches('/').trim_end_matches("/v1");
    let usual = probe::PORTS.iter().any(|(at, of)| *at == port && *of == kind);
    let host = spec.url.host_str().unwrap_or_default();
    if is_loopback(&spec.url) && usual && path.is_empty() {
        kind.to_string()
    } else {
        format!("{kind}@{host}:{port}{path}")
    }
}

/// A URL in the form in which two of them are compared: this machine's own addresses are all one.
pub(crate) fn canonical(url: &Url) -> String {
    let own = match url.host() {
        Some(Host::Ipv4(ip)) => is_loopback(url) || is_own_address(ip.into()),
        Some(Host::Ipv6(ip)) => is_loopback(url) || is_own_address(ip.into()),
        _ => is_loopback(url),
    };
    let host = if own { "localhost" } else { url.host_str().unwrap_or_default() };
    let port = url.port_or_known_default().unwrap_or_default();
    let path = url.path().trim_end_matches('/').trim_end_matches("/v1").trim_end_matches('/');
    format!("{host}:{port}{path}")
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

fn is_own_address(ip: std::net::IpAddr) -> bool {
    if_addrs::get_if_addrs().is_ok_and(|interfaces| interfaces.iter().any(|interface| interface.ip() == ip))
}

/// A provider whose failed calls have it discovered again at once.
struct Watched {
    inner: Arc<dyn Provider>,
    nudge: Arc<Notify>,
}

impl Provider for Watched {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<Capability>, Failure>> {
        self.inner.discover()
    }

    fn call(&self, call: Call) -> FrameStream {
        let nudge = Arc::clone(&self.nudge);
        Box::pin(self.inner.call(call).inspect(move |frame| {
            if let Frame::Error(failure) = frame
                && matches!(failure.class, ErrorClass::Unavailable | ErrorClass::Interrupted)
            {
                nudge.notify_one();
            }
        }))
    }

    fn concurrency(&self) -> Option<u32> {
        self.inner.concurrency()
    }

    fn shared(&self) -> bool {
        self.inner.shared()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> BackendSpec {
        BackendSpec::parse(text).expect("a backend")
    }

    #[test]
    fn a_name_says_what_and_where_and_no_secrets() {
        let name = |kind, text: &str| provider_id(kind, &spec(text));
        assert_eq!(name(BackendKind::Ollama, "http://localhost:11434"), "ollama");
        assert_eq!(name(BackendKind::Ollama, "http://127.0.0.1:11434/v1"), "ollama");
        assert_eq!(name(BackendKind::Ollama, "http://gpu:11434"), "ollama@gpu:11434");
        assert_eq!(name(BackendKind::OpenAi, "https://me:pw@h/openai/v1"), "openai@h:443/openai");
        assert_eq!(provider_id(BackendKind::Vllm, &BackendSpec { name: Some("big".into()), ..spec("h:1") }), "big");
    }

    #[test]
    fn one_backend_under_two_urls_is_one() {
        let same =
            ["http://localhost:8080", "http://127.0.0.1:8080/", "http://[::1]:8080/v1", "http://0.0.0.0:8080/v1/"];
        for text in same {
            assert_eq!(canonical(&spec(text).url), "localhost:8080", "{text}");
        }
        assert_ne!(canonical(&spec("http://gpu:8080").url), canonical(&spec("http://gpu:8081").url));
    }

    #[test]
    fn the_pace_grows_to_its_limit() {
        let pace = Pace::of(&spec("localhost:1").url);
        let waits: Vec<u128> = (0..8).map(|failures| pace.after(failures).as_millis()).collect();
        assert_eq!(waits, [5000, 500, 1000, 2000, 4000, 8000, 15000, 15000]);
        assert_eq!(Pace::of(&spec("https://api.openai.com").url).after(0), Duration::from_secs(60));
        assert!(pace.after(u32::MAX) == Duration::from_secs(15));
    }
}
