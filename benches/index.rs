//! What the semantic index costs: embedding a prompt, and searching 1,000 and 10,000 capabilities of 8 vectors each.
//!
//! `cargo bench --bench index` prints percentiles of single searches first, then criterion's figures. Where there are
//! so many vectors that a graph is built in the background, which takes minutes, the bench waits for it.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atmosphere::capability::{Advert, Capability, Kind, PeerId};
use atmosphere::catalog::{Adverts, Catalog};
use atmosphere::embedding::{Embedder, StaticEmbedder};
use criterion::Criterion;

#[path = "../src/catalog/tests/sentences.rs"]
mod sentences;

use sentences::sentence;

/// Capabilities of a node.
const EACH: usize = 50;

/// Single searches behind the percentiles.
const SEARCHES: usize = 4000;

fn capability(n: usize) -> Capability {
    let mut capability = Capability::new("bench", Kind::LLM_CHAT, &format!("model-{n}"));
    capability.description = sentence(n * 7);
    capability.topics = vec![sentence(n * 7 + 6)];
    capability.examples = (1..7).map(|k| sentence(n * 7 + k)).collect();
    capability
}

fn mesh(catalog: &Catalog, capabilities: usize) -> Adverts {
    let nodes = (0..capabilities / EACH).map(|node| {
        let capabilities = catalog.describe((0..EACH).map(|n| capability(node * EACH + n)).collect());
        let advert = Advert {
            node: PeerId::random(),
            epoch: 1,
            seq: 1,
            ttl: Duration::from_secs(60),
            name: format!("node-{node}"),
            version: "1".into(),
            addresses: Vec::new(),
            capabilities: capabilities.into(),
            load: 0,
            relay: false,
        };
        (advert.node, Arc::new(advert))
    });
    nodes.collect::<BTreeMap<_, _>>()
}

fn query(n: usize) -> String {
    format!("could you please {}", sentence(n * 13 + 5))
}

/// Prints percentiles of single runs, each with another query.
fn percentiles(name: &str, runs: usize, mut run: impl FnMut(&str)) {
    let mut times: Vec<Duration> = (0..runs)
        .map(|n| {
            let query = query(n);
            let started = Instant::now();
            run(&query);
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{name:<44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}", at(0.5), at(0.99), at(1.0));
}

/// Resident memory of this process, in MB, where the system tells.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn main() {
    let (before, started) = (resident(), Instant::now());
    let embedder = Arc::new(StaticEmbedder::builtin());
    println!("load the embedder: {:.1?}, {:+.1} MB", started.elapsed(), resident() - before);
    percentiles("embed 10 words", SEARCHES, |query| drop(black_box(embedder.embed(query))));
    println!("after {SEARCHES} texts: {:+.1} MB", resident() - before);

    let mut criterion = Criterion::default().configure_from_args();
    let (ten, sixty) = (query(1), (0..6).map(query).collect::<Vec<_>>().join(" "));
    criterion.bench_function("embed 10 words", |bencher| bencher.iter(|| embedder.embed(black_box(&ten))));
    criterion.bench_function("embed 60 words", |bencher| bencher.iter(|| embedder.embed(black_box(&sixty))));

    for capabilities in [1_000, 10_000] {
        let catalog = Catalog::new(Some(Arc::clone(&embedder) as Arc<dyn Embedder>));
        let mut adverts = mesh(&catalog, capabilities);
        let (before, started) = (resident(), Instant::now());
        catalog.update(&adverts);
        println!("{capabilities} capabilities: taken in {:.1?}, {:+.1} MB", started.elapsed(), resident() - before);

        let snapshot = catalog.snapshot();
        let name = format!("{capabilities} capabilities, scan");
        percentiles(&name, SEARCHES / 4, |query| drop(black_box(snapshot.search(query, 10, |_| true))));
        let started = Instant::now();
        while !catalog.snapshot().index_settled() {
            std::thread::sleep(Duration::from_millis(100));
        }
        if !snapshot.index_settled() {
            println!("graph built in {:.0?}, {:+.1} MB", started.elapsed(), resident() - before);
        }

        let snapshot = catalog.snapshot();
        let name = format!("{capabilities} capabilities, embed and search");
        percentiles(&name, SEARCHES, |query| drop(black_box(snapshot.search(query, 10, |_| true))));
        percentiles("exact name", SEARCHES, |_| _ = black_box(snapshot.by_model("Model-77:latest")));
        percentiles("near names", 200, |_| drop(black_box(snapshot.near_names("modell-77", 5))));
        let text = query(3);
        let name = format!("search {capabilities} capabilities of 8 vectors");
        criterion.bench_function(&name, |bencher| bencher.iter(|| snapshot.search(black_box(&text), 10, |_| true)));

        if let Some(mut advert) = adverts.first_entry() {
            let mut changed = Advert::clone(advert.get());
            changed.seq += 1;
            changed.capabilities = catalog.describe((1..=EACH).map(|n| capability(n * 3)).collect()).into();
            advert.insert(Arc::new(changed));
        }
        let started = Instant::now();
        catalog.update(&adverts);
        println!("one node changed: taken in {:.1?}", started.elapsed());
    }
    criterion.final_summary();
}
