//! What a routing decision costs: an exact name in a large mesh, and `auto`, the embedding of the prompt included.
//!
//! All prompts differ, and one comes again only after all others, so that nothing is remembered; the index is settled
//! first. Nine of ten capabilities have a field of their own, so that nearly all vectors are searched.
//!
//! What the mesh is about has been learnt before. Where the capabilities are too many for that, the nearest by likeness are
//! found by their centroids first; how often the very best of all is among them is printed as recall.
//!
//! What the embedding alone takes, and with it the search alone for the 32 nearest, is printed too.
//!
//! Percentiles are printed first, of all decisions, by the clock on the wall and by the time that the processor spent on
//! this thread. On a machine that does other things too, their tails tell how often the thread was interrupted and
//! found its caches cold. Two more figures do without that: the p99 of the least disturbed round, and the p99 over the
//! prompts of each one's least time of all rounds. The reference beside them is plain arithmetic that takes as long as the
//! median decision: what its p99 is above that, the machine has added. Criterion's means come last.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atmosphere::capability::{
    Advert, Capability, Intent, Kind, Operation, OperationSet, PeerId, Preference, Requirements, Target,
};
use atmosphere::catalog::{Adverts, Catalog, texts_of};
use atmosphere::embedding::{Embedder, StaticEmbedder};
use atmosphere::router::{Router, Settings, Signals};
use criterion::Criterion;
use rustix::time::{ClockId, clock_gettime};

mod texts;

/// Capabilities of a node: two hundred nodes make ten thousand.
const PER_NODE: usize = 50;

/// Prompts, and how often all of them are asked.
const PROMPTS: usize = 2000;
const ROUNDS: usize = 5;

/// A capability with eight vectors: description, topics and six examples. One in ten is a general model.
fn capability(number: usize) -> Capability {
    let mut capability = Capability::new("bench", Kind::LLM_CHAT, &format!("model-{number}:7b"));
    capability.operations = OperationSet::of(&[Operation::Chat]);
    capability.parameter_count = Some([1, 3, 7, 14, 32][number % 5] * 1_000_000_000 + number as u64);
    capability.description = texts::description(number);
    capability.topics = texts::topics(number);
    capability.examples = (0..6).map(|k| texts::example(number, k)).collect();
    if !number.is_multiple_of(10) {
        capability.project = Some(format!("bench/project-{number}"));
        capability.domain = Some(texts::subject(number).to_owned());
    }
    capability
}

/// Prompts by which recall is measured: each is compared with every vector of every capability.
const RECALLED: usize = 300;

fn router(count: usize) -> (Router, Arc<Catalog>) {
    let catalog = Arc::new(Catalog::new(Some(Arc::new(StaticEmbedder::builtin()))));
    let mut adverts = Adverts::new();
    for first in (0..count).step_by(PER_NODE) {
        let node = PeerId::random();
        let all = (first..count.min(first + PER_NODE)).map(capability).collect();
        let advert = Advert {
            node,
            epoch: 1,
            seq: 1,
            ttl: Duration::from_secs(60),
            name: format!("node-{first}"),
            version: String::new(),
            addresses: Vec::new(),
            capabilities: catalog.describe(all).into(),
            load: 0,
            relay: false,
        };
        adverts.insert(node, Arc::new(advert));
    }
    catalog.update(&adverts);
    while !catalog.snapshot().index_settled() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let own = PeerId::random();
    let router = Router::new(Arc::clone(&catalog), Arc::new(Signals::new(own)), Settings::default(), own);
    router.learn();
    (router, catalog)
}

/// How often a search finds the capability that is most like the prompt when all vectors are compared, in percent.
fn recall(catalog: &Catalog) -> f64 {
    let (snapshot, embedder) = (catalog.snapshot(), StaticEmbedder::builtin());
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let vectors = |capability: &Capability| -> (Vec<Vec<f32>>, Vec<f32>) {
        let vectors: Vec<_> = texts_of(capability).iter().map(|text| embedder.embed(text)).collect();
        let mut sum = vec![0.0_f32; embedder.dim()];
        vectors.iter().for_each(|vector| sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x));
        let length = product(&sum, &sum).sqrt();
        sum.iter_mut().for_each(|x| *x /= length);
        (vectors, sum)
    };
    let all: Vec<_> = snapshot.entries().iter().map(|entry| vectors(&entry.capability)).collect();
    let found = (0..RECALLED).filter(|n| {
        let prompt = texts::prompt(*n);
        let query = embedder.embed(&prompt);
        let likeness = |(vectors, centroid): &(Vec<Vec<f32>>, Vec<f32>)| {
            let best = vectors.iter().map(|vector| product(vector, &query)).fold(-1.0, f32::max);
            0.5 * best + 0.5 * product(centroid, &query)
        };
        let truth = all.iter().map(likeness).fold(-1.0, f32::max);
        // Bytes round: what is as like but for that is as good.
        snapshot.search(&prompt, 1, |_| true).first().is_some_and(|hit| hit.similarity >= truth - 0.003)
    });
    found.count() as f64 * 100.0 / RECALLED as f64
}

fn intent(target: Target, query: &str) -> Intent {
    Intent {
        request_id: String::new(),
        operation: Operation::Chat,
        target,
        requirements: Requirements { prompt_tokens: 40, ..Requirements::default() },
        preference: Preference::Balanced,
        query: Some(query.to_owned()),
        payload: Default::default(),
        content_type: "application/json".to_owned(),
        deadline: Duration::from_secs(60),
        headers: BTreeMap::new(),
        reuse: Default::default(),
        handling: Default::default(),
        prefix: Vec::new(),
        whereabouts: None,
    }
}

/// What the processor has spent on this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// Arithmetic in registers, so many steps of it.
fn spin(steps: u64) -> u64 {
    (0..steps).fold(1, |x: u64, step| black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step)))
}

/// Steps that take so many microseconds when nothing disturbs them.
fn steps_of(microseconds: f64) -> u64 {
    const STEPS: u64 = 100_000;
    let once = || {
        let start = Instant::now();
        black_box(spin(STEPS));
        start.elapsed()
    };
    let least = (0..50).map(|_| once()).min().unwrap_or_default();
    (microseconds / (least.as_secs_f64() * 1e6) * STEPS as f64) as u64
}

/// Microseconds of what is done with each, and how often it says that it decided something. Returns the median.
fn percentiles<T>(name: &str, asked: &[T], act: impl Fn(&T) -> bool) -> f64 {
    let (mut wall, mut processor, mut decided) = (Vec::new(), Vec::new(), 0);
    let mut least_round = f64::INFINITY;
    let mut least = vec![Duration::MAX; asked.len()];
    for _ in 0..ROUNDS {
        let mut round = Vec::with_capacity(asked.len());
        for (asked, least) in asked.iter().zip(&mut least) {
            let spent = processor_time();
            let start = Instant::now();
            let did = black_box(act(asked));
            let elapsed = start.elapsed();
            processor.push(processor_time().saturating_sub(spent));
            round.push(elapsed);
            *least = elapsed.min(*least);
            decided += usize::from(did);
        }
        round.sort_unstable();
        least_round = least_round.min(at(&round, 0.99));
        wall.append(&mut round);
    }
    [&mut wall, &mut processor, &mut least].into_iter().for_each(|times| times.sort_unstable());
    let row = |times: &[Duration]| format!("{:>8.1} {:>8.1} {:>8.1}", at(times, 0.5), at(times, 0.9), at(times, 0.99));
    println!(
        "{name:<20} {} {} {least_round:>11.1} {:>11.1} {:>8} %",
        row(&wall),
        row(&processor),
        at(&least, 0.99),
        decided * 100 / wall.len()
    );
    at(&wall, 0.5)
}

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(2)).configure_from_args();
    let routers: Vec<_> = [100, 1_000, 10_000].into_iter().map(|count| (count, router(count))).collect();
    let intents = |count: usize| {
        let name = |n: usize| Target::Named(format!("model-{}:7b", n * 7919 % count));
        let exact: Vec<_> = (0..PROMPTS).map(|n| intent(name(n), "hello")).collect();
        let auto: Vec<_> = (0..PROMPTS).map(|n| intent(Target::Auto, &texts::prompt(n))).collect();
        [("exact", exact), ("auto", auto)]
    };
    println!("\nmicroseconds of a decision; {PROMPTS} prompts, {ROUNDS} rounds of all");
    println!(
        "{:<20} {:^26} {:^26} {:>11} {:>11} {:>10}",
        "", "by the clock", "processor time", "least round", "least each", "not"
    );
    let three = format!("{:>8} {:>8} {:>8}", "p50", "p90", "p99");
    println!("{:<20} {three} {three} {:>11} {:>11} {:>10}", "", "p99", "p99", "abstained");
    for (count, (router, _)) in &routers {
        for (what, intents) in intents(*count) {
            let median =
                percentiles(&format!("{what} at {count}"), &intents, |intent| !router.decide(intent).abstained);
            if what == "auto" {
                let steps = steps_of(median);
                percentiles("  as long, no memory", &intents, |_| spin(steps) != 0);
            }
        }
    }
    let (embedder, prompts) = (StaticEmbedder::builtin(), (0..PROMPTS).map(texts::prompt).collect::<Vec<_>>());
    percentiles("embedding", &prompts, |prompt| !embedder.embed(prompt).is_empty());
    for (count, (_, catalog)) in &routers {
        let snapshot = catalog.snapshot();
        percentiles(&format!("search of {count}"), &prompts, |prompt| {
            !snapshot.search(prompt, 32, |_| true).is_empty()
        });
    }
    for (count, (_, catalog)) in &routers {
        println!("recall@1 at {count:<6} {:.1} % of {RECALLED} prompts", recall(catalog));
    }
    for (count, (router, _)) in &routers {
        for (what, intents) in intents(*count) {
            let mut next = 0;
            criterion.bench_function(&format!("{what} at {count}"), |bencher| {
                bencher.iter(|| {
                    next = (next + 1) % intents.len();
                    black_box(router.decide(&intents[next]))
                });
            });
        }
    }
    criterion.final_summary();
}
