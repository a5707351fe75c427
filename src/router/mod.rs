//! An [`Intent`](crate::capability::Intent) becomes a [`Decision`]: who shall do it, who else could, who could not, and why.

mod decision;

pub use decision::{Candidate, Decision, NoRoute, Parts, Rejected};
