//! How much may be tried again: a share of the traffic, and a few a second however little there is.
//!
//! Without it an outage multiplies the load on whoever is left: each request is tried four times, and clients try again
//! on top. A retry, a hedge and a continuation each take one from the budget, and each request puts a part of one in.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What is there at the most: a node that dies under a household's load leaves fewer requests behind.
const MOST: f64 = 32.0;
/// What comes by itself each second, so that a mesh with one request a minute may try again too.
const PER_SECOND: f64 = 2.0;

/// How much may be tried again.
#[derive(Debug)]
pub(super) struct Budget {
    /// What a request puts in.
    share: f64,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    /// Retries up to this share of the requests; 0 allows none at all.
    pub(super) fn new(share: f64) -> Self {
        Self { share: share.clamp(0.0, 1.0), state: Mutex::new((MOST, Instant::now())) }
    }

    /// A request came.
    pub(super) fn request(&self) {
        let mut state = self.state.lock();
        state.0 = (state.0 + self.share).min(MOST);
    }

    /// Whether one more may be tried; then it is taken.
    pub(super) fn take(&self) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        let since: Duration = now.saturating_duration_since(state.1);
        state.0 = (state.0 + since.as_secs_f64() * PER_SECOND).min(MOST);
        state.1 = now;
        if state.0 < 1.0 {
            return false;
        }
        state.0 -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn in_an_outage_retries_are_a_share_of_the_requests() {
        let budget = Budget::new(0.2);
        let taken = |budget: &Budget, requests: usize| {
            (0..requests)
                .filter(|_| {
                    budget.request();
                    budget.take()
                })
                .count()
        };
        // What was saved up is spent first.
        assert!(taken(&budget, 100) >= 32);
        let taken = taken(&budget, 1000);
        assert!((190..=201).contains(&taken), "{taken} of 1000");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((0..10).filter(|_| budget.take()).count(), 4, "a quiet mesh may try again as well");
        assert!(!Budget::new(0.0).take());
    }
}
