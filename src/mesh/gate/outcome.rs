//! How handshakes end, counted.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::telemetry::Metrics;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    /// The other node.
    Inbound,
    /// This node.
    Outbound,
}

/// How a membership handshake ended, whichever side decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum GateOutcome {
    Admitted,
    OtherMesh,
    Incompatible,
    NotAdmitted,
    Malformed,
    Busy,
    Itself,
    IdentityClash,
    Address,
    NotYet,
    NoPairing,
    Paired,
    TimedOut,
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: Direction,
    outcome: GateOutcome,
}

/// Membership handshakes by how they ended.
#[derive(Debug, Clone, Default)]
pub struct Handshakes(Family<HandshakeLabels, Counter>);

impl Handshakes {
    /// Registers them.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let help = "Membership handshakes, by who dialled and how they ended";
        Self(metrics.register("mesh_gate_handshakes", help, Family::default()))
    }

    /// One more ended so.
    pub fn count(&self, direction: Direction, outcome: GateOutcome) {
        self.0.get_or_create(&HandshakeLabels { direction, outcome }).inc();
    }
}
