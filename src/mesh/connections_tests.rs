//! Which connections are best, superfluous, or to be made.

use super::*;

fn link(id: usize, path: PathClass, transport: LinkTransport, dialled: bool, since: Instant) -> Link {
    Link {
        id: ConnectionId::new_unchecked(id),
        path,
        transport,
        dialled,
        address: String::new(),
        since,
        heard: since,
        rtt: None,
        own_port: true,
        seen_as: None,
    }
}

fn two_ids() -> (PeerId, PeerId) {
    let (a, b) = (PeerId::random(), PeerId::random());
    if a < b { (a, b) } else { (b, a) }
}

#[test]
fn direct_beats_relayed_and_quic_beats_tcp_and_both_ends_agree() {
    let (smaller, greater) = two_ids();
    let now = Instant::now();
    for (own, other, own_dials) in [(smaller, greater, true), (greater, smaller, false)] {
        let mut connections = Connections::new(own);
        let id = |connections: &Connections| connections.best(&other).map(|link| link.id);
        let best = |id: usize| Some(ConnectionId::new_unchecked(id));
        connections.opened(other, link(1, PathClass::Relayed, LinkTransport::Relay, true, now));
        assert_eq!(id(&connections), best(1));
        connections.opened(other, link(2, PathClass::Wan, LinkTransport::Tcp, true, now));
        assert_eq!(id(&connections), best(2));
        connections.opened(other, link(3, PathClass::Wan, LinkTransport::Quic, !own_dials, now));
        assert_eq!(id(&connections), best(3));
        connections.opened(other, link(4, PathClass::Wan, LinkTransport::Quic, own_dials, now));
        assert_eq!(id(&connections), best(4), "the smaller id dialled it");
        assert_eq!(connections.views()[&other].connections, 4);
    }
}

#[test]
fn a_duplicate_is_closed_after_its_grace_when_it_carries_nothing() {
    let (own, other) = two_ids();
    let now = Instant::now();
    let mut connections = Connections::new(own);
    assert!(connections.opened(other, link(1, PathClass::Lan, LinkTransport::Tcp, true, now)));
    assert!(connections.duplicates(now + DUPLICATE_GRACE * 2, |_, _| false).is_empty());
    assert!(!connections.opened(other, link(2, PathClass::Lan, LinkTransport::Quic, true, now + DUPLICATE_GRACE)));
    let later = now + DUPLICATE_GRACE * 2;
    assert!(connections.duplicates(later - Duration::from_millis(1), |_, _| false).is_empty());
    assert!(connections.duplicates(later, |_, _| true).is_empty());
    assert_eq!(connections.duplicates(later, |_, _| false), [ConnectionId::new_unchecked(1)]);
    assert!(!connections.closed(&other, ConnectionId::new_unchecked(1)));
    assert!(connections.closed(&other, ConnectionId::new_unchecked(2)));
}

#[test]
fn a_connection_without_answers_to_pings_is_silent() {
    let (own, other) = two_ids();
    let (now, longest) = (Instant::now(), Duration::from_secs(10));
    let mut connections = Connections::new(own);
    connections.opened(other, link(1, PathClass::Lan, LinkTransport::Tcp, true, now));
    connections.opened(other, link(2, PathClass::Lan, LinkTransport::Quic, true, now));
    assert!(connections.silent(now + longest, longest).is_empty());
    let id = ConnectionId::new_unchecked(2);
    connections.measured(&other, id, Duration::from_millis(1), now + longest / 2);
    let later = now + longest + Duration::from_millis(1);
    assert_eq!(connections.silent(later, longest), [(other, ConnectionId::new_unchecked(1))]);
    assert_eq!(connections.settled(later, longest), [other]);
    connections.opened(other, link(3, PathClass::Lan, LinkTransport::Quic, true, later));
    assert!(connections.settled(later, longest).is_empty());
}

#[test]
fn a_neighbour_that_is_too_busy_to_answer_is_not_settled() {
    let (own, other) = two_ids();
    let (now, age) = (Instant::now(), Duration::from_secs(8));
    let mut connections = Connections::new(own);
    connections.opened(other, link(1, PathClass::Lan, LinkTransport::Tcp, true, now));
    let id = ConnectionId::new_unchecked(1);
    connections.measured(&other, id, Duration::from_millis(1), now + age / 8);
    assert!(connections.settled(now + age * 2, age).is_empty());
    connections.measured(&other, id, Duration::from_millis(1), now + age);
    assert_eq!(connections.settled(now + age * 2, age), [other]);
}

#[test]
fn known_nodes_are_dialled_up_to_the_target_and_failures_wait() {
    let (own, bad) = two_ids();
    let now = Instant::now();
    let mut connections = Connections::new(own);
    assert_eq!(connections.to_dial([own, bad], now), [bad]);
    connections.dialling(bad, now);
    assert!(connections.to_dial([bad], now).is_empty(), "it is being dialled");
    connections.unreachable(bad, now, 1.0);
    assert!(connections.to_dial([bad], now).is_empty());
    assert_eq!(connections.to_dial([bad], now + REDIAL_MIN), [bad], "one failure is one failure");
    for _ in 0..50 {
        connections.unreachable(bad, now, 1.0);
    }
    assert_eq!(connections.to_dial([bad], now + REDIAL_MAX), [bad], "the wait is bounded");
    let many: Vec<_> = (0..TARGET + 5).map(|_| PeerId::random()).collect();
    for _ in 0..TARGET {
        for node in connections.to_dial(many.clone(), now) {
            connections.opened(node, link(1, PathClass::Lan, LinkTransport::Tcp, true, now));
        }
    }
    assert_eq!(connections.len(), TARGET);
    let mut busy = Connections::new(own);
    let mut dialled = 0;
    for _ in 0..TARGET {
        for node in busy.to_dial(many.clone(), now) {
            busy.dialling(node, now);
            dialled += 1;
        }
    }
    assert_eq!(dialled, TARGET, "what is being dialled counts before it is connected");
    assert!(!busy.to_dial(many, now + DIAL_LIMIT).is_empty(), "but not for ever");
}

#[test]
fn lost_nodes_are_tried_one_by_one_and_ever_more_rarely() {
    let (own, lost) = two_ids();
    let start = Instant::now();
    let mut connections = Connections::new(own);
    connections.opened(PeerId::random(), link(1, PathClass::Lan, LinkTransport::Tcp, true, start));
    let (mut now, mut tried) = (start, Vec::new());
    while now < start + LOST_FOR * 4 {
        now += Duration::from_millis(250);
        if connections.looks_for_the_lost(now) && connections.lost_to_dial([own, lost], now) == Some(lost) {
            tried.push(now - start);
            connections.unreachable(lost, now, 1.0);
        }
    }
    let early = tried.iter().filter(|at| **at < LOST_FOR).count();
    assert!((80..=110).contains(&early), "every six seconds at first, not {early} times");
    assert!((5..=7).contains(&(tried.len() - early)), "every five minutes then: {tried:?}");
}

#[test]
fn what_is_too_much_is_let_go_the_relayed_and_the_latest_first_and_never_what_is_needed() {
    let (own, relayed) = two_ids();
    let start = Instant::now();
    let mut connections = Connections::new(own);
    let nodes: Vec<_> = (0..HIGH_WATER).map(|_| PeerId::random()).collect();
    for (number, node) in nodes.iter().enumerate() {
        let since = start + Duration::from_secs(number as u64);
        connections.opened(*node, link(number, PathClass::Lan, LinkTransport::Quic, false, since));
    }
    let now = start + Duration::from_secs(HIGH_WATER as u64) + PRUNE_GRACE;
    assert!(connections.surplus(now, |_, _| false, |_| false).is_empty(), "it is not too much yet");
    connections.opened(relayed, link(100, PathClass::Relayed, LinkTransport::Relay, false, start));
    connections.opened(nodes[0], link(101, PathClass::Relayed, LinkTransport::Relay, false, start));
    connections.opened(nodes[1], link(102, PathClass::Relayed, LinkTransport::Relay, true, start));
    let ids = |connections: &Connections, used: &[usize], kept: &[PeerId]| -> Vec<ConnectionId> {
        let is_used = |_: &PeerId, id: ConnectionId| used.iter().any(|used| ConnectionId::new_unchecked(*used) == id);
        let surplus = connections.surplus(now, is_used, |node| kept.contains(node));
        surplus.into_iter().map(|(_, id)| id).collect()
    };
    let id = ConnectionId::new_unchecked;
    let mut beside = [101, 102].map(id).to_vec();
    let mut found = ids(&connections, &[], &[]);
    found[..2].sort_unstable_by_key(|found| *found == id(102));
    beside.push(id(100));
    assert_eq!(found, beside);
    assert_eq!(ids(&connections, &[101, 102, 100], &[]), [63, 62, 61].map(id), "the latest");
    assert_eq!(ids(&connections, &[101, 102, 100], &[nodes[62]]), [63, 61, 60].map(id), "not what is kept");
    assert!(ids(&connections, &[101, 102, 100], &[&nodes[..], &[relayed]].concat()).is_empty());
    connections.let_go(nodes[63], now);
    connections.closed(&nodes[63], id(63));
    assert!(connections.to_dial([nodes[63]], now + REDIAL_MAX).is_empty(), "not called back");
}

#[test]
fn a_connection_that_tested_reachability_is_never_the_best_and_is_soon_closed() {
    let start = Instant::now();
    let (own, other) = two_ids();
    let mut connections = Connections::new(own);
    connections.opened(other, link(1, PathClass::Wan, LinkTransport::Tcp, true, start));
    let test = link(2, PathClass::Wan, LinkTransport::Quic, true, start);
    connections.opened(other, Link { own_port: false, ..test });
    assert_eq!(connections.best(&other).map(|best| best.id), Some(ConnectionId::new_unchecked(1)));
    assert!(connections.duplicates(start, |_, _| false).is_empty());
    assert_eq!(connections.duplicates(start + TEST_GRACE, |_, _| false), [ConnectionId::new_unchecked(2)]);
}

#[test]
fn a_detour_is_tried_to_be_cut_short_ever_more_rarely_and_by_one_side() {
    let start = Instant::now();
    let (own, other) = two_ids();
    let mut connections = Connections::new(own);
    connections.opened(other, link(1, PathClass::Relayed, LinkTransport::Relay, true, start));
    let mut tries = Vec::new();
    for second in 0..4000 {
        if !connections.detours_due(start + Duration::from_secs(second)).is_empty() {
            tries.push(second);
        }
    }
    assert_eq!(tries, [30, 90, 210, 450, 930, 1830, 2730, 3630]);
    connections.opened(other, link(2, PathClass::Wan, LinkTransport::Quic, true, start));
    assert!(connections.detours_due(start + Duration::from_secs(9000)).is_empty(), "there is a direct one");
    connections.closed(&other, ConnectionId::new_unchecked(2));
    assert!(connections.detours_due(start + Duration::from_secs(9000)).is_empty(), "it begins anew");

    let mut other_side = Connections::new(other);
    other_side.opened(own, link(1, PathClass::Relayed, LinkTransport::Relay, false, start));
    assert!(other_side.detours_due(start + Duration::from_secs(9000)).is_empty());
}

#[test]
fn a_connection_that_is_much_older_than_the_latest_is_of_a_former_run() {
    let (own, node) = two_ids();
    let start = Instant::now();
    let mut connections = Connections::new(own);
    assert!(!connections.outlives_a_run(&node));
    let at = |id, since| link(id, PathClass::Lan, LinkTransport::Quic, true, since);
    connections.opened(node, at(1, start));
    connections.opened(node, at(2, start + Duration::from_millis(300)));
    assert!(!connections.outlives_a_run(&node), "the two dialled each other");
    connections.opened(node, at(3, start + Duration::from_secs(3)));
    assert!(connections.outlives_a_run(&node));
    connections.closed(&node, ConnectionId::new_unchecked(1));
    connections.closed(&node, ConnectionId::new_unchecked(2));
    assert!(!connections.outlives_a_run(&node));
}
