//! What a routing decision costs: an exact name in a large mesh, and `auto`, the embedding of the prompt included.
//!
//! Criterion measures means; people feel percentiles, so those are printed too.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atmosphere::capability::{
    Advert, Capability, Intent, Kind, Operation, OperationSet, PeerId, Preference, Requirements, Target,
};
use atmosphere::catalog::{Adverts, Catalog};
use atmosphere::embedding::StaticEmbedder;
use atmosphere::router::{Router, Settings, Signals};
use criterion::Criterion;

/// Capabilities of a node: a hundred nodes make five thousand.
const PER_NODE: usize = 50;

/// Words of which the texts of the capabilities are made, so that no two are alike and all are language.
const WORDS: [&str; 32] = [
    "harvest",
    "engine",
    "contract",
    "patient",
    "galaxy",
    "recipe",
    "bridge",
    "violin",
    "glacier",
    "invoice",
    "turbine",
    "orchard",
    "museum",
    "sensor",
    "harbour",
    "poetry",
    "enzyme",
    "railway",
    "textile",
    "volcano",
    "chess",
    "insurance",
    "telescope",
    "bakery",
    "forest",
    "satellite",
    "pottery",
    "antenna",
    "vaccine",
    "marathon",
    "sculpture",
    "reservoir",
];

fn words(seed: usize, count: usize) -> String {
    let word =
        |place: usize| WORDS[(seed.wrapping_mul(31) + place * (seed % 7 + 3) + (seed >> 5) * place) % WORDS.len()];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

/// A capability with eight vectors: description, topics and six examples. Every other one is a project.
fn capability(number: usize) -> Capability {
    let mut capability = Capability::new("bench", Kind::LLM_CHAT, &format!("model-{number}:7b"));
    capability.operations = OperationSet::of(&[Operation::Chat]);
    capability.parameter_count = Some(7_000_000_000);
    capability.description = format!("Knows about {}.", words(number, 8));
    capability.topics = vec![words(number + 1, 2), words(number + 2, 1)];
    capability.examples = (0..6).map(|example| format!("How does {} work?", words(number * 7 + example, 4))).collect();
    if number.is_multiple_of(2) {
        capability.project = Some(format!("bench/project-{number}"));
        capability.domain = Some(words(number, 1));
    }
    capability
}

fn router(count: usize) -> Router {
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
    let own = PeerId::random();
    let router = Router::new(catalog, Arc::new(Signals::new(own)), Settings::default(), own);
    router.refresh();
    router
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
    }
}

fn percentiles(name: &str, router: &Router, intents: &[Intent]) {
    const ROUNDS: usize = 4000;
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let intent = &intents[round % intents.len()];
            let start = Instant::now();
            black_box(router.decide(intent));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[((ROUNDS - 1) as f64 * share) as usize];
    println!("{name}: p50 {:?}, p99 {:?}", at(0.5), at(0.99));
}

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(2)).configure_from_args();
    let questions: Vec<_> = (0..64)
        .map(|n| format!("Please tell me how the {} is connected with {}", words(n * 13 + 5, 3), words(n * 5 + 1, 5)))
        .collect();
    for count in [100, 1_000, 10_000] {
        let router = router(count);
        let name = |n: usize| Target::Named(format!("model-{}:7b", n * (count / 64)));
        let exact: Vec<_> = (0..64).map(|n| intent(name(n), "hello")).collect();
        let auto: Vec<_> = questions.iter().map(|question| intent(Target::Auto, question)).collect();
        for (what, intents) in [("exact", &exact), ("auto", &auto)] {
            let name = format!("{what} at {count}");
            percentiles(&name, &router, intents);
            let mut next = 0;
            criterion.bench_function(&name, |bencher| {
                bencher.iter(|| {
                    next = (next + 1) % intents.len();
                    black_box(router.decide(&intents[next]))
                });
            });
        }
    }
    criterion.final_summary();
}
