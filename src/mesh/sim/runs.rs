//! The runs: a few small ones with every test, and five hundred nodes a hundred times on request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::story::{Report, tell};
use super::world::World;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Runs the seeds on all cores; says how to repeat those that fail.
fn run(seeds: &[u64], nodes: usize, shown: bool) {
    let next = AtomicU64::new(0);
    let (reports, faults) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) =
                    usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|n| seeds.get(n))
                {
                    let began = Instant::now();
                    let outcome = tell(*seed, nodes);
                    if shown {
                        show(*seed, &outcome, began);
                    }
                    match outcome {
                        Ok(report) => reports.lock().push(report),
                        Err(fault) => faults.lock().push(fault),
                    }
                }
            });
        }
    });
    if shown {
        summary(&mut reports.lock());
    }
    let faults = faults.into_inner();
    let again = "SIM_SEED=N SIM_NODES=M cargo test --release --lib mesh::sim -- --ignored --nocapture";
    assert!(
        faults.is_empty(),
        "{} of {} runs failed; again with {again}\n{}",
        faults.len(),
        seeds.len(),
        faults.join("\n")
    );
}

fn seconds(ms: u64) -> f64 {
    let ms = ms as f64;
    ms / 1000.0
}

fn show(seed: u64, outcome: &Result<Report, String>, began: Instant) {
    match outcome {
        Ok(report) => {
            let happened: Vec<String> = report.happened.iter().map(|(what, count)| format!("{what} {count}")).collect();
            println!(
                "sim: seed {seed}: {} nodes met in {:.1} s; after the trouble every advert is everywhere in {:.1} s, one list \
                 in {:.1} s; {} statements; {} ({:.1} s)",
                report.nodes,
                seconds(report.met_ms),
                seconds(report.known_ms),
                seconds(report.agreed_ms),
                report.told,
                happened.join(", "),
                began.elapsed().as_secs_f64()
            );
        }
        Err(fault) => println!("sim: FAULT {fault}"),
    }
}

fn summary(reports: &mut [Report]) {
    let of = |reports: &mut [Report], part: fn(&Report) -> u64| {
        let mut all: Vec<u64> = reports.iter().map(part).collect();
        all.sort_unstable();
        let at = |share: usize| all.get((all.len() * share / 100).min(all.len().saturating_sub(1))).copied();
        format!("p50 {:.1} s, worst {:.1} s", seconds(at(50).unwrap_or(0)), seconds(at(100).unwrap_or(0)))
    };
    println!("sim: {} runs without a ghost or a lost advert", reports.len());
    println!("sim: met after the last start: {}", of(reports, |report| report.met_ms));
    println!("sim: every living advert everywhere after the last trouble: {}", of(reports, |report| report.known_ms));
    println!("sim: one list everywhere, the last of the dead expired: {}", of(reports, |report| report.agreed_ms));
}

/// Bytes that a node sends in a second at rest: on average, and the busiest.
fn at_rest(nodes: usize) -> (f64, f64) {
    const SETTLED_MS: u64 = 90_000;
    const MEASURED_MS: u64 = 120_000;
    let mut world = World::new(7, nodes);
    world.run_until(SETTLED_MS);
    let before: Vec<u64> = world.nodes.iter().map(|node| node.sent_bytes).collect();
    world.run_until(SETTLED_MS + MEASURED_MS);
    let sent = world.nodes.iter().zip(before).map(|(node, before)| node.sent_bytes - before);
    let rates: Vec<f64> = sent.map(|bytes| seconds(bytes * 1000) / seconds(MEASURED_MS)).collect();
    let average = rates.iter().sum::<f64>() / nodes as f64;
    (average, rates.into_iter().fold(0.0, f64::max))
}

/// What control traffic may cost a node, in bytes a second, whatever the mesh size.
const BUDGET: f64 = 5000.0;

#[test]
fn a_mesh_agrees_whatever_befalls_it_and_never_raises_the_dead() {
    match from_environment("SIM_SEED") {
        Some(seed) => run(&[seed], 12, true),
        None => run(&[1], 12, false),
    }
}

#[test]
fn control_traffic_does_not_grow_with_the_mesh() {
    for nodes in [6, 16] {
        let (average, most) = at_rest(nodes);
        assert!(average < BUDGET, "{nodes} nodes: each sends {average:.0} B/s, the busiest {most:.0} B/s");
    }
}

#[test]
#[ignore = "takes minutes, and wants a release build: scripts/test sim runs it"]
fn hundreds_of_nodes_at_rest() {
    for nodes in [50, 100, 500] {
        let (average, most) = at_rest(nodes);
        println!("sim: {nodes} nodes at rest: each sends {average:.0} B/s, the busiest {most:.0} B/s");
        assert!(average < BUDGET, "more than {BUDGET} B/s");
    }
}

#[test]
#[ignore = "takes minutes, and wants a release build: scripts/test sim runs it"]
fn hundreds_of_nodes_and_seeds() {
    let nodes = usize::try_from(from_environment("SIM_NODES").unwrap_or(500)).expect("a count");
    let seeds: Vec<u64> = match from_environment("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..from_environment("SIM_SEEDS").unwrap_or(100)).collect(),
    };
    println!("sim: {} seeds with {nodes} nodes; SIM_SEED repeats one", seeds.len());
    run(&seeds, nodes, true);
}
