//! What a node costs, against going straight to the backend: printed as one table, measured in one run.
//!
//! `scripts/bench` builds and runs it. Ratios count, not the figures: backend, nodes and load generator share the
//! machine. It loads only processes that it started itself, on loopback, with a bounded number of requests.

mod backend;
mod load;
mod process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use backend::{EVENTS, MODEL};
use load::{Load, Measured};
use process::{Node, Process, answers, free_port};

/// Requests of each run, by connections at once: enough for a p99 and for processor time that comes in ticks of 10 ms.
const REQUESTS: [(usize, usize); 2] = [(1, 4_000), (16, 16_000)];
/// Streams of each run, 100 events each.
const STREAMS: [(usize, usize); 2] = [(1, 200), (16, 800)];
/// Before anything is measured, each way is used so often.
const WARM_UP: usize = 200;
/// How long a node is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match std::env::args().nth(1).as_deref() {
        Some("backend") => runtime.block_on(backend::serve()),
        Some(program) => runtime.block_on(compare(PathBuf::from(program))),
        None => anyhow::bail!("usage: bench_http PROGRAM (scripts/bench does it)"),
    }
}

/// A way to the backend, and the nodes on it.
struct Way<'p> {
    name: &'static str,
    target: SocketAddr,
    nodes: Vec<&'p Process>,
}

async fn compare(program: PathBuf) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let (_backend, address) = Process::backend()?;
    let (near, near_gossip, far, far_gossip) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let holder = Node { name: "holder", port: near, gossip_port: near_gossip, backend: Some(address), seed: None };
    let holder = Process::node(&program, home.path(), &holder)?;
    answers(near, "/readyz", "", home.path()).await?;
    let asker = Node { name: "asker", port: far, gossip_port: far_gossip, backend: None, seed: Some(near_gossip) };
    let asker = Process::node(&program, home.path(), &asker)?;
    for port in [near, far] {
        answers(port, "/v1/models", MODEL, home.path()).await?;
    }
    tokio::time::sleep(SETTLE).await;
    println!("memory of an idle node: {:.0} MB resident (target: under 60)\n", asker.resident_mb()?);

    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ways = [
        Way { name: "direct", target: address, nodes: Vec::new() },
        Way { name: "local node", target: at(near), nodes: vec![&holder] },
        Way { name: "one hop", target: at(far), nodes: vec![&asker, &holder] },
    ];
    for (streamed, runs) in [(false, REQUESTS), (true, STREAMS)] {
        let (what, per) = if streamed { ("streamed, 100 events", "event") } else { ("not streamed", "request") };
        println!(
            "{what:<22} {:>9} {:>9} {:>7} {:>10} {:>9} {:>12}",
            "p50 us", "p99 us", "p50 x", "requests/s", "rate x", "CPU us/"
        );
        println!("{:<70} {per:>10}", "");
        for (connections, requests) in runs {
            let mut direct: Option<Measured> = None;
            for way in &ways {
                let load = Load { target: way.target, streamed, connections, requests };
                load::run(Load { requests: WARM_UP.min(requests), ..load }).await.context(way.name)?;
                let before = cpu(way)?;
                let measured = load::run(load).await.context(way.name)?;
                let used = cpu(way)?.saturating_sub(before);
                print_row(way.name, connections, &measured, direct.as_ref(), used, if streamed { EVENTS } else { 1 });
                direct.get_or_insert(measured);
            }
        }
        println!();
    }
    Ok(())
}

fn cpu(way: &Way<'_>) -> anyhow::Result<Duration> {
    way.nodes.iter().map(|node| node.cpu()).sum()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// One line. Times of a stream are per event.
fn print_row(way: &str, connections: usize, run: &Measured, direct: Option<&Measured>, used: Duration, events: usize) {
    let pieces = f64::from(u32::try_from(events).unwrap_or(1));
    let base = direct.unwrap_or(run);
    let requests = f64::from(u32::try_from(run.requests).unwrap_or(u32::MAX));
    println!(
        "{:<22} {:>9.1} {:>9.1} {:>7.2} {:>10.0} {:>9.2} {:>12.1}",
        format!("  {way}, c={connections}"),
        micros(run.p50) / pieces,
        micros(run.p99) / pieces,
        micros(run.p50) / micros(base.p50),
        run.rate(),
        run.rate() / base.rate(),
        micros(used) / requests / pieces,
    );
}
