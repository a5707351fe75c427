//! Token buckets, so that what this node says and what it takes is bounded, and no member can flood the others. Pure.

use std::collections::HashMap;
use std::time::Instant;

use crate::capability::PeerId;

/// Nodes whose rate is remembered. Beyond it the ones that have been quiet are forgotten, which does them no harm.
const MAX_NODES: usize = 4096;

/// How much, at once and in the long run.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens that a full bucket holds.
    pub burst: u32,
    /// Tokens that it gains.
    pub per_second: u32,
}

/// One token bucket, full at first.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: f64::from(rate.burst), at: now }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate.per_second);
        (self.tokens + gained).min(f64::from(rate.burst))
    }

    /// Takes a token. False when there is none.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        *self = Self { tokens: self.level(rate, now), at: self.at.max(now) };
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// A token bucket for each node.
#[derive(Debug)]
pub struct Rates {
    rate: Rate,
    buckets: HashMap<PeerId, Bucket>,
}

impl Rates {
    /// Buckets of this size.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Takes a token of this node. False when there is none.
    pub fn take(&mut self, node: PeerId, now: Instant) -> bool {
        let rate = self.rate;
        if self.buckets.len() >= MAX_NODES && !self.buckets.contains_key(&node) {
            self.buckets.retain(|_, bucket| bucket.level(rate, now) < f64::from(rate.burst));
            if self.buckets.len() >= MAX_NODES {
                return false;
            }
        }
        self.buckets.entry(node).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_node_may_burst_and_then_keeps_to_its_rate_and_others_are_not_touched() {
        let (noisy, quiet) = (PeerId::random(), PeerId::random());
        let mut rates = Rates::new(Rate { burst: 3, per_second: 2 });
        let start = Instant::now();
        let taken = |rates: &mut Rates, at| (0..10).filter(|_| rates.take(noisy, at)).count();
        assert_eq!(taken(&mut rates, start), 3);
        assert_eq!(taken(&mut rates, start + Duration::from_secs(1)), 2);
        assert!(rates.take(quiet, start));
        assert_eq!(taken(&mut rates, start + Duration::from_secs(60)), 3);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut rates = Rates::new(Rate { burst: 1, per_second: 1 });
        let start = Instant::now();
        let taken = (0..MAX_NODES + 10).filter(|_| rates.take(PeerId::random(), start)).count();
        assert_eq!(taken, MAX_NODES);
        assert!(rates.take(PeerId::random(), start + Duration::from_secs(2)), "the quiet ones were forgotten");
    }
}
