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

    /// The logarithm of what was learnt, and what that weighs, in samples.
    fn learnt(&self, now: Instant) -> (f64, f64) {
        (self.mean_log, self.weight_at(now))
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

/// How much each call beside it slows a call, before that was measured: computing is shared badly, and reading weights from
/// memory well; small machines lie about a third.
pub(super) const SHARING: f64 = 0.35;
/// Calls beside it, of the sizes of company that are told apart: none, one, two or three, and more.
const COMPANY: [f64; 4] = [0.0, 1.0, 2.5, 6.0];
/// What a sample weighs for a company that is one size away; for one two sizes away the square of it.
const ANOTHER_COMPANY: f64 = 0.5;

/// How much slower a call is with so many beside it, by assumption.
pub(super) fn slowdown(company: f64) -> f64 {
    1.0 + SHARING * company.max(0.0)
}

/// A rate that depends on how many calls run beside: what was measured in the same company counts, and what was measured in
/// another is scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate([Estimate; COMPANY.len()]);

impl Rate {
    fn place(company: f64) -> usize {
        match company {
            few if few < 0.5 => 0,
            few if few < 1.5 => 1,
            some if some < 4.0 => 2,
            _ => 3,
        }
    }

    /// Takes in a sample that was measured in that company.
    pub(super) fn observe(&mut self, sample: f64, company: f64, now: Instant) {
        let place = Self::place(company);
        // Within a size of company samples are made comparable.
        self.0[place].observe(sample * slowdown(company) / slowdown(COMPANY[place]), now);
    }

    /// The rate now, in that company; `prior` is that of a call alone.
    pub(super) fn value(&self, prior: f64, company: f64, now: Instant) -> f64 {
        let here = Self::place(company);
        let (mut sum, mut weight) = ((prior / slowdown(company)).ln() * PRIOR_WEIGHT, PRIOR_WEIGHT);
        for (place, estimate) in self.0.iter().enumerate() {
            let (log, learnt) = estimate.learnt(now);
            if learnt <= 0.0 {
                continue;
            }
            let weighs = learnt * ANOTHER_COMPANY.powi(i32::try_from(place.abs_diff(here)).unwrap_or(3));
            sum += (log + (slowdown(COMPANY[place]) / slowdown(company)).ln()) * weighs;
            weight += weighs;
        }
        (sum / weight).exp()
    }

    /// Whether it says more than the prior does.
    pub(super) fn is_measured(&self, now: Instant) -> bool {
        self.0.iter().any(|estimate| estimate.is_measured(now))
    }
}

/// How far reality strays from a prediction: the mean and the spread of the logarithm of their ratio.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Surprise {
    mean: f64,
    square: f64,
    weight: f64,
}

/// Spread of the logarithm before anything was seen: a factor of two and a half, either way, in two of three cases.
const USUAL_SPREAD: f64 = 0.85;
/// What that assumption weighs, in samples.
const USUAL_WEIGHT: f64 = 3.0;
/// 95 of 100 lie below the mean and so many spreads.
const P95: f64 = 1.645;

impl Surprise {
    /// It took so many times what was predicted.
    pub(super) fn observe(&mut self, ratio: f64) {
        if !(ratio.is_finite() && ratio > 0.0) {
            return;
        }
        let log = ratio.ln().clamp(-3.0, 3.0);
        self.mean = (self.mean * self.weight + log) / (self.weight + 1.0);
        self.square = (self.square * self.weight + log * log) / (self.weight + 1.0);
        // The last thirty or so matter.
        self.weight = (self.weight + 1.0).min(30.0);
    }

    /// In 95 of 100 cases it takes no more than so many times what was predicted.
    pub(super) fn p95(&self) -> f64 {
        let weight = self.weight + USUAL_WEIGHT;
        let mean = self.mean * self.weight / weight;
        let square = (self.square * self.weight + USUAL_SPREAD * USUAL_SPREAD * USUAL_WEIGHT) / weight;
        (mean + P95 * (square - mean * mean).max(0.01).sqrt()).exp().clamp(1.0, 20.0)
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

    #[test]
    fn a_rate_is_known_for_the_company_in_which_it_was_measured() {
        let now = Instant::now();
        let mut rate = Rate::default();
        assert!((rate.value(60.0, 0.0, now) - 60.0).abs() < 1e-9 && rate.value(60.0, 3.0, now) < 30.0);
        for _ in 0..8 {
            rate.observe(50.0, 0.0, now);
        }
        let (alone, crowded) = (rate.value(10.0, 0.0, now), rate.value(10.0, 3.0, now));
        assert!(alone > 40.0, "{alone}");
        assert!((15.0..30.0).contains(&crowded), "scaled by assumption until it is measured: {crowded}");
        // A machine that shares better than assumed.
        for _ in 0..8 {
            rate.observe(40.0, 3.0, now);
        }
        assert!(rate.value(10.0, 3.0, now) > 30.0, "{}", rate.value(10.0, 3.0, now));
        assert!(rate.value(10.0, 0.0, now) > 40.0);
    }

    #[test]
    fn a_surprise_is_learnt_and_bounded() {
        let mut surprise = Surprise::default();
        let before = surprise.p95();
        assert!((3.0..6.0).contains(&before), "{before}");
        for turn in 0..200 {
            surprise.observe(if turn % 2 == 0 { 0.9 } else { 1.1 });
        }
        assert!((1.0..2.0).contains(&surprise.p95()), "who keeps to the prediction is believed: {}", surprise.p95());
        for _ in 0..60 {
            surprise.observe(8.0);
        }
        assert!(surprise.p95() > 8.0);
        surprise.observe(f64::NAN);
        surprise.observe(-1.0);
        assert!(surprise.p95() <= 20.0);
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
