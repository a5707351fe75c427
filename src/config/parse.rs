//! One value becomes one setting. Pure: a figment value in, the typed value or the words about what is wrong out.
//!
//! What comes from the environment or a flag is text, and what comes from the file has types; each function takes
//! both, so that `port = "11451"` and `ATMOSPHERE_PORT=11451` and `port = 11451` mean the same.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::Value;

use super::problem::Fault;
use super::secret::REDACTED;
use crate::mesh::{self, Multiaddr, Seed, SeedError, Token, TokenError};

/// The text of a value that is one word or number; `None` for lists, tables and booleans.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.trim().to_owned()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| number.to_u128().map(|n| n.to_string()))
            .or_else(|| number.to_f64().map(|n| n.to_string())),
        _ => None,
    }
}

/// A value as it is shown in a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => shown_text(text),
        Value::Bool(_, value) => value.to_string(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, dict) => format!("{{{}}}", dict.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        Value::Empty(..) => "nothing".to_owned(),
        other => scalar(other).unwrap_or_default(),
    }
}

/// Text that is not empty and has no control characters.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(_, text) if !text.trim().is_empty() && !text.chars().any(char::is_control) => {
            Ok(text.trim().to_owned())
        }
        Value::String(..) => Err("empty, or with control characters; give a text".into()),
        _ => Err("not a text; put it in quotes".into()),
    }
}

/// A human name of a node or mesh.
pub(super) fn name(value: &Value) -> Result<String, String> {
    /// Fits a terminal column, a host name and an advert.
    const MAX: usize = 63;
    let name = text(value)?;
    if name.chars().count() > MAX {
        return Err(format!("longer than {MAX} characters; give a shorter one"));
    }
    if name.contains(['@', '/']) || name.contains(char::is_whitespace) {
        return Err("has a blank, `@` or `/` in it, which `model@node` could not tell apart; use letters, digits, \
                    `-`, `_` and `.`"
            .into());
    }
    Ok(name)
}

/// A TCP and UDP port; 0 lets the system choose.
pub(super) fn port(value: &Value) -> Result<u16, String> {
    scalar(value)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "not a port; give a number from 1 to 65535, or 0 to let the system choose".into())
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(_, value) => return Ok(*value),
        Value::String(_, text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => return Ok(true),
            "false" | "0" | "no" | "off" => return Ok(false),
            _ => {}
        },
        _ => {}
    }
    Err("neither yes nor no; give true or false".into())
}

/// A count within bounds.
pub(super) fn count(min: usize, max: usize) -> impl Fn(&Value) -> Result<usize, String> {
    move |value| {
        scalar(value)
            .and_then(|text| text.parse().ok())
            .filter(|count| (min..=max).contains(count))
            .ok_or_else(|| format!("not a number from {min} to {max}"))
    }
}

/// A share of a whole: `0.2`, or `20%`.
pub(super) fn share(value: &Value) -> Result<f64, String> {
    let text = scalar(value).unwrap_or_default();
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim(), 100.0),
        None => (text.as_str(), 1.0),
    };
    number
        .parse::<f64>()
        .ok()
        .map(|number| number / whole)
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "not a share; give a number from 0 to 1, such as 0.2, or one such as \"20%\"".into())
}

/// A length of time such as `90s` or `2m 30s`, within bounds.
pub(super) fn duration(min: Duration, max: Duration) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let bounds = || format!("between {} and {}", humantime::format_duration(min), humantime::format_duration(max));
        let text = scalar(value).ok_or_else(|| "not a length of time; give one such as \"90s\"".to_owned())?;
        if text.parse::<f64>().is_ok_and(|number| number >= 0.0) {
            return Err(format!("without a unit; write \"{text}s\" for seconds, or use ms, m or h"));
        }
        let duration = humantime::parse_duration(&text)
            .map_err(|_| format!("not a length of time; give one such as \"90s\" or \"5m\", {}", bounds()))?;
        if duration < min || duration > max {
            return Err(format!("out of range; give a length of time {}", bounds()));
        }
        Ok(duration)
    }
}

/// `router.second_opinion`: how long it may take, or that there is none.
pub(super) fn second_opinion(value: &Value) -> Result<Duration, String> {
    /// Longer, and the answer itself would be there sooner.
    const MOST: Duration = Duration::from_secs(2);
    if matches!(boolean(value), Ok(false)) {
        return Ok(Duration::ZERO);
    }
    duration(Duration::ZERO, MOST)(value).map_err(|why| format!("{why}; or \"off\" to ask nobody"))
}

/// `router.second_opinion_from`.
pub(super) fn opinion_from(value: &Value) -> Result<super::OpinionFrom, String> {
    match value.as_str() {
        Some("mesh") => Ok(super::OpinionFrom::Mesh),
        Some("self") => Ok(super::OpinionFrom::Itself),
        _ => {
            Err("give \"mesh\" (every node's embedders) or \"self\" (this node's only: no question leaves it for that)"
                .into())
        }
    }
}

/// A size such as `32MiB`, within bounds. `k`, `M` and `G` count in 1000, `Ki`, `Mi` and `Gi` in 1024.
pub(super) fn size(min: u64, max: u64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let size = scalar(value)
            .and_then(|text| parse_size(&text))
            .ok_or_else(|| "not a size; give one such as \"32MiB\" or \"500kB\"".to_owned())?;
        if (min..=max).contains(&size) {
            Ok(size)
        } else {
            Err(format!("out of range; give a size from {} to {}", format_size(min), format_size(max)))
        }
    }
}

/// Units from large to small, so that the first that divides a size is the one to write it in.
const SIZE_UNITS: &[(&str, u64)] =
    &[("GiB", 1 << 30), ("GB", 1_000_000_000), ("MiB", 1 << 20), ("MB", 1_000_000), ("KiB", 1 << 10), ("kB", 1_000)];

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim();
    if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        return Some(number);
    }
    let named = |name: &str| unit.eq_ignore_ascii_case(name) || unit.eq_ignore_ascii_case(&name[..name.len() - 1]);
    let factor = SIZE_UNITS.iter().find(|(name, _)| named(name))?.1;
    number.checked_mul(factor)
}

/// A size in the largest unit that gives a whole number.
pub(super) fn format_size(size: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| size > 0 && size.is_multiple_of(*factor))
        .map_or_else(|| format!("{size}B"), |(name, factor)| format!("{}{name}", size / factor))
}

fn ip_text(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
        "not an IP address; give one such as 127.0.0.1 (this machine only), 0.0.0.0 or :: (every address)".to_owned()
    })
}

/// An IP address.
pub(super) fn ip(value: &Value) -> Result<IpAddr, String> {
    ip_text(&text(value)?)
}

/// One or more IP addresses.
pub(super) fn ips(value: &Value) -> Result<Vec<IpAddr>, String> {
    let ips = list(value)?.iter().map(|text| ip_text(text)).collect::<Result<Vec<_>, _>>()?;
    if ips.is_empty() { Err("empty; give at least one IP address, or leave it out".into()) } else { Ok(ips) }
}

/// A list of texts; a text stands for a list with commas in it.
pub(super) fn list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::String(_, text) => {
            Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
        }
        Value::Array(_, items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| text(item).map_err(|message| format!("item {} is {message}", index + 1)))
            .collect(),
        _ => Err("not a list of texts; write [\"one\", \"two\"]".into()),
    }
}

/// A path; `~/` is the owner's home.
pub(super) fn path(home: Option<&Path>) -> impl Fn(&Value) -> Result<PathBuf, String> {
    move |value| expand(&text(value)?, home)
}

/// `~/` at the front becomes the owner's home.
pub(super) fn expand(text: &str, home: Option<&Path>) -> Result<PathBuf, String> {
    match (text.strip_prefix("~/").or((text == "~").then_some("")), home) {
        (Some(rest), Some(home)) => Ok(home.join(rest)),
        (Some(_), None) => Err("starts with `~`, and this user has no home directory; give a full path".into()),
        (None, _) => Ok(PathBuf::from(text)),
    }
}

/// A list of texts, each read by `read`; what is wrong is told of each item.
pub(super) fn each<T>(value: &Value, read: impl Fn(&str) -> Result<T, String>) -> (Vec<T>, Vec<Fault>) {
    let (mut items, mut faults) = (Vec::new(), Vec::new());
    let texts = match list(value) {
        Ok(texts) => texts,
        Err(message) => {
            return (items, vec![Fault { at: String::new(), value: Some(shown(value)), message }]);
        }
    };
    for (index, text) in texts.iter().enumerate() {
        match read(text) {
            Ok(item) => items.push(item),
            Err(message) => {
                let value = Some(shown_text(text));
                faults.push(Fault { at: format!("[{index}]"), value, message });
            }
        }
    }
    (items, faults)
}

/// A node to join by.
pub(super) fn seed(text: &str) -> Result<Seed, String> {
    text.parse().map_err(|error: SeedError| error.why().to_owned())
}

/// What can stand among the seeds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SeedPeer {
    /// The address of a node.
    Address(Seed),
    /// An invite to a closed mesh.
    Invite(Box<Token>),
}

/// A node or an invite to join by.
pub(super) fn seed_peer(text: &str) -> Result<SeedPeer, String> {
    if Token::is_like(text) {
        return text
            .parse()
            .map(|token| SeedPeer::Invite(Box::new(token)))
            .map_err(|error: TokenError| error.to_string());
    }
    seed(text).map(SeedPeer::Address)
}

/// A text as it may be shown: without passwords, and without the secrets of invites.
fn shown_text(text: &str) -> String {
    let parts: Vec<String> = text
        .split(',')
        .map(|part| if Token::is_like(part) { REDACTED.to_owned() } else { super::secret::without_userinfo(part) })
        .collect();
    format!("{:?}", parts.join(","))
}

/// An address at which others reach this node.
pub(super) fn external_address(text: &str) -> Result<Multiaddr, String> {
    mesh::external_address(text).map_err(|why| format!("{why}; give one such as /ip4/203.0.113.5/udp/11450/quic-v1"))
}

/// `mesh.relay`.
pub(super) fn relay(value: &Value) -> Result<super::Relay, String> {
    match value.as_str() {
        Some("auto") => Ok(super::Relay::Auto),
        Some("on") => Ok(super::Relay::On),
        Some("off") => Ok(super::Relay::Off),
        _ => boolean(value)
            .map(|on| if on { super::Relay::On } else { super::Relay::Off })
            .map_err(|_| "give \"auto\" (while it can be reached from the internet), \"on\" or \"off\"".into()),
    }
}

/// `mesh.admit`; the flag `--admit-everybody` says yes to it.
pub(super) fn admit(value: &Value) -> Result<super::Admit, String> {
    match value {
        Value::Bool(_, true) => Ok(super::Admit::Everybody),
        Value::String(_, text) if text == "everybody" => Ok(super::Admit::Everybody),
        Value::String(_, text) if text == "private" => Ok(super::Admit::Private),
        _ => Err("give \"private\" (loopback, link-local and private addresses) or \"everybody\"".into()),
    }
}

/// `cache.mode`.
pub(super) fn cache_mode(value: &Value) -> Result<super::CacheMode, String> {
    match (value, value.as_str()) {
        (_, Some("off")) | (Value::Bool(_, false), _) => Ok(super::CacheMode::Off),
        (_, Some("asked")) => Ok(super::CacheMode::Asked),
        (_, Some("repeatable")) => Ok(super::CacheMode::Repeatable),
        _ => {
            Err("give \"off\", \"asked\" (answers to requests that ask for it) or \"repeatable\" (these, and what can \
                  be expected to come out the same each time)"
                .into())
        }
    }
}

/// `embedder.kind`.
pub(super) fn embedder_kind(value: &Value) -> Result<super::EmbedderKind, String> {
    match value.as_str() {
        Some("builtin") => Ok(super::EmbedderKind::Builtin),
        Some("onnx") => Ok(super::EmbedderKind::Onnx),
        Some("none") => Ok(super::EmbedderKind::None),
        _ => Err("give \"builtin\", \"onnx\" (with embedder.dir) or \"none\"".into()),
    }
}

/// `log.format`.
pub(super) fn log_format(value: &Value) -> Result<super::LogFormat, String> {
    match value.as_str() {
        Some("human") => Ok(super::LogFormat::Human),
        Some("json") => Ok(super::LogFormat::Json),
        _ => Err("give \"human\" or \"json\"".into()),
    }
}

/// `log.filter`.
pub(super) fn log_filter(value: &Value) -> Result<String, String> {
    let filter = text(value)?;
    crate::telemetry::check_filter(&filter).map_err(|error| {
        format!("not a log filter ({error}); give one such as \"info\" or \"info,atmosphere::mesh=debug\"")
    })?;
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_units_of_1000_and_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512B", Some(512)),
            ("32MiB", Some(32 << 20)),
            ("32 mib", Some(32 << 20)),
            ("32Mi", Some(32 << 20)),
            ("2GB", Some(2_000_000_000)),
            ("1k", Some(1000)),
            ("-1", None),
            ("1.5MiB", None),
            ("MiB", None),
            ("1 parsec", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_as_it_was_written(size in 0u64..u64::MAX) {
            prop_assert_eq!(parse_size(&format_size(size)), Some(size));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let value = Value::from(text.as_str());
            let _ = (parse_size(&text), seed(&text).is_ok(), external_address(&text).is_ok());
            let _ = (ips(&value), name(&value), shown(&value));
            let _ = duration(Duration::ZERO, Duration::MAX)(&value);
        }
    }
}
