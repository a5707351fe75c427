//! Who has failed rests for a while: 1 s, then 2, 4, … 60 s, with jitter, until a call succeeds. An error that may be the
//! request's own fault counts only when it is one of several in a row.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// The first rest: long enough that a retrying client does not hammer, short enough that nobody minds.
const BASE: Duration = Duration::from_secs(1);
/// The longest rest: one lost request a minute is what finding out costs.
pub(super) const CAP: Duration = Duration::from_secs(60);
/// Doublings up to the cap.
const MAX_DOUBLINGS: u32 = 6;

/// Requests in a row that may have been at fault themselves, and after which that is no longer believed. An SDK sends a bad
/// request three times before it gives up; nobody else shall suffer from that.
const DOUBTS: u32 = 4;

/// The failures in a row of one node or one of its capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cooldown {
    failures: u32,
    doubts: u32,
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Cooldown {
    /// A call that began at `began` failed at `now`. Calls that were under way when the rest began say nothing new.
    ///
    /// `seed` tells nodes and capabilities apart, so that they do not all come back at once.
    pub(super) fn fail(&mut self, began: Instant, now: Instant, seed: impl Hash) {
        if self.since.is_some_and(|since| began < since) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = BASE * 2u32.pow((self.failures - 1).min(MAX_DOUBLINGS));
        self.since = Some(now);
        self.rest(now, jittered(backoff.min(CAP), self.failures, seed));
    }

    /// A call failed, and it may be the request's own fault: one such says nothing, several in a row do.
    pub(super) fn doubt(&mut self, began: Instant, now: Instant, seed: impl Hash) {
        self.doubts = self.doubts.saturating_add(1);
        if self.doubts >= DOUBTS {
            self.fail(began, now, seed);
        }
    }

    /// It said itself when to come again. That is no failure: the next rest is not longer for it.
    pub(super) fn rest(&mut self, now: Instant, wait: Duration) {
        let until = now + wait.min(CAP);
        self.until = Some(self.until.map_or(until, |old| old.max(until)));
    }

    /// A call succeeded: all is forgotten.
    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// What failed is another one now, as when a node was started anew. What is still under way says nothing of it.
    pub(super) fn forgive(&mut self, now: Instant) {
        *self = Self { since: Some(now), ..Self::default() };
    }

    /// How long it rests still.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Failures in a row.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }
}

/// Between three quarters and the whole of it. By hash and not by chance, so that a decision can be repeated.
fn jittered(backoff: Duration, failures: u32, seed: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    (seed, failures).hash(&mut hasher);
    let fraction = (hasher.finish() % 1024) as f64 / 1024.0;
    backoff.mul_f64(0.75 + 0.25 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_the_cap_and_a_success_ends_them() {
        let mut now = Instant::now();
        let mut cooldown = Cooldown::default();
        let mut rests = Vec::new();
        for _ in 0..9 {
            cooldown.fail(now, now, "a");
            let rest = cooldown.remaining(now).expect("it rests");
            rests.push(rest);
            now += rest;
            assert_eq!(cooldown.remaining(now), None, "it may be tried again");
        }
        for (index, rest) in rests.iter().enumerate() {
            let whole = BASE * 2u32.pow((index as u32).min(6));
            let whole = whole.min(CAP);
            assert!(*rest <= whole && *rest >= whole.mul_f64(0.75), "{index}: {rest:?} of {whole:?}");
        }
        cooldown.succeed();
        cooldown.fail(now, now, "a");
        assert!(cooldown.remaining(now).expect("rests") <= BASE);
    }

    #[test]
    fn calls_that_were_under_way_count_once() {
        let began = Instant::now();
        let now = began + Duration::from_secs(1);
        let mut cooldown = Cooldown::default();
        for _ in 0..10 {
            cooldown.fail(began, now, "a");
        }
        assert_eq!(cooldown.failures(), 1);
    }

    #[test]
    fn a_new_run_is_not_blamed_for_the_last_one() {
        let began = Instant::now();
        let now = began + Duration::from_secs(1);
        let mut cooldown = Cooldown::default();
        (0..3).for_each(|_| cooldown.fail(began, now, "a"));
        cooldown.forgive(now);
        assert_eq!((cooldown.remaining(now), cooldown.failures()), (None, 0));
        cooldown.fail(began, now, "a");
        assert_eq!(cooldown.remaining(now), None, "that call went to the last run");
        cooldown.fail(now, now, "a");
        assert!(cooldown.remaining(now).is_some());
    }

    #[test]
    fn a_request_that_may_be_bad_itself_rests_nobody_until_it_is_the_fourth_in_a_row() {
        let now = Instant::now();
        let mut cooldown = Cooldown::default();
        for _ in 0..DOUBTS - 1 {
            cooldown.doubt(now, now, "a");
        }
        assert_eq!(cooldown.remaining(now), None);
        cooldown.succeed();
        for _ in 0..DOUBTS - 1 {
            cooldown.doubt(now, now, "a");
        }
        assert_eq!(cooldown.remaining(now), None, "a success in between restores the trust");
        cooldown.doubt(now, now, "a");
        let rest = cooldown.remaining(now).expect("it rests");
        let later = now + rest;
        cooldown.doubt(later, later, "a");
        assert!(cooldown.remaining(later).expect("it rests again, and longer") > rest);
    }

    #[test]
    fn retry_after_is_honoured_and_does_not_escalate() {
        let now = Instant::now();
        let mut cooldown = Cooldown::default();
        cooldown.rest(now, Duration::from_secs(7));
        assert_eq!(cooldown.remaining(now), Some(Duration::from_secs(7)));
        assert_eq!(cooldown.failures(), 0);
        cooldown.rest(now, Duration::from_secs(86_400));
        assert_eq!(cooldown.remaining(now), Some(CAP), "nobody is banned for a day by a header");
    }
}
