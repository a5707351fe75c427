//! Keeps the runtime's clock awake while calls come.
//!
//! A call sets a timer for its first heartbeat. When that is the next timer of all, the runtime is woken to look at its
//! clock anew, which costs a system call and a turn of the loop for each call. A timer that is always nearer, ten times a
//! second while there are calls, spares all of them that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Nearer than any timer of a call, and rare enough to cost nothing.
const EVERY: Duration = Duration::from_millis(100);
/// Beats without a call after which it rests.
const REST_AFTER: u32 = 10;

/// Keeps the runtime's clock awake while calls come.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    calls: AtomicU64,
    beats: AtomicBool,
}

impl Pulse {
    /// A call has come.
    pub(super) fn beat(self: &Arc<Self>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.beats.load(Ordering::Relaxed) || self.beats.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            self.beats.store(false, Ordering::Release);
            return;
        };
        let pulse = Arc::clone(self);
        runtime.spawn(async move {
            let (mut seen, mut quiet) = (0, 0);
            while quiet < REST_AFTER {
                tokio::time::sleep(EVERY).await;
                let calls = pulse.calls.load(Ordering::Relaxed);
                quiet = if calls == seen { quiet + 1 } else { 0 };
                seen = calls;
            }
            // A call that comes just now finds it beating, and the next one starts it again.
            pulse.beats.store(false, Ordering::Release);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_while_calls_come_and_rests_when_they_do_not() {
        let pulse = Arc::new(Pulse::default());
        pulse.beat();
        for _ in 0..20 {
            tokio::time::sleep(EVERY * 3).await;
            assert!(pulse.beats.load(Ordering::Relaxed));
            pulse.beat();
        }
        tokio::time::sleep(EVERY * (REST_AFTER + 2)).await;
        assert!(!pulse.beats.load(Ordering::Relaxed));
        pulse.beat();
        assert!(pulse.beats.load(Ordering::Relaxed), "and again");
    }
}
