//! The owner's configuration as each part's settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::error::StartError;
use crate::config::{Admit, Backend, Config, EmbedderConfig, EmbedderKind, OpinionFrom, Relay};
use crate::embedding::{Embedder, StaticEmbedder};
use crate::{api, cache, dispatch, mesh, provider, router};

/// How long the start waits for backends to answer before it says what it found, to the owner and to the mesh. Local ones
/// answer in milliseconds; one that is off must not hold up the rest.
pub(super) const SETTLE: Duration = Duration::from_millis(2500);

/// How long the first advert then waits for what was found to be described: a large embedder needs seconds for a hundred models,
/// and meanwhile the mesh knows this node from its last run, if it does.
pub(super) const DESCRIBED: Duration = Duration::from_secs(30);

/// The mesh says something without all that after this.
const FIRST_ADVERT: Duration = Duration::from_secs(40);

/// The embedder that meaning is matched with, and the one that serves embeddings to callers.
type Embedders = (Option<Arc<dyn Embedder>>, Option<Arc<dyn Embedder>>);

pub(super) fn embedders(config: &EmbedderConfig) -> Result<Embedders, StartError> {
    let builtin = || Arc::new(StaticEmbedder::builtin()) as Arc<dyn Embedder>;
    Ok(match config.kind {
        EmbedderKind::Builtin => {
            let builtin = builtin();
            (Some(Arc::clone(&builtin)), Some(builtin))
        }
        EmbedderKind::Onnx => (Some(onnx(config)?), Some(builtin())),
        EmbedderKind::None => (None, None),
    })
}

#[cfg(feature = "fastembed")]
fn onnx(config: &EmbedderConfig) -> Result<Arc<dyn Embedder>, StartError> {
    let directory = config.dir.as_deref().ok_or_else(|| StartError::Setting {
        field: "embedder.dir".into(),
        message: "an ONNX embedder needs the directory of its model".into(),
    })?;
    Ok(Arc::new(crate::embedding::OnnxEmbedder::open(directory)?))
}

#[cfg(not(feature = "fastembed"))]
fn onnx(_config: &EmbedderConfig) -> Result<Arc<dyn Embedder>, StartError> {
    Err(StartError::Setting {
        field: "embedder.kind".into(),
        message: "this build has no ONNX embedder: build with --features fastembed, or use \"builtin\"".into(),
    })
}

pub(super) fn provider(config: &Config, embedder: Option<Arc<dyn Embedder>>) -> Result<provider::Settings, StartError> {
    let backends = config.backends.iter().enumerate();
    Ok(provider::Settings {
        backends: backends.map(|(index, backend)| spec(index, backend)).collect::<Result<_, _>>()?,
        probe: !config.no_probe,
        embedder,
    })
}

fn spec(index: usize, backend: &Backend) -> Result<provider::BackendSpec, StartError> {
    let wrong = |message: String| StartError::Setting { field: format!("backends[{index}]"), message };
    provider::BackendSpec {
        kind: backend.kind,
        key: backend.key.as_ref().map(|key| provider::Secret::new(key.expose())),
        name: backend.name.clone(),
        models: backend.models.clone(),
        namespaces: backend.namespaces.clone(),
        shared: backend.shared,
        concurrency: backend.concurrency,
        domain: backend.domain.clone(),
        ..provider::BackendSpec::new(backend.url.clone())
    }
    .validated()
    .map_err(|error| wrong(error.to_string()))
}

pub(super) fn mesh(config: &Config, closed: Option<mesh::Closed>, more_seeds: Vec<mesh::Seed>) -> mesh::Settings {
    mesh::Settings {
        closed,
        mesh_name: config.mesh.name.clone(),
        node_name: config.name.clone(),
        gossip_port: Some(config.gossip_port),
        bind: config.gossip_bind.clone(),
        seeds: config.seed_peers.iter().cloned().chain(more_seeds).take(mesh::MAX_SEEDS).collect(),
        mdns: !config.no_mdns,
        upnp: config.mesh.upnp,
        relay_server: match config.mesh.relay {
            Relay::Auto => mesh::RelayServer::Auto,
            Relay::On => mesh::RelayServer::On,
            Relay::Off => mesh::RelayServer::Off,
        },
        external_addresses: config.mesh.external_addresses.clone(),
        admit: match config.mesh.admit {
            Admit::Private => mesh::Admission::Private,
            Admit::Everybody => mesh::Admission::Everybody,
        },
        advert_ttl: config.mesh.advert_ttl,
        first_advert_within: FIRST_ADVERT,
        data_dir: Some(config.data_dir.clone()),
        runtime: tokio::runtime::Handle::try_current().ok(),
        own_thread: true,
        ..mesh::Settings::default()
    }
}

pub(super) fn api(config: &Config) -> api::Settings {
    api::Settings {
        bind: vec![SocketAddr::new(config.bind, config.port)],
        ollama: config.ollama_port.map(|port| SocketAddr::new(config.bind, port)),
        keys: api::Keys::new(config.api.keys.iter().map(crate::config::Secret::expose)),
        insecure_no_auth: config.api.allow_no_auth,
        allowed_origins: config.api.allowed_origins.clone(),
        allowed_hosts: config.api.allowed_hosts.clone(),
        max_body: usize::try_from(config.api.max_body_bytes).unwrap_or(usize::MAX),
        max_concurrency: config.api.max_concurrency,
        max_connections: config.api.max_connections,
        header_timeout: config.api.header_timeout,
        deadline: config.api.request_timeout,
        drain_limit: config.api.drain_limit,
        ..api::Settings::default()
    }
}

pub(super) fn cache(config: &Config) -> cache::Settings {
    cache::Settings {
        mode: config.cache.mode,
        bytes: config.cache.size_bytes,
        answers: config.cache.answers as u64,
        ttl: config.cache.ttl,
    }
}

pub(super) fn router(config: &Config) -> router::Settings {
    router::Settings { affinity: config.router.affinity, aliases: config.router.aliases.clone() }
}

pub(super) fn dispatch(config: &Config) -> dispatch::Settings {
    dispatch::Settings {
        failover: config.dispatch.failover,
        hedge: config.dispatch.hedge,
        retry_share: config.dispatch.retry_share,
        second_opinion: config.router.second_opinion,
        second_opinion_elsewhere: config.router.second_opinion_from == OpinionFrom::Mesh,
        ..dispatch::Settings::default()
    }
}

pub(super) fn local(config: &Config) -> dispatch::LocalSettings {
    dispatch::LocalSettings { queue: config.provider.queue, concurrency: config.provider.concurrency }
}
