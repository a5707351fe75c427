//! The call protocol: one call at a time on a stream, a request one way, frames the other.
//!
//! ```text
//! caller                                   callee
//!   CallRequest ─────────────────────────▶
//!   (keeps its half open)
//!               ◀─────────────────────────  Accepted | Rejected | Error
//!               ◀─────────────────────────  Progress* Chunk*      (at least one frame in 500 ms)
//!               ◀─────────────────────────  End | Error
//!   CallRequest ─────────────────────────▶  the next call, after an End, where both keep the stream
//! ```
//!
//! [`call`] is the caller's side, [`serve`] the callee's. What they promise to each other:
//!
//! * **Silence means dead.** The callee says at least twice a second that it is still at it, so a caller that
//!   hears nothing for [`Limits::silence`] gives up.
//! * **No end is clean by accident.** A stream that stops without `End` or `Error` has failed.
//! * **Leaving is noticed.** The caller's half stays open until it has its end; when it closes or is reset the callee
//!   drops the work at once, also while it computes or is blocked on a slow reader.
//! * **A slow reader slows the work**, and after [`ServerLimits::write`] without progress ends it. Nothing piles up.
//! * **A bad message hurts only its own call.**
//! * **A stream is kept for the next call** where both say so: to open one is a third of what a short call costs. Streams that
//!   wait are bounded in number and time, and one that was given up meanwhile costs the caller a new stream.
//!
//! Neither side knows libp2p: they take any stream of bytes.

mod client;
mod codec;
#[cfg(test)]
mod kept_tests;
mod reply;
mod room;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Limits, Unanswered, call};
pub use reply::{Reply, Sent};
pub use server::{InboundCall, ServerLimits, serve};
