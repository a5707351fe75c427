//! Every setting there is: where it stands in the file, and which environment variable and flag set it.
//!
//! This table is the one place that knows the names. The file's keys are checked against it, the variables and
//! flags are read by it, and messages take the names from it.

/// One setting.
#[derive(Debug)]
pub(super) struct Field {
    /// Its key in the file, such as `mesh.name`.
    pub path: &'static str,
    /// Its environment variables; the first is the documented one, and a later one counts only without it.
    pub env: &'static [&'static str],
    /// The flag of `atmosphere start` that sets it.
    pub flag: Option<&'static str>,
    /// Whether its value must not be shown.
    pub secret: bool,
}

const fn field(path: &'static str, env: &'static [&'static str], flag: Option<&'static str>) -> Field {
    Field { path, env, flag, secret: false }
}

/// All settings, in the order in which they are shown.
pub(super) const FIELDS: &[Field] = &[
    field("name", &["ATMOSPHERE_NAME"], Some("--name")),
    field("port", &["ATMOSPHERE_PORT"], Some("--port")),
    field("bind", &["ATMOSPHERE_BIND"], Some("--bind")),
    field("ollama_port", &["ATMOSPHERE_OLLAMA_PORT"], Some("--ollama-port")),
    field("gossip_port", &["ATMOSPHERE_GOSSIP_PORT"], Some("--gossip-port")),
    field("gossip_bind", &["ATMOSPHERE_GOSSIP_BIND"], Some("--gossip-bind")),
    field("seed_peers", &["ATMOSPHERE_SEED_PEERS", "ATMOSPHERE_SEED_PEER"], Some("--seed-peer")),
    field("seed_peers_file", &["ATMOSPHERE_SEED_PEERS_FILE"], None),
    field("backends", &["ATMOSPHERE_BACKENDS", "ATMOSPHERE_BACKEND"], Some("--backend")),
    field("no_mdns", &["ATMOSPHERE_NO_MDNS"], Some("--no-mdns")),
    field("no_probe", &["ATMOSPHERE_NO_PROBE"], Some("--no-probe")),
    field("data_dir", &["ATMOSPHERE_HOME", "ATMOSPHERE_DATA_DIR"], Some("--data-dir")),
    field("mesh.name", &["ATMOSPHERE_MESH_NAME", "ATMOSPHERE_MESH"], Some("--mesh")),
    field("mesh.private", &["ATMOSPHERE_MESH_PRIVATE"], Some("--private")),
    field("mesh.invite_file", &["ATMOSPHERE_MESH_INVITE_FILE"], None),
    field("mesh.membership", &["ATMOSPHERE_MESH_MEMBERSHIP"], None),
    field("mesh.admit", &["ATMOSPHERE_MESH_ADMIT"], Some("--admit-everybody")),
    field("mesh.advert_ttl", &["ATMOSPHERE_MESH_ADVERT_TTL"], None),
    field("mesh.external_addresses", &["ATMOSPHERE_MESH_EXTERNAL_ADDRESSES"], None),
    field("mesh.relay", &["ATMOSPHERE_MESH_RELAY"], None),
    field("mesh.upnp", &["ATMOSPHERE_MESH_UPNP"], None),
    Field { path: "api.keys", env: &["ATMOSPHERE_API_KEYS"], flag: None, secret: true },
    field("api.keys_file", &["ATMOSPHERE_API_KEYS_FILE"], None),
    field("api.allow_no_auth", &["ATMOSPHERE_API_ALLOW_NO_AUTH", "ATMOSPHERE_ALLOW_NO_AUTH"], Some("--allow-no-auth")),
    field("api.max_body", &["ATMOSPHERE_API_MAX_BODY"], None),
    field("api.max_concurrency", &["ATMOSPHERE_API_MAX_CONCURRENCY"], None),
    field("api.max_connections", &["ATMOSPHERE_API_MAX_CONNECTIONS"], None),
    field("api.header_timeout", &["ATMOSPHERE_API_HEADER_TIMEOUT"], None),
    field("api.request_timeout", &["ATMOSPHERE_API_REQUEST_TIMEOUT"], None),
    field("api.allowed_origins", &["ATMOSPHERE_API_ALLOWED_ORIGINS"], None),
    field("api.allowed_hosts", &["ATMOSPHERE_API_ALLOWED_HOSTS"], None),
    field("api.drain_limit", &["ATMOSPHERE_API_DRAIN_LIMIT"], None),
    field("cache.mode", &["ATMOSPHERE_CACHE_MODE"], None),
    field("cache.size", &["ATMOSPHERE_CACHE_SIZE"], None),
    field("cache.answers", &["ATMOSPHERE_CACHE_ANSWERS"], None),
    field("cache.ttl", &["ATMOSPHERE_CACHE_TTL"], None),
    field("router.aliases", &["ATMOSPHERE_ROUTER_ALIASES"], None),
    field("router.affinity", &["ATMOSPHERE_ROUTER_AFFINITY"], None),
    field("router.second_opinion", &["ATMOSPHERE_ROUTER_SECOND_OPINION"], None),
    field("router.second_opinion_from", &["ATMOSPHERE_ROUTER_SECOND_OPINION_FROM"], None),
    field("dispatch.failover", &["ATMOSPHERE_DISPATCH_FAILOVER"], None),
    field("dispatch.hedge", &["ATMOSPHERE_DISPATCH_HEDGE"], None),
    field("dispatch.retry_share", &["ATMOSPHERE_DISPATCH_RETRY_SHARE"], None),
    field("provider.queue", &["ATMOSPHERE_PROVIDER_QUEUE"], None),
    field("provider.concurrency", &["ATMOSPHERE_PROVIDER_CONCURRENCY"], None),
    field("embedder.kind", &["ATMOSPHERE_EMBEDDER_KIND"], None),
    field("embedder.dir", &["ATMOSPHERE_EMBEDDER_DIR"], None),
    field("log.filter", &["ATMOSPHERE_LOG", "RUST_LOG"], Some("--log")),
    field("log.format", &["ATMOSPHERE_LOG_FORMAT"], Some("--log-format")),
];

/// Variables with our prefix that are no settings: the client verbs and the file's own place read them.
pub(super) const OTHER_VARIABLES: &[&str] = &["ATMOSPHERE_CONFIG", "ATMOSPHERE_URL", "ATMOSPHERE_API_KEY"];

/// The setting of that key.
pub(super) fn by_path(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// The one of `known` that is most like `name`, when one is like it.
pub(super) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below it two names have little in common; found by trying usual typing mistakes.
    const LIKE: f64 = 0.75;
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= LIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_one_rule() {
        let mut seen = std::collections::BTreeSet::new();
        for field in FIELDS {
            assert!(seen.insert(field.path), "{} twice", field.path);
            for env in field.env {
                assert!(seen.insert(env), "{env} twice");
                assert!(env.starts_with("ATMOSPHERE_") || *env == "RUST_LOG", "{env}");
            }
        }
    }

    #[test]
    fn a_misspelt_name_finds_the_right_one() {
        let paths = || FIELDS.iter().map(|field| field.path);
        assert_eq!(near("prot", paths()), Some("port"));
        assert_eq!(near("gosip_port", paths()), Some("gossip_port"));
        assert_eq!(near("seed_peer", paths()), Some("seed_peers"));
        assert_eq!(near("zzz", paths()), None);
    }
}
