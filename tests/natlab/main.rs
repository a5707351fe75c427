//! Nodes behind the NATs of two homes reach each other with nothing but one public member as a seed.
//!
//! Real processes in the network namespaces of `scripts/natlab`. Ignored unless asked for, as it needs root:
//! `scripts/test natlab`, or `scripts/natlab run cone quic` for one case.

#[path = "../support/mod.rs"]
mod support;

mod lab;
mod node;

use std::time::{Duration, Instant};

use lab::{Lab, Nat, Transport};
use node::{Node, SEED};
use support::{Backend, Mode};

/// From the start of all nodes to a direct connection, with two busy cores.
const PUNCHED_WITHIN: Duration = Duration::from_secs(60);

/// For what nothing promises a time for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a symmetric NAT is watched: three attempts at punching fail within this.
const WATCHED: Duration = Duration::from_secs(12);

/// Size of the answers that are moved to see which way they take.
const BULK: u64 = 10 * 1024 * 1024;

/// What the public member may send while they move, if they do not pass through it: pings, gossip and sync.
const FLAT: u64 = 512 * 1024;

const MODEL: &str = "far-model";

/// Whether only other cases were asked for.
fn is_left_out(nat: Nat, transport: Transport) -> bool {
    let other = |name: &str, word: &str| std::env::var(name).is_ok_and(|asked| !asked.is_empty() && asked != word);
    other("NATLAB_NAT", nat.word()) || other("NATLAB_TRANSPORT", transport.word())
}

#[track_caller]
fn eventually<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Moves [`BULK`] from a to b, and returns what the public member sent meanwhile.
fn move_bulk(lab: &Lab, backend: &Backend, b: &Node<'_>) -> u64 {
    const TOKENS: usize = 160;
    let token_bytes = usize::try_from(BULK).expect("fits") / TOKENS;
    backend.set(Mode::Bulk { tokens: TOKENS, bytes: token_bytes });
    let before = lab.sent_by_public_host();
    let began = Instant::now();
    let answer = b.chat(MODEL, |_| {});
    let sent = lab.sent_by_public_host() - before;
    assert!(answer.is_whole() && answer.text.len() as u64 >= BULK, "{} bytes", answer.text.len());
    println!(
        "  {:.1} MiB in {:.1} s; the public member sent {} KiB meanwhile",
        answer.text.len() as f64 / 1048576.0,
        began.elapsed().as_secs_f64(),
        sent / 1024
    );
    sent
}

/// The median time to the first byte of some short calls.
fn first_byte(backend: &Backend, b: &Node<'_>) -> Duration {
    backend.set(Mode::quick());
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let answer = b.chat(MODEL, |_| {});
            assert!(answer.is_whole(), "{}", answer.text);
            answer.first_byte
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn start(lab: &Lab) -> (Node<'_>, Backend, Node<'_>, Node<'_>) {
    let public = Node::start(lab, "public", &[]);
    let backend = lab.within("a", || Backend::start("far", &[MODEL]));
    let a = Node::start(lab, "a", &["--seed-peer", SEED, "--backend", &backend.url()]);
    let b = Node::start(lab, "b", &["--seed-peer", SEED]);
    (public, backend, a, b)
}

fn port_preserving_nats(transport: Transport) {
    if is_left_out(Nat::Cone, transport) {
        return;
    }
    let Some(lab) = Lab::new(Nat::Cone, transport) else { return };
    println!("port-preserving NATs, {} only:", transport.word());
    let began = Instant::now();
    let (mut public, backend, a, b) = start(&lab);
    eventually("b lists the model of a, and is connected to it", PATIENCE, || {
        (b.lists(MODEL) && b.path_to("a").is_some()).then_some(())
    });
    println!("  b knows a's model and is connected to a after {:.1} s", began.elapsed().as_secs_f64());
    let first = b.chat(MODEL, |_| {});
    assert!(first.is_whole(), "{}", first.text);
    let path = b.path_to("a").map(|(path, _)| path).unwrap_or_default();
    println!("  first call: first byte after {} ms ({path})", first.first_byte.as_millis());

    let (_, carrier) = eventually("a direct connection", PUNCHED_WITHIN, || {
        b.path_to("a")
            .zip(a.path_to("b"))
            .filter(|(of_b, of_a)| of_b.0 == "wan" && of_a.0 == "wan")
            .map(|(of_b, _)| of_b)
    });
    assert_eq!(carrier, transport.word());
    println!("  direct over {carrier} after {:.1} s", began.elapsed().as_secs_f64());
    let relayed_first = [&a, &b].iter().any(|node| node.log().contains("path=relayed"));
    assert!(relayed_first, "they were never connected through the relay: who punched the hole?");

    println!("  direct calls: first byte after {} ms (median of 5)", first_byte(&backend, &b).as_millis());
    let sent = move_bulk(&lab, &backend, &b);
    assert!(sent < FLAT, "{sent} bytes went through the public member");

    backend.set(Mode::Answer { tokens: 100, gap: Duration::from_millis(50) });
    let mut killed_at = None;
    let answer = b.chat(MODEL, |seen| {
        if seen > 2000 && killed_at.is_none() {
            public.kill();
            killed_at = Some(seen);
        }
    });
    let killed_at = killed_at.expect("the stream was long enough");
    assert!(answer.is_whole() && answer.text.contains(" t99"), "{}", answer.text);
    assert!(killed_at < answer.text.len() / 2, "it was killed in mid-stream");
    println!("  the relay was killed in mid-stream, and the answer came whole");
    assert!(first_byte(&backend, &b) < PATIENCE, "calls go on without it");
}

fn symmetric_nats(transport: Transport) {
    if is_left_out(Nat::Symmetric, transport) {
        return;
    }
    let Some(lab) = Lab::new(Nat::Symmetric, transport) else { return };
    println!("symmetric NATs, {} only:", transport.word());
    let began = Instant::now();
    let (_public, backend, a, b) = start(&lab);
    eventually("b lists the model of a, and is connected to it", PATIENCE, || {
        (b.lists(MODEL) && b.path_to("a").is_some()).then_some(())
    });
    println!("  b knows a's model and is connected to a after {:.1} s", began.elapsed().as_secs_f64());
    let first = b.chat(MODEL, |_| {});
    assert!(first.is_whole(), "{}", first.text);
    println!("  first call: first byte after {} ms", first.first_byte.as_millis());
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        assert!(b.chat(MODEL, |_| {}).is_whole(), "a call failed while the punching was tried");
        std::thread::sleep(Duration::from_millis(500));
    }
    for (node, other) in [(&a, "b"), (&b, "a")] {
        assert_eq!(node.path_to(other).map(|(path, _)| path).as_deref(), Some("relayed"));
    }
    println!("  relayed calls: first byte after {} ms (median of 5)", first_byte(&backend, &b).as_millis());
    let sent = move_bulk(&lab, &backend, &b);
    assert!(sent > BULK, "{sent} bytes went through the public member: which way did the answers take?");
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test natlab"]
fn port_preserving_nats_are_punched_over_quic() {
    port_preserving_nats(Transport::Quic);
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test natlab"]
fn port_preserving_nats_are_punched_over_tcp() {
    port_preserving_nats(Transport::Tcp);
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test natlab"]
fn symmetric_nats_are_served_through_the_relay_over_quic() {
    symmetric_nats(Transport::Quic);
}

#[test]
#[ignore = "needs root and network namespaces: scripts/test natlab"]
fn symmetric_nats_are_served_through_the_relay_over_tcp() {
    symmetric_nats(Transport::Tcp);
}
