//! Letting a nearby machine in with a short spoken code.
//!
//! One person reads a [`Code`] from the screen of an admin's node to the one who types it at the newcomer. Both
//! machines turn it into a strong key (a PAKE), in the gate and before any protocol; then both screens show the same
//! number, and both people say yes. What comes of it is an ordinary invite for that one node, whose secret both
//! sides derive from the key and neither sends; the newcomer enters with it as with any other.
//!
//! | file | what |
//! |---|---|
//! | `words`, `code` | the code (pure) |
//! | `exchange` | from the code to the key of a session (pure) |
//! | `offer` | an offered code: attempts, answers, times (pure) |
//! | `view` | what an owner sees |
//! | `desk` | the offer of an admin's node, for the gate and its owner |
//! | `joins` | a newcomer's own attempt, for its owner |

mod code;
mod desk;
mod exchange;
mod joins;
mod offer;
#[cfg(test)]
mod tests;
mod view;
mod words;

pub use code::{Code, CodeError};
pub use desk::Desk;
pub use exchange::{Parties, Said, Session, Side, Started};
pub use joins::Joins;
pub use offer::{ANSWER_LIFE, Away, CODE_LIFE, MAX_CODE_LIFE, Pass};
pub use view::{PairSide, PairStage, PairView, clean_name};
