//! Who belongs to a closed mesh.
//!
//! A closed mesh begins with a root key; its id is the hash of the public half. What makes a node a member is a
//! [membership](membership::Membership) that the root, or an admin on its behalf, signed for the node's own key. All
//! members keep the same [roster](roster::Roster) of memberships and revocations, which the driver syncs. A newcomer
//! gets its membership for an [invite](invite::Invites), whose [token](Token) has all that is needed to join.
//!
//! | file | what |
//! |---|---|
//! | `role` | what a member may do |
//! | `membership` | signed memberships and revocations: issued and checked (pure) |
//! | `roster` | who is a member now (pure) |
//! | `invite` | invites and their proofs (pure) |
//! | `token` | the text of an invite (pure) |
//! | `files`, `encoding` | what is kept on disk, and how it is spelt |
//! | `state` | what changes of all that, and how |
//! | `error`, `view` | what the rest of the program sees of it |
//! | `closed` | all of it together, as the gate, the driver and the API use it |

mod closed;
mod encoding;
mod error;
mod files;
mod invite;
mod membership;
mod role;
mod roster;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod view;

pub use closed::Closed;
pub use error::MemberError;
pub use files::FilesError;
pub use invite::{InviteError, InviteOptions, Side};
pub use membership::{RecordError, presented};
pub use role::{Role, RoleError};
pub use roster::Denied;
pub(super) use roster::date;
pub use state::DEFAULT_LIFETIME;
#[cfg(test)]
pub use token::forge;
pub use token::{Invited, Token, TokenError};
pub use view::{MemberView, Renewal, Revoked};
