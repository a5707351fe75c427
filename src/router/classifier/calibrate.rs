//! From scores to the probability of being right: Platt's method (*Probabilistic Outputs for Support Vector Machines*,
//! 1999) on a few numbers instead of one.

/// Numbers that say how sure a judgement is.
pub(super) const SIGNS: usize = 5;
/// With the constant.
const TERMS: usize = SIGNS + 1;

/// Steps of Newton's method; it settles in about six.
const STEPS: usize = 25;
/// Keeps weights finite when right and wrong can be told apart without a mistake.
const RIDGE: f64 = 1e-2;

/// One judgement of which it is known whether it was right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) signs: [f32; SIGNS],
    pub(super) right: bool,
    /// How much it counts.
    pub(super) weight: f32,
}

/// Turns the signs of a judgement into the probability that it is right.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Calibration {
    means: [f64; SIGNS],
    /// One divided by the spread.
    per_spread: [f64; SIGNS],
    weights: [f64; TERMS],
}

impl Calibration {
    /// The most likely one. Without outcomes, everything is as likely as not.
    pub(super) fn fit(outcomes: &[Outcome]) -> Self {
        let total: f64 = outcomes.iter().map(|outcome| f64::from(outcome.weight)).sum();
        if total <= 0.0 {
            return Self::default();
        }
        let mut it = Self::default();
        for sign in 0..SIGNS {
            let all = || outcomes.iter().map(|outcome| (f64::from(outcome.signs[sign]), f64::from(outcome.weight)));
            let mean = all().map(|(x, weight)| x * weight).sum::<f64>() / total;
            let square = all().map(|(x, weight)| (x - mean) * (x - mean) * weight).sum::<f64>() / total;
            it.means[sign] = mean;
            it.per_spread[sign] = if square > 1e-12 { square.sqrt().recip() } else { 0.0 };
        }
        for _ in 0..STEPS {
            let mut slope = [0.0; TERMS];
            let mut curve = [[0.0; TERMS]; TERMS];
            for outcome in outcomes {
                let terms = it.terms(&outcome.signs);
                let p = it.of_terms(&terms);
                let weight = f64::from(outcome.weight);
                let error = (f64::from(u8::from(outcome.right)) - p) * weight;
                let bend = (p * (1.0 - p)).max(1e-9) * weight;
                for row in 0..TERMS {
                    slope[row] += error * terms[row];
                    for column in 0..TERMS {
                        curve[row][column] += bend * terms[row] * terms[column];
                    }
                }
            }
            let ridge = RIDGE * total / outcomes.len() as f64;
            for term in 0..TERMS {
                slope[term] -= ridge * it.weights[term];
                curve[term][term] += ridge;
            }
            let step = solve(curve, slope);
            // A step as long as this is out of the region where the curve says anything.
            let longest = step.iter().fold(0.0_f64, |longest, x| longest.max(x.abs()));
            let shorten = if longest > 4.0 { 4.0 / longest } else { 1.0 };
            it.weights.iter_mut().zip(step).for_each(|(weight, step)| *weight += step * shorten);
            if longest < 1e-6 {
                break;
            }
        }
        it
    }

    /// The probability that a judgement with these signs is right.
    pub(super) fn probability(&self, signs: &[f32; SIGNS]) -> f32 {
        self.of_terms(&self.terms(signs)) as f32
    }

    fn terms(&self, signs: &[f32; SIGNS]) -> [f64; TERMS] {
        let mut terms = [1.0; TERMS];
        for (sign, term) in signs.iter().zip(0..SIGNS) {
            terms[term] = (f64::from(*sign) - self.means[term]) * self.per_spread[term];
        }
        terms
    }

    fn of_terms(&self, terms: &[f64; TERMS]) -> f64 {
        let log_odds: f64 = terms.iter().zip(&self.weights).map(|(term, weight)| term * weight).sum();
        1.0 / (1.0 + (-log_odds).exp())
    }
}

/// Solves a small system by elimination with pivots. Singular ones have been made regular by the ridge.
fn solve(mut matrix: [[f64; TERMS]; TERMS], mut right: [f64; TERMS]) -> [f64; TERMS] {
    for at in 0..TERMS {
        let pivot = (at..TERMS).max_by(|a, b| matrix[*a][at].abs().total_cmp(&matrix[*b][at].abs())).unwrap_or(at);
        matrix.swap(at, pivot);
        right.swap(at, pivot);
        let head = matrix[at];
        if head[at].abs() < 1e-300 {
            continue;
        }
        for row in at + 1..TERMS {
            let times = matrix[row][at] / head[at];
            for column in at..TERMS {
                matrix[row][column] -= times * head[column];
            }
            right[row] -= times * right[at];
        }
    }
    let mut solution = [0.0; TERMS];
    for at in (0..TERMS).rev() {
        let known: f64 = (at + 1..TERMS).map(|column| matrix[at][column] * solution[column]).sum();
        let pivot = matrix[at][at];
        solution[at] = if pivot.abs() < 1e-300 { 0.0 } else { (right[at] - known) / pivot };
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sign: f32, right: bool) -> Outcome {
        Outcome { signs: [sign, 0.0, 1.0, -sign, 3.0], right, weight: 1.0 }
    }

    #[test]
    fn says_how_often_it_was_right() {
        // At sign 1 nine of ten were right, at sign 0 two of ten.
        let outcomes: Vec<_> =
            (0..200).map(|n| if n % 2 == 0 { outcome(1.0, n % 20 != 0) } else { outcome(0.0, n % 10 == 1) }).collect();
        let calibration = Calibration::fit(&outcomes);
        let at = |sign| calibration.probability(&outcome(sign, true).signs);
        assert!((at(1.0) - 0.9).abs() < 0.02 && (at(0.0) - 0.2).abs() < 0.02, "{} {}", at(1.0), at(0.0));
        assert!(at(2.0) > 0.95 && at(-1.0) < 0.1);
    }

    #[test]
    fn weights_count() {
        let mut outcomes = vec![outcome(0.0, true), outcome(0.0, false)];
        outcomes[1].weight = 3.0;
        let p = Calibration::fit(&outcomes).probability(&outcomes[0].signs);
        assert!((p - 0.25).abs() < 0.02, "{p}");
    }

    #[test]
    fn extremes_stay_finite() {
        let perfect: Vec<_> = (0..50).map(|n| outcome(n as f32, n > 20)).collect();
        let calibration = Calibration::fit(&perfect);
        let (low, high) = (calibration.probability(&perfect[0].signs), calibration.probability(&perfect[49].signs));
        assert!(low < 0.1 && high > 0.9 && low.is_finite() && high.is_finite(), "{low} {high}");
        assert_eq!(Calibration::fit(&[]).probability(&[9.0; SIGNS]), 0.5);
        let only = Calibration::fit(&[outcome(1.0, true)]);
        assert!(only.probability(&[1.0; SIGNS]).is_finite());
    }
}
