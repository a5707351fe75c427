//! Points in time as the API writes them.

use std::time::Duration;

/// A point in time as text.
pub(super) fn moment(unix_ms: u64) -> Option<String> {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(unix_ms / 1000))?;
    // Later than the year 9999 nothing can be written.
    (unix_ms < 253_000_000_000_000).then(|| humantime::format_rfc3339_seconds(time).to_string())
}
