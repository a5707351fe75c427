//! What is measured, learnt, reported and forgotten of nodes.

use super::*;
use crate::mesh::{LinkTransport, PeerView};

fn view(peers: &[(PeerId, PathClass, u64)]) -> MeshView {
    MeshView {
        mesh_id: String::new(),
        mesh_name: String::new(),
        membership: None,
        node: PeerId::random(),
        listening: Vec::new(),
        peers: peers
            .iter()
            .map(|(node, path, rtt)| {
                let rtt = Some(Duration::from_millis(*rtt));
                let transport = LinkTransport::Quic;
                (*node, PeerView { path: *path, transport, rtt, address: String::new(), connections: 1 })
            })
            .collect(),
        seeds: Vec::new(),
    }
}

const PRIOR: [f64; 4] = [0.05, 1000.0, 20.0, 5.0];

fn reading(signals: &Signals, node: &PeerId, id: &CapabilityId, now: Instant) -> Option<Reading> {
    let read = signals.read();
    read.node(node).and_then(|node| node.capability(id)).map(|capability| capability.reading(PRIOR, (0.0, 4.0), now))
}

#[test]
fn a_call_counts_while_its_guard_lives() {
    let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
    let first = signals.begin(&node, &id);
    let second = signals.begin(&node, &id);
    assert_eq!(signals.in_flight(&node, &id), 2);
    drop(first);
    drop(second);
    assert_eq!(signals.in_flight(&node, &id), 0);
}

#[test]
fn own_calls_since_the_report_are_added_to_it_and_the_report_fades() {
    let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
    let now = Instant::now();
    let _one = signals.begin(&node, &id);
    signals.observe_load(&node, &id, Load { running: 3, queued: 1, limit: 4 }, now);
    let _two = signals.begin(&node, &id);
    let fresh = reading(&signals, &node, &id, now).expect("known");
    assert_eq!((fresh.outstanding, fresh.limit), (5.0, 4.0));
    let old = reading(&signals, &node, &id, now + Duration::from_secs(60)).expect("known");
    assert_eq!(old.outstanding, 2.0, "what is surely there is our own");
}

#[test]
fn rates_are_learnt_from_streams_and_from_whole_answers() {
    let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
    let now = Instant::now();
    let streamed = Observation {
        first_chunk: Duration::from_millis(4000),
        rest: Duration::from_secs(2),
        loading: None,
        prompt_tokens: 4000,
        completion_tokens: 101,
        streamed: true,
        decodes: true,
        first_ratio: None,
        cached_tokens: None,
        warm_tokens: 0.0,
        company: 0.0,
    };
    for _ in 0..8 {
        signals.succeed(&node, &id, Some(streamed), now);
    }
    let seen = reading(&signals, &node, &id, now).expect("known");
    assert!(seen.measured && seen.idle.is_some());
    assert!((45.0..=51.0).contains(&seen.decode), "{seen:?}");
    assert!((900.0..=1100.0).contains(&seen.prefill), "{seen:?}");

    let id = CapabilityId::from("b");
    let whole = Observation { rest: Duration::ZERO, streamed: false, prompt_tokens: 10, ..streamed };
    for _ in 0..8 {
        signals.succeed(&node, &id, Some(whole), now);
    }
    let seen = reading(&signals, &node, &id, now).expect("known");
    assert!((22.0..=30.0).contains(&seen.decode), "101 tokens in 4 s: {seen:?}");
}

#[test]
fn what_was_cached_teaches_nothing_of_the_speed_and_the_share_is_learnt() {
    let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
    let now = Instant::now();
    let fresh = Observation {
        first_chunk: Duration::from_millis(4000),
        rest: Duration::from_secs(2),
        loading: None,
        prompt_tokens: 4000,
        completion_tokens: 101,
        streamed: true,
        decodes: true,
        first_ratio: None,
        cached_tokens: Some(0),
        warm_tokens: 0.0,
        company: 0.0,
    };
    let cached = Observation {
        first_chunk: Duration::from_millis(500),
        cached_tokens: Some(3500),
        warm_tokens: 3500.0,
        ..fresh
    };
    for seen in [fresh, cached, cached, fresh, cached, cached] {
        signals.succeed(&node, &id, Some(seen), now);
    }
    let seen = reading(&signals, &node, &id, now).expect("known");
    assert!((700.0..=1300.0).contains(&seen.prefill), "{seen:?}");
    assert!(seen.cache_share > 0.85, "{seen:?}");
    // A backend that keeps nothing is not believed for long.
    for _ in 0..12 {
        signals.succeed(&node, &id, Some(Observation { warm_tokens: 3500.0, ..fresh }), now);
    }
    assert!(reading(&signals, &node, &id, now).expect("known").cache_share < 0.1);
}

#[test]
fn a_node_that_is_gone_is_forgotten_and_paths_follow_the_view() {
    let signals = Signals::new(PeerId::random());
    let (a, b) = (PeerId::random(), PeerId::random());
    signals.update_paths(&view(&[(a, PathClass::Lan, 3), (b, PathClass::Wan, 80)]));
    assert_eq!(signals.read().path(&b), (Some(PathClass::Wan), Some(Duration::from_millis(80))));
    signals.update_paths(&view(&[(a, PathClass::Lan, 3)]));
    assert_eq!(signals.read().path(&b), (None, None));
    signals.retain(&HashSet::from_iter([a]));
    assert!(signals.read().node(&b).is_none());
    assert!(signals.read().node(&a).is_some());
}

#[test]
fn measurements_are_bounded() {
    let (signals, node) = (Signals::new(PeerId::random()), PeerId::random());
    let now = Instant::now();
    for index in 0..MAX_CAPABILITIES * 3 {
        signals.fail_capability(&node, &CapabilityId::from(format!("c{index}").as_str()), now, now);
    }
    assert!(signals.nodes.read()[&node].capabilities.len() <= MAX_CAPABILITIES);
}

#[test]
fn the_longer_rest_of_node_and_capability_counts() {
    let (signals, node, id) = (Signals::new(PeerId::random()), PeerId::random(), CapabilityId::from("a"));
    let now = Instant::now();
    signals.rest_capability(&node, &id, Duration::from_secs(9), now);
    signals.fail_node(&node, now, now);
    assert_eq!(signals.cooling(&node, &id, now).map(|(left, _)| left), Some(Duration::from_secs(9)));
    assert!(signals.cooling(&node, &CapabilityId::from("b"), now).is_some());
    signals.succeed(&node, &id, None, now);
    assert_eq!(signals.cooling(&node, &id, now), None);
}
