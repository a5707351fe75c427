//! Where values come from: defaults, file, environment and flags, laid over each other by figment, which remembers
//! the origin of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{self, FIELDS};
use super::problem::{ConfigError, Origin};

/// Longest configuration file, in bytes: a thousand backends fit, a wrong file does not fill the memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a flag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// Its text.
    Text(String),
    /// The texts of a flag that may be repeated.
    List(Vec<String>),
    /// It stands there.
    Yes,
}

/// Everything that a configuration is made of, so that a test can give all of it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// The other flags by the key of the setting, such as `mesh.name`.
    pub flags: BTreeMap<&'static str, FlagValue>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The owner's home directory; the data directory is `.atmosphere` in it.
    pub home: Option<PathBuf>,
    /// This machine's name; what is before the first dot becomes the node's name.
    pub hostname: Option<String>,
}

impl Sources {
    /// The process's environment, home and machine name, with these flags.
    #[must_use]
    pub fn of_process(config_file: Option<PathBuf>, flags: BTreeMap<&'static str, FlagValue>) -> Self {
        // A variable that is not UTF-8 cannot be one of ours: all our values are text.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { config_file, flags, env: env.collect(), home: std::env::home_dir(), hostname: hostname() }
    }

    /// A variable that is set and not empty; an empty one counts as not set, as compose files write it.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(unix)]
pub(super) fn hostname() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

#[cfg(not(unix))]
pub(super) fn hostname() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().map(|name| name.to_lowercase())
}

/// The file's values, and the line of each key.
#[derive(Debug)]
pub(super) struct FileValues {
    pub path: PathBuf,
    pub values: Dict,
    pub lines: BTreeMap<String, usize>,
}

/// Reads a file; `Ok(None)` when it is not there and nobody asked for it by name.
pub(super) fn read_file(path: &Path, required: bool) -> Result<Option<FileValues>, ConfigError> {
    let unreadable = |cause: String| ConfigError::Unreadable { path: path.to_owned(), cause };
    match std::fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE_BYTES => {
            return Err(unreadable(format!(
                "it has {} bytes, and a configuration has at most {MAX_FILE_BYTES}",
                about.len()
            )));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
        _ => {}
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    parse_file(path, &text).map(Some)
}

/// Parses the text of a file.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<FileValues, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let line = before.matches('\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
    })?;
    let mut lines = BTreeMap::new();
    let values = dict(table.get_ref(), text, "", &mut lines);
    Ok(FileValues { path: path.to_owned(), values, lines })
}

fn dict(table: &DeTable<'_>, text: &str, prefix: &str, lines: &mut BTreeMap<String, usize>) -> Dict {
    let mut out = Dict::new();
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        lines.insert(path.clone(), line_at(text, key.span().start));
        out.insert(key.get_ref().to_string(), convert(value, text, &path, lines));
    }
    out
}

fn convert(value: &Spanned<DeValue<'_>>, text: &str, path: &str, lines: &mut BTreeMap<String, usize>) -> Value {
    match value.get_ref() {
        DeValue::String(value) => Value::from(value.as_ref()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::from(number),
            // Beyond 64 bits: as text, which every parser of a number refuses with its own words.
            Err(_) => Value::from(number.as_str()),
        },
        DeValue::Float(number) => {
            number.as_str().parse::<f64>().map_or_else(|_| Value::from(number.as_str()), Value::from)
        }
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(value) => Value::from(value.to_string()),
        DeValue::Array(items) => Value::from(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    let path = format!("{path}[{index}]");
                    lines.insert(path.clone(), line_at(text, item.span().start));
                    convert(item, text, &path, lines)
                })
                .collect::<Vec<_>>(),
        ),
        DeValue::Table(table) => Value::from(dict(table, text, path, lines)),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// One source of values for figment.
struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        match &self.origin {
            Origin::Default => Metadata::named("default"),
            Origin::File { path, .. } => Metadata::from("file", path.as_path()),
            Origin::Environment(variable) => Metadata::from("environment", Source::Custom(variable.clone())),
            Origin::Flag(flag) => Metadata::from("flag", Source::Custom(flag.clone())),
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// All layers, the strongest on top, and the lines of the file.
pub(super) struct Layered {
    figment: Figment,
    file: Option<FileValues>,
}

impl Layered {
    /// Lays environment over file, and flags over both. A list is replaced by the stronger list, not joined with it.
    pub(super) fn new(file: Option<FileValues>, sources: &Sources) -> Self {
        let mut figment = Figment::new();
        if let Some(file) = &file {
            let origin = Origin::File { path: file.path.clone(), line: None };
            figment = figment.merge(Layer { origin, values: file.values.clone() });
        }
        for field in FIELDS {
            let set = field.env.iter().find_map(|name| Some((*name, sources.variable(name)?)));
            if let Some((name, value)) = set {
                let origin = Origin::Environment(name.to_owned());
                figment = figment.merge(Layer { origin, values: nested(field.path, Value::from(value)) });
            }
        }
        for (path, value) in &sources.flags {
            let value = match value {
                FlagValue::Text(text) => Value::from(text.as_str()),
                FlagValue::List(items) => {
                    Value::from(items.iter().map(|i| Value::from(i.as_str())).collect::<Vec<_>>())
                }
                FlagValue::Yes => Value::from(true),
            };
            let flag = fields::by_path(path).and_then(|field| field.flag).unwrap_or(path);
            figment = figment.merge(Layer { origin: Origin::Flag(flag.to_owned()), values: nested(path, value) });
        }
        Self { figment, file }
    }

    /// The strongest value at `path`.
    pub(super) fn value(&self, path: &str) -> Option<(Value, Origin)> {
        let value = self.figment.find_value(path).ok()?;
        let origin = self.origin(&value, path);
        Some((value, origin))
    }

    /// Where `value` came from; `path` finds its line when it was the file.
    pub(super) fn origin(&self, value: &Value, path: &str) -> Origin {
        // A dictionary has no origin of its own, since layers join in it: its first value speaks for it.
        let tag = match value {
            Value::Dict(_, dict) => dict.values().next().map_or(value.tag(), Value::tag),
            other => other.tag(),
        };
        let Some(metadata) = self.figment.get_metadata(tag) else { return Origin::Default };
        match (&*metadata.name, &metadata.source) {
            ("environment", Some(Source::Custom(variable))) => Origin::Environment(variable.clone()),
            ("flag", Some(Source::Custom(flag))) => Origin::Flag(flag.clone()),
            ("file", Some(Source::File(_))) => self.file_origin(path),
            _ => Origin::Default,
        }
    }

    /// A place in the file.
    pub(super) fn file_origin(&self, path: &str) -> Origin {
        match &self.file {
            Some(file) => Origin::File { path: file.path.clone(), line: file.lines.get(path).copied() },
            None => Origin::Default,
        }
    }

    /// The file's own values, to look for keys that do not belong there.
    pub(super) fn file(&self) -> Option<&FileValues> {
        self.file.as_ref()
    }
}

/// `mesh.name` and a value become `{mesh: {name: value}}`.
fn nested(path: &str, value: Value) -> Dict {
    match path.split_once('.') {
        Some((head, rest)) => Dict::from([(head.to_owned(), Value::from(nested(rest, value)))]),
        None => Dict::from([(path.to_owned(), value)]),
    }
}
