//! The node beside other gateways, all before one backend: what each adds to a request, and what it costs.
//!
//! Every gateway runs on one processor, the backend and the load on another; the runs are interleaved, round by round,
//! and the medians of the rounds are compared, so that what disturbs the machine disturbs all alike.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::backend::{EVENTS, MODEL};
use super::load::{self, KEY, Load, Measured, Until};
use super::process::{Node, Pin, Process, answers, free_port};
use super::{count, micros};

/// Rounds, of which the median counts, unless told otherwise.
const ROUNDS: usize = 5;
/// One run of one gateway.
const RUN: Duration = Duration::from_millis(2500);
/// Before the first round each gateway is used for so long.
const WARM_UP: Duration = Duration::from_millis(700);
/// Connections of the runs for throughput and for streams.
const MANY: usize = 16;
/// Time between two events of a stream: a fast model's tokens, and far enough apart for each to travel alone.
const PACE: Duration = Duration::from_millis(2);
/// Streams at once.
const STREAMS: usize = 32;

/// One way to the backend.
struct Way {
    name: &'static str,
    address: SocketAddr,
    processes: Vec<Process>,
    runs: Vec<Round>,
}

/// What one round found of one way.
struct Round {
    one: Measured,
    many: Measured,
    cpu_request: f64,
    cpu_event: f64,
}

/// Measures the node and the other gateways: `nginx=PROGRAM`, `sglang-router=PROGRAM`, `vllm-router=PROGRAM`; and with
/// `rounds=N` before them in so many rounds.
pub async fn compare(program: &Path, mut peers: &[&str]) -> anyhow::Result<()> {
    let mut rounds = ROUNDS;
    if let [first, rest @ ..] = peers
        && let Some(count) = first.strip_prefix("rounds=")
    {
        (rounds, peers) = (count.parse().context("rounds=N")?, rest);
    }
    // The load runs wherever this program was put; the script sees to it.
    let (gateway, backend) = match processors_of_machine() {
        0 | 1 => (Pin(None), Pin(None)),
        2 | 3 => (Pin(Some(0)), Pin(Some(1))),
        _ => (Pin(Some(0)), Pin(Some(2))),
    };
    let far = if processors_of_machine() > 3 { Pin(Some(1)) } else { gateway.clone() };
    let home = tempfile::tempdir()?;
    let (_backend, to) = Process::backend(&backend, Some(PACE))?;
    let mut ways = vec![Way { name: "direct", address: to, processes: Vec::new(), runs: Vec::new() }];
    for peer in peers {
        let (name, path) = peer.split_once('=').context("a peer is NAME=PROGRAM")?;
        ways.push(start(name, Path::new(path), &gateway, to, home.path()).await?);
    }
    ways.extend(nodes(program, &gateway, &far, to, home.path()).await?);
    println!("{ABOUT}\n");
    println!("{rounds} rounds of {} ways on {} processors\n", ways.len(), processors_of_machine());

    for way in &ways {
        let warm = Load { target: way.address, streamed: false, connections: MANY, until: Until::Time(WARM_UP) };
        load::run(warm).await.context(way.name)?;
    }
    for _ in 0..rounds.max(1) {
        for way in &mut ways {
            let round = measure(way).await.context(way.name)?;
            way.runs.push(round);
        }
    }
    report(&ways)
}

/// Processors of the machine, whatever part of it this program may use.
fn processors_of_machine() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    online.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok()).map_or(1, |last| last + 1)
}

async fn measure(way: &Way) -> anyhow::Result<Round> {
    let load = |streamed, connections| Load { target: way.address, streamed, connections, until: Until::Time(RUN) };
    let cpu = || way.processes.iter().map(Process::cpu).sum::<anyhow::Result<Duration>>();
    let one = load::run(load(false, 1)).await?;
    let before = cpu()?;
    let many = load::run(load(false, MANY)).await?;
    let between = cpu()?;
    let streams = load::run(load(true, STREAMS)).await?;
    let after = cpu()?;
    Ok(Round {
        one,
        many,
        cpu_request: micros(between.saturating_sub(before)) / count(many.requests),
        cpu_event: micros(after.saturating_sub(between)) / count(streams.requests * EVENTS),
    })
}

/// Starts another gateway, and waits until it answers.
async fn start(name: &str, program: &Path, pin: &Pin, backend: SocketAddr, home: &Path) -> anyhow::Result<Way> {
    let (port, metrics) = (free_port()?, free_port()?);
    let log = home.join(format!("{name}.log"));
    let name = match name {
        "nginx" => "nginx",
        "sglang-router" => "sglang-router",
        "vllm-router" => "vllm-router",
        other => bail!("{other:?} is no gateway that is known here"),
    };
    let mut command = pin.command(program);
    if name == "nginx" {
        let configuration = home.join("nginx.conf");
        std::fs::write(&configuration, nginx(port, backend, home))?;
        command.arg("-p").arg(home).arg("-c").arg(configuration).args(["-e", "stderr"]);
    } else {
        // The one is a program of several verbs.
        command.args((name == "sglang-router").then_some("launch"));
        command
            .args(["--worker-urls", &format!("http://{backend}"), "--policy", "round_robin"])
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--prometheus-host", "127.0.0.1", "--prometheus-port", &metrics.to_string()])
            .args(["--log-level", "error"])
            .current_dir(home);
    }
    let processes = vec![Process::other(command, &log)?];
    let path = if name == "nginx" { "/v1/models" } else { "/readiness" };
    answers(port, path, "", home).await.with_context(|| {
        format!("{name} does not start; it says:\n{}", std::fs::read_to_string(&log).unwrap_or_default())
    })?;
    Ok(Way { name, address: SocketAddr::from(([127, 0, 0, 1], port)), processes, runs: Vec::new() })
}

/// A plain reverse proxy: keep-alive both ways, every event at once, no log.
fn nginx(port: u16, backend: SocketAddr, home: &Path) -> String {
    let home = home.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 100000000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream backend {{ server {backend}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
    }}
  }}
}}
"
    )
}

/// The node before the backend, and another one that reaches it through the first.
async fn nodes(program: &Path, near: &Pin, far: &Pin, backend: SocketAddr, home: &Path) -> anyhow::Result<[Way; 2]> {
    // The local figures must not hold what the second node asks of the first, so the hop has a holder of its own.
    let [local, holder, asker] = [ports()?, ports()?, ports()?];
    let node = |name, (port, gossip_port): (u16, u16), backend, seed, pin: &Pin| Node {
        name,
        port,
        gossip_port,
        backend,
        seed,
        key: Some(KEY),
        pin: pin.clone(),
    };
    let local_node = Process::node(program, home, &node("local", local, Some(backend), None, near))?;
    let holder_node = Process::node(program, home, &node("holder", holder, Some(backend), None, far))?;
    answers(holder.0, "/readyz", "", home).await?;
    let asker_node = Process::node(program, home, &node("asker", asker, None, Some(holder.1), near))?;
    for (port, _) in [local, asker] {
        answers(port, "/v1/models", MODEL, home).await?;
    }
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Ok([
        Way { name: "node", address: at(local.0), processes: vec![local_node], runs: Vec::new() },
        Way { name: "one hop", address: at(asker.0), processes: vec![asker_node, holder_node], runs: Vec::new() },
    ])
}

fn ports() -> anyhow::Result<(u16, u16)> {
    Ok((free_port()?, free_port()?))
}

/// What the table says, for whoever sees it for the first time.
const ABOUT: &str = "\
The node beside other gateways, all before the same backend on this machine; medians of interleaved rounds.
  added     time of a request beyond that of asking the backend directly, one connection, answers in one piece
  req/s     answers in one piece, 16 connections
  CPU       of the gateway, in user and system mode: per request at 16 connections, per event with 32 streams
  RSS       resident memory after the runs
The node has API keys, limits, routing and metrics on; \"one hop\" is two nodes, and its figures are of both together.";

fn report(ways: &[Way]) -> anyhow::Result<()> {
    let direct = ways.first().context("nothing was measured")?;
    let added = |way: &Way, of: fn(&Measured) -> Duration| {
        median(way.runs.iter().zip(&direct.runs).map(|(run, base)| micros(of(&run.one)) - micros(of(&base.one))))
    };
    println!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>8}",
        "", "p50, us", "added p50", "added p99", "req/s", "CPU/req, us", "CPU/event,us", "RSS, MB"
    );
    let mut figures = Vec::new();
    for way in ways {
        let p50 = median(way.runs.iter().map(|run| micros(run.one.p50)));
        let (p50_added, p99_added) = (added(way, |run| run.p50), added(way, |run| run.p99));
        let rate = median(way.runs.iter().map(|run| run.many.rate()));
        let request = median(way.runs.iter().map(|run| run.cpu_request));
        let event = median(way.runs.iter().map(|run| run.cpu_event));
        let memory = way.processes.iter().map(Process::resident_mb).sum::<anyhow::Result<f64>>()?;
        if way.processes.is_empty() {
            println!(
                "{:<16} {p50:>9.1} {:>9} {:>9} {rate:>9.0} {:>12} {:>12} {:>8}",
                way.name, "-", "-", "-", "-", "-"
            );
        } else {
            println!(
                "{:<16} {p50:>9.1} {p50_added:>9.1} {p99_added:>9.1} {rate:>9.0} {request:>12.1} {event:>12.1} {memory:>8.1}",
                way.name
            );
        }
        figures.push((way.name, [p50_added, p99_added, rate, request, event]));
    }
    let of = |name: &str| figures.iter().find(|(known, _)| *known == name).map(|(_, figures)| *figures);
    let Some(node) = of("node") else { bail!("the node was not measured") };
    println!("\nthe node against each, as ratios (time and CPU: below 1 is better; req/s: above 1)");
    for (name, theirs) in figures.iter().filter(|(name, _)| *name != "direct" && *name != "node") {
        let ratio = |index: usize| format!("{:.2}", node[index] / theirs[index]);
        println!(
            "{:<16} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12}",
            format!("  {name}"),
            "",
            ratio(0),
            ratio(1),
            ratio(2),
            ratio(3),
            ratio(4)
        );
    }
    println!("\ntargets");
    let hop = of("one hop").unwrap_or(node);
    for (what, value, bound, at_most) in [
        ("added p50 of the node, us", node[0], 60.0, true),
        ("requests/s of the node at 16 connections", node[2], 25_000.0, false),
        ("CPU of the node per request, us", node[3], 40.0, true),
        ("CPU of the node per event, us", node[4], 8.0, true),
        ("a hop adds to p50, times what the node adds", (hop[0] - node[0]) / node[0], 2.0, true),
        ("a hop adds to CPU per request, times the node's", (hop[3] - node[3]) / node[3], 2.0, true),
        ("a hop adds to CPU per event, times the node's", (hop[4] - node[4]) / node[4], 2.0, true),
    ] {
        let met = if at_most { value <= bound } else { value >= bound };
        let verdict = if met { "met" } else { "MISSED" };
        let how = if at_most { "at most" } else { "at least" };
        println!("  {what:<48} {value:>9.1}   {how} {bound:>6.0}   {verdict}");
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    if values.is_empty() { 0.0 } else { values[values.len() / 2] }
}
