//! How well the router chooses among machines: a fast one, one 5.6 times slower, one whose weights are not in memory, and
//! one that others keep busy; 16 clients that ask, wait for the answer, think, and ask again.
//!
//! Time is simulated, the router and its measurements are the real ones. It knows what a node knows: adverts that are up to
//! five seconds old, the load in the replies, and the times of its own calls; not how long an answer will be. Beside it
//! run the usual policies, with no less knowledge, and oracles that know every machine's state, each answer's length and what
//! others will ask: one takes the least time for the request, one the least for all who wait, and one knows all that will be
//! asked, tries each machine and plays on. The best of them is the measure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atmosphere::capability::{
    self, Advert, Capability, CapabilityId, Intent, Kind, Operation, OperationSet, PeerId, Preference, Requirements,
    Residency, Target,
};
use atmosphere::catalog::{Adverts, Catalog};
use atmosphere::router::{InFlight, Observation, Router, Settings, Signals};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

mod simulation;

use simulation::{Job, Load, Machine, Spec, Work};

const CLIENTS: usize = 16;
/// Requests of each client.
const EACH: usize = 60;
const SEEDS: u64 = 5;
/// Requests that the oracle with foresight plays on for: a minute and more, so that loading weights can pay.
const LOOK_AHEAD: usize = 40;
const FORESIGHT: &str = "oracle, foresight";
/// How often a node looks at its own load class, and tells a change of it or of what is in memory.
const ADVERT_EVERY: f64 = 5.0;

fn specs() -> Vec<Spec> {
    let fast = Spec { name: "fast", prefill: 1800.0, decode: 60.0, slots: 4, sharing: 0.35, load: None, rtt: 0.002 };
    vec![
        fast.clone(),
        Spec { name: "slow", prefill: 1800.0 / 5.6, decode: 60.0 / 5.6, ..fast.clone() },
        Spec { name: "cold", load: Some((25.0, 120.0)), ..fast.clone() },
        Spec { name: "busy", ..fast },
    ]
}

/// What a client asks, and how long it thinks before it.
#[derive(Clone, Copy)]
struct Ask {
    think: f64,
    work: Work,
}

fn exponential(random: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - random.random::<f64>()).ln()
}

/// Tokens around `median`, a tenth of them more than four times as many.
fn tokens(random: &mut StdRng, median: f64, most: f64) -> u32 {
    let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    (median * (normal * 0.9).exp()).clamp(8.0, most) as u32
}

fn work(random: &mut StdRng) -> Work {
    let answer_tokens = tokens(random, 160.0, 1500.0);
    // One in three says how long the answer may be, generously.
    let max_tokens = (random.random::<f64>() < 0.33).then(|| answer_tokens.next_multiple_of(256));
    Work { prompt_tokens: tokens(random, 400.0, 8000.0), answer_tokens, max_tokens }
}

struct World {
    machines: Vec<Machine>,
    clients: Vec<Vec<Ask>>,
}

/// The same requests for every policy; `think` is the mean pause of a client.
fn world(seed: u64, think: f64) -> World {
    let mut random = StdRng::seed_from_u64(seed);
    let clients = (0..CLIENTS)
        .map(|_| (0..EACH).map(|_| Ask { think: exponential(&mut random, think), work: work(&mut random) }).collect())
        .collect();
    // Others keep three of its four slots busy, now more and now less.
    let mut foreign = Vec::new();
    let mut at = 0.0;
    while at < 5000.0 {
        at += exponential(&mut random, 2.6);
        foreign.push((at, work(&mut random)));
    }
    let machines = specs().into_iter().map(|spec| {
        let theirs = if spec.name == "busy" { foreign.clone() } else { Vec::new() };
        Machine::new(spec, theirs)
    });
    World { machines: machines.collect(), clients }
}

/// Who chooses.
trait Policy {
    fn choose(&mut self, id: u64, work: Work, now: f64, machines: &[Machine]) -> usize;
    /// The machine took the job, and told its load.
    fn accepted(&mut self, _machine: usize, _load: Load, _now: f64) {}
    /// A job is done, after so long.
    fn done(&mut self, _machine: usize, _job: &Job, _load: Load, _took: f64, _now: f64) {}
    /// The machines tell how they are.
    fn advertised(&mut self, _machines: &[Machine]) {}
}

struct RoundRobin(usize);

impl Policy for RoundRobin {
    fn choose(&mut self, _: u64, _: Work, _: f64, machines: &[Machine]) -> usize {
        self.0 += 1;
        self.0 % machines.len()
    }
}

struct Random(StdRng);

impl Policy for Random {
    fn choose(&mut self, _: u64, _: Work, _: f64, machines: &[Machine]) -> usize {
        self.0.random_range(0..machines.len())
    }
}

/// The fewest calls of one's own and of others, as far as the replies told.
struct LeastBusy {
    own: Vec<u32>,
    told: Vec<u32>,
    turn: usize,
}

impl Policy for LeastBusy {
    fn choose(&mut self, _: u64, _: Work, _: f64, machines: &[Machine]) -> usize {
        self.turn += 1;
        let count = machines.len();
        let busy = |machine: &usize| self.own[*machine].max(self.told[*machine]);
        let chosen = (0..count).map(|k| (k + self.turn) % count).min_by_key(busy).unwrap_or(0);
        self.own[chosen] += 1;
        chosen
    }

    fn accepted(&mut self, machine: usize, load: Load, _: f64) {
        self.told[machine] = load.running + load.queued;
    }

    fn done(&mut self, machine: usize, _: &Job, load: Load, _: f64, _: f64) {
        self.own[machine] -= 1;
        self.told[machine] = load.running + load.queued;
    }
}

/// Power of two choices by peak EWMA of the latency, times the calls under way, as Finagle and linkerd have it.
struct TwoChoices {
    random: StdRng,
    latency: Vec<(f64, f64)>,
    own: Vec<u32>,
}

impl TwoChoices {
    const DECAY: f64 = 10.0;

    fn cost(&self, machine: usize, now: f64) -> f64 {
        let (latency, at) = self.latency[machine];
        latency * (-(now - at) / Self::DECAY).exp() * f64::from(self.own[machine] + 1)
    }
}

impl Policy for TwoChoices {
    fn choose(&mut self, _: u64, _: Work, now: f64, machines: &[Machine]) -> usize {
        let first = self.random.random_range(0..machines.len());
        let second = (first + self.random.random_range(1..machines.len())) % machines.len();
        let chosen = if self.cost(first, now) <= self.cost(second, now) { first } else { second };
        self.own[chosen] += 1;
        chosen
    }

    fn done(&mut self, machine: usize, _: &Job, _: Load, took: f64, now: f64) {
        self.own[machine] -= 1;
        let (latency, at) = self.latency[machine];
        let weight = (-(now - at) / Self::DECAY).exp();
        // Peak: what is worse is believed at once.
        let mixed = if took > latency { took } else { latency * weight + took * (1.0 - weight) };
        self.latency[machine] = (mixed, now);
    }
}

/// Knows everything: the least time for the request, or for all who wait.
struct Oracle {
    for_all: bool,
}

impl Policy for Oracle {
    fn choose(&mut self, id: u64, work: Work, _: f64, machines: &[Machine]) -> usize {
        let cost = |machine: &Machine| {
            let (all, own) = machine.what_if(id, work);
            if self.for_all { all } else { own }
        };
        let costs: Vec<f64> = machines.iter().map(cost).collect();
        (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0)
    }
}

/// What four bytes a token come to, which is not exact.
fn estimated(prompt_tokens: u32) -> u32 {
    (f64::from(prompt_tokens) * 1.1) as u32
}

/// The router of a node, on a clock of its own.
struct Ours {
    router: Router,
    catalog: Arc<Catalog>,
    nodes: Vec<PeerId>,
    model: Capability,
    told: Vec<(u8, bool)>,
    start: Instant,
    calls: BTreeMap<u64, InFlight>,
    seq: u64,
}

impl Ours {
    fn new(machines: &[Machine]) -> Self {
        let mut model = Capability::new("bench", Kind::LLM_CHAT, "llama3.1:8b");
        model.operations = OperationSet::of(&[Operation::Chat]);
        model.parameter_count = Some(8_000_000_000);
        model.quantization = Some("Q4_K_M".into());
        model.concurrency = Some(4);
        let catalog = Arc::new(Catalog::new(None));
        let own = PeerId::random();
        let mut nodes: Vec<_> = machines.iter().map(|_| PeerId::random()).collect();
        nodes.sort_unstable();
        let router = Router::new(Arc::clone(&catalog), Arc::new(Signals::new(own)), Settings::default(), own);
        let mut ours = Self {
            router,
            catalog,
            nodes,
            model,
            told: Vec::new(),
            start: Instant::now(),
            calls: BTreeMap::new(),
            seq: 0,
        };
        ours.advertised(machines);
        ours
    }

    fn at(&self, now: f64) -> Instant {
        self.start + Duration::from_secs_f64(now)
    }

    fn id(&self) -> CapabilityId {
        self.model.id.clone()
    }
}

impl Policy for Ours {
    fn choose(&mut self, id: u64, work: Work, now: f64, _: &[Machine]) -> usize {
        let intent = Intent {
            request_id: String::new(),
            operation: Operation::Chat,
            target: Target::Named("llama3.1:8b".into()),
            requirements: Requirements {
                prompt_tokens: estimated(work.prompt_tokens),
                max_output_tokens: work.max_tokens,
                stream: true,
                ..Requirements::default()
            },
            preference: Preference::Balanced,
            query: None,
            payload: Default::default(),
            content_type: "application/json".into(),
            deadline: Duration::from_secs(600),
            headers: BTreeMap::new(),
            reuse: Default::default(),
            handling: Default::default(),
            prefix: Vec::new(),
            whereabouts: None,
        };
        let decision = Arc::new(self.router.decide_at(&intent, self.at(now)));
        self.router.carry_out(&decision, "", self.at(now));
        let chosen = decision.candidates.first().map_or(self.nodes[0], |candidate| candidate.node);
        self.calls.insert(id, self.router.signals().begin(&chosen, &self.id()));
        self.nodes.iter().position(|node| *node == chosen).unwrap_or(0)
    }

    fn accepted(&mut self, machine: usize, load: Load, now: f64) {
        let load = capability::Load { running: load.running, queued: load.queued, limit: 4 };
        self.router.signals().observe_load(&self.nodes[machine], &self.id(), load, self.at(now));
    }

    fn done(&mut self, machine: usize, job: &Job, load: Load, _: f64, now: f64) {
        drop(self.calls.remove(&job.id));
        let first = job.first_token.unwrap_or(now);
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
        let seen = Observation {
            first_chunk: seconds(first - job.since),
            rest: seconds(now - first),
            loading: job.loading.map(seconds),
            prompt_tokens: u64::from(estimated(job.work.prompt_tokens)),
            completion_tokens: u64::from(job.work.answer_tokens),
            streamed: true,
            decodes: true,
            first_ratio: None,
            cached_tokens: None,
            warm_tokens: 0.0,
            company: (job.company + f64::from(load.running)) / 2.0,
        };
        self.router.signals().succeed(&self.nodes[machine], &self.id(), Some(seen), self.at(now));
        self.accepted(machine, load, now);
    }

    fn advertised(&mut self, machines: &[Machine]) {
        let tell: Vec<_> = machines
            .iter()
            .map(|machine| {
                let load = machine.load();
                let class = ((load.running + load.queued) * 4).div_ceil(machine.spec.slots as u32).min(4) as u8;
                (class, machine.is_warm())
            })
            .collect();
        if tell == self.told {
            return;
        }
        self.seq += 1;
        let mut adverts = Adverts::new();
        for (node, ((load, warm), machine)) in self.nodes.iter().zip(tell.iter().zip(machines)) {
            let mut model = self.model.clone();
            model.residency = if *warm { Residency::Warm } else { Residency::Cold };
            let advert = Advert {
                node: *node,
                epoch: 1,
                seq: self.seq,
                ttl: Duration::from_secs(60),
                name: machine.spec.name.to_owned(),
                version: String::new(),
                addresses: Vec::new(),
                capabilities: self.catalog.describe(vec![model]).into(),
                load: *load,
                relay: false,
            };
            adverts.insert(*node, Arc::new(advert));
        }
        self.catalog.update(&adverts);
        self.told = tell;
    }
}

/// What a policy came to.
#[derive(Default)]
struct Run {
    times: Vec<f64>,
    places: Vec<usize>,
}

impl Run {
    fn mean(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len().max(1) as f64
    }

    fn at(&mut self, share: f64) -> f64 {
        self.times.sort_by(f64::total_cmp);
        let place = (self.times.len().saturating_sub(1) as f64 * share).round() as usize;
        self.times.get(place).copied().unwrap_or_default()
    }
}

/// The clients and the machines at one moment.
#[derive(Clone)]
struct Sim<'a> {
    clients: &'a [Vec<Ask>],
    machines: Vec<Machine>,
    /// When each client asks next, and which of its requests; a waiting client has no time.
    ready: Vec<(f64, usize)>,
    /// Which client a request is of, and when it was asked.
    under_way: BTreeMap<u64, (usize, f64)>,
    next: u64,
    now: f64,
}

impl<'a> Sim<'a> {
    fn new(world: &'a World) -> Self {
        Self {
            clients: &world.clients,
            machines: world.machines.clone(),
            ready: world.clients.iter().map(|asks| (asks[0].think, 0)).collect(),
            under_way: BTreeMap::new(),
            next: 0,
            now: 0.0,
        }
    }

    /// Lets time pass until `limit`, the next request or the next event of a machine; what is done then, and where.
    fn step(&mut self, limit: f64) -> Vec<(usize, Job, f64)> {
        let asks = self.ready.iter().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
        let machine = self.machines.iter().map(Machine::next_event).fold(f64::INFINITY, f64::min);
        self.now = asks.min(machine).min(limit).max(self.now);
        let mut done = Vec::new();
        for (place, machine) in self.machines.iter_mut().enumerate() {
            for job in machine.advance(self.now) {
                let Some((client, began)) = self.under_way.remove(&job.id).filter(|_| !job.foreign) else { continue };
                let next = self.ready[client].1 + 1;
                let think = self.clients[client].get(next).map_or(f64::INFINITY, |ask| ask.think);
                self.ready[client] = (self.now + think, next);
                done.push((place, job, self.now - began + machine.spec.rtt));
            }
        }
        done
    }

    /// Who asks now.
    fn asks(&self) -> Option<usize> {
        (0..self.ready.len()).find(|client| self.ready[*client].0 <= self.now)
    }

    fn work(&self, client: usize) -> Work {
        self.clients[client][self.ready[client].1].work
    }

    /// The client's request goes to that machine.
    fn send(&mut self, client: usize, place: usize) -> u64 {
        let (id, work) = (self.next, self.work(client));
        self.next += 1;
        self.ready[client].0 = f64::INFINITY;
        self.machines[place].add(id, work, false);
        self.under_way.insert(id, (client, self.now));
        id
    }
}

fn least(costs: impl Iterator<Item = f64>) -> usize {
    let costs: Vec<f64> = costs.collect();
    (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0)
}

/// Knows everything that will be asked: tries each machine, plays on for so many requests, each of which then takes the least
/// time for itself, and takes what is least for all of them.
struct Foresight(usize);

impl Foresight {
    fn cost(&self, mut sim: Sim<'_>, client: usize, place: usize) -> f64 {
        sim.send(client, place);
        let (mut left, mut sum) = (self.0, 0.0);
        while !sim.under_way.is_empty() || left > 0 {
            if left == 0 {
                sim.ready.iter_mut().for_each(|(at, _)| *at = f64::INFINITY);
            }
            if left > 0 && sim.under_way.is_empty() && sim.ready.iter().all(|(at, _)| at.is_infinite()) {
                break;
            }
            sum += sim.step(f64::INFINITY).iter().map(|(_, _, took)| took).sum::<f64>();
            while let Some(client) = sim.asks().filter(|_| left > 0) {
                left -= 1;
                let work = sim.work(client);
                let place = least(sim.machines.iter().map(|machine| machine.what_if(sim.next, work).1));
                sim.send(client, place);
            }
        }
        sum
    }
}

fn run(world: &World, chooser: &mut Chooser) -> Run {
    let mut sim = Sim::new(world);
    let mut result = Run { places: vec![0; sim.machines.len()], ..Run::default() };
    let mut advert = 0.0;
    while result.times.len() < CLIENTS * EACH {
        for (place, job, took) in sim.step(advert) {
            result.times.push(took);
            if let Chooser::Policy(policy) = chooser {
                let rtt = sim.machines[place].spec.rtt;
                policy.done(place, &job, sim.machines[place].load(), took, sim.now + rtt);
            }
        }
        if sim.now >= advert {
            if let Chooser::Policy(policy) = chooser {
                policy.advertised(&sim.machines);
            }
            advert = sim.now + ADVERT_EVERY;
        }
        while let Some(client) = sim.asks() {
            let place = match chooser {
                Chooser::Policy(policy) => policy.choose(sim.next, sim.work(client), sim.now, &sim.machines),
                Chooser::Foresight(oracle) => {
                    least((0..sim.machines.len()).map(|place| oracle.cost(sim.clone(), client, place)))
                }
            };
            sim.send(client, place);
            if let Chooser::Policy(policy) = chooser {
                policy.accepted(place, sim.machines[place].load(), sim.now);
            }
            result.places[place] += 1;
        }
    }
    result
}

/// Who chooses: a policy, or whoever knows the future too.
enum Chooser {
    Policy(Box<dyn Policy>),
    Foresight(Foresight),
}

fn main() {
    // Criterion's flags mean nothing here.
    let names = specs().iter().map(|spec| spec.name).collect::<Vec<_>>().join("/");
    println!("{CLIENTS} clients, {EACH} requests each, {SEEDS} seeds; machines {names}; seconds to the whole answer");
    for (title, think) in [("light load", 40.0), ("medium load", 15.0), ("heavy load", 6.0)] {
        println!("\n{title}: a client thinks for {think:.0} s on average");
        println!("{:<22}{:>8}{:>8}{:>8}{:>12}   requests at {names}", "", "mean", "p50", "p95", "to oracle");
        type Make = fn(u64, &World) -> Box<dyn Policy>;
        let policies: [(&str, Make); 8] = [
            (FORESIGHT, |_, _| Box::new(RoundRobin(0))),
            ("oracle, for itself", |_, _| Box::new(Oracle { for_all: false })),
            ("oracle, for all", |_, _| Box::new(Oracle { for_all: true })),
            ("this router", |_, world| Box::new(Ours::new(&world.machines))),
            ("P2C + peak EWMA", |seed, world| {
                let count = world.machines.len();
                let random = StdRng::seed_from_u64(seed);
                Box::new(TwoChoices { random, latency: vec![(0.0, 0.0); count], own: vec![0; count] })
            }),
            ("least busy", |_, world| {
                let count = world.machines.len();
                Box::new(LeastBusy { own: vec![0; count], told: vec![0; count], turn: 0 })
            }),
            ("round robin", |_, _| Box::new(RoundRobin(0))),
            ("random", |seed, _| Box::new(Random(StdRng::seed_from_u64(seed)))),
        ];
        let mut runs: Vec<(&str, Run)> = Vec::new();
        let chooser = |name: &str, make: Make, seed, world: &World| match name {
            FORESIGHT => Chooser::Foresight(Foresight(LOOK_AHEAD)),
            _ => Chooser::Policy(make(seed, world)),
        };
        for (name, make) in policies {
            let mut all = Run { places: vec![0; specs().len()], ..Run::default() };
            for seed in 0..SEEDS {
                let world = world(seed, think);
                let one = run(&world, &mut chooser(name, make, seed, &world));
                all.times.extend(one.times);
                all.places.iter_mut().zip(one.places).for_each(|(sum, count)| *sum += count);
            }
            runs.push((name, all));
        }
        let best = runs[..3].iter().map(|(_, run)| run.mean()).fold(f64::INFINITY, f64::min);
        for (name, run) in &mut runs {
            let places = run.places.iter().map(ToString::to_string).collect::<Vec<_>>().join("/");
            let (mean, p50, p95) = (run.mean(), run.at(0.5), run.at(0.95));
            println!("{name:<22}{mean:>8.2}{p50:>8.2}{p95:>8.2}{:>+11.1} %   {places}", (mean / best - 1.0) * 100.0);
        }
    }
}
