//! The nodes, their backends, and what is done to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::network::{Network, group};
use crate::support::{Backend, Cluster, Mode, NodePlan, PATIENCE, TestNode, chat, eventually};

/// Longest time of a request, as the nodes are told.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a node that is told to end may finish streams.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);
/// Nodes out of order at once: with more there is no mesh left to test.
const AT_ONCE: usize = 3;

/// Which backend has which models, and the node that it stands behind has its name.
pub const BACKENDS: [(&str, &[&str]); 3] = [
    ("alpha", &["shared-chat:8b", "alpha-chat:7b"]),
    ("beta", &["shared-chat:8b", "beta-coder:7b"]),
    ("gamma", &["shared-chat:8b", "gamma-chat:3b", "beta-coder:7b"]),
];
/// Nodes without a backend. The first two are never killed.
const DOORS: [&str; 3] = ["door", "side", "leaf"];

/// Where clients knock, and whether the node there was left alone.
#[derive(Debug)]
pub struct Door {
    /// The node's name.
    pub name: String,
    /// Base URL.
    pub url: String,
    well: AtomicBool,
    disturbances: AtomicU64,
}

impl Door {
    /// To be compared before and after: the same `Some` twice means that nothing was done to the node in between.
    pub fn calm(&self) -> Option<u64> {
        self.well.load(Ordering::SeqCst).then(|| self.disturbances.load(Ordering::SeqCst))
    }

    fn disturb(&self) {
        self.well.store(false, Ordering::SeqCst);
        self.disturbances.fetch_add(1, Ordering::SeqCst);
    }

    fn is_well(&self) {
        self.well.store(true, Ordering::SeqCst);
    }
}

/// What a node is at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Well,
    /// Until then.
    Frozen(Instant),
    /// Told to end since.
    Ending(Instant),
    /// Until then.
    Dead(Instant),
    /// Started, and not ready since.
    Starting(Instant),
}

struct Member {
    node: TestNode,
    door: Arc<Door>,
    state: State,
    spared: bool,
}

/// All of it.
pub struct Stage {
    members: Vec<Member>,
    backends: Vec<(Backend, Option<Instant>)>,
    network: Option<Network>,
    /// The mesh is in two halves until then.
    cut_until: Option<Instant>,
    cuts: usize,
    dice: Dice,
    faults: Vec<String>,
}

impl Stage {
    /// Starts everything, and waits until all know all.
    pub async fn set_up(seed: u64, network: Option<Network>) -> Self {
        let mut dice = Dice::new(seed);
        let backends: Vec<(Backend, Option<Instant>)> =
            BACKENDS.iter().map(|(name, models)| (Backend::start(name, models), None)).collect();
        let plan = |name: &str| {
            NodePlan::named(name)
                .env("ATMOSPHERE_LOG", "info,atmosphere=debug")
                .env("ATMOSPHERE_API_REQUEST_TIMEOUT", &format!("{}s", REQUEST_TIMEOUT.as_secs()))
                .env("ATMOSPHERE_API_DRAIN_LIMIT", &format!("{}s", DRAIN_LIMIT.as_secs()))
        };
        let mut plans: Vec<NodePlan> = DOORS.iter().map(|name| plan(name)).collect();
        plans.extend(BACKENDS.iter().zip(&backends).map(|((name, _), (backend, _))| plan(name).backend(backend.url())));
        if network.is_some() {
            plans = (0_u32..).zip(plans).map(|(number, plan)| plan.group(group(number))).collect();
        }
        let cluster = Cluster::start(plans).await;
        let spared_backend = BACKENDS[usize::try_from(dice.between(0, 3)).expect("small")].0;
        let members = cluster.nodes.into_iter().map(|node| {
            let name = node.name().to_owned();
            let spared = name == DOORS[0] || name == DOORS[1] || name == spared_backend;
            let door = Door { name, url: node.url(""), well: AtomicBool::new(true), disturbances: AtomicU64::new(0) };
            Member { node, door: Arc::new(door), state: State::Well, spared }
        });
        let members = members.collect();
        let stage = Self { members, backends, network, cut_until: None, cuts: 0, dice, faults: Vec::new() };
        stage.agree().await;
        stage
    }

    /// Where clients may knock.
    pub fn doors(&self) -> Vec<Arc<Door>> {
        self.members.iter().map(|member| Arc::clone(&member.door)).collect()
    }

    /// Every backend.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().map(|(backend, _)| backend)
    }

    /// The nodes that are never killed.
    pub fn spared(&self) -> impl Iterator<Item = &TestNode> {
        self.members.iter().filter(|member| member.spared).map(|member| &member.node)
    }

    /// The nodes that run.
    pub fn living(&self) -> Vec<&TestNode> {
        self.members.iter().filter(|member| member.state == State::Well).map(|member| &member.node).collect()
    }

    /// What went wrong with the nodes themselves.
    pub fn faults(&self) -> Vec<String> {
        self.faults.clone()
    }

    /// Disturbs and mends for so long, and mends the rest.
    pub async fn play(&mut self, length: Duration) {
        let began = Instant::now();
        let mut next = began;
        while began.elapsed() < length {
            self.mend(Instant::now()).await;
            if Instant::now() >= next {
                self.disturb(began);
                next = Instant::now() + Duration::from_millis(self.dice.between(500, 2500));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let end = Instant::now() + PATIENCE;
        while self.members.iter().any(|member| member.state != State::Well) {
            assert!(Instant::now() < end, "the nodes do not come back");
            // Whatever waits for its time is due.
            self.mend(Instant::now() + PATIENCE).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.mend_network(Instant::now() + PATIENCE);
        self.mend_backends(Instant::now() + PATIENCE);
        self.backends().for_each(|backend| backend.set(Mode::quick()));
    }

    fn disturb(&mut self, began: Instant) {
        let say = |what: String| println!("chaos: {:6.1} s  {what}", began.elapsed().as_secs_f64());
        let now = Instant::now();
        let roll = self.dice.between(0, 110);
        if roll >= 100 {
            self.cut(began);
        } else if roll < 55 {
            let chosen = self.dice.between(0, self.members.len() as u64);
            let span = Duration::from_millis(self.dice.between(500, 9000));
            let disturbed = self.members.iter().filter(|member| member.state != State::Well).count();
            let member = &mut self.members[usize::try_from(chosen).expect("small")];
            if member.state != State::Well || disturbed >= AT_ONCE {
                return;
            }
            let name = member.node.name().to_owned();
            member.door.disturb();
            if member.spared || roll < 20 {
                say(format!("freeze {name} for {:.1} s", span.as_secs_f64()));
                member.node.freeze();
                member.state = State::Frozen(now + span);
            } else if roll < 40 {
                say(format!("kill {name} for {:.1} s", span.as_secs_f64()));
                member.node.kill();
                member.state = State::Dead(now + span);
            } else {
                say(format!("end {name}"));
                member.node.terminate();
                member.state = State::Ending(now);
            }
        } else {
            let span = Duration::from_millis(self.dice.between(500, 8000));
            let chosen = usize::try_from(self.dice.between(0, BACKENDS.len() as u64)).expect("small");
            let (backend, stopped) = &mut self.backends[chosen];
            let name = BACKENDS[chosen].0;
            if stopped.is_some() {
                return;
            }
            if roll < 70 {
                say(format!("stop the backend of {name} for {:.1} s", span.as_secs_f64()));
                backend.stop();
                *stopped = Some(now + span);
                return;
            }
            let after = usize::try_from(self.dice.between(0, 30)).expect("small");
            let modes = [
                Mode::quick(),
                Mode::slow(20),
                Mode::slow(60),
                Mode::slow(150),
                Mode::too_many(1),
                Mode::broken(),
                Mode::Die { after },
                Mode::ErrorInside { after },
                Mode::Truncate { after },
                Mode::Stall { after },
                Mode::Hang,
            ];
            // Half of the time it works: a mesh of nothing but broken backends tests little.
            let mode = if self.dice.per_cent(50) { self.dice.one_of(&modes[..4]) } else { self.dice.one_of(&modes) };
            say(format!("the backend of {name}: {mode:?}"));
            backend.set(mode.clone());
        }
    }

    /// Cuts the mesh in two, at a random line; most of the time for longer than a life.
    fn cut(&mut self, began: Instant) {
        let line: Vec<bool> = self.members.iter().map(|_| self.dice.per_cent(50)).collect();
        let span = Duration::from_millis(self.dice.between(2_000, 16_000));
        let Some(network) = self.network.as_ref().filter(|_| self.cut_until.is_none()) else { return };
        let side = |wanted: bool| -> Vec<(u32, u16)> {
            let all = (0_u32..).zip(&self.members).zip(&line).filter(|(_, side)| **side == wanted);
            all.map(|((number, member), _)| (number, member.node.gossip_port)).collect()
        };
        let (one, other) = (side(true), side(false));
        if one.is_empty() || other.is_empty() {
            return;
        }
        let names: Vec<&str> = one.iter().map(|(number, _)| self.members[*number as usize].node.name()).collect();
        println!(
            "chaos: {:6.1} s  cut {names:?} from the others for {:.1} s",
            began.elapsed().as_secs_f64(),
            span.as_secs_f64()
        );
        match network.cut(&one, &other) {
            Ok(()) => {
                self.cuts += 1;
                self.cut_until = Some(Instant::now() + span);
            }
            Err(why) => self.faults.push(format!("the mesh cannot be cut: {why}")),
        }
    }

    /// How often the mesh was cut in two.
    pub const fn cuts(&self) -> usize {
        self.cuts
    }

    fn mend_network(&mut self, now: Instant) {
        if self.cut_until.take_if(|until| now >= *until).is_some()
            && let Some(Err(why)) = self.network.as_ref().map(Network::heal)
        {
            self.faults.push(format!("the cut cannot be healed: {why}"));
        }
    }

    fn mend_backends(&mut self, now: Instant) {
        for (backend, stopped) in &mut self.backends {
            if stopped.is_some_and(|until| now >= until) {
                backend.start_again();
                *stopped = None;
            }
        }
    }

    async fn mend(&mut self, now: Instant) {
        self.mend_network(now);
        self.mend_backends(now);
        for member in &mut self.members {
            match member.state {
                State::Well => {}
                State::Frozen(until) if now >= until => {
                    member.node.thaw();
                    member.state = State::Starting(Instant::now());
                }
                State::Dead(until) if now >= until => {
                    member.node.run_again();
                    member.state = State::Starting(Instant::now());
                }
                State::Ending(since) => match member.node.has_ended() {
                    Some(status) => {
                        if !status.success() {
                            self.faults.push(format!("{} ended with {status} when told to", member.node.name()));
                        }
                        member.state = State::Dead(Instant::now() + Duration::from_secs(1));
                    }
                    None if since.elapsed() > DRAIN_LIMIT + PATIENCE => {
                        self.faults.push(format!("{} has not ended when told to", member.node.name()));
                        member.node.kill();
                        member.state = State::Dead(Instant::now());
                    }
                    None => {}
                },
                State::Starting(since) => {
                    if let Some(status) = member.node.has_ended() {
                        self.faults.push(format!("{} ended by itself: {status}", member.node.name()));
                        member.state = State::Dead(Instant::now());
                    } else if is_ready(&member.door.url).await {
                        member.door.is_well();
                        member.state = State::Well;
                    } else if since.elapsed() > PATIENCE {
                        self.faults.push(format!("{} is not ready {PATIENCE:?} after its start", member.node.name()));
                        member.state = State::Well;
                    }
                }
                State::Frozen(_) | State::Dead(_) => {}
            }
        }
    }

    /// Kills up to two of those that may be killed, and says whom.
    pub fn kill_some(&mut self) -> Vec<String> {
        let mut dead = Vec::new();
        for member in self.members.iter_mut().filter(|member| !member.spared).take(2) {
            member.door.disturb();
            member.node.kill();
            member.state = State::Dead(Instant::now());
            dead.push(member.node.name().to_owned());
        }
        dead
    }

    /// Starts what is dead.
    pub async fn restore(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.state != State::Well) {
            member.node.restart().await;
            member.door.is_well();
            member.state = State::Well;
        }
    }

    /// Waits until those that run list each other and nobody else.
    pub async fn agree_among_the_living(&self) {
        let living = self.living();
        let names: Vec<&str> = living.iter().map(|node| node.name()).collect();
        for node in &living {
            node.sees_nodes(&names).await;
        }
    }

    /// Waits until every node has one and the same list of nodes and of models, and nothing is missing in it.
    pub async fn agree(&self) {
        let names: Vec<&str> = self.members.iter().map(|member| member.node.name()).collect();
        for member in &self.members {
            member.node.sees_nodes(&names).await;
            for (_, models) in BACKENDS {
                for model in models {
                    let holders = BACKENDS.iter().filter(|(_, models)| models.contains(model)).count();
                    member.node.sees_holders(model, holders).await;
                }
            }
        }
        eventually("all nodes list the same models", PATIENCE, async || {
            let mut lists = Vec::new();
            for member in &self.members {
                lists.push(member.node.models().await);
            }
            lists.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
    }

    /// Waits until every node answers for every model: whoever failed lately may still rest.
    pub async fn all_answer(&self) {
        for member in &self.members {
            for (name, models) in BACKENDS {
                for model in models {
                    let target = format!("{model}@{name}");
                    eventually(&format!("{} answers for {target}", member.node.name()), PATIENCE * 2, async || {
                        member.node.ask("/v1/chat/completions", &chat(&target, "hello")).await.0 == 200
                    })
                    .await;
                }
            }
        }
    }

    /// Writes the logs where they outlive the run.
    pub fn keep_logs(&self, seed: u64) -> PathBuf {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        let _ = std::fs::create_dir_all(&directory);
        for member in &self.members {
            let _ = std::fs::write(directory.join(format!("{}.log", member.node.name())), member.node.log());
        }
        directory
    }
}

async fn is_ready(url: &str) -> bool {
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(500)).build() else {
        return false;
    };
    client.get(format!("{url}/readyz")).send().await.is_ok_and(|answer| answer.status() == 200)
}
