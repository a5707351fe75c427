//! How old a statement is when it comes, although no two clocks agree.
//!
//! A node's statements carry the node's own time. Of all that came, one had the least delay; measured from that one, a
//! later statement that comes later than its time says was held up on the way, and by how much is its age. Clocks may
//! differ by years. What remains is the least delay itself, milliseconds, so that an age is never too great.

use std::time::{Duration, Instant};

/// Clocks drift apart: the least delay is forgotten by this part of the time that passes, ten times the drift of a bad
/// crystal.
const DRIFT: i64 = 1000;

/// A second statement that came so long after the first, and is not older by more than half of that, shows that the
/// node's time runs here as it passes.
const STEADY_AFTER: Duration = Duration::from_secs(1);

/// How a node's time runs, as far as it is known from its statements.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// Of those that the node told.
    heard: Option<Sample>,
    /// Of those that others passed on, with an age of theirs.
    told: Option<Sample>,
    /// What was heard is enough to judge by, and what others say of ages does not matter.
    steady: bool,
}

/// A statement that came with little delay.
#[derive(Debug, Clone, Copy)]
struct Sample {
    issued_at_ms: u64,
    at: Instant,
}

impl Sample {
    /// Milliseconds by which a statement came later than this one, by what its time says.
    fn delay_ms(self, issued_at_ms: u64, at: Instant) -> i64 {
        let passed = match at.checked_duration_since(self.at) {
            Some(passed) => signed(passed.as_millis()),
            None => -signed(self.at.saturating_duration_since(at).as_millis()),
        };
        let advanced = signed(issued_at_ms.into()).saturating_sub(signed(self.issued_at_ms.into()));
        (passed - passed.max(0) / DRIFT).saturating_sub(advanced)
    }
}

fn signed(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn keep_least(least: &mut Option<Sample>, issued_at_ms: u64, at: Instant) {
    if least.is_none_or(|least| least.delay_ms(issued_at_ms, at) <= 0) {
        *least = Some(Sample { issued_at_ms, at });
    }
}

impl Pace {
    /// How old a statement of this time is now.
    pub(super) fn age(&self, issued_at_ms: u64, now: Instant) -> Duration {
        // After a leap of the node's clock, what was heard before tells nothing.
        let told = self.told.filter(|_| !(self.steady && self.can_judge(issued_at_ms, now)));
        let delays = [self.heard, told].into_iter().flatten().map(|sample| sample.delay_ms(issued_at_ms, now));
        Duration::from_millis(delays.max().and_then(|delay| u64::try_from(delay).ok()).unwrap_or_default())
    }

    /// Whether the age of a statement of this time can be told: there is something to measure it by, and the node's clock
    /// has not leapt since.
    pub(super) fn can_judge(&self, issued_at_ms: u64, now: Instant) -> bool {
        const LEAP_MS: i64 = -1000;
        self.heard.is_some_and(|heard| heard.delay_ms(issued_at_ms, now) > LEAP_MS)
    }

    /// The node told it by gossip; `directly` when nobody was in between. Returns its age.
    pub(super) fn hear(&mut self, issued_at_ms: u64, directly: bool, now: Instant) -> Duration {
        if let Some(first) = self.heard {
            let passed = now.saturating_duration_since(first.at);
            let delay = first.delay_ms(issued_at_ms, now);
            self.steady |= passed >= STEADY_AFTER && delay <= signed(passed.as_millis() / 2);
        }
        self.steady |= directly;
        let is_new = directly && !self.can_judge(issued_at_ms, now);
        let age = if is_new { Duration::ZERO } else { self.age(issued_at_ms, now) };
        keep_least(&mut self.heard, issued_at_ms, now);
        age
    }

    /// Somebody passed it on and says that it was made so long ago. Returns its age.
    pub(super) fn tell(&mut self, issued_at_ms: u64, ago: Duration, now: Instant) -> Duration {
        // After a leap of the node's clock its own time tells nothing.
        if self.steady && self.can_judge(issued_at_ms, now) {
            return self.age(issued_at_ms, now);
        }
        keep_least(&mut self.told, issued_at_ms, now.checked_sub(ago).unwrap_or(now));
        self.age(issued_at_ms, now).max(ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_held_up_is_as_old_as_its_node_says_whatever_the_clocks_say() {
        for clock in [0, 5_000_000_000_000_u64] {
            let (mut pace, start) = (Pace::default(), Instant::now());
            assert_eq!(pace.hear(clock, false, start), Duration::ZERO, "nothing to measure it by");
            assert_eq!(pace.hear(clock + 10_000, false, start + SECOND * 10), Duration::ZERO);
            let age = pace.hear(clock + 12_000, false, start + SECOND * 21);
            assert!(age.abs_diff(SECOND * 9) <= Duration::from_millis(20), "{age:?}");
            // One that came faster than any before is what the next are measured by.
            assert_eq!(pace.hear(clock + 22_500, false, start + SECOND * 22), Duration::ZERO);
            let age = pace.age(clock + 23_000, start + SECOND * 23);
            assert!(age.abs_diff(SECOND / 2) <= Duration::from_millis(2), "{age:?}");
        }
    }

    #[test]
    fn clocks_that_drift_do_not_make_a_node_old() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        // Two hundred parts in a million slow, for four days.
        for beat in 0..23_040_u32 {
            let issued = u64::from(beat) * 15_000 * 999_800 / 1_000_000;
            let age = pace.hear(issued, false, start + SECOND * 15 * beat);
            assert!(age < SECOND / 10, "{age:?} at beat {beat}");
        }
    }

    #[test]
    fn a_newcomer_believes_others_about_ages_until_it_can_judge_itself() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.tell(1_000, SECOND * 20, start), SECOND * 20);
        let age = pace.hear(5_000, false, start);
        assert!(age.abs_diff(SECOND * 16) < SECOND / 10, "{age:?}: passed on late by a node that stood still");
        // But a node whose beats come as time passes is alive now, whatever was said.
        let age = pace.hear(20_000, false, start + SECOND * 15);
        assert!(age < SECOND, "{age:?}");
        let mut pace = Pace::default();
        pace.tell(1_000, SECOND * 20, start);
        assert_eq!(pace.hear(5_000, true, start), Duration::ZERO, "it says so itself");
        // Its clock was set forwards by an hour, and what is passed on is half a minute old. So it is when it is passed on again.
        let now = start + SECOND * 30;
        assert_eq!(pace.tell(3_605_000, SECOND * 30, now), SECOND * 30);
        let age = pace.age(3_605_000, now + SECOND * 10);
        assert!(age.abs_diff(SECOND * 40) < SECOND / 10, "{age:?}");
        assert_eq!(pace.hear(3_645_000, true, now + SECOND * 11), Duration::ZERO, "it says so itself");
        let age = pace.age(3_645_000, now + SECOND * 12);
        assert!(age.abs_diff(SECOND) < SECOND / 10, "{age:?}");
    }
}
