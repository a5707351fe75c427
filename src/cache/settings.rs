//! What an owner decides about kept answers.

use std::time::Duration;

/// What an owner may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Which answers are kept.
    pub mode: Mode,
    /// Bytes of all kept answers.
    pub bytes: u64,
    /// How many are kept.
    pub answers: u64,
    /// How long one is kept.
    pub ttl: Duration,
}

/// Which answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// None.
    #[default]
    Off,
    /// Those whose callers asked for it.
    Asked,
    /// Those, and what can be expected to come out the same each time.
    Repeatable,
}
