//! Logs: to stderr, for people or for machines, filtered by module.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// What is logged unless told otherwise: our own news, and of chatty dependencies only what needs somebody.
pub const DEFAULT_FILTER: &str = "info,libp2p_swarm=warn,libp2p_gossipsub=warn,libp2p_kad=error,libp2p_autonat=error,libp2p_mdns=warn,hickory_resolver=warn,quinn=warn";

/// For whom logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: coloured on a terminal, unless `NO_COLOR` is set.
    Human,
    /// For machines: one JSON object on each line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("{0}")]
    Filter(String),
    /// Somebody has set up logging in this process before.
    #[error("logging is already set up in this process")]
    Twice,
}

/// Whether `filter` is in tracing's syntax: `level`, or `module=level`, with commas between them.
///
/// # Errors
///
/// With the part that is not.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|error| LogError::Filter(error.to_string()))
}

/// Sets up logging for the whole process.
///
/// # Errors
///
/// When the filter is not one, or logging is set up already.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let builder = fmt().with_env_filter(parse_filter(filter)?).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            builder.with_ansi(colour).compact().try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_is_used() {
        check_filter(DEFAULT_FILTER).expect("ours");
        check_filter("debug").expect("a level");
        for bad in ["atmosphere=loud", "info,=debug,"] {
            check_filter(bad).expect_err(bad);
        }
    }
}
