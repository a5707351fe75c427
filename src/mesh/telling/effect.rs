//! What is to be done for the teller by whoever has a swarm.

use std::time::Instant;

use crate::capability::PeerId;
use crate::catalog::register::{BodyHash, Outcome, Position};
use crate::wire::v1;

/// Something to do.
#[derive(Debug)]
pub enum Effect {
    /// Give it to gossip. When nobody listens, [`Teller::nobody_heard`](super::Teller::nobody_heard).
    Gossip(v1::SignedStatement),
    /// Send the request, and bring its response to [`Teller::on_response`](super::Teller::on_response) or its failure
    /// to [`Teller::on_failure`](super::Teller::on_failure).
    Ask {
        /// Whom.
        node: PeerId,
        /// What.
        request: v1::SyncRequest,
        /// To be given back.
        what: Asked,
    },
    /// Somebody speaks for this node, past what it has said. Get a later epoch, and [`Teller::begin_run`](super::Teller::begin_run).
    Clash {
        /// Past this.
        position: Position,
        /// Who told.
        from: PeerId,
    },
    /// A neighbour passed on what the register does not admit: perhaps it knows a member that is not known here.
    Stranger {
        /// Who told.
        from: PeerId,
    },
    /// A neighbour began a new run, and has more than one connection: some may be left of the run before.
    Returned {
        /// Which.
        node: PeerId,
    },
    /// For the metrics.
    Count(Counted),
}

/// What a request to another node was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A round of a sync, asked at that time: the ages in its answer are no older than that.
    Round(usize, Instant),
    /// An advert body.
    Body(BodyHash),
    /// To hear that this node leaves.
    Farewell,
}

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The register judged it.
    Judged(Outcome),
    /// It is no honest one.
    Refused,
    /// There were too many to judge it.
    Ignored,
}

/// What gossip is to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Keep it, without blame.
    Ignore,
    /// No honest node would have passed it on.
    Reject,
}
