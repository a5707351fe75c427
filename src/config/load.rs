//! Reads every setting, collects every problem, and checks the settings against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Value};

use super::fields::{self, FIELDS, OTHER_VARIABLES, near};
use super::problem::{ConfigError, Fault, Origin, Problem};
use super::source::{FlagValue, Layered, Sources, read_file};
use super::{
    Admit, ApiConfig, CacheConfig, CacheMode, Config, DEFAULT_GOSSIP_PORT, DEFAULT_PORT, DispatchConfig,
    EmbedderConfig, EmbedderKind, LogConfig, LogFormat, MeshConfig, OpinionFrom, ProviderConfig, Relay, RouterConfig,
    Secret, alias, backend, data_dir, parse,
};
use crate::mesh::{DEFAULT_LIFETIME, MAX_SEEDS, Seed, Token};
use crate::telemetry::DEFAULT_FILTER;

/// A valid configuration, and how it came to be.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where each setting came from, by its key in the file; what is missing is a default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is no error, but surely not meant: misspelt environment variables.
    pub warnings: Vec<String>,
}

/// How long others believe an advert: long enough to survive three lost beats, short enough that a dead node is gone
/// within a minute.
const ADVERT_TTL: Duration = Duration::from_secs(60);
/// Longest membership: longer ones are hardly ever renewed, and a lost machine is revoked anyway.
const MEMBERSHIP_MAX: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// Images and audio in messages fit; a mistake does not fill the memory.
const MAX_BODY: u64 = 32 << 20;
/// Far above what the backends of a home run at once, and a bound for the memory of bodies.
const MAX_CONCURRENCY: usize = 256;
/// Browsers and SDKs hold up to a few dozen idle ones each.
const MAX_CONNECTIONS: usize = 1024;
/// Longer than usual clients keep an idle connection, short enough for one that trickles to be gone soon.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// The OpenAI SDK's own default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);
/// A long answer at a usual speed ends within it; so does the patience of a service manager.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Ten thousand answers of usual length; no more than a browser's tab takes.
const CACHE_SIZE: u64 = 64 << 20;
/// As many as the size holds of short ones.
const CACHE_ANSWERS: usize = 10_000;
/// Long enough for a script that is run again and again; a model that was replaced under its name speaks for itself soon.
const CACHE_TTL: Duration = Duration::from_secs(3600);
/// A queue in which the last one waits a few minutes at most, with usual answers.
const QUEUE: usize = 64;
/// A backend that sets no limit batches by itself, or is a cloud; here sockets and memory begin to count.
const CONCURRENCY: u32 = 256;
/// Nobody notices so much before an answer that takes seconds.
const SECOND_OPINION: Duration = Duration::from_millis(150);
/// Enough for a node that dies under load; an outage of all nodes is not made much worse by it.
const RETRY_SHARE: f64 = 0.2;
/// A shorter key is guessed, or is a placeholder.
const MIN_KEY_CHARS: usize = 8;

/// Makes the configuration.
///
/// # Errors
///
/// When the file cannot be read or parsed, or else with every problem that the values have.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let (path, required) = file_to_read(sources);
    let file = match &path {
        Some(path) => read_file(path, required)?,
        None => None,
    };
    let read = file.as_ref().map(|file| file.path.clone());
    let mut reader = Reader {
        layers: Layered::new(file, sources),
        problems: Vec::new(),
        origins: BTreeMap::new(),
        wrong: BTreeSet::new(),
    };
    reader.check_keys();
    let config = reader.config(sources);
    reader.check_together(&config);
    if reader.problems.is_empty() {
        Ok(Loaded { config, origins: reader.origins, file: read, warnings: unknown_variables(sources) })
    } else {
        Err(ConfigError::Problems(reader.problems))
    }
}

/// The file, and whether it has to exist.
fn file_to_read(sources: &Sources) -> (Option<PathBuf>, bool) {
    if let Some(path) = &sources.config_file {
        return (Some(path.clone()), true);
    }
    if let Some(path) = sources.variable("ATMOSPHERE_CONFIG") {
        return (Some(PathBuf::from(path)), true);
    }
    let from_flag = match sources.flags.get("data_dir") {
        Some(FlagValue::Text(path)) => Some(path.as_str()),
        _ => None,
    };
    let from_env = || {
        let field = fields::by_path("data_dir")?;
        field.env.iter().find_map(|name| sources.variable(name))
    };
    let home = sources.home.as_deref();
    let named = from_flag.or_else(from_env).and_then(|text| parse::expand(text, home).ok());
    let dir = named.or_else(|| home.map(data_dir::in_home));
    (dir.map(|dir| dir.join("config.toml")), false)
}

/// Variables with our prefix that nothing reads.
fn unknown_variables(sources: &Sources) -> Vec<String> {
    let known: BTreeSet<&str> = FIELDS.iter().flat_map(|field| field.env).chain(OTHER_VARIABLES).copied().collect();
    sources
        .env
        .keys()
        .filter(|name| name.starts_with("ATMOSPHERE_") && !known.contains(name.as_str()))
        .map(|name| {
            let hint =
                near(name, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            format!("the environment variable {name} is not one of atmosphere's and has no effect{hint}")
        })
        .collect()
}

struct Reader {
    layers: Layered,
    problems: Vec<Problem>,
    origins: BTreeMap<&'static str, Origin>,
    /// Settings with a problem, so that what depends on them is not judged by a default that nobody chose.
    wrong: BTreeSet<&'static str>,
}

impl Reader {
    /// One setting, or its default when nobody set it or it is wrong.
    fn get<T>(&mut self, path: &'static str, default: T, parse: impl Fn(&Value) -> Result<T, String>) -> T {
        let Some((value, origin)) = self.layers.value(path) else { return default };
        self.origins.insert(path, origin.clone());
        match parse(&value) {
            Ok(parsed) => parsed,
            Err(message) => {
                let secret = fields::by_path(path).is_some_and(|field| field.secret);
                let shown = (!secret).then(|| parse::shown(&value));
                self.wrong.insert(path);
                self.problems.push(Problem { field: path.to_owned(), value: shown, origin, message });
                default
            }
        }
    }

    fn problem(&mut self, path: &'static str, value: Option<String>, message: String) {
        let origin = self.origins.get(path).cloned().unwrap_or(Origin::Default);
        self.wrong.insert(path);
        self.problems.push(Problem { field: path.to_owned(), value, origin, message });
    }

    /// Every key of the file must be one of ours.
    fn check_keys(&mut self) {
        let Some(file) = self.layers.file() else { return };
        let mut unknown = Vec::new();
        walk(&file.values, "", &mut unknown);
        for (path, message) in unknown {
            let origin = self.layers.file_origin(&path);
            self.problems.push(Problem { field: path, value: None, origin, message });
        }
    }

    fn config(&mut self, sources: &Sources) -> Config {
        let home = sources.home.as_deref();
        let secs = Duration::from_secs;
        let default_name = default_name(sources.hostname.as_deref());
        let data_dir = self.data_dir(home);
        let (seed_peers, invites) = self.seeds();
        Config {
            name: self.get("name", default_name, parse::name),
            port: self.get("port", DEFAULT_PORT, parse::port),
            bind: self.get("bind", Ipv4Addr::LOCALHOST.into(), parse::ip),
            ollama_port: self.get("ollama_port", None, |value| parse::port(value).map(Some)),
            gossip_port: self.get("gossip_port", DEFAULT_GOSSIP_PORT, parse::port),
            gossip_bind: self.get(
                "gossip_bind",
                vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
                parse::ips,
            ),
            seed_peers,
            invites,
            seed_peers_file: self.get("seed_peers_file", None, |value| parse::path(home)(value).map(Some)),
            backends: self.many("backends", |value| backend::backends(value, &sources.env)),
            no_mdns: self.get("no_mdns", false, parse::boolean),
            no_probe: self.get("no_probe", false, parse::boolean),
            data_dir,
            mesh: MeshConfig {
                name: self.get("mesh.name", "atmosphere".to_owned(), parse::name),
                private: self.get("mesh.private", false, parse::boolean),
                invite_file: self.get("mesh.invite_file", None, |value| parse::path(home)(value).map(Some)),
                membership: self.get("mesh.membership", DEFAULT_LIFETIME, parse::duration(secs(1), MEMBERSHIP_MAX)),
                admit: self.get("mesh.admit", Admit::Private, parse::admit),
                advert_ttl: self.get("mesh.advert_ttl", ADVERT_TTL, parse::duration(secs(1), secs(3600))),
                external_addresses: self
                    .many("mesh.external_addresses", |value| parse::each(value, parse::external_address)),
                relay: self.get("mesh.relay", Relay::Auto, parse::relay),
                upnp: self.get("mesh.upnp", true, parse::boolean),
            },
            api: self.api(home),
            cache: CacheConfig {
                mode: self.get("cache.mode", CacheMode::Off, parse::cache_mode),
                size_bytes: self.get("cache.size", CACHE_SIZE, parse::size(1 << 20, 64 << 30)),
                answers: self.get("cache.answers", CACHE_ANSWERS, parse::count(1, 10_000_000)),
                ttl: self.get("cache.ttl", CACHE_TTL, parse::duration(secs(1), secs(30 * 24 * 3600))),
            },
            router: RouterConfig {
                aliases: self.many("router.aliases", alias::aliases),
                affinity: self.get("router.affinity", true, parse::boolean),
                second_opinion: self.get("router.second_opinion", SECOND_OPINION, parse::second_opinion),
                second_opinion_from: self.get("router.second_opinion_from", OpinionFrom::Mesh, parse::opinion_from),
            },
            dispatch: DispatchConfig {
                failover: self.get("dispatch.failover", true, parse::boolean),
                hedge: self.get("dispatch.hedge", false, parse::boolean),
                retry_share: self.get("dispatch.retry_share", RETRY_SHARE, parse::share),
            },
            provider: ProviderConfig {
                queue: self.get("provider.queue", QUEUE, parse::count(0, 65_536)),
                concurrency: self.get("provider.concurrency", CONCURRENCY, |value| {
                    parse::count(1, 4096)(value).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
                }),
            },
            embedder: EmbedderConfig {
                kind: self.get("embedder.kind", EmbedderKind::Builtin, parse::embedder_kind),
                dir: self.get("embedder.dir", None, |value| parse::path(home)(value).map(Some)),
            },
            log: LogConfig {
                filter: self.get("log.filter", DEFAULT_FILTER.to_owned(), parse::log_filter),
                format: self.get("log.format", LogFormat::Human, parse::log_format),
            },
        }
    }

    fn api(&mut self, home: Option<&Path>) -> ApiConfig {
        let mut keys: Vec<Secret> =
            self.get("api.keys", Vec::new(), parse::list).into_iter().map(Secret::new).collect();
        let file = self.get("api.keys_file", None, |value| parse::path(home)(value).map(Some));
        if let Some(path) = file {
            match read_keys(&path) {
                Ok(more) => keys.extend(more),
                Err(message) => self.problem("api.keys_file", Some(format!("{:?}", path.display())), message),
            }
        }
        if keys.iter().any(|key| key.expose().chars().count() < MIN_KEY_CHARS) {
            let path = if self.origins.contains_key("api.keys") { "api.keys" } else { "api.keys_file" };
            self.problem(
                path,
                None,
                format!(
                    "a key has fewer than {MIN_KEY_CHARS} characters and is easily guessed; make one with \
                     `openssl rand -hex 24`"
                ),
            );
        }
        let secs = Duration::from_secs;
        ApiConfig {
            keys,
            allow_no_auth: self.get("api.allow_no_auth", false, parse::boolean),
            max_body_bytes: self.get("api.max_body", MAX_BODY, parse::size(1024, 1 << 30)),
            max_concurrency: self.get("api.max_concurrency", MAX_CONCURRENCY, parse::count(1, 100_000)),
            max_connections: self.get("api.max_connections", MAX_CONNECTIONS, parse::count(1, 100_000)),
            header_timeout: self.get("api.header_timeout", HEADER_TIMEOUT, parse::duration(secs(1), secs(3600))),
            request_timeout: self.get(
                "api.request_timeout",
                REQUEST_TIMEOUT,
                parse::duration(Duration::from_millis(100), secs(24 * 3600)),
            ),
            allowed_origins: self.get("api.allowed_origins", Vec::new(), origins),
            allowed_hosts: self.get("api.allowed_hosts", Vec::new(), parse::list),
            drain_limit: self.get("api.drain_limit", DRAIN_LIMIT, parse::duration(Duration::ZERO, secs(3600))),
        }
    }

    fn data_dir(&mut self, home: Option<&Path>) -> PathBuf {
        let chosen = self.get("data_dir", None, |value| parse::path(home)(value).map(Some));
        match chosen.or_else(|| home.map(data_dir::in_home)) {
            Some(dir) => dir,
            None => {
                if !self.wrong.contains("data_dir") {
                    let message =
                        "this user has no home directory; say where the node's files shall be with --data-dir";
                    self.problem("data_dir", None, message.to_owned());
                }
                PathBuf::new()
            }
        }
    }

    /// A setting of several parts, each of which may be wrong; the right ones, or none when nobody set it.
    fn many<T: Default>(&mut self, path: &'static str, parse: impl Fn(&Value) -> (T, Vec<Fault>)) -> T {
        let Some((value, origin)) = self.layers.value(path) else { return T::default() };
        self.origins.insert(path, origin.clone());
        let (parsed, faults) = parse(&value);
        for fault in faults {
            let field = format!("{path}{}", fault.at);
            let origin = match origin {
                Origin::File { .. } => self.file_origin_near(&field),
                _ => origin.clone(),
            };
            self.wrong.insert(path);
            self.problems.push(Problem { field, value: fault.value, origin, message: fault.message });
        }
        parsed
    }

    fn seeds(&mut self) -> (Vec<Seed>, Vec<Token>) {
        let given = self.many("seed_peers", |value| parse::each(value, parse::seed_peer));
        let (mut seeds, mut invites) = (Vec::new(), Vec::new());
        for one in given {
            match one {
                parse::SeedPeer::Address(seed) => seeds.push(seed),
                parse::SeedPeer::Invite(token) => invites.push(*token),
            }
        }
        if seeds.len() > MAX_SEEDS {
            let message = format!("more than {MAX_SEEDS} seeds; a mesh needs one that answers, so keep a few");
            self.problem("seed_peers", Some(format!("{} seeds", seeds.len())), message);
        }
        (seeds, invites)
    }

    /// The line of `field`, or of what it stands in when it is missing.
    fn file_origin_near(&self, field: &str) -> Origin {
        let mut path = field;
        loop {
            match self.layers.file_origin(path) {
                found @ Origin::File { line: Some(_), .. } => return found,
                other => match path.rfind(['.', '[']) {
                    Some(cut) => path = &path[..cut],
                    None => return other,
                },
            }
        }
    }

    /// What is wrong only together.
    fn check_together(&mut self, config: &Config) {
        let fine = |reader: &Self, paths: &[&str]| paths.iter().all(|path| !reader.wrong.contains(path));
        if fine(self, &["port", "gossip_port"]) && config.port == config.gossip_port && config.port != 0 {
            let path = if self.origins.contains_key("port") { "port" } else { "gossip_port" };
            let other = if path == "port" { "gossip_port" } else { "port" };
            self.problem(
                path,
                Some(config.port.to_string()),
                format!("the same as {other}, and both need TCP; give them different ports"),
            );
        }
        if let Some(port) = config.ollama_port.filter(|port| *port != 0)
            && fine(self, &["ollama_port", "port", "gossip_port"])
            && (port == config.port || port == config.gossip_port)
        {
            let other = if port == config.port { "port" } else { "gossip_port" };
            let message = format!("the same as {other}, and both need TCP; give them different ports");
            self.problem("ollama_port", Some(port.to_string()), message);
        }
        let open = !config.bind.is_loopback() && config.api.keys.is_empty() && !config.api.allow_no_auth;
        if open && fine(self, &["bind", "api.keys", "api.keys_file", "api.allow_no_auth"]) {
            self.problem(
                "bind",
                Some(config.bind.to_string()),
                "others can reach this address, and the API asks for no key. Either set api.keys (or api.keys_file, or \
                 ATMOSPHERE_API_KEYS), or bind 127.0.0.1, or say --allow-no-auth if everybody on that network may use \
                 your models"
                    .to_owned(),
            );
        }
        if config.mesh.private && !config.mesh.is_named() && fine(self, &["mesh.name"]) {
            let message = "a closed mesh needs a name of its own: add --mesh NAME".to_owned();
            self.problem("mesh.private", Some("true".into()), message);
        }
        if config.mesh.private && !config.invites.is_empty() && fine(self, &["seed_peers"]) {
            let message = "this makes a new closed mesh, and the invite among the seeds leads to another one; leave one of the \
                           two out";
            self.problem("mesh.private", Some("true".into()), message.to_owned());
        }
        if config.embedder.kind == EmbedderKind::Onnx && config.embedder.dir.is_none() && fine(self, &["embedder.dir"])
        {
            let message = "an ONNX embedder needs its model: set embedder.dir to the directory with model.onnx and \
                           tokenizer.json";
            self.problem("embedder.kind", Some("\"onnx\"".into()), message.to_owned());
        }
        if let Some(dir) = &config.embedder.dir
            && !dir.is_dir()
            && fine(self, &["embedder.dir"])
        {
            let message = "not a directory; give the one with model.onnx and tokenizer.json".to_owned();
            self.problem("embedder.dir", Some(format!("{:?}", dir.display().to_string())), message);
        }
        if fine(self, &["data_dir"]) && config.data_dir.exists() && !config.data_dir.is_dir() {
            let message = "a file; give a directory, or a path that does not exist yet".to_owned();
            self.problem("data_dir", Some(format!("{:?}", config.data_dir.display().to_string())), message);
        }
    }
}

/// Unknown keys below `dict`, each with a hint.
fn walk(dict: &Dict, prefix: &str, unknown: &mut Vec<(String, String)>) {
    for (key, value) in dict {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if fields::by_path(&path).is_some() {
            continue;
        }
        let below = format!("{path}.");
        let is_table = FIELDS.iter().any(|field| field.path.starts_with(&below));
        match value {
            Value::Dict(_, dict) if is_table => walk(dict, &path, unknown),
            _ if is_table => {
                unknown.push((path.clone(), format!("must be a table; write [{path}] and its keys below")))
            }
            _ => {
                let hint = hint(&path, key);
                unknown.push((path, format!("unknown key{hint}")));
            }
        }
    }
}

/// The key that was meant: the nearest path, or the one in another table with the same last part.
fn hint(path: &str, key: &str) -> String {
    let elsewhere = FIELDS.iter().map(|field| field.path).find(|known| known.rsplit('.').next() == Some(key));
    match elsewhere.or_else(|| near(path, FIELDS.iter().map(|field| field.path))) {
        Some(known) => format!("; did you mean `{known}`?"),
        None => "; `atmosphere start --print-config` shows all keys".to_owned(),
    }
}

/// What a node of this machine is called, unless its owner says otherwise.
#[must_use]
pub fn machine_name() -> String {
    default_name(super::source::hostname().as_deref())
}

/// The machine's name up to the first dot, made fit for a node.
fn default_name(hostname: Option<&str>) -> String {
    let short = hostname.unwrap_or_default().split('.').next().unwrap_or_default();
    let fit: String = short.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).take(63).collect();
    if fit.is_empty() { "node".to_owned() } else { fit }
}

/// One key a line; blank lines and lines that start with `#` do not count.
fn read_keys(path: &Path) -> Result<Vec<Secret>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot be read ({error}); check the path and that you may read it"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<Secret> = lines.map(Secret::new).collect();
    if keys.is_empty() { Err("has no key in it; write one key on each line".into()) } else { Ok(keys) }
}

/// Browser origins: scheme and host, or `*`.
fn origins(value: &Value) -> Result<Vec<String>, String> {
    let origins = parse::list(value)?;
    for origin in &origins {
        let right =
            origin == "*" || url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
        if !right {
            return Err(format!(
                "{origin:?} is not an origin; give one such as \"http://localhost:3000\", without a path"
            ));
        }
    }
    Ok(origins)
}
