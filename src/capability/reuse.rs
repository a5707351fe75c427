//! Whether an answer that was given before will do.

use std::time::Duration;

/// What a caller says about answers that were given before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reuse {
    /// Who asks. Callers of different tenants never share an answer.
    pub tenant: Tenant,
    /// Whether a kept answer is wanted; `None` leaves it to the node's owner.
    pub wanted: Option<bool>,
    /// The oldest answer that will do; zero asks for a new one.
    pub max_age: Option<Duration>,
    /// The answer must not be kept.
    pub no_store: bool,
    /// A kept answer, or none at all.
    pub only_kept: bool,
}

/// Who asks: the hash of a caller's key, and all zero for those without one.
pub type Tenant = [u8; 32];

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// It was made for this request, and nobody asked for a kept one.
    #[default]
    Made,
    /// It was made for this request, for want of a kept one.
    Missed,
    /// It was made this long ago, for another request.
    Kept(Duration),
}
