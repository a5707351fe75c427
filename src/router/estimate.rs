//! A figure that is learnt from samples and forgotten again.
//!
//! Samples are averaged as logarithms, so that a rate and its inverse are treated alike and one outlier of a
//! hundred times does not own the mean. What was learnt loses half its weight every [`HALF_LIFE`], and a
//! prior fills in for what is missing: a node that was slow yesterday gets another chance today.

use std::time::{Duration, Instant};

/// A node's speed changes when its owner starts a game: what was learnt ten minutes ago counts a quarter.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// The most that old samples weigh: about the last eight calls matter.
const MAX_WEIGHT: f64 = 8.0;
/// What the prior weighs, in samples: two measurements outvote it.
const PRIOR_WEIGHT: f64 = 0.5;
/// With three samples or more, a new one is believed up to this factor from the mean.
const MAX_FACTOR: f64 = 8.0;

/// A positive figure that is learnt from samples and forgotten again.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Estimate {
    mean_log: f64,
    weight: f64,
    at: Option<Instant>,
}

impl Estimate {
    /// Takes in a sample; one that is no positive number is ignored.
    pub(super) fn observe(&mut self, sample: f64, now: Instant) {
        if !(sample.is_finite() && sample > 0.0) {
            return;
        }
        let mut log = sample.ln();
        let weight = self.weight_at(now);
        if weight >= 3.0 {
            log = log.clamp(self.mean_log - MAX_FACTOR.ln(), self.mean_log + MAX_FACTOR.ln());
        }
        self.mean_log = (self.mean_log * weight + log) / (weight + 1.0);
        self.weight = (weight + 1.0).min(MAX_WEIGHT);
        self.at = Some(now);
    }

    /// The figure now: what was learnt, mixed with the prior by weight.
    pub(super) fn value(&self, prior: f64, now: Instant) -> f64 {
        let weight = self.weight_at(now);
        if weight <= 0.0 {
            return prior;
        }
        ((self.mean_log * weight + prior.ln() * PRIOR_WEIGHT) / (weight + PRIOR_WEIGHT)).exp()
    }

    /// Whether it says more than the prior does.
    pub(super) fn is_measured(&self, now: Instant) -> bool {
        self.weight_at(now) >= PRIOR_WEIGHT
    }

    fn weight_at(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let age = now.saturating_duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.weight * (-age).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_samples_outvote_the_prior_and_a_day_forgets_them() {
        let start = Instant::now();
        let mut rate = Estimate::default();
        assert!((rate.value(10.0, start) - 10.0).abs() < 1e-9);
        rate.observe(100.0, start);
        rate.observe(100.0, start);
        assert!(rate.is_measured(start));
        assert!(rate.value(10.0, start) > 60.0);
        let later = start + Duration::from_secs(86_400);
        assert!(!rate.is_measured(later));
        assert!((rate.value(10.0, later) - 10.0).abs() < 0.01);
    }

    #[test]
    fn one_outlier_does_not_own_the_mean() {
        let now = Instant::now();
        let mut rate = Estimate::default();
        for _ in 0..8 {
            rate.observe(50.0, now);
        }
        rate.observe(1e9, now);
        assert!(rate.value(50.0, now) < 100.0);
        rate.observe(f64::NAN, now);
        rate.observe(-3.0, now);
        assert!(rate.value(50.0, now) < 100.0);
    }

    proptest! {
        #[test]
        fn a_value_stays_between_what_was_seen_and_the_prior(
            samples in proptest::collection::vec(0.001f64..1e6, 1..40),
            prior in 0.001f64..1e6,
        ) {
            let now = Instant::now();
            let mut estimate = Estimate::default();
            for sample in &samples {
                estimate.observe(*sample, now);
            }
            let low = samples.iter().copied().fold(prior, f64::min);
            let high = samples.iter().copied().fold(prior, f64::max);
            let value = estimate.value(prior, now);
            prop_assert!(value >= low * 0.999 && value <= high * 1.001, "{low} {value} {high}");
        }
    }
}
