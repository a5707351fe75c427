//! The time that this node's statements carry. Pure.
//!
//! Others take it to see how old a statement is, so it must pass as real time does: a clock that is set back must not
//! make this node look old to them. It follows the wall clock only forwards, which also makes up for a suspended
//! machine, whose monotonic clock stands still.

use std::time::Instant;

/// This node's time, in milliseconds.
#[derive(Debug, Default)]
pub struct OwnTime {
    /// Told by the wall clock at this moment; it has run on by itself since.
    set: Option<(u64, Instant)>,
    last_ms: u64,
}

impl OwnTime {
    /// The time now, later than every one before.
    pub fn next(&mut self, wall_ms: u64, now: Instant) -> u64 {
        let run_on = self.set.map_or(0, |(ms, at)| {
            let passed = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
            ms.saturating_add(passed)
        });
        if wall_ms > run_on {
            self.set = Some((wall_ms, now));
        }
        self.last_ms = wall_ms.max(run_on).max(self.last_ms.saturating_add(1));
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_passes_when_the_clock_is_set_back_and_follows_it_forwards() {
        let (mut time, start) = (OwnTime::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(time.next(1_000_000, start), 1_000_000);
        assert_eq!(time.next(1_000_000, start), 1_000_001, "no two are the same");
        assert_eq!(time.next(1_010_000, after(10)), 1_010_000);
        assert_eq!(time.next(400_000, after(20)), 1_020_000, "set back");
        assert_eq!(time.next(410_000, after(30)), 1_030_000);
        assert_eq!(time.next(5_000_000, after(31)), 5_000_000, "set forwards, or slept");
    }
}
