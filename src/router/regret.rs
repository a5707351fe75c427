//! When loading the weights of a model on one more machine pays.
//!
//! Whoever must wait until weights are loaded is served sooner by a machine that has them, however busy it is. So each
//! request, by itself, leaves the other machine as it is, and all of them together lose more than loading once would
//! have cost. It is the question whether to rent skis or to buy them while nobody knows how long the snow will stay, and the
//! answer is the usual one (Karlin et al., *Competitive Snoopy Caching*, Algorithmica 1988): buy when the rent
//! that was paid comes to the price. While nothing is forgotten, no more than twice the time is lost that somebody who knows the
//! future would lose.
//!
//! What is lost with a request is the time that the other machine would have saved with its weights loaded. The sum is
//! forgotten again, since weights do not stay in memory for ever: only a load that lasts is worth loading for.

use std::time::{Duration, Instant};

use super::decision::Candidate;

/// What was lost counts half after this time: backends keep idle weights for some minutes.
const HALF_LIFE: Duration = Duration::from_secs(120);

/// What requests have lost, in seconds, because a model was not loaded on one more machine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Regret {
    lost: f64,
    at: Option<Instant>,
}

impl Regret {
    /// The seconds that were lost, less what was forgotten since.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.lost * (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }

    /// A request goes to the first of these candidates.
    pub(super) fn choose(&mut self, candidates: &[Candidate], now: Instant) {
        let Some(chosen) = candidates.first() else { return };
        let is_loaded = chosen.parts.load_ms <= 0.0;
        // Where it is loaded for this request, that settles it.
        let lost = if is_loaded { self.seconds(now) + lost_with(chosen, candidates) } else { 0.0 };
        *self = Self { lost, at: Some(now) };
    }
}

/// The seconds that another machine would have saved, this request and those it runs beside, had the model been loaded there.
fn lost_with(chosen: &Candidate, candidates: &[Candidate]) -> f64 {
    let unloaded =
        candidates.iter().filter(|other| other.parts.load_ms > 0.0 && other.capability.id == chosen.capability.id);
    let cost = |candidate: &Candidate| candidate.predicted.as_secs_f64() + candidate.parts.others_ms / 1e3;
    let loaded = |other: &Candidate| cost(other) - other.parts.load_ms / 1e3;
    unloaded.map(|other| cost(chosen) - loaded(other)).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::capability::PeerId;
    use crate::router::decision::Parts;
    use crate::router::testing::chat_model;

    fn candidate(load_ms: f64, decode_ms: f64) -> Candidate {
        let parts = Parts { load_ms, decode_ms, ..Parts::default() };
        Candidate {
            node: PeerId::random(),
            node_name: "n".into(),
            capability: Arc::new(chat_model("m", 7)),
            score: 0.0,
            predicted: Duration::from_secs_f64((load_ms + decode_ms) / 1e3),
            parts,
        }
    }

    #[test]
    fn what_is_lost_adds_up_is_forgotten_and_is_settled_by_loading() {
        let (mut regret, start) = (Regret::default(), Instant::now());
        let (busy, cold) = (candidate(0.0, 9_000.0), candidate(20_000.0, 4_000.0));
        for _ in 0..3 {
            regret.choose(&[busy.clone(), cold.clone()], start);
        }
        assert!((regret.seconds(start) - 15.0).abs() < 1e-9);
        assert!((regret.seconds(start + HALF_LIFE) - 7.5).abs() < 1e-9);
        regret.choose(&[cold.clone(), busy.clone()], start);
        assert!(regret.seconds(start) == 0.0);
        // One that is slower than the chosen one even when loaded is no loss, nor is another model.
        let mut other = candidate(20_000.0, 1_000.0);
        other.capability = Arc::new(chat_model("another", 7));
        regret.choose(&[busy, candidate(1_000.0, 10_000.0), other], start);
        assert!(regret.seconds(start) == 0.0);
        regret.choose(&[], start);
    }
}
