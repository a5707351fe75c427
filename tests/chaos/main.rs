//! Nodes are killed, frozen, ended, restarted and cut off from each other while clients ask: every request still ends,
//! and nothing is left over.
//!
//! `scripts/test chaos` runs it. `CHAOS_SECONDS` is how long the schedule goes on (30), `CHAOS_SEED` repeats a run: the
//! same seed makes the same schedule and the same requests, though not the same interleaving. A failed run leaves the
//! nodes' logs in the target directory and says where. Limits of time are stretched by what a busy machine does to any
//! program (`strain`). Without a network of its own the mesh is not cut, and the run says so.

mod census;
mod clients;
mod dice;
mod network;
mod schedule;
mod strain;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use census::Census;
use clients::{Client, Tally};
use dice::Dice;
use network::Network;
use schedule::Stage;
use strain::Strain;
use support::{ADVERT_TTL, Mode, PATIENCE, eventually};

/// Clients that ask at once.
const CLIENTS: u64 = 5;
/// Requests under way before the first census: connections, pools and caches are there then.
const WARM_UP: Duration = Duration::from_secs(5);
/// What a look at the clock and the way of a message may add to a life; more on a machine under strain.
const MARGIN: Duration = Duration::from_secs(1);

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: scripts/test chaos runs it"]
async fn every_request_ends_and_nothing_is_left_over() {
    let seed = from_environment("CHAOS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    let length = Duration::from_secs(from_environment("CHAOS_SECONDS").unwrap_or(30));
    println!("chaos: CHAOS_SEED={seed} CHAOS_SECONDS={}", length.as_secs());

    let network = match Network::of_own() {
        Ok(network) => Some(network),
        Err(why) => {
            println!("chaos: cutting the mesh in two is SKIPPED: {why}");
            None
        }
    };
    let strain = Arc::new(Strain::watch());
    let mut stage = Stage::set_up(seed, network).await;
    let tally = Arc::new(Tally::default());

    ask_for(WARM_UP, seed, &stage, &tally, &strain).await;
    quiet(&stage).await;
    let before = census_of(&stage).await;

    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed.wrapping_add(1 + number));
            let client = Client::new(number, stage.doors(), dice, Arc::clone(&tally), Arc::clone(&strain));
            tokio::spawn(client.run(Arc::clone(&ended)))
        })
        .collect();
    stage.play(length).await;

    // Clients go on. Some are dead now, and nobody may list them for longer than their time to live, whatever nodes that
    // have just been frozen or cut off still have to say.
    let dead = stage.kill_some();
    let killed = Instant::now();
    let mut ghosts = Vec::new();
    for node in &stage.living() {
        loop {
            let limit = ADVERT_TTL + strain.allows(MARGIN, killed);
            let names = node.node_names().await;
            let listed: Vec<&String> = dead.iter().filter(|name| names.contains(name)).collect();
            if listed.is_empty() {
                break;
            }
            if killed.elapsed() > limit {
                ghosts.push(format!(
                    "{} still lists {listed:?} {:.1?} after their death",
                    node.name(),
                    killed.elapsed()
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("chaos: {dead:?} gone from every list {:.1} s after their death", killed.elapsed().as_secs_f64());
    let living = Instant::now();
    stage.agree_among_the_living().await;
    println!("chaos: the living have one list {:.1} s after that", living.elapsed().as_secs_f64());

    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client never panics");
    }
    println!("chaos: {}; the mesh was cut in two {} times", tally.summary(), stage.cuts());

    stage.restore().await;
    let restored = Instant::now();
    stage.agree().await;
    println!("chaos: all nodes have one list {:.1} s after the last restart", restored.elapsed().as_secs_f64());

    // What worked before works again, without exception.
    let after = Arc::new(Tally::default());
    stage.all_answer().await;
    ask_for(WARM_UP, seed.wrapping_add(99), &stage, &after, &strain).await;
    println!("chaos: afterwards: {}", after.summary());
    quiet(&stage).await;

    let mut faults = tally.faults();
    faults.extend(after.faults());
    faults.extend(ghosts);
    if after.answered() != after.asked() - after.left() {
        faults.push(format!("not every request was answered once all was well: {}", after.summary()));
    }
    faults.extend(leaks(&stage, &before).await);
    faults.extend(stage.faults());
    println!("chaos: the machine in the last two minutes: {}", strain.summary());
    if !faults.is_empty() {
        let logs = stage.keep_logs(seed);
        panic!("CHAOS_SEED={seed}: {} faults, logs are in {}:\n{}", faults.len(), logs.display(), faults.join("\n"));
    }
}

/// Clients ask for so long while nothing is disturbed.
async fn ask_for(length: Duration, seed: u64, stage: &Stage, tally: &Arc<Tally>, strain: &Arc<Strain>) {
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed.wrapping_add(1000 + number));
            let client = Client::new(number, stage.doors(), dice, Arc::clone(tally), Arc::clone(strain));
            tokio::spawn(client.run(Arc::clone(&ended)))
        })
        .collect();
    tokio::time::sleep(length).await;
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client never panics");
    }
}

/// Waits until no backend works for anybody.
async fn quiet(stage: &Stage) {
    for backend in stage.backends() {
        backend.set(Mode::quick());
        eventually("no call keeps a backend busy", PATIENCE, async || {
            let counts = backend.counts();
            counts.started == counts.finished + counts.cancelled
        })
        .await;
    }
}

/// The nodes that are never killed, as they are.
async fn census_of(stage: &Stage) -> Vec<(String, Census)> {
    let mut all = Vec::new();
    for node in stage.spared() {
        all.push((node.name().to_owned(), Census::of(node).await));
    }
    all
}

/// What the nodes that were never killed hold on to. Pools let go within a minute and a half, so it is waited for.
async fn leaks(stage: &Stage, before: &[(String, Census)]) -> Vec<String> {
    let end = Instant::now() + census::SETTLE;
    loop {
        let now = census_of(stage).await;
        let found: Vec<String> = before
            .iter()
            .zip(&now)
            .filter_map(|((name, before), (_, now))| now.beyond(before).map(|what| format!("{name} leaks: {what}")))
            .collect();
        if found.is_empty() || Instant::now() >= end {
            for ((name, before), (_, now)) in before.iter().zip(&now) {
                println!("chaos: {name}: before {before}, after {now}");
            }
            return found;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
