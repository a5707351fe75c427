//! What a member of a closed mesh may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::wire::v1;

/// What a member of a closed mesh may do. Each role may what is said here, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Calls the others, and offers nothing.
    Client,
    /// Carries the traffic of members; neither calls nor offers.
    Relay,
    /// Calls, offers, and relays.
    #[default]
    Member,
    /// A member that issues and revokes memberships.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Client, Self::Relay, Self::Member, Self::Admin];

    /// Whether it may have others work for it.
    #[must_use]
    pub const fn calls(self) -> bool {
        matches!(self, Self::Client | Self::Member | Self::Admin)
    }

    /// Whether its capabilities count.
    #[must_use]
    pub const fn offers(self) -> bool {
        matches!(self, Self::Member | Self::Admin)
    }

    /// Whether it may carry the traffic of others.
    #[must_use]
    pub const fn relays(self) -> bool {
        matches!(self, Self::Relay | Self::Member | Self::Admin)
    }

    /// Whether it may issue and revoke memberships.
    #[must_use]
    pub const fn issues(self) -> bool {
        matches!(self, Self::Admin)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Relay => "relay",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }

    pub(in crate::mesh) fn of_wire(role: i32) -> Option<Self> {
        match v1::Role::try_from(role).ok()? {
            v1::Role::Unspecified => None,
            v1::Role::Client => Some(Self::Client),
            v1::Role::Relay => Some(Self::Relay),
            v1::Role::Member => Some(Self::Member),
            v1::Role::Admin => Some(Self::Admin),
        }
    }

    pub(in crate::mesh) fn to_wire(self) -> i32 {
        i32::from(match self {
            Self::Client => v1::Role::Client,
            Self::Relay => v1::Role::Relay,
            Self::Member => v1::Role::Member,
            Self::Admin => v1::Role::Admin,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No such role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?} (give client, relay, member or admin)")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str().eq_ignore_ascii_case(text.trim()));
        found.ok_or_else(|| RoleError(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_its_own() {
        for (role, calls, offers, relays, issues) in [
            (Role::Client, true, false, false, false),
            (Role::Relay, false, false, true, false),
            (Role::Member, true, true, true, false),
            (Role::Admin, true, true, true, true),
        ] {
            assert_eq!((role.calls(), role.offers(), role.relays(), role.issues()), (calls, offers, relays, issues));
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(Role::of_wire(role.to_wire()), Some(role));
        }
        assert!("owner".parse::<Role>().is_err() && Role::of_wire(0).is_none() && Role::of_wire(99).is_none());
    }
}
