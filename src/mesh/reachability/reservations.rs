//! The relays that carry this node's traffic while the internet does not reach it. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::capability::PeerId;

/// Reservations held at once: one may be lost without being cut off.
pub const WANTED: usize = 2;

/// How long a relay may take to answer: a dial and a round trip.
const ANSWER: Duration = Duration::from_secs(15);

/// A reservation lives for an hour and is renewed after three quarters of it; without that it has run out.
const LIFE: Duration = Duration::from_secs(3600);

/// How long a relay that refused or was lost is left alone, doubled with each time in a row.
const MIN_REST: Duration = Duration::from_secs(5);
const MAX_REST: Duration = Duration::from_secs(300);

/// Relays that are remembered, beyond those that are held.
const MAX_REMEMBERED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked { since: Instant },
    Held { since: Instant },
    Resting { until: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Relay {
    state: State,
    failures: u32,
}

/// What is known of the relays.
#[derive(Debug, Default)]
pub struct Reservations(HashMap<PeerId, Relay>);

impl Reservations {
    /// Which of these to ask now, the best first, so that enough are held.
    #[must_use]
    pub fn to_ask(&self, relays: impl IntoIterator<Item = PeerId>, now: Instant) -> Vec<PeerId> {
        let may = |node: &PeerId| match self.0.get(node).map(|relay| relay.state) {
            None => true,
            Some(State::Asked { .. } | State::Held { .. }) => false,
            Some(State::Resting { until }) => until <= now,
        };
        relays.into_iter().filter(may).take(WANTED.saturating_sub(self.active().count())).collect()
    }

    fn active(&self) -> impl Iterator<Item = &PeerId> {
        self.0.iter().filter(|(_, relay)| !matches!(relay.state, State::Resting { .. })).map(|(node, _)| node)
    }

    /// Those that are held.
    pub fn held(&self) -> impl Iterator<Item = PeerId> {
        self.0.iter().filter(|(_, relay)| matches!(relay.state, State::Held { .. })).map(|(node, _)| *node)
    }

    /// Those that did not answer in time, and those whose reservation was not renewed.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<PeerId> {
        let over = |relay: &Relay| match relay.state {
            State::Asked { since } => now.saturating_duration_since(since) >= ANSWER,
            State::Held { since } => now.saturating_duration_since(since) >= LIFE,
            State::Resting { .. } => false,
        };
        self.0.iter().filter(|(_, relay)| over(relay)).map(|(node, _)| *node).collect()
    }

    /// All that are asked or held.
    #[must_use]
    pub fn to_give_up(&self) -> Vec<PeerId> {
        self.active().copied().collect()
    }

    /// A relay was asked.
    pub fn asked(&mut self, relay: PeerId, now: Instant) {
        let failures = self.0.get(&relay).map_or(0, |relay| relay.failures);
        self.0.insert(relay, Relay { state: State::Asked { since: now }, failures });
    }

    /// It accepted, or renewed.
    pub fn accepted(&mut self, relay: PeerId, now: Instant) {
        if let Some(known) = self.0.get_mut(&relay).filter(|relay| !matches!(relay.state, State::Resting { .. })) {
            *known = Relay { state: State::Held { since: now }, failures: 0 };
        }
    }

    /// It refused, did not answer, or was lost.
    pub fn lost(&mut self, relay: PeerId, now: Instant) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, relay| !matches!(relay.state, State::Resting { until } if until <= now));
        }
        let failures = self.0.get(&relay).map_or(0, |relay| relay.failures);
        let rest = MIN_REST.saturating_mul(1 << failures.min(16)).min(MAX_REST);
        self.0
            .insert(relay, Relay { state: State::Resting { until: now + rest }, failures: failures.saturating_add(1) });
    }

    /// It is needed no more.
    pub fn given_up(&mut self, relay: &PeerId) {
        self.0.remove(relay);
    }
}
