//! Nodes find each other, tell each other, and go.

use std::time::Duration;

use super::*;
use crate::mesh::{LinkTransport, PathClass};

/// Short enough for a test to wait for, long enough for four beats on a busy machine.
const SHORT_TTL: Duration = Duration::from_secs(3);

async fn meet_over(transport: LinkTransport, path: &str) {
    let a = run(on_loopback("a"));
    a.mesh.advertise(model("of-a"), 0).await;
    let seed = format!("/ip4/127.0.0.1/{}", path.replace("PORT", &a.mesh.port().expect("a port").to_string()));
    let b = run(with_seed(on_loopback("b"), &seed.parse().expect("a seed")));
    b.mesh.advertise(model("of-b"), 0).await;

    let advert = b.until_offered(a.id(), "of-a").await;
    assert_eq!(advert.name, "a");
    assert!(!advert.addresses.is_empty());
    a.until_offered(b.id(), "of-b").await;
    let peer = b.until_view("the connection", |view| view.peers.get(&a.id()).cloned()).await;
    assert_eq!((peer.path, peer.transport), (PathClass::Local, transport));
    let seed = b.mesh.view().seeds[0].clone();
    assert!(seed.connected && seed.error.is_none(), "{seed:?}");
    assert_eq!(seed.node, Some(a.id().to_base58()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_meet_by_a_seed_over_quic() {
    meet_over(LinkTransport::Quic, "udp/PORT/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_meet_by_a_seed_over_tcp() {
    meet_over(LinkTransport::Tcp, "tcp/PORT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_spreads_and_the_round_trip_is_measured() {
    let a = run(on_loopback("a"));
    let b = run(with_seed(on_loopback("b"), &a.seed()));
    a.mesh.advertise(model("first"), 0).await;
    b.until_offered(a.id(), "first").await;
    a.mesh.advertise(model("second"), 2).await;
    b.until_offered(a.id(), "second").await;
    b.until_adverts("the load", |adverts| (adverts.get(&a.id())?.load == 2).then_some(())).await;
    b.until_view("a round trip", |view| view.peers.get(&a.id())?.rtt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_learns_what_was_told_before_it_came() {
    let (a_settings, a_seed) = in_memory("a");
    let (b_settings, b_seed) = in_memory("b");
    let a = run(a_settings);
    let b = run(with_seed(b_settings, &a_seed));
    a.mesh.advertise(model("of-a"), 0).await;
    b.mesh.advertise(model("of-b"), 0).await;
    b.until_offered(a.id(), "of-a").await;
    a.until_offered(b.id(), "of-b").await;

    let (c_settings, _) = in_memory("c");
    let c = run(with_seed(c_settings, &b_seed));
    c.mesh.advertise(model("of-c"), 0).await;
    c.until_offered(a.id(), "of-a").await;
    c.until_offered(b.id(), "of-b").await;
    a.until_offered(c.id(), "of-c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_advert_is_fetched_apart_from_its_gossip() {
    let a = run(on_loopback("a"));
    let b = run(with_seed(on_loopback("b"), &a.seed()));
    b.until_connected(a.id()).await;
    let many: Vec<_> = (0..200)
        .map(|number| {
            let mut capability = Capability::new("test", Kind::LLM_CHAT, &format!("model-{number}"));
            capability.description = format!("{number}: {}", "what it is good for. ".repeat(10));
            Arc::new(capability)
        })
        .collect();
    a.mesh.advertise(many, 0).await;
    let advert = b.until_offered(a.id(), "model-199").await;
    assert_eq!(advert.capabilities.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_gone_at_once() {
    let a = run(on_loopback("a"));
    let b = run(with_seed(on_loopback("b"), &a.seed()));
    b.mesh.advertise(model("of-b"), 0).await;
    a.until_offered(b.id(), "of-b").await;
    let mut events = a.events.subscribe();
    b.mesh.leave().await;
    // Its advert would be believed for another minute, and the limit of this wait is half of that.
    a.until_gone(b.id()).await;
    let left = async {
        loop {
            if events.recv().await.expect("the bus").kind == "node.left" {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, left).await.expect("told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanishes_is_gone_after_its_ttl_and_stays_gone() {
    let short = |settings| Settings { advert_ttl: SHORT_TTL, ..settings };
    let (a_settings, a_seed) = in_memory("a");
    let (b_settings, _) = in_memory("b");
    let (c_settings, _) = in_memory("c");
    let a = run(a_settings);
    let b = run(short(with_seed(b_settings, &a_seed)));
    let c = run(with_seed(c_settings, &a_seed));
    b.mesh.advertise(model("of-b"), 0).await;
    a.until_offered(b.id(), "of-b").await;
    c.until_offered(b.id(), "of-b").await;

    let gone = b.id();
    drop(b);
    a.until_gone(gone).await;
    c.until_gone(gone).await;
    // A newcomer syncs with both, and brings nobody back to life.
    let (d_settings, _) = in_memory("d");
    let d = run(with_seed(d_settings, &a_seed));
    d.mesh.advertise(model("of-d"), 0).await;
    for node in [&a, &c] {
        node.until_offered(d.id(), "of-d").await;
        assert!(!node.mesh.adverts().borrow().contains_key(&gone));
    }
    d.until_connected(c.id()).await;
    assert!(!d.mesh.adverts().borrow().contains_key(&gone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_lives_on_beyond_its_ttl_while_it_beats() {
    let (a_settings, a_seed) = in_memory("a");
    let (b_settings, _) = in_memory("b");
    let a = run(a_settings);
    let b = run(Settings { advert_ttl: SHORT_TTL, ..with_seed(b_settings, &a_seed) });
    b.mesh.advertise(model("of-b"), 0).await;
    a.until_offered(b.id(), "of-b").await;
    let mut events = a.events.subscribe();
    tokio::time::sleep(SHORT_TTL * 2).await;
    assert!(a.mesh.adverts().borrow().contains_key(&b.id()));
    while let Ok(event) = events.try_recv() {
        assert_ne!(event.kind, "node.left", "it was gone in between");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_down_is_explained_and_found_when_it_comes_up() {
    let seeker = run(on_loopback("seeker"));
    // A port that nobody has: taken by a node that is gone again.
    let late = run(on_loopback("late"));
    let (port, seed) = (late.mesh.port(), late.seed());
    late.mesh.leave().await;
    let error = seeker.mesh.join(seed.clone()).await.expect_err("nobody there").to_string();
    assert!(error.contains("connection refused (is atmosphere running there, and is UDP/TCP"), "{error}");
    assert_eq!(seeker.mesh.view().seeds[0].error, Some(error));

    let late = run(Settings { gossip_port: port, ..on_loopback("late") });
    seeker.until_connected(late.id()).await;
    assert_eq!(seeker.mesh.join(seed).await, Ok(late.id()));
    assert_eq!(seeker.mesh.view().seeds[0].error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_the_node_itself_is_left_out() {
    let a = run(on_loopback("a"));
    let error = a.mesh.join(a.seed()).await.expect_err("itself").to_string();
    assert!(error.contains("this node itself"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_finds_the_others_by_its_peer_book() {
    let dir = tempfile::tempdir().expect("a directory");
    let at_home = |settings| Settings { data_dir: Some(dir.path().to_owned()), ..settings };
    let a = run(on_loopback("a"));
    let identity = Identity::load_or_create(dir.path()).expect("an identity");
    let b = run_as(at_home(with_seed(on_loopback("b"), &a.seed())), identity.clone());
    b.until_connected(a.id()).await;
    b.mesh.leave().await;
    book_in(dir.path()).await;

    let b = run_as(at_home(on_loopback("b")), identity);
    b.mesh.advertise(model("again"), 0).await;
    b.until_connected(a.id()).await;
    a.until_offered(b.id(), "again").await;
}

/// Waits until there is a peer book.
async fn book_in(dir: &std::path::Path) {
    let kept = async {
        while !dir.join("peers.bin").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, kept).await.expect("the book");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_seed_finds_those_that_had_dialled_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let at_home = |settings| Settings { data_dir: Some(dir.path().to_owned()), ..settings };
    let (seed, other) = (Identity::load_or_create(dir.path()).expect("an identity"), Identity::generate());
    let a = run_as(at_home(on_loopback("a")), seed.clone());
    let b = run_as(with_seed(on_loopback("b"), &a.seed()), other.clone());
    a.until_connected(b.id()).await;
    book_in(dir.path()).await;
    let port = b.mesh.port();
    for node in [a, b] {
        node.mesh.leave().await;
    }

    // Neither is told of the other. The port is free again in a moment.
    let b = || {
        start(
            Settings { gossip_port: port, ..on_loopback("b") },
            other.clone(),
            EventBus::default(),
            &Metrics::default(),
        )
    };
    let again = async {
        loop {
            match b() {
                Ok(again) => return again,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let (b, _calls) = tokio::time::timeout(LIMIT, again).await.expect("the port is free");
    let a = run_as(at_home(on_loopback("a")), seed);
    a.until_connected(b.node()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_of_a_mesh_come_to_know_each_other() {
    const NODES: usize = 8;
    let (settings, seed) = in_memory("node-0");
    let mut nodes = vec![run(settings)];
    for number in 1..NODES {
        nodes.push(run(with_seed(in_memory(&format!("node-{number}")).0, &seed)));
    }
    for (number, node) in nodes.iter().enumerate() {
        node.mesh.advertise(model(&format!("of-{number}")), 0).await;
    }
    for node in &nodes {
        for (number, other) in nodes.iter().enumerate() {
            node.until_offered(other.id(), &format!("of-{number}")).await;
        }
        node.until_view("connections to all", |view| (view.peers.len() == NODES - 1).then_some(())).await;
    }
}

#[tokio::test]
async fn a_node_runs_on_threads_of_its_own_and_a_taken_port_is_an_error() {
    let own = |settings| Settings { runtime: None, ..settings };
    let a = run(own(on_loopback("a")));
    let b = run(own(with_seed(on_loopback("b"), &a.seed())));
    b.mesh.advertise(model("of-b"), 0).await;
    a.until_offered(b.id(), "of-b").await;

    let taken = own(Settings { gossip_port: a.mesh.port(), ..quiet("c") });
    let error =
        start(taken, Identity::generate(), EventBus::default(), &Metrics::default()).expect_err("taken").to_string();
    assert!(error.contains("is in use") && error.contains("--gossip-port"), "{error}");
    b.mesh.leave().await;
    a.until_gone(b.id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a network interface with multicast; for a network namespace of its own"]
async fn two_nodes_find_each_other_by_mdns() {
    let open = |name| Settings { mdns: true, bind: vec![Ipv4Addr::UNSPECIFIED.into()], ..on_loopback(name) };
    let a = run(open("a"));
    let b = run(open("b"));
    let started = std::time::Instant::now();
    a.until_connected(b.id()).await;
    b.until_connected(a.id()).await;
    assert!(started.elapsed() < Duration::from_secs(5), "they found each other after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_a_name_is_as_near_as_what_the_name_stands_for() {
    let a = run(on_loopback("a"));
    let seed = format!("localhost:{}", a.mesh.port().expect("a port"));
    let b = run(with_seed(on_loopback("b"), &seed.parse().expect("a seed")));
    let peer = b.until_view("the connection", |view| view.peers.get(&a.id()).cloned()).await;
    assert_eq!(peer.path, PathClass::Local, "{}", peer.address);
    assert!(peer.address.starts_with("/ip4/127.0.0.1/"), "{}", peer.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_dials_back_and_tells_its_clock() {
    let a = run(on_loopback("a"));
    let b = run(with_seed(on_loopback("b"), &a.seed()));
    b.until_connected(a.id()).await;
    let found = async {
        loop {
            let examination = crate::mesh::examine(&b.mesh, Some(a.id())).await;
            // Where the neighbour sees this node is told a moment after they met.
            if let Some(reach) = examination.neighbours.first().and_then(|one| one.reach.clone()) {
                return (examination, reach);
            }
        }
    };
    let (examination, reach) = tokio::time::timeout(LIMIT, found).await.expect("in time");
    assert_eq!(
        reach,
        [(LinkTransport::Quic, crate::mesh::Reach::Reached), (LinkTransport::Tcp, crate::mesh::Reach::Reached)]
    );
    let ahead = examination.neighbours[0].clock_ahead_ms.clone().expect("it told its clock");
    assert!(ahead.abs() < 5000, "both have one clock: {ahead}");
    assert!(examination.situation.addresses.iter().any(|one| one.told && one.address.contains("127.0.0.1")));
}
