//! When to tell the mesh what of this node. Pure; the driver signs and sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capability::Capability;
use crate::catalog::register::Position;

/// A change is told after this, so that several changes at once make one advert.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Adverts are this far apart at least, whatever the providers do.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Adverts that may follow each other so closely. After them the mesh's size says how often.
const ADVERT_BURST: f64 = 8.0;

/// Adverts a second that all nodes together make in the long run, when each changes all the time. At 2 KB each, a
/// node takes and passes on some 30 KB/s of them at the very worst.
const ADVERTS_PER_SECOND: f64 = 8.0;

/// Beats within a time to live while the mesh is small: three may be lost.
const BEATS_PER_TTL: u32 = 4;

/// Beats a second that all nodes together make. A beat is some 250 bytes on each of the three or four connections that
/// pass it to a node and on from it, so that this costs each node some 2.5 KB/s in a mesh of any size.
const BEATS_PER_SECOND: f64 = 3.0;

/// Beats within a time to live in a large mesh: one may be lost even when both its neighbours come late, and what gossip
/// loses, sync makes up for.
const FEWEST_BEATS_PER_TTL: f64 = 2.4;

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
    /// Nodes in the mesh, this one among them.
    crowd: usize,
    /// Adverts that may still follow each other closely, as of the last one.
    burst: f64,
    /// Nothing is said before that: what this node can do is still being found out.
    held_until: Option<Instant>,
    changed: Option<Instant>,
    published: Option<Instant>,
    /// When anything was last said, an advert or a beat.
    said: Option<Instant>,
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
            crowd: 1,
            burst: ADVERT_BURST,
            held_until: None,
            changed: Some(now),
            published: None,
            said: None,
            beat: now + ttl,
        }
    }

    /// Says nothing before that, unless it is [let go](Self::let_go) sooner. An advert of a node that does not know yet what
    /// it can do would replace the one that others have of its former run.
    pub const fn hold(&mut self, until: Instant) {
        self.held_until = Some(until);
    }

    /// What this node can do is known.
    pub const fn let_go(&mut self) {
        self.held_until = None;
    }

    /// So many nodes are in the mesh. In a large one each says less, so that all together say no more.
    pub const fn among(&mut self, nodes: usize) {
        self.crowd = nodes;
    }

    /// How long what it says is believed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl.max(self.beat_interval().mul_f64(FEWEST_BEATS_PER_TTL))
    }

    /// Between two beats, on average.
    #[must_use]
    pub fn beat_interval(&self) -> Duration {
        (self.ttl / BEATS_PER_TTL).max(self.every(BEATS_PER_SECOND))
    }

    /// How often each does something that all together do so often.
    fn every(&self, per_second: f64) -> Duration {
        Duration::from_secs_f64(f64::from(u32::try_from(self.crowd).unwrap_or(u32::MAX)) / per_second)
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

    /// Beats sooner than it is due, though in a large mesh not at once: a hundred nodes that meet, each for each of its new
    /// neighbours, would say nothing else.
    pub fn beat_soon(&mut self, now: Instant) {
        let soon = now + SOON;
        let earliest = self.said.map_or(soon, |said| soon.max(said + self.every(BEATS_PER_SECOND)));
        self.beat = self.beat.min(earliest);
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
        let earliest = self.held_until.map_or(earliest, |until| earliest.max(until));
        let lacking = (1.0 - self.burst).max(0.0);
        let wait = MIN_INTERVAL.max(self.advert_interval().mul_f64(lacking));
        Some(self.published.map_or(earliest, |published| earliest.max(published + wait)))
    }

    /// Between two adverts, in the long run.
    fn advert_interval(&self) -> Duration {
        MIN_INTERVAL.max(self.every(ADVERTS_PER_SECOND))
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
        let gained = self.published.map_or(0.0, |published| {
            now.saturating_duration_since(published).as_secs_f64() / self.advert_interval().as_secs_f64()
        });
        self.burst = (self.burst + gained).min(ADVERT_BURST) - 1.0;
        self.changed = None;
        self.published = Some(now);
        self.beaten(now, jitter);
    }

    /// A beat went out. `jitter` is between 0 and 1.
    pub fn beaten(&mut self, now: Instant, jitter: f64) {
        self.said = Some(now);
        let interval = self.beat_interval().mul_f64(1.0 - JITTER + 2.0 * JITTER * jitter.clamp(0.0, 1.0));
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
    fn nothing_is_said_while_it_is_being_found_out_what_there_is_to_say() {
        let start = Instant::now();
        let hold = DEBOUNCE * 5;
        let mut announcer = Announcer::new(7, TTL, start);
        announcer.hold(start + hold);
        announcer.set(Vec::new(), 1, start);
        assert_eq!((announcer.advert_due(), announcer.beat_due()), (Some(start + hold), None));
        announcer.let_go();
        assert_eq!(announcer.advert_due(), Some(start + DEBOUNCE));
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
    fn new_neighbours_and_new_load_do_not_make_a_node_of_a_large_mesh_beat_all_the_time() {
        let start = Instant::now();
        for (nodes, wait) in [(1, 500), (3, 1_000), (30, 10_000)] {
            let mut announcer = Announcer::new(7, TTL, start);
            announcer.among(nodes);
            announcer.advertised(start, 0.5);
            for step in 0..10 {
                announcer.beat_soon(start + Duration::from_millis(step));
            }
            assert_eq!(announcer.beat_due(), Some(start + Duration::from_millis(wait)), "{nodes} nodes");
        }
    }

    #[test]
    fn all_nodes_together_beat_no_more_often_in_a_large_mesh_than_in_a_small_one() {
        let start = Instant::now();
        for (nodes, interval, ttl) in
            [(3, 15.0, 60.0), (45, 15.0, 60.0), (75, 25.0, 60.0), (300, 100.0, 240.0), (600, 200.0, 480.0)]
        {
            let mut announcer = Announcer::new(7, TTL, start);
            announcer.among(nodes);
            announcer.advertised(start, 0.5);
            assert_eq!(announcer.beat_due(), Some(start + Duration::from_secs_f64(interval)), "{nodes} nodes");
            assert_eq!(announcer.ttl(), Duration::from_secs_f64(ttl), "{nodes} nodes");
        }
    }

    #[test]
    fn a_node_that_changes_all_the_time_tells_it_ever_more_rarely() {
        let start = Instant::now();
        let mut announcer = Announcer::new(7, TTL, start);
        announcer.among(100);
        let (mut now, mut waits) = (start, Vec::new());
        for number in 0..12 {
            announcer.set(vec![capability(&number.to_string())], 0, now);
            let due = announcer.advert_due().expect("it changed");
            waits.push((due - now).as_secs_f64());
            now = due;
            announcer.advertised(now, 0.5);
        }
        assert!(waits[1..8].iter().all(|wait| *wait <= 1.0), "a burst is let through: {waits:?}");
        assert!(waits[10..].iter().all(|wait| (12.0..13.0).contains(wait)), "100 nodes make 8 a second: {waits:?}");
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
