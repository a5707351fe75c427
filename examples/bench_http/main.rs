//! What a node costs, against going straight to the backend: printed as one table, measured in one run.
//!
//! `scripts/bench` builds and runs it; for `scripts/bench-gateway` it measures other gateways beside the node, too. Ratios count, not the figures: backend, nodes and load generator share the
//! machine. It loads only processes that it started itself, on loopback, with a bounded number of requests.

mod backend;
mod gateway;
mod load;
mod process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use backend::{EVENTS, MODEL};
use load::{Load, Measured, Until};
use process::{Node, Pin, Process, answers, free_port};

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["backend"] => runtime.block_on(backend::serve(None)),
        ["backend", pace] => runtime.block_on(backend::serve(Some(Duration::from_micros(pace.parse()?)))),
        ["gateway", program, peers @ ..] => runtime.block_on(gateway::compare(program.as_ref(), peers)),
        ["load", target, what, connections, seconds] => {
            let (connections, time) = (connections.parse()?, Duration::from_secs(seconds.parse()?));
            let streamed = *what == "streams";
            let load = Load { target: target.parse()?, streamed, connections, until: Until::Time(time) };
            let measured = runtime.block_on(load::run(load))?;
            println!("{} {:.0}/s p50 {:.0} us", measured.requests, measured.rate(), micros(measured.p50));
            Ok(())
        }
        [program] => runtime.block_on(compare(PathBuf::from(program))),
        _ => anyhow::bail!(
            "usage: bench_http PROGRAM | gateway PROGRAM PEER... | backend [PACE_US] | load ADDRESS whole|streams CONNECTIONS SECONDS (scripts/bench and scripts/bench-gateway do the first two)"
        ),
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
    let (_backend, address) = Process::backend(&Pin::default(), None)?;
    let (near, near_gossip, far, far_gossip) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let holder = Node {
        name: "holder",
        port: near,
        gossip_port: near_gossip,
        backend: Some(address),
        seed: None,
        key: None,
        pin: Pin::default(),
    };
    let holder = Process::node(&program, home.path(), &holder)?;
    answers(near, "/readyz", "", home.path()).await?;
    let asker = Node {
        name: "asker",
        port: far,
        gossip_port: far_gossip,
        backend: None,
        seed: Some(near_gossip),
        key: None,
        pin: Pin::default(),
    };
    let asker = Process::node(&program, home.path(), &asker)?;
    for port in [near, far] {
        answers(port, "/v1/models", MODEL, home.path()).await?;
    }
    println!("{ABOUT}");
    tokio::time::sleep(SETTLE).await;
    let mut targets = vec![("memory of an idle node, MB resident", asker.resident_mb()?, 60.0)];

    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ways = [
        Way { name: "direct", target: address, nodes: Vec::new() },
        Way { name: "local node", target: at(near), nodes: vec![&holder] },
        Way { name: "one hop", target: at(far), nodes: vec![&asker, &holder] },
    ];
    for (streamed, runs) in [(false, REQUESTS), (true, STREAMS)] {
        let (what, unit, events) = if streamed {
            ("answers streamed as 100 events; times are per event", "event", EVENTS)
        } else {
            ("answers in one piece", "request", 1)
        };
        println!("\n{what}");
        println!(
            "{:<28} {:>8} {:>9} {:>8} {:>10} {:>9} {:>14}",
            "", "p50, us", "vs direct", "p99, us", "requests/s", "vs direct", "nodes' CPU, us"
        );
        for (connections, requests) in runs {
            let mut direct: Option<Measured> = None;
            for way in &ways {
                let load = Load { target: way.target, streamed, connections, until: Until::Requests(requests) };
                load::run(Load { until: Until::Requests(WARM_UP.min(requests)), ..load }).await.context(way.name)?;
                let before = cpu(way)?;
                let measured = load::run(load).await.context(way.name)?;
                let used = micros(cpu(way)?.saturating_sub(before)) / count(measured.requests) / count(events);
                let name =
                    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") };
                print_row(&format!("{name:<15} {}", way.name), &measured, direct.as_ref(), used, count(events));
                direct.get_or_insert(measured);
                if way.name == "local node" && connections > 1 {
                    let (what, most) = if streamed {
                        ("CPU of a local node per event, us", 8.0)
                    } else {
                        ("CPU of a local node per request, us", 40.0)
                    };
                    targets.push((what, used, most));
                }
            }
        }
        println!("{:>93}", format!("per {unit}"));
    }
    println!("\ntargets");
    for (what, value, most) in targets {
        let verdict = if value <= most { "met" } else { "MISSED" };
        println!("  {what:<38} {value:>7.1}   at most {most:>4.0}   {verdict}");
    }
    Ok(())
}

/// What the tables say, for whoever sees them for the first time.
const ABOUT: &str = "\
What a node costs, against asking the backend without it. Everything runs on this machine and shares its cores, so what
counts are the ratios (\"vs direct\": 2.0 takes twice as long, or serves twice as many) and the processor time.
  direct      load generator -> backend
  local node  load generator -> node -> backend
  one hop     load generator -> node -> another node over the mesh -> backend; CPU is of both nodes";

fn cpu(way: &Way<'_>) -> anyhow::Result<Duration> {
    way.nodes.iter().map(|node| node.cpu()).sum()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// One line of a table; `pieces` are the events of an answer.
fn print_row(way: &str, run: &Measured, direct: Option<&Measured>, used: f64, pieces: f64) {
    let against = |ratio: fn(&Measured, &Measured) -> f64| {
        direct.map_or("1".to_owned(), |base| format!("{:.2}", ratio(run, base)))
    };
    println!(
        "{:<28} {:>8.1} {:>9} {:>8.1} {:>10.0} {:>9} {:>14}",
        format!("  {way}"),
        micros(run.p50) / pieces,
        against(|run, base| micros(run.p50) / micros(base.p50)),
        micros(run.p99) / pieces,
        run.rate(),
        against(|run, base| run.rate() / base.rate()),
        if direct.is_none() { "-".to_owned() } else { format!("{used:.1}") },
    );
}
