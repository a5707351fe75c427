//! Nodes are killed, frozen, ended and restarted while clients ask: every request still ends, and nothing is left over.
//!
//! `scripts/test chaos` runs it. `CHAOS_SECONDS` is how long the schedule goes on (30), `CHAOS_SEED` repeats a run: the
//! same seed makes the same schedule and the same requests, though not the same interleaving. A failed run leaves the
//! nodes' logs in the target directory and says where.

mod census;
mod clients;
mod dice;
mod schedule;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use census::Census;
use clients::{Client, Tally};
use dice::Dice;
use schedule::Stage;
use support::{ADVERT_TTL, Mode, PATIENCE, eventually};

/// Clients that ask at once.
const CLIENTS: u64 = 5;
/// Requests under way before the first census: connections, pools and caches are there then.
const WARM_UP: Duration = Duration::from_secs(5);
/// What two busy cores may add to a promise.
const MARGIN: Duration = Duration::from_secs(4);

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

    let mut stage = Stage::set_up(seed).await;
    let tally = Arc::new(Tally::default());

    ask_for(WARM_UP, seed, &stage, &tally).await;
    quiet(&stage).await;
    let before = census_of(&stage);

    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed.wrapping_add(1 + number));
            tokio::spawn(Client::new(number, stage.doors(), dice, Arc::clone(&tally)).run(Arc::clone(&ended)))
        })
        .collect();
    stage.play(length).await;

    // Clients go on. A node that stood still may hand on what it was told before that, and whoever hears it late
    // believes it for a whole time to live: so the mesh is one again before anybody dies.
    stage.agree().await;

    // Some are dead now, and nobody may list them for longer than their time to live.
    let dead = stage.kill_some();
    let killed = Instant::now();
    let living = stage.living();
    for node in &living {
        let limit = (ADVERT_TTL + MARGIN).saturating_sub(killed.elapsed());
        eventually(&format!("{} no longer lists {dead:?}", node.name()), limit, async || {
            let names = node.node_names().await;
            !names.iter().any(|name| dead.contains(name))
        })
        .await;
    }
    println!("chaos: {dead:?} gone from every list {:.1} s after their death", killed.elapsed().as_secs_f64());

    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client never panics");
    }
    println!("chaos: {}", tally.summary());

    stage.restore().await;
    let restored = Instant::now();
    stage.agree().await;
    println!("chaos: all nodes have one list {:.1} s after the last restart", restored.elapsed().as_secs_f64());

    // What worked before works again, without exception.
    let after = Arc::new(Tally::default());
    stage.all_answer().await;
    ask_for(WARM_UP, seed.wrapping_add(99), &stage, &after).await;
    println!("chaos: afterwards: {}", after.summary());
    quiet(&stage).await;

    let mut faults = tally.faults();
    faults.extend(after.faults());
    if after.answered() != after.asked() - after.left() {
        faults.push(format!("not every request was answered once all was well: {}", after.summary()));
    }
    faults.extend(leaks(&stage, &before).await);
    faults.extend(stage.faults());
    if !faults.is_empty() {
        let logs = stage.keep_logs(seed);
        panic!("CHAOS_SEED={seed}: {} faults, logs are in {}:\n{}", faults.len(), logs.display(), faults.join("\n"));
    }
}

/// Clients ask for so long while nothing is disturbed.
async fn ask_for(length: Duration, seed: u64, stage: &Stage, tally: &Arc<Tally>) {
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let dice = Dice::new(seed.wrapping_add(1000 + number));
            tokio::spawn(Client::new(number, stage.doors(), dice, Arc::clone(tally)).run(Arc::clone(&ended)))
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
fn census_of(stage: &Stage) -> Vec<(String, Census)> {
    stage.spared().map(|node| (node.name().to_owned(), Census::of(node.pid()))).collect()
}

/// What the nodes that were never killed hold on to. Pools let go within a minute and a half, so it is waited for.
async fn leaks(stage: &Stage, before: &[(String, Census)]) -> Vec<String> {
    let end = Instant::now() + census::SETTLE;
    loop {
        let now = census_of(stage);
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
