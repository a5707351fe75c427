//! Token buckets by node, so that one member cannot flood the others. Pure.

use std::collections::HashMap;
use std::time::Instant;

use crate::capability::PeerId;

/// Nodes whose rate is remembered. Beyond it the ones that have been quiet are forgotten, which does them no harm.
const MAX_NODES: usize = 4096;

/// A token bucket for each node.
#[derive(Debug)]
pub struct Rates {
    burst: f64,
    per_second: f64,
    buckets: HashMap<PeerId, (f64, Instant)>,
}

impl Rates {
    /// Buckets that hold `burst` tokens and gain `per_second`.
    #[must_use]
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self { burst: f64::from(burst), per_second: f64::from(per_second), buckets: HashMap::new() }
    }

    /// Takes a token of this node. False when there is none.
    pub fn take(&mut self, node: PeerId, now: Instant) -> bool {
        if self.buckets.len() >= MAX_NODES && !self.buckets.contains_key(&node) {
            let (burst, per_second) = (self.burst, self.per_second);
            let fill = |(tokens, at): &(f64, Instant)| {
                (tokens + now.saturating_duration_since(*at).as_secs_f64() * per_second).min(burst)
            };
            self.buckets.retain(|_, bucket| fill(bucket) < burst);
            if self.buckets.len() >= MAX_NODES {
                return false;
            }
        }
        let (tokens, at) = self.buckets.entry(node).or_insert((self.burst, now));
        let gained = now.saturating_duration_since(*at).as_secs_f64() * self.per_second;
        *tokens = (*tokens + gained).min(self.burst);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_node_may_burst_and_then_keeps_to_its_rate_and_others_are_not_touched() {
        let (noisy, quiet) = (PeerId::random(), PeerId::random());
        let mut rates = Rates::new(3, 2);
        let start = Instant::now();
        let taken = |rates: &mut Rates, at| (0..10).filter(|_| rates.take(noisy, at)).count();
        assert_eq!(taken(&mut rates, start), 3);
        assert_eq!(taken(&mut rates, start + Duration::from_secs(1)), 2);
        assert!(rates.take(quiet, start));
        assert_eq!(taken(&mut rates, start + Duration::from_secs(60)), 3);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut rates = Rates::new(1, 1);
        let start = Instant::now();
        let taken = (0..MAX_NODES + 10).filter(|_| rates.take(PeerId::random(), start)).count();
        assert_eq!(taken, MAX_NODES);
        assert!(rates.take(PeerId::random(), start + Duration::from_secs(2)), "the quiet ones were forgotten");
    }
}
