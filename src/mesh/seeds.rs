//! How each seed fares: when to dial it, by which transport, and what to tell its owner. Pure; the driver dials.
//!
//! An attempt dials QUIC first and TCP [`HEAD_START`] later or as soon as QUIC has failed. The first that connects
//! wins. A seed that does not connect is tried again for ever, with full-jitter backoff (Brooker, "Exponential
//! Backoff And Jitter").

use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use rand::{Rng, RngExt as _};

use super::address::Seed;
use super::view::SeedView;
use crate::capability::PeerId;

/// What QUIC is ahead of TCP: a round trip across an ocean and the handshake fit in.
const HEAD_START: Duration = Duration::from_millis(300);

/// First wait after a failure.
const MIN_BACKOFF: Duration = Duration::from_secs(1);

/// Longest wait: an owner who starts the seed sees it connect within this.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Longest wait before a lost seed is dialled again by a node that has enough other neighbours: in a large mesh with
/// one seed for all, that seed has to let some go, and must not have them all back at once.
const CALM_BACKOFF: Duration = Duration::from_secs(30);

/// A seed that stays down for the same reason is told of again this rarely.
const TOLD_FOR: Duration = Duration::from_secs(6 * 3600);

/// Reasons that are remembered as told. A seed has a few, by turns, and none is told with each attempt.
const MAX_TOLD: usize = 8;

/// Names a seed within [`Seeds`].
pub type SeedIndex = usize;

/// Something to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// For which seed.
    pub seed: SeedIndex,
    /// Where.
    pub address: Multiaddr,
    /// Who must answer, if that is known from the owner.
    pub node: Option<PeerId>,
}

/// What a connection to a seed means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    /// The seed is connected now.
    New {
        /// The node that answered there before, when that was another one.
        instead_of: Option<PeerId>,
    },
    /// It was connected already: this connection is one too many.
    Already,
}

/// Why a dial failed.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// In words.
    pub text: &'a str,
    /// Whether a node answered there, and yet it came to nothing.
    pub answered: bool,
}

/// What a failed attempt means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The seed, the cause and the way out.
    pub text: String,
    /// Whether the owner has not been told of it, or long ago.
    pub is_news: bool,
}

/// All seeds.
#[derive(Debug, Default)]
pub struct Seeds(Vec<State>);

#[derive(Debug)]
struct State {
    seed: Seed,
    phase: Phase,
    node: Option<PeerId>,
    error: Option<String>,
    failures: u32,
    /// Errors that the owner was told of since the seed was last connected, and when.
    told: Vec<(String, Instant)>,
}

#[derive(Debug)]
enum Phase {
    Waiting { until: Instant },
    Dialling { under_way: u8, later: Option<(Multiaddr, Instant)>, failed: bool },
    Connected,
    Itself,
}

impl Seeds {
    /// Adds a seed, to be dialled at once; the one it already is when it is written the same.
    pub fn add(&mut self, seed: Seed, now: Instant) -> SeedIndex {
        if let Some(known) = self.0.iter().position(|state| state.seed.as_str() == seed.as_str()) {
            if let Phase::Waiting { until } = &mut self.0[known].phase {
                *until = now;
            }
            return known;
        }
        self.0.push(State {
            seed,
            phase: Phase::Waiting { until: now },
            node: None,
            error: None,
            failures: 0,
            told: Vec::new(),
        });
        self.0.len() - 1
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this one is among them, written the same.
    #[must_use]
    pub fn knows(&self, seed: &Seed) -> bool {
        self.0.iter().any(|state| state.seed.as_str() == seed.as_str())
    }

    /// What is to be dialled now.
    pub fn due(&mut self, now: Instant) -> Vec<Dial> {
        let mut dials = Vec::new();
        for (index, state) in self.0.iter_mut().enumerate() {
            let address = match &mut state.phase {
                Phase::Waiting { until } if *until <= now => {
                    let [first, rest @ ..] = state.seed.addresses() else { continue };
                    let later = rest.first().map(|address| (address.clone(), now + HEAD_START));
                    state.phase = Phase::Dialling { under_way: 1, later, failed: false };
                    first.clone()
                }
                Phase::Dialling { under_way, later, .. } => match later.take_if(|(_, at)| *at <= now) {
                    Some((address, _)) => {
                        *under_way += 1;
                        address
                    }
                    None => continue,
                },
                _ => continue,
            };
            dials.push(Dial { seed: index, address, node: state.seed.node() });
        }
        dials
    }

    /// When [`Seeds::due`] has something next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let due = |state: &State| match &state.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Dialling { later, .. } => later.as_ref().map(|(_, at)| *at),
            Phase::Connected | Phase::Itself => None,
        };
        self.0.iter().filter_map(due).min()
    }

    /// A dial of this seed connected to this node.
    pub fn connected(&mut self, seed: SeedIndex, node: PeerId) -> Option<Connected> {
        let state = self.0.get_mut(seed)?;
        if matches!(state.phase, Phase::Connected) && state.node == Some(node) {
            return Some(Connected::Already);
        }
        let before = state.node.replace(node);
        state.phase = Phase::Connected;
        state.error = None;
        state.failures = 0;
        state.told.clear();
        Some(Connected::New { instead_of: before.filter(|before| *before != node) })
    }

    /// A dial of this seed failed. Returns the error to report when that was the attempt's last hope.
    pub fn failed(&mut self, seed: SeedIndex, why: Cause<'_>, now: Instant, rng: &mut impl Rng) -> Option<Failed> {
        let state = self.0.get_mut(seed)?;
        let Phase::Dialling { under_way, later, failed } = &mut state.phase else {
            return None;
        };
        *under_way = under_way.saturating_sub(1);
        // The first cause of an attempt stands: a refusal says more than the timeout of the other transport,
        // and comes sooner.
        if !std::mem::replace(failed, true) {
            state.error = None;
        }
        let error = state.error.get_or_insert_with(|| explain(&state.seed, why));
        if *under_way > 0 || later.is_some() {
            if let Some((_, at)) = later {
                *at = now;
            }
            return None;
        }
        let error = error.clone();
        let longest = MIN_BACKOFF.saturating_mul(1 << state.failures.min(16)).min(MAX_BACKOFF);
        state.failures = state.failures.saturating_add(1);
        // Never less than half a second, so that an unlucky draw is no busy loop.
        let wait = longest.mul_f64(rng.random_range(0.0..1.0)).max(MIN_BACKOFF / 2);
        state.phase = Phase::Waiting { until: now + wait };
        Some(Failed { is_news: state.tell(&error, now), text: error })
    }

    /// Whether this seed is known to be this node.
    #[must_use]
    pub fn known_as_itself(&self, seed: SeedIndex) -> bool {
        self.0.get(seed).is_some_and(|state| matches!(state.phase, Phase::Itself))
    }

    /// How many are connected.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.0.iter().filter(|state| matches!(state.phase, Phase::Connected)).count()
    }

    /// This seed is this node: noted, and never dialled again.
    pub fn is_itself(&mut self, seed: SeedIndex) {
        if let Some(state) = self.0.get_mut(seed) {
            state.phase = Phase::Itself;
            state.error = None;
        }
    }

    /// The last connection to this node is gone: its seeds are dialled again, at once when this node is in need of one.
    pub fn disconnected(&mut self, node: PeerId, in_need: bool, now: Instant, rng: &mut impl Rng) {
        let longest = if in_need { MIN_BACKOFF } else { CALM_BACKOFF };
        for state in &mut self.0 {
            if matches!(state.phase, Phase::Connected) && state.node == Some(node) {
                let wait = longest.mul_f64(rng.random_range(0.2..1.0));
                state.phase = Phase::Waiting { until: now + wait };
            }
        }
    }

    /// Whether this node is a seed that is connected.
    #[must_use]
    pub fn is_connected(&self, node: &PeerId) -> bool {
        self.0.iter().any(|state| matches!(state.phase, Phase::Connected) && state.node.as_ref() == Some(node))
    }

    /// The node that this seed is connected to.
    #[must_use]
    pub fn node(&self, seed: SeedIndex) -> Option<PeerId> {
        let state = self.0.get(seed)?;
        matches!(state.phase, Phase::Connected).then_some(state.node).flatten()
    }

    /// As the owner wrote it.
    #[must_use]
    pub fn text(&self, seed: SeedIndex) -> &str {
        self.0.get(seed).map_or("", |state| state.seed.as_str())
    }

    /// How they fare.
    #[must_use]
    pub fn views(&self) -> Vec<SeedView> {
        self.0
            .iter()
            .map(|state| SeedView {
                seed: state.seed.to_string(),
                node: state.node.map(|node| node.to_base58()),
                connected: matches!(state.phase, Phase::Connected),
                error: match state.phase {
                    Phase::Itself => Some("this seed is this node itself; it is left out".to_owned()),
                    _ => state.error.clone(),
                },
            })
            .collect()
    }
}

impl State {
    /// Whether to tell the owner of this error, which then counts as told.
    fn tell(&mut self, error: &str, now: Instant) -> bool {
        self.told.retain(|(_, at)| now.saturating_duration_since(*at) < TOLD_FOR);
        if self.told.len() >= MAX_TOLD || self.told.iter().any(|(told, _)| told == error) {
            return false;
        }
        self.told.push((error.to_owned(), now));
        true
    }
}

fn explain(seed: &Seed, why: Cause<'_>) -> String {
    let Cause { text: why, answered } = why;
    match seed.port() {
        _ if answered => format!("cannot join by seed {seed}: {why}"),
        Some(port) => {
            format!("cannot reach seed {seed}: {why} (is atmosphere running there, and is UDP/TCP {port} open?)")
        }
        None => format!("cannot reach seed {seed}: {why} (is atmosphere running there?)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    struct Bench {
        seeds: Seeds,
        rng: StdRng,
        now: Instant,
    }

    fn bench() -> Bench {
        let mut bench = Bench { seeds: Seeds::default(), rng: StdRng::seed_from_u64(7), now: Instant::now() };
        bench.seeds.add("10.0.0.7:11450".parse().expect("a seed"), bench.now);
        bench
    }

    impl Bench {
        fn due(&mut self) -> Vec<String> {
            self.seeds.due(self.now).into_iter().map(|dial| dial.address.to_string()).collect()
        }

        fn fail(&mut self, why: &str) -> Option<String> {
            self.fails(why).map(|failed| failed.text)
        }

        fn fails(&mut self, text: &str) -> Option<Failed> {
            self.seeds.failed(0, Cause { text, answered: false }, self.now, &mut self.rng)
        }
    }

    #[test]
    fn tcp_is_dialled_when_quic_has_had_its_head_start() {
        let mut bench = bench();
        assert_eq!(bench.due(), ["/ip4/10.0.0.7/udp/11450/quic-v1"]);
        assert!(bench.due().is_empty());
        assert_eq!(bench.seeds.next_due(), Some(bench.now + HEAD_START));
        bench.now += HEAD_START;
        assert_eq!(bench.due(), ["/ip4/10.0.0.7/tcp/11450"]);
        assert_eq!(bench.seeds.next_due(), None);
    }

    #[test]
    fn tcp_is_dialled_at_once_when_quic_has_failed() {
        let mut bench = bench();
        bench.due();
        assert_eq!(bench.fail("connection refused"), None);
        assert_eq!(bench.due(), ["/ip4/10.0.0.7/tcp/11450"]);
    }

    #[test]
    fn a_seed_that_does_not_answer_is_explained_and_tried_for_ever() {
        let mut bench = bench();
        for _ in 0..40 {
            bench.now = bench.seeds.next_due().expect("tried again");
            bench.due();
            assert_eq!(bench.fail("connection refused"), None);
            bench.due();
            let error = bench.fail("timed out").expect("the last hope");
            assert_eq!(
                error,
                "cannot reach seed 10.0.0.7:11450: connection refused (is atmosphere running there, and is UDP/TCP \
                 11450 open?)"
            );
            assert_eq!(bench.seeds.views()[0].error.as_deref(), Some(error.as_str()));
            let wait = bench.seeds.next_due().expect("tried again") - bench.now;
            assert!(wait >= MIN_BACKOFF / 2 && wait <= MAX_BACKOFF, "{wait:?}");
        }
    }

    #[test]
    fn a_seed_that_stays_down_is_told_of_once_for_each_cause() {
        let mut bench = bench();
        let mut attempt = |why: &str| {
            bench.now = bench.seeds.next_due().expect("tried again");
            bench.due();
            bench.fail(why);
            bench.due();
            bench.fails(why).expect("the last hope").is_news
        };
        assert!(attempt("connection refused"));
        assert!(!attempt("connection refused"));
        assert!(attempt("timed out"));
        for _ in 0..20 {
            assert!(!attempt("connection refused") && !attempt("timed out"));
        }
        bench.now += TOLD_FOR;
        bench.due();
        bench.fail("timed out");
        bench.due();
        assert!(bench.fails("timed out").expect("the last hope").is_news, "rarely, it is");
        bench.now = bench.seeds.next_due().expect("tried again");
        bench.due();
        let node = PeerId::random();
        bench.seeds.connected(0, node);
        bench.seeds.disconnected(node, true, bench.now, &mut bench.rng);
        bench.now = bench.seeds.next_due().expect("tried again");
        bench.due();
        bench.fail("timed out");
        bench.due();
        assert!(bench.fails("timed out").expect("the last hope").is_news, "it was up in between");
    }

    #[test]
    fn a_seed_that_refuses_is_not_asked_whether_it_runs() {
        let mut bench = bench();
        bench.due();
        let refused = Cause { text: "not admitted", answered: true };
        bench.seeds.failed(0, refused, bench.now, &mut bench.rng);
        bench.due();
        let failed = bench.seeds.failed(0, refused, bench.now, &mut bench.rng).expect("the last hope");
        assert_eq!(failed.text, "cannot join by seed 10.0.0.7:11450: not admitted");
    }

    #[test]
    fn the_first_connection_wins_and_the_other_is_one_too_many() {
        let mut bench = bench();
        let node = PeerId::random();
        bench.due();
        bench.now += HEAD_START;
        bench.due();
        assert_eq!(bench.seeds.connected(0, node), Some(Connected::New { instead_of: None }));
        assert_eq!(bench.seeds.connected(0, node), Some(Connected::Already));
        assert_eq!(bench.seeds.node(0), Some(node));
        assert_eq!(bench.fail("late"), None, "a late failure changes nothing");
        assert!(bench.seeds.views()[0].connected);
    }

    #[test]
    fn a_lost_seed_is_dialled_again_and_a_changed_node_is_noticed() {
        let mut bench = bench();
        let (before, after) = (PeerId::random(), PeerId::random());
        bench.due();
        bench.seeds.connected(0, before);
        bench.seeds.disconnected(before, true, bench.now, &mut bench.rng);
        assert!(!bench.seeds.views()[0].connected);
        bench.now = bench.seeds.next_due().expect("tried again");
        assert_eq!(bench.due().len(), 1);
        assert_eq!(bench.seeds.connected(0, after), Some(Connected::New { instead_of: Some(before) }));
    }

    #[test]
    fn a_seed_that_is_this_node_is_left_out() {
        let mut bench = bench();
        bench.due();
        bench.seeds.is_itself(0);
        bench.now += MAX_BACKOFF;
        assert!(bench.due().is_empty());
        assert_eq!(bench.seeds.next_due(), None);
        assert!(bench.seeds.views()[0].error.as_deref().expect("noted").contains("itself"));
    }
}
