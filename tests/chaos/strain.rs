//! How busy the machine is with other things, so that the program is not blamed for it.
//!
//! A thread does a little work ten times a second, and compares how long that took with the processor's time that it got,
//! and how late it was woken. Limits of time are stretched by what it saw; nothing else is forgiven.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

const EVERY: Duration = Duration::from_millis(100);
/// What is remembered: the longest that anything is waited for.
const REMEMBERED: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    late: Duration,
    slowdown: f64,
}

/// Watches the machine until it is dropped.
#[derive(Debug)]
pub struct Strain {
    looks: Arc<Mutex<VecDeque<Look>>>,
    ended: Arc<AtomicBool>,
}

impl Strain {
    /// Begins to watch.
    pub fn watch() -> Self {
        let (looks, ended) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(AtomicBool::new(false)));
        let watched = (Arc::clone(&looks), Arc::clone(&ended));
        std::thread::spawn(move || {
            let (looks, ended) = watched;
            while !ended.load(Ordering::Relaxed) {
                let look = look();
                let mut looks = looks.lock();
                looks.push_back(look);
                while looks.front().is_some_and(|oldest| oldest.at.elapsed() > REMEMBERED) {
                    looks.pop_front();
                }
            }
        });
        Self { looks, ended }
    }

    /// What is promised within `limit` may have taken so long, begun then, for no fault of the program: work takes as
    /// much longer as work took here, and a few wake-ups in a row may each be late.
    pub fn allows(&self, limit: Duration, since: Instant) -> Duration {
        let looks = self.looks.lock();
        let of: Vec<Look> = looks.iter().filter(|look| look.at >= since).copied().collect();
        if of.is_empty() {
            return limit;
        }
        let slowdown = of.iter().map(|look| look.slowdown).sum::<f64>() / of.len() as f64;
        let late = of.iter().map(|look| look.late).max().unwrap_or_default();
        limit.mul_f64(slowdown.clamp(1.0, 8.0)) + (late * 4).min(limit * 2)
    }

    /// Of the last two minutes, in one line.
    pub fn summary(&self) -> String {
        let looks = self.looks.lock();
        let mut slowdowns: Vec<f64> = looks.iter().map(|look| look.slowdown).collect();
        slowdowns.sort_by(f64::total_cmp);
        let at = |share: usize| slowdowns.get(slowdowns.len() * share / 100).copied().unwrap_or(1.0);
        let late = looks.iter().map(|look| look.late).max().unwrap_or_default();
        format!("work took {:.1} times its time (p90 {:.1}), wake-ups came up to {late:.0?} late", at(50), at(90))
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn look() -> Look {
    let slept = Instant::now();
    std::thread::sleep(EVERY);
    let late = slept.elapsed().saturating_sub(EVERY);
    let (wall, own) = (Instant::now(), own_time());
    let mut number = 1_u64;
    // Two milliseconds of the processor: less than a slice, so that mostly it is all or nothing.
    while own_time().saturating_sub(own) < Duration::from_millis(2) {
        for _ in 0..1000 {
            number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
        }
    }
    let spent = own_time().saturating_sub(own).as_secs_f64().max(0.001);
    Look { at: wall, late, slowdown: (wall.elapsed().as_secs_f64() / spent).max(1.0) }
}

/// What this thread has had of the processor.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
