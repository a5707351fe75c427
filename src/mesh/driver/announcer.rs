//! When to tell the mesh what of this node. Pure; the driver signs and sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capability::Capability;
use crate::catalog::register::Position;

/// A change is told after this, so that several changes at once make one advert.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Adverts are this far apart at least, whatever the providers do.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Beats within a time to live: three may be lost.
const BEATS_PER_TTL: u32 = 4;

/// How far a beat may be off, so that nodes that started together do not beat together.
const JITTER: f64 = 0.2;

/// A new neighbour hears a beat this soon, when what it learns by sync is there already.
const SOON: Duration = Duration::from_millis(500);

/// What this node says of itself, and when.
#[derive(Debug)]
pub struct Announcer {
    /// What it can do.
    pub capabilities: Arc<[Arc<Capability>]>,
    /// How busy it is.
    pub load: u8,
    position: Position,
    ttl: Duration,
    changed: Option<Instant>,
    published: Option<Instant>,
    beat: Instant,
}

impl Announcer {
    /// A node that can do nothing yet, which is told too.
    #[must_use]
    pub fn new(epoch: u64, ttl: Duration, now: Instant) -> Self {
        Self {
            capabilities: Arc::default(),
            load: 0,
            position: Position { epoch, seq: 0 },
            ttl,
            changed: Some(now),
            published: None,
            beat: now + ttl,
        }
    }

    /// How long what it says is believed.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Where its last advert stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// What it can do, and how busy it is, is now this.
    pub fn set(&mut self, capabilities: Vec<Arc<Capability>>, load: u8, now: Instant) {
        if *self.capabilities != *capabilities {
            self.capabilities = capabilities.into();
            self.touch(now);
        }
        if self.load != load {
            self.load = load;
            // A beat carries the load, and is a tenth of an advert.
            self.beat_soon(now);
        }
    }

    /// Something else in the advert changed.
    pub fn touch(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    /// Beats sooner than it is due.
    pub fn beat_soon(&mut self, now: Instant) {
        self.beat = self.beat.min(now + SOON);
    }

    /// Begins a new incarnation.
    pub fn jump(&mut self, epoch: u64, now: Instant) {
        self.position = Position { epoch, seq: 0 };
        self.touch(now);
    }

    /// When an advert is due.
    #[must_use]
    pub fn advert_due(&self) -> Option<Instant> {
        let earliest = self.changed? + DEBOUNCE;
        Some(self.published.map_or(earliest, |published| earliest.max(published + MIN_INTERVAL)))
    }

    /// When a beat is due; none before the first advert.
    #[must_use]
    pub fn beat_due(&self) -> Option<Instant> {
        self.published.map(|_| self.beat)
    }

    /// The position of the statement that is made now.
    pub fn advance(&mut self) -> Position {
        self.position.seq += 1;
        self.position
    }

    /// An advert went out. `jitter` is between 0 and 1.
    pub fn advertised(&mut self, now: Instant, jitter: f64) {
        self.changed = None;
        self.published = Some(now);
        self.beaten(now, jitter);
    }

    /// A beat went out. `jitter` is between 0 and 1.
    pub fn beaten(&mut self, now: Instant, jitter: f64) {
        let interval = (self.ttl / BEATS_PER_TTL).mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter.clamp(0.0, 1.0));
        self.beat = now + interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Kind;

    const TTL: Duration = Duration::from_secs(60);

    fn capability(name: &str) -> Arc<Capability> {
        Arc::new(Capability::new("test", Kind::LLM_CHAT, name))
    }

    #[test]
    fn changes_are_gathered_and_adverts_are_a_second_apart() {
        let start = Instant::now();
        let mut announcer = Announcer::new(7, TTL, start);
        assert_eq!(announcer.beat_due(), None);
        announcer.set(vec![capability("a")], 0, start + DEBOUNCE / 2);
        assert_eq!(announcer.advert_due(), Some(start + DEBOUNCE));
        assert_eq!(announcer.advance(), Position { epoch: 7, seq: 1 });
        let published = start + DEBOUNCE;
        announcer.advertised(published, 0.5);
        assert_eq!(announcer.advert_due(), None);
        announcer.set(vec![capability("a")], 0, published);
        assert_eq!(announcer.advert_due(), None, "nothing changed");
        announcer.set(vec![capability("b")], 0, published);
        assert_eq!(announcer.advert_due(), Some(published + MIN_INTERVAL));
    }

    #[test]
    fn load_travels_with_a_beat_and_beats_come_four_to_a_life() {
        let start = Instant::now();
        let mut announcer = Announcer::new(7, TTL, start);
        announcer.advertised(start, 0.5);
        assert_eq!(announcer.beat_due(), Some(start + TTL / 4));
        announcer.set(Vec::new(), 3, start);
        assert_eq!((announcer.advert_due(), announcer.beat_due()), (None, Some(start + SOON)));
        for (jitter, share) in [(0.0, 0.8), (1.0, 1.2)] {
            announcer.beaten(start, jitter);
            let wait = announcer.beat_due().expect("due") - start;
            assert!(wait.abs_diff((TTL / 4).mul_f64(share)) < Duration::from_millis(1), "{wait:?}");
        }
    }

    #[test]
    fn a_jump_begins_a_new_incarnation() {
        let start = Instant::now();
        let mut announcer = Announcer::new(7, TTL, start);
        announcer.advance();
        announcer.advertised(start, 0.5);
        announcer.jump(9, start);
        assert!(announcer.advert_due().is_some());
        assert_eq!(announcer.advance(), Position { epoch: 9, seq: 1 });
    }
}
