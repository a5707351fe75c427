//! A hundred real nodes of one mesh in one process: how soon all know all, how fast a change spreads, and what it costs
//! each of them at rest. `scripts/test hundred` runs it in release mode.
//!
//! The nodes are complete but for the HTTP side: swarm, gate, gossip, sync, connections. By default they meet over the
//! memory transport; with `--network` over QUIC on loopback, where all bytes are counted that the interface carries.

mod figures;
mod mesh;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use figures::{percentiles, resident_bytes, wire_bytes};
use mesh::Mesh;

/// All know all within this after the last start.
const MEET: Duration = Duration::from_secs(10);
/// A change is everywhere within this, in 99 of 100 cases.
const SPREAD: Duration = Duration::from_secs(2);
/// What a node may send in a second at rest.
const BYTES_PER_SECOND: f64 = 5000.0;

struct Plan {
    nodes: usize,
    changes: usize,
    rest: Duration,
    network: bool,
    metrics: bool,
}

fn plan() -> anyhow::Result<Plan> {
    let mut plan = Plan { nodes: 100, changes: 200, rest: Duration::from_secs(60), network: false, metrics: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> anyhow::Result<u32> {
            arguments.next().context("a value is missing")?.parse().with_context(|| argument.clone())
        };
        match argument.as_str() {
            "--nodes" => plan.nodes = number()?.try_into()?,
            "--changes" => plan.changes = number()?.try_into()?,
            "--rest-seconds" => plan.rest = Duration::from_secs(number()?.into()),
            "--network" => plan.network = true,
            "--metrics" => plan.metrics = true,
            _ => anyhow::bail!("usage: hundred [--nodes N] [--changes N] [--rest-seconds N] [--network] [--metrics]"),
        }
    }
    Ok(plan)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let plan = plan()?;
    let empty = resident_bytes()?;
    let mut faults = Vec::new();
    let what = if plan.network { "QUIC on loopback" } else { "memory" };
    println!("hundred: {} nodes over {what}", plan.nodes);

    let (mesh, last_start) = Mesh::start(plan.nodes, plan.network).await?;
    let met = mesh.all_know_all(Duration::from_secs(120)).await.context("they do not come to know each other")?;
    let met = met.saturating_duration_since(last_start);
    println!("hundred: every node sees all {} adverts {:.2} s after the last start", plan.nodes, met.as_secs_f64());
    let show = |when: &str| {
        if plan.metrics {
            println!("hundred: counted by all nodes, {when}:\n{}", mesh.counted());
        }
    };
    show("when they had met");
    if met > MEET {
        faults.push(format!("they met in {met:.1?}, not within {MEET:?}"));
    }

    let mut times = mesh.changes(plan.changes).await.context("a change does not spread")?;
    let (p50, p99, worst) = percentiles(&mut times);
    println!("hundred: {} changed adverts reached all: p50 {p50:.0?}, p99 {p99:.0?}, worst {worst:.0?}", plan.changes);
    show("when all had heard of the changes");
    if p99 > SPREAD {
        faults.push(format!("the p99 of a change is {p99:.1?}, not {SPREAD:?}"));
    }

    // What the start and the changes set off comes to an end first.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (busy, began) = (mesh.payload_bytes(), Instant::now());
    let (wire, cpu) = (wire_bytes()?, figures::processor_time());
    tokio::time::sleep(plan.rest).await;
    show("at the end");
    let seconds = began.elapsed().as_secs_f64();
    let nodes = f64::from(u32::try_from(plan.nodes)?);
    let rate = |bytes: u64| f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / seconds / nodes;
    let sent = rate(mesh.payload_bytes() - busy);
    println!("hundred: at rest each node sends {sent:.0} B/s within its connections");
    let mut cost = sent;
    if plan.network {
        cost = rate(wire_bytes()? - wire);
        println!(
            "hundred: at rest each node sends {cost:.0} B/s on the wire, with all headers, keep-alives and acknowledgements"
        );
    }
    if cost > BYTES_PER_SECOND {
        faults.push(format!("a node sends {cost:.0} B/s at rest, more than {BYTES_PER_SECOND:.0}"));
    }
    let cpu = (figures::processor_time() - cpu).as_secs_f64() / seconds / nodes;
    println!("hundred: at rest each node takes {:.2} ms of a core in a second", cpu * 1000.0);
    let memory = resident_bytes()?.saturating_sub(empty) / u64::try_from(plan.nodes)?;
    let (fewest, average, most) = mesh.connections();
    println!(
        "hundred: {} KiB of memory for each node, with {fewest} to {most} neighbours, {average:.1} on average",
        memory / 1024
    );
    let gone = mesh.lost();
    if gone > 0 {
        faults.push(format!("{gone} times a node that lives was thought to be gone"));
    }
    // The figures are promised of what the nodes do, whose handshakes are cheaper over memory; with a hundred TLS stacks
    // in one process they are told and not judged.
    if plan.network && !faults.is_empty() {
        println!("hundred: beyond what is promised over memory: {}", faults.join("; "));
        return Ok(());
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}
