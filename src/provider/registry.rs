//! All providers of this node: starts one supervised task for each backend, looks for local ones, and knows at
//! any moment who serves what.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::http::redacted;
use super::settings::{BackendKind, BackendSpec, Settings};
use super::supervise::{canonical, discover, supervise};
use super::table::{ProviderStatus, Resolved, Table};
use super::{Builtin, Provider, Secret, probe};
use crate::capability::{Capability, CapabilityId};
use crate::telemetry::EventBus;

/// How often local ports are looked at for new backends.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// OpenAI's own API.
const OPENAI_URL: &str = "https://api.openai.com/v1";
/// Anthropic's own API.
const ANTHROPIC_URL: &str = "https://api.anthropic.com";

/// All providers of this node. Dropping it ends their tasks.
pub struct Registry {
    table: Arc<Table>,
    probed: Arc<AtomicBool>,
    _tasks: DropGuard,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.statuses()).finish()
    }
}

impl Registry {
    /// Starts to discover what the backends offer; returns at once. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(mut settings: Settings, events: EventBus, shutdown: CancellationToken) -> Arc<Self> {
        if settings.probe {
            settings.backends.extend(clouds_from_environment());
        }
        let ports = probe::PORTS.iter().map(|(port, _)| *port).collect();
        Self::start_at(settings, ports, events, shutdown)
    }

    /// As [`Registry::start`], but looks at these ports only.
    pub(crate) fn start_at(
        settings: Settings,
        ports: Vec<u16>,
        events: EventBus,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let table = Arc::new(Table::new(events));
        let tasks = shutdown.child_token();
        let probed = Arc::new(AtomicBool::new(!settings.probe));
        if let Some(embedder) = settings.embedder {
            let builtin: Arc<dyn Provider> = Arc::new(Builtin::new(embedder));
            let table = Arc::clone(&table);
            let slot = table.add(builtin.id(), "builtin", "", true);
            tokio::spawn(async move {
                match discover(&*builtin).await {
                    Ok(found) => table.up(slot, &builtin, found),
                    Err(failure) => table.down(slot, &failure.message, true),
                }
            });
        }
        let mut seen = HashSet::new();
        for spec in settings.backends {
            if seen.insert(canonical(&spec.url)) {
                watch_over(&table, spec, None, &tasks);
            } else {
                tracing::warn!(url = redacted(&spec.url), "backend given twice: the first one counts");
            }
        }
        if settings.probe {
            tokio::spawn(look_around(Arc::clone(&table), ports, seen, Arc::clone(&probed), tasks.clone()));
        }
        Arc::new(Self { table, probed, _tasks: tasks.drop_guard() })
    }

    /// A fixed set of providers, each asked once: for tests, and for programs that bring their own.
    pub async fn from_providers(providers: Vec<Arc<dyn Provider>>) -> Arc<Self> {
        let table = Arc::new(Table::new(EventBus::default()));
        for provider in providers {
            let slot = table.add(provider.id(), "custom", "", provider.shared());
            match discover(&*provider).await {
                Ok(found) => table.up(slot, &provider, found),
                Err(failure) => table.down(slot, &failure.message, true),
            }
        }
        let tasks = CancellationToken::new();
        Arc::new(Self { table, probed: Arc::new(AtomicBool::new(true)), _tasks: tasks.drop_guard() })
    }

    /// What all providers offer, live, without [`Meaning`](crate::capability::Meaning). Holds also what is not
    /// shared with other nodes: see [`Registry::is_shared`].
    #[must_use]
    pub fn capabilities(&self) -> watch::Receiver<Arc<Vec<Capability>>> {
        self.table.capabilities()
    }

    /// Who serves a capability; `None` when nobody does, or not any more.
    #[must_use]
    pub fn resolve(&self, id: &CapabilityId) -> Option<Resolved> {
        self.table.resolve(id)
    }

    /// Whether other nodes may use a capability. One that is not there is not shared.
    #[must_use]
    pub fn is_shared(&self, id: &CapabilityId) -> bool {
        self.resolve(id).is_some_and(|resolved| resolved.provider.shared())
    }

    /// How every provider is, in the order in which they were given or found.
    #[must_use]
    pub fn statuses(&self) -> Vec<ProviderStatus> {
        self.table.statuses()
    }

    /// Waits until every backend has been asked once and the local ports have been looked at, but no longer
    /// than `limit`: for a start that wants to say what it found.
    pub async fn settled(&self, limit: Duration) {
        let mut changes = self.table.changes();
        let all_asked = async {
            while !(self.probed.load(Ordering::Acquire) && self.statuses().iter().all(|status| status.checked)) {
                // The table lives as long as this registry, so the sender does too; a tick covers the probe's flag.
                let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        let _ = tokio::time::timeout(limit, all_asked).await;
    }
}

fn watch_over(table: &Arc<Table>, spec: BackendSpec, kind: Option<BackendKind>, tasks: &CancellationToken) {
    let url = redacted(&spec.url);
    let name = spec.name.clone().unwrap_or_else(|| url.clone());
    let slot = table.add(&name, spec.kind.or(kind).map_or("unknown", BackendKind::as_str), &url, spec.is_shared());
    tokio::spawn(supervise(Arc::clone(table), slot, spec, kind, tasks.clone()));
}

/// Looks for backends at these ports of this machine, again and again. What was found once is supervised from then on.
async fn look_around(
    table: Arc<Table>,
    ports: Vec<u16>,
    mut seen: HashSet<String>,
    probed: Arc<AtomicBool>,
    shutdown: CancellationToken,
) {
    loop {
        let look = async {
            let unknown = ports.iter().filter(|port| !seen.contains(&format!("localhost:{port}")));
            let answers = unknown.map(|&port| async move {
                let url = probe::listening(port).await?;
                let kind = probe::identify(url.as_str().trim_end_matches('/'), &url, None).await;
                Some((url, kind))
            });
            futures::future::join_all(answers).await
        };
        let found = tokio::select! {
            () = shutdown.cancelled() => return,
            found = look => found,
        };
        for (url, kind) in found.into_iter().flatten() {
            match kind {
                Ok(kind) if seen.insert(canonical(&url)) => {
                    watch_over(&table, BackendSpec::new(url), Some(kind), &shutdown);
                }
                Ok(_) => {}
                Err(failure) => tracing::debug!(url = url.as_str(), %failure, "not taken for a backend"),
            }
        }
        probed.store(true, Ordering::Release);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PROBE_EVERY) => {}
        }
    }
}

/// OpenAI's and Anthropic's clouds, when their own variables hold a key. They are their owner's own: never shared.
fn clouds_from_environment() -> Vec<BackendSpec> {
    let clouds = [
        ("OPENAI_API_KEY", BackendKind::OpenAi, OPENAI_URL),
        ("ANTHROPIC_API_KEY", BackendKind::Anthropic, ANTHROPIC_URL),
    ];
    let configured = clouds.into_iter().filter_map(|(variable, kind, url)| {
        let key = std::env::var(variable).ok().filter(|key| !key.trim().is_empty())?;
        let mut spec = BackendSpec::new(url.parse().ok()?);
        spec.kind = Some(kind);
        spec.key = Some(Secret::from(key));
        spec.name = Some(kind.to_string());
        spec.shared = Some(false);
        Some(spec)
    });
    configured.collect()
}
