//! The effective configuration as a file, secrets replaced, with the origin of each value.

use std::collections::BTreeMap;
use std::fmt::Write;

use toml::Value;

use super::fields::FIELDS;
use super::parse::format_size;
use super::secret::REDACTED;
use super::{Admit, Alias, Backend, CacheMode, Config, EmbedderKind, Loaded, LogFormat, OpinionFrom, Relay};

impl Loaded {
    /// The configuration in force, as TOML: what `atmosphere start --print-config` prints.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        if let Some(file) = &self.file {
            // A String takes all that is written.
            let _ = writeln!(out, "# with the file {}", file.display());
        }
        let mut table = "";
        for field in FIELDS {
            let (in_table, key) = field.path.split_once('.').unwrap_or(("", field.path));
            if in_table != table {
                table = in_table;
                let _ = writeln!(out, "\n[{table}]");
            }
            let origin = self.origins.get(field.path).map_or_else(|| "default".to_owned(), ToString::to_string);
            let _ = match value(&self.config, field.path) {
                Some(value) => writeln!(out, "{key} = {value} # {origin}"),
                None => writeln!(out, "# {key} is not set"),
            };
        }
        out
    }
}

fn texts<T: ToString>(items: &[T]) -> Value {
    Value::Array(items.iter().map(|item| Value::String(item.to_string())).collect())
}

fn number(number: impl TryInto<i64>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// The value of a setting; `None` when it has none.
fn value(config: &Config, path: &str) -> Option<Value> {
    let text = |text: &dyn ToString| Value::String(text.to_string());
    let time = |time| Value::String(humantime::format_duration(time).to_string());
    Some(match path {
        "name" => text(&config.name),
        "port" => number(config.port),
        "bind" => text(&config.bind),
        "ollama_port" => number(config.ollama_port?),
        "gossip_port" => number(config.gossip_port),
        "gossip_bind" => texts(&config.gossip_bind),
        "seed_peers" => {
            let invites = config.invites.iter().map(|_| REDACTED.to_owned());
            texts(&config.seed_peers.iter().map(ToString::to_string).chain(invites).collect::<Vec<_>>())
        }
        "seed_peers_file" => text(&config.seed_peers_file.as_ref()?.display()),
        "backends" => Value::Array(config.backends.iter().map(backend).collect()),
        "no_mdns" => Value::Boolean(config.no_mdns),
        "no_probe" => Value::Boolean(config.no_probe),
        "data_dir" => text(&config.data_dir.display()),
        "mesh.name" => text(&config.mesh.name),
        "mesh.private" => Value::Boolean(config.mesh.private),
        "mesh.invite_file" => text(&config.mesh.invite_file.as_ref()?.display()),
        "mesh.membership" => match config.mesh.membership.as_secs() {
            // The usual format counts in months.
            secs if secs % 86_400 == 0 => Value::String(format!("{}d", secs / 86_400)),
            _ => time(config.mesh.membership),
        },
        "mesh.admit" => text(&match config.mesh.admit {
            Admit::Private => "private",
            Admit::Everybody => "everybody",
        }),
        "mesh.advert_ttl" => time(config.mesh.advert_ttl),
        "mesh.external_addresses" => texts(&config.mesh.external_addresses),
        "mesh.relay" => text(&match config.mesh.relay {
            Relay::Auto => "auto",
            Relay::On => "on",
            Relay::Off => "off",
        }),
        "mesh.upnp" => Value::Boolean(config.mesh.upnp),
        // Those of the file are among them, and shown as often as there are keys.
        "api.keys" => texts(&vec![REDACTED; config.api.keys.len()]),
        "api.allow_no_auth" => Value::Boolean(config.api.allow_no_auth),
        "api.max_body" => Value::String(format_size(config.api.max_body_bytes)),
        "api.max_concurrency" => number(config.api.max_concurrency),
        "api.max_connections" => number(config.api.max_connections),
        "api.header_timeout" => time(config.api.header_timeout),
        "api.request_timeout" => time(config.api.request_timeout),
        "api.allowed_origins" => texts(&config.api.allowed_origins),
        "api.allowed_hosts" => texts(&config.api.allowed_hosts),
        "api.drain_limit" => time(config.api.drain_limit),
        "cache.mode" => text(&match config.cache.mode {
            CacheMode::Off => "off",
            CacheMode::Asked => "asked",
            CacheMode::Repeatable => "repeatable",
        }),
        "cache.size" => Value::String(format_size(config.cache.size_bytes)),
        "cache.answers" => number(config.cache.answers),
        "cache.ttl" => time(config.cache.ttl),
        "router.aliases" => aliases(&config.router.aliases),
        "router.affinity" => Value::Boolean(config.router.affinity),
        "router.second_opinion" => time(config.router.second_opinion),
        "router.second_opinion_from" => text(&match config.router.second_opinion_from {
            OpinionFrom::Mesh => "mesh",
            OpinionFrom::Itself => "self",
        }),
        "dispatch.failover" => Value::Boolean(config.dispatch.failover),
        "dispatch.hedge" => Value::Boolean(config.dispatch.hedge),
        "dispatch.retry_share" => Value::Float(config.dispatch.retry_share),
        "provider.queue" => number(config.provider.queue),
        "provider.concurrency" => number(config.provider.concurrency),
        "embedder.kind" => text(&match config.embedder.kind {
            EmbedderKind::Builtin => "builtin",
            EmbedderKind::Onnx => "onnx",
            EmbedderKind::None => "none",
        }),
        "embedder.dir" => text(&config.embedder.dir.as_ref()?.display()),
        "log.filter" => text(&config.log.filter),
        "log.format" => text(&match config.log.format {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }),
        _ => return None,
    })
}

fn aliases(aliases: &BTreeMap<String, Alias>) -> Value {
    Value::Table(aliases.iter().map(|(name, own)| (name.clone(), alias(own))).collect())
}

/// A list of models where it is no more than that, as owners write it.
fn alias(alias: &Alias) -> Value {
    if *alias == (Alias { models: alias.models.clone(), ..Alias::default() }) {
        return texts(&alias.models);
    }
    let mut table = toml::Table::new();
    let mut put = |key: &str, items: Value| {
        if items.as_array().is_none_or(|items| !items.is_empty()) {
            table.insert(key.to_owned(), items);
        }
    };
    put("models", texts(&alias.models));
    put("kinds", texts(&alias.kinds));
    put("features", texts(&alias.features.iter().collect::<Vec<_>>()));
    put("modalities", texts(&alias.modalities.iter().collect::<Vec<_>>()));
    put("prefer", Value::String(alias.prefer.as_str().to_owned()));
    Value::Table(table)
}

fn backend(backend: &Backend) -> Value {
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            table.insert(key.to_owned(), value);
        }
    };
    put("url", Some(Value::String(backend.url.to_string())));
    put("kind", backend.kind.map(|kind| Value::String(kind.to_string())));
    put("name", backend.name.clone().map(Value::String));
    put("key", backend.key.as_ref().map(|_| Value::String(REDACTED.to_owned())));
    put("models", (!backend.models.is_empty()).then(|| texts(&backend.models)));
    put("namespaces", (!backend.namespaces.is_empty()).then(|| texts(&backend.namespaces)));
    put("shared", backend.shared.map(Value::Boolean));
    put("domain", backend.domain.clone().map(Value::String));
    put("concurrency", backend.concurrency.map(number));
    Value::Table(table)
}
