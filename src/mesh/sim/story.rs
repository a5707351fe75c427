//! What befalls the nodes, and what must hold meanwhile and afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use super::node::{MAX_STANDSTILL_MS, State};
use super::world::World;
use crate::capability::PeerId;
use crate::catalog::register::Position;

/// All have started, and know each other, by then.
const CALM_MS: u64 = 40_000;
/// Things happen for so long.
const TROUBLE_MS: u64 = 150_000;
/// Chance that a message is lost while they happen.
const LOSS: f64 = 0.08;
/// What a look at the time, the way of a message, and a node that has just stood still may add to a life: one that stood
/// still for less than four seconds takes what it then hears for new.
const MARGIN_MS: u64 = 5000;
/// How long after the last life has run out all must agree.
const AGREE_MS: u64 = 60_000;
/// How long they must agree then.
const STAY_MS: u64 = 60_000;

/// How a run went.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) nodes: usize,
    /// After the last start, until all knew all.
    pub(super) met_ms: u64,
    /// After the last trouble, until every advert of every living node was everywhere.
    pub(super) known_ms: u64,
    /// The same, until no node listed a dead one either.
    pub(super) agreed_ms: u64,
    pub(super) told: usize,
    pub(super) happened: BTreeMap<&'static str, usize>,
}

/// Nodes that live, with what each said last.
fn living(world: &World) -> BTreeMap<PeerId, Position> {
    let up = world.nodes.iter().filter(|node| !matches!(node.state, State::Gone(_)));
    up.map(|node| (node.id, node.teller.register().own_position())).collect()
}

/// How the lists of those that run compare with what is.
#[derive(Debug, Default)]
struct Lists {
    /// An advert of a living node that somebody does not have as it was said last.
    lacking: Option<String>,
    /// Somebody who is listed and not there.
    ghost: Option<String>,
}

/// Lists that were right when they were looked at last. Those of five hundred nodes take longer to look through than all
/// that happens to them in a second.
#[derive(Debug, Default)]
struct Looked {
    living: BTreeMap<PeerId, Position>,
    /// By process: since when it has been up, and the revision of its list.
    right: BTreeMap<usize, (u64, u64)>,
}

impl Lists {
    fn of(world: &World, looked: &mut Looked) -> Self {
        let mut lists = Self::default();
        let living = living(world);
        if looked.living != living {
            *looked = Looked { living: living.clone(), right: BTreeMap::new() };
        }
        for (place, node) in world.nodes.iter().enumerate().filter(|(_, node)| node.is_up()) {
            let list = (node.up_since_ms, node.teller.register().revision());
            if looked.right.get(&place) == Some(&list) {
                continue;
            }
            let mut is_right = true;
            let adverts = node.teller.register().adverts();
            let mut seen = adverts.values().peekable();
            for (id, position) in &living {
                while let Some(ghost) = seen.next_if(|advert| advert.node < *id) {
                    is_right = false;
                    lists.ghost.get_or_insert_with(|| format!("{} lists {}, who is not there", node.id, ghost.node));
                }
                let own = seen.next_if(|advert| advert.node == *id);
                let known = own.map(|advert| Position { epoch: advert.epoch, seq: advert.seq });
                if known != Some(*position) {
                    is_right = false;
                    let why = || {
                        let other = world.by_id[id].iter().map(|place| &world.nodes[*place]);
                        let other: Vec<_> = other.map(|other| (other.state, other.ends.len())).collect();
                        let now = world.time.now();
                        let remembered = node.teller.register().describe(id, now);
                        let itself = world.nodes[world.by_id[id][0]].teller.register().describe(id, now);
                        format!(
                            "{} (with {} neighbours) sees {id} at {known:?}, remembers {remembered}, and it is at \
                             {position:?}, itself {itself}, with its processes and neighbours {other:?}",
                            node.id,
                            node.ends.len()
                        )
                    };
                    lists.lacking.get_or_insert_with(why);
                }
            }
            if let Some(ghost) = seen.next() {
                is_right = false;
                lists.ghost.get_or_insert_with(|| format!("{} lists {}, who is not there", node.id, ghost.node));
            }
            if is_right {
                looked.right.insert(place, list);
            }
        }
        lists
    }

    fn are_one(&self) -> bool {
        self.lacking.is_none() && self.ghost.is_none()
    }
}

/// Whether somebody lists a node for longer than it may be believed.
fn no_ghosts(world: &World) -> Result<(), String> {
    let now = world.time.ms();
    let mut until: BTreeMap<PeerId, u64> = BTreeMap::new();
    for node in &world.nodes {
        let end = match node.state {
            State::Gone(since) => since + node.ttl_ms + MARGIN_MS,
            _ => u64::MAX,
        };
        // A double may have said something later.
        let latest = until.entry(node.id).or_default();
        *latest = (*latest).max(end);
    }
    let overdue: Vec<PeerId> = until.into_iter().filter(|(_, until)| now > *until).map(|(id, _)| id).collect();
    for node in world.nodes.iter().filter(|node| node.is_up() && now > node.up_since_ms + MARGIN_MS) {
        let adverts = node.teller.register().adverts();
        if let Some(ghost) = overdue.iter().find(|id| adverts.contains_key(*id)) {
            let gone = world.by_id[ghost].iter().map(|place| &world.nodes[*place]);
            let gone: Vec<_> = gone.map(|gone| (gone.state, gone.ttl_ms)).collect();
            let believed = node.teller.register().describe(ghost, world.time.now());
            return Err(format!(
                "{} (up since {} ms) still lists {ghost} at {now} ms, who was {gone:?}: {believed}",
                node.id, node.up_since_ms
            ));
        }
    }
    Ok(())
}

/// Runs one seed to its end.
pub(super) fn tell(seed: u64, count: usize) -> Result<Report, String> {
    let mut world = World::new(seed, count);
    let told = |what: String| format!("seed {seed} with {count} nodes: {what}");
    let (mut met_ms, mut looked) = (None, Looked::default());
    while world.time.ms() < CALM_MS {
        world.run_until(world.time.ms() + 250);
        if met_ms.is_none() && world.time.ms() > 10_000 && Lists::of(&world, &mut looked).are_one() {
            met_ms = Some(world.time.ms() - 10_000);
        }
    }
    let lists = Lists::of(&world, &mut looked);
    if !lists.are_one() {
        return Err(told(format!("they do not come to know each other: {lists:?}")));
    }
    let happened = trouble(&mut world).map_err(told)?;

    let began = world.time.ms();
    let lives = world.nodes.iter().map(|node| node.ttl_ms).max().unwrap_or_default();
    let (mut known_ms, mut agreed_ms) = (None, None);
    loop {
        world.run_until(world.time.ms() + 1000);
        let since = world.time.ms() - began;
        if since.is_multiple_of(3000) {
            no_ghosts(&world).map_err(told)?;
        }
        let lists = Lists::of(&world, &mut looked);
        let late = since > lives + AGREE_MS;
        match &lists.lacking {
            None => _ = known_ms.get_or_insert(since),
            Some(why) if late && agreed_ms.is_some() => return Err(told(format!("it flaps: {why}"))),
            Some(why) if late => return Err(told(format!("an advert is lost: {why}"))),
            Some(_) => known_ms = None,
        }
        match &lists.ghost {
            None if known_ms.is_some() => _ = agreed_ms.get_or_insert(since),
            Some(why) if late => return Err(told(format!("they do not agree: {why}"))),
            _ => agreed_ms = None,
        }
        if agreed_ms.is_some_and(|agreed| since > agreed + STAY_MS) {
            break;
        }
    }
    let ms = |found: Option<u64>| found.unwrap_or_default();
    Ok(Report {
        nodes: count,
        met_ms: ms(met_ms),
        known_ms: ms(known_ms),
        agreed_ms: ms(agreed_ms),
        told: world.messages.len(),
        happened,
    })
}

/// Everything that can go wrong, goes wrong.
fn trouble(world: &mut World) -> Result<BTreeMap<&'static str, usize>, String> {
    let mut happened: BTreeMap<&'static str, usize> = BTreeMap::new();
    let began = world.time.ms();
    let count = world.nodes.len();
    // In some runs shorter, in some longer than a life.
    let cut = began + 20_000..began + world.rng.random_range(30_000..TROUBLE_MS - 30_000);
    let double_from = began + world.rng.random_range(5_000..60_000);
    let double_until = double_from + world.rng.random_range(15_000..60_000);
    let mut double = None;
    world.loss = LOSS;
    while world.time.ms() < began + TROUBLE_MS {
        world.run_until(world.time.ms() + 1000);
        let now = world.time.ms();
        world.is_cut = cut.contains(&now);
        if now.is_multiple_of(3000) {
            no_ghosts(world)?;
        }
        let turns = count.div_ceil(50);
        for _ in 0..turns {
            if world.rng.random_bool(0.3) {
                *happened.entry(befall(world)).or_default() += 1;
            }
        }
        for _ in 0..count.div_ceil(250) {
            let World { nodes, time, rng, .. } = world;
            if let Some(node) = nodes.iter_mut().filter(|node| node.is_up()).choose(rng) {
                node.change(time, rng);
                *happened.entry("changed").or_default() += 1;
            }
        }
        if now >= double_from && double.is_none() {
            let of = (0..count).filter(|node| world.nodes[*node].is_up()).choose(&mut world.rng).expect("half are up");
            double = Some(world.add_double(of));
            *happened.entry("doubled").or_default() += 1;
        }
        if let Some(double) = double.filter(|_| now >= double_until)
            && !matches!(world.nodes[double].state, State::Gone(_))
        {
            world.end(double, false);
        }
    }
    world.loss = 0.0;
    world.is_cut = false;
    // A double's traces stay for good: who has the identity now must be believed.
    if let Some(double) = double.filter(|double| !matches!(world.nodes[*double].state, State::Gone(_))) {
        world.end(double, false);
    }
    happened.insert("clashes", world.nodes.iter().map(|node| node.clashes).sum());
    Ok(happened)
}

/// One thing, to one node.
fn befall(world: &mut World) -> &'static str {
    let count = world.nodes.len();
    let node = world.rng.random_range(0..count);
    let now = world.time.ms();
    let up = world.nodes.iter().filter(|node| node.is_up()).count();
    match world.nodes[node].state {
        State::Gone(since) => {
            let doubles = world.by_id[&world.nodes[node].id].clone();
            let first = doubles[0];
            if node != first || now < since + 3_000 {
                return "nothing";
            }
            let mut what = "restarted";
            if world.rng.random_bool(0.3) {
                // From a backup: what it knew of its epochs is old, and its clock may be too.
                let back = world.rng.random_range(10_000..100_000);
                world.nodes[node].last_epoch = world.nodes[node].last_epoch.saturating_sub(back);
                world.nodes[node].skew_ms.fetch_sub(i64::try_from(back).expect("small"), Ordering::Relaxed);
                what = "restored";
            }
            world.restart(node);
            what
        }
        State::Frozen(_) => "nothing",
        State::Up if up <= count / 2 => "nothing",
        State::Up => match world.rng.random_range(0..10) {
            0..3 => {
                world.end(node, false);
                "killed"
            }
            3..5 => {
                let now = world.time.now();
                world.nodes[node].teller.say_goodbye(now);
                world.perform(node);
                world.end(node, true);
                "left"
            }
            5..8 => {
                let until = now + world.rng.random_range(1_000..45_000);
                world.nodes[node].state = State::Frozen(until);
                "frozen"
            }
            _ => {
                let step = world.rng.random_range(MAX_STANDSTILL_MS..900_000);
                let step = if world.rng.random_bool(0.5) { step } else { -step };
                world.nodes[node].set_clock(step);
                "clock set"
            }
        },
    }
}
