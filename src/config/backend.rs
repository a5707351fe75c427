//! What the owner says about one backend: a URL, or a table with more.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};
use url::Url;

use super::fields::near;
use super::parse;
use super::problem::Fault;
use super::secret::{Secret, without_userinfo};
use crate::provider::BackendKind;

const KEYS: &[&str] =
    &["kind", "url", "key", "key_env", "name", "models", "namespaces", "shared", "concurrency", "domain"];

/// More calls at once than any single backend serves.
const MAX_CONCURRENCY: usize = 4096;

/// A backend as its owner described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// What it is; `None`: to be found out by asking it.
    pub kind: Option<BackendKind>,
    /// Where it is, without user and password.
    pub url: Url,
    /// What it wants in `Authorization`.
    pub key: Option<Secret>,
    /// What the node shall call it.
    pub name: Option<String>,
    /// The models to offer; empty: all that it has.
    pub models: Vec<String>,
    /// LlamaFarm's namespaces to offer, since it cannot list them; empty: `default`.
    pub namespaces: Vec<String>,
    /// Whether other nodes may use it; `None`: as the provider holds it (local ones yes, clouds no).
    pub shared: Option<bool>,
    /// How many calls it runs at once.
    pub concurrency: Option<u32>,
    /// The field of knowledge of all its models, such as `medicine`.
    pub domain: Option<String>,
}

/// Reads all backends, and everything that is wrong with them.
pub(super) fn backends(value: &Value, env: &BTreeMap<String, String>) -> (Vec<Backend>, Vec<Fault>) {
    let mut faults = Vec::new();
    let entries = match value {
        Value::Array(_, entries) => entries.clone(),
        Value::String(..) => parse::list(value).unwrap_or_default().into_iter().map(Value::from).collect(),
        _ => {
            let message = "not a list; write [\"http://gpu:8080\"], or [[backends]] with kind and url below it".into();
            faults.push(Fault { at: String::new(), value: Some(parse::shown(value)), message });
            return (Vec::new(), faults);
        }
    };
    let mut backends: Vec<Backend> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("[{index}]");
        let before = faults.len();
        let backend = match entry {
            Value::Dict(_, table) => from_table(table, env, &at, &mut faults),
            Value::String(_, text) => from_text(text, &at, &mut faults),
            other => {
                let message = "neither a URL nor a table; write \"http://gpu:8080\"".into();
                faults.push(Fault { at: at.clone(), value: Some(parse::shown(other)), message });
                None
            }
        };
        let Some(backend) = backend.filter(|_| faults.len() == before) else { continue };
        match backends.iter().position(|other| other.url == backend.url && other.name == backend.name) {
            Some(first) => faults.push(Fault {
                at,
                value: Some(format!("{:?}", backend.url.as_str())),
                message: format!("the same URL as backend {first}; leave one out, or give them different names"),
            }),
            None => backends.push(backend),
        }
    }
    (backends, faults)
}

/// `URL`, `host:port` or `kind=URL`.
fn from_text(text: &str, at: &str, faults: &mut Vec<Fault>) -> Option<Backend> {
    let (kind, url) = match text.split_once('=') {
        // A URL may have `=` in its query; a kind comes before any `:`.
        Some((kind, url)) if !kind.contains([':', '/']) => (Some(kind.trim()), url),
        _ => (None, text),
    };
    let mut fault = |message: String| {
        faults.push(Fault { at: at.to_owned(), value: Some(format!("{:?}", without_userinfo(text))), message });
    };
    let kind = kind.map(check_kind).transpose().map_err(&mut fault);
    let url = check_url(url).map_err(&mut fault);
    let (url, key) = url.ok()?;
    Some(Backend {
        kind: kind.ok()?,
        url,
        key,
        name: None,
        models: Vec::new(),
        namespaces: Vec::new(),
        shared: None,
        concurrency: None,
        domain: None,
    })
}

fn from_table(table: &Dict, env: &BTreeMap<String, String>, at: &str, faults: &mut Vec<Fault>) -> Option<Backend> {
    let fault = |faults: &mut Vec<Fault>, key: &str, value: Option<String>, message: String| {
        faults.push(Fault { at: format!("{at}.{key}"), value, message });
    };
    for key in table.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        let hint = near(key, KEYS.iter().copied())
            .map_or_else(|| format!("a backend has {}", KEYS.join(", ")), |near| format!("did you mean `{near}`?"));
        fault(faults, key, None, format!("unknown key; {hint}"));
    }
    // Reads one key; a wrong value is a fault and counts as not given.
    fn read<T>(
        table: &Dict,
        key: &str,
        at: &str,
        faults: &mut Vec<Fault>,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = table.get(key)?;
        parse(value)
            .map_err(|message| {
                let shown = if key == "key" { None } else { Some(parse::shown(value)) };
                faults.push(Fault { at: format!("{at}.{key}"), value: shown, message });
            })
            .ok()
    }
    let kind = read(table, "kind", at, faults, |value| check_kind(&parse::text(value)?));
    let key = read(table, "key", at, faults, parse::text).map(Secret::new);
    let key_env = read(table, "key_env", at, faults, |value| {
        let name = parse::text(value)?;
        match env.get(&name).filter(|secret| !secret.trim().is_empty()) {
            Some(secret) => Ok(Secret::new(secret.trim())),
            None => Err(format!("the environment variable {name} is not set; set it to the backend's key")),
        }
    });
    if table.contains_key("key") && table.contains_key("key_env") {
        fault(faults, "key_env", None, "given together with `key`; keep one of them".into());
    }
    let name = read(table, "name", at, faults, parse::name);
    let models = read(table, "models", at, faults, parse::list).unwrap_or_default();
    let namespaces = read(table, "namespaces", at, faults, parse::list).unwrap_or_default();
    let shared = read(table, "shared", at, faults, parse::boolean);
    let concurrency = read(table, "concurrency", at, faults, parse::count(1, MAX_CONCURRENCY));
    let url = match table.get("url") {
        Some(_) => read(table, "url", at, faults, |value| check_url(&parse::text(value)?))?,
        None => {
            fault(faults, "url", None, "missing; say where the backend is, such as \"http://127.0.0.1:8080\"".into());
            return None;
        }
    };
    let concurrency = concurrency.and_then(|count| u32::try_from(count).ok());
    let domain = read(table, "domain", at, faults, parse::text);
    let (url, password) = url;
    let key = key.or(key_env).or(password);
    Some(Backend { kind, url, key, name, models, namespaces, shared, concurrency, domain })
}

/// The kind, spelled freely: `llama.cpp` and `LM-Studio` are fine.
fn check_kind(kind: &str) -> Result<BackendKind, String> {
    kind.parse().map_err(|_| {
        let known = BackendKind::ALL.map(BackendKind::as_str);
        let hint = near(kind, known).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        format!("{kind:?} is not a kind of backend{hint} (known: {})", known.join(", "))
    })
}

/// The URL without user and password, and the password as the key.
fn check_url(text: &str) -> Result<(Url, Option<Secret>), String> {
    let text = text.trim();
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = Url::parse(&with_scheme)
        .map_err(|error| format!("not a URL ({error}); give one such as \"http://127.0.0.1:8080\""))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("has the scheme {:?}; a backend is reached by http or https", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host; give one such as \"http://127.0.0.1:8080\"".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment; give only scheme, host, port and path".into());
    }
    if !url.username().is_empty() && url.password().is_none() {
        return Err("has a user in it; put the key into `key` or `key_env` of a [[backends]] table".into());
    }
    let key = url.password().map(Secret::new);
    // These fail only for URLs without a host, and this one has one.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    Ok((url, key))
}
