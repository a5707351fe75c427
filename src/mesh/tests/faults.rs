//! Strangers, liars and doubles.

use futures::StreamExt as _;
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use prost::Message;

use super::*;
use crate::capability::limits;
use crate::mesh::behaviour::{Behaviour, Event, topic};
use crate::mesh::statement::Signer;
use crate::mesh::{MeshId, make_swarm};
use crate::telemetry;
use crate::wire::v1;

async fn next_event(events: &mut tokio::sync::broadcast::Receiver<telemetry::Event>, kind: &str) -> telemetry::Event {
    let wait = async {
        loop {
            let event = events.recv().await.expect("the bus");
            if event.kind == kind {
                return event;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain for {kind}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_mesh_opens_no_protocol_and_hears_why() {
    for path in ["udp/PORT/quic-v1", "tcp/PORT"] {
        let a = run(on_loopback("a"));
        let mut events = a.events.subscribe();
        let seed = format!("/ip4/127.0.0.1/{}", path.replace("PORT", &a.mesh.port().expect("a port").to_string()));
        let stranger = run(Settings { mesh_name: "other".into(), ..on_loopback("stranger") });
        let error = stranger.mesh.join(seed.parse().expect("a seed")).await.expect_err("refused").to_string();
        assert!(error.contains("another mesh"), "{path}: {error}");
        let refused = next_event(&mut events, "gate.refused").await;
        assert_eq!(refused.data["node"], stranger.id().to_base58());
        assert_eq!(refused.data["inbound"], true);
        assert!(a.mesh.view().peers.is_empty() && stranger.mesh.view().peers.is_empty());
        assert!(!a.mesh.adverts().borrow().contains_key(&stranger.id()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_knows_no_gate_opens_no_protocol() {
    #[derive(libp2p::swarm::NetworkBehaviour)]
    struct Curious {
        identify: libp2p::identify::Behaviour,
        ping: libp2p::ping::Behaviour,
    }
    let a = run(on_loopback("a"));
    for path in ["udp/PORT/quic-v1", "tcp/PORT"] {
        let key = libp2p::identity::Keypair::generate_ed25519();
        let tcp = libp2p::tcp::tokio::Transport::default()
            .upgrade(libp2p::core::upgrade::Version::V1Lazy)
            .authenticate(libp2p::noise::Config::new(&key).expect("keys"))
            .multiplex(libp2p::yamux::Config::default())
            .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
        let quic = libp2p::quic::tokio::Transport::new(libp2p::quic::Config::new(&key))
            .map(|(node, muxer), _| (node, StreamMuxerBox::new(muxer)));
        let transport = quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
        let behaviour = Curious {
            identify: libp2p::identify::Behaviour::new(libp2p::identify::Config::new("x".into(), key.public())),
            ping: libp2p::ping::Behaviour::default(),
        };
        let config = libp2p::swarm::Config::with_tokio_executor();
        let mut stranger = Swarm::new(transport, behaviour, key.public().to_peer_id(), config);
        let port = a.mesh.port().expect("a port").to_string();
        let address: Multiaddr = format!("/ip4/127.0.0.1/{}", path.replace("PORT", &port)).parse().expect("an address");
        stranger.dial(address).expect("dialled");
        let turned_away = async {
            loop {
                match stranger.select_next_some().await {
                    SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => return,
                    SwarmEvent::Behaviour(CuriousEvent::Identify(libp2p::identify::Event::Received { .. })) => {
                        panic!("a protocol was opened")
                    }
                    SwarmEvent::Behaviour(CuriousEvent::Ping(libp2p::ping::Event { result: Ok(_), .. })) => {
                        panic!("a protocol was opened")
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, turned_away).await.expect("turned away");
        assert!(a.mesh.view().peers.is_empty());
    }
}

/// A member that says what it wants: a swarm without a driver.
async fn hostile(target: &Node) -> (Swarm<Behaviour>, Identity) {
    let identity = Identity::generate();
    let settings = quiet("hostile");
    let mesh = MeshId::open(&settings.mesh_name);
    let (reports, _) = mpsc::channel(1);
    let runtime = tokio::runtime::Handle::current();
    let (mut swarm, ..) =
        make_swarm(&settings, mesh, &identity, &runtime, reports, Default::default(), &Metrics::default())
            .expect("a swarm");
    let address: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", target.mesh.port().expect("a port")).parse().expect("an address");
    let dial = libp2p::swarm::dial_opts::DialOpts::peer_id(target.id()).addresses(vec![address]).build();
    swarm.dial(dial).expect("dialled");
    let subscribed = async {
        loop {
            if let SwarmEvent::Behaviour(Event::Gossip(event)) = swarm.select_next_some().await
                && matches!(*event, libp2p::gossipsub::Event::Subscribed { .. })
            {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, subscribed).await.expect("connected");
    (swarm, identity)
}

fn advert_of(identity: &Identity, name: &str) -> v1::SignedStatement {
    let mesh = MeshId::open(super::super::DEFAULT_MESH_NAME);
    let signer = Signer::new(identity.keypair().clone(), *mesh.as_bytes()).expect("a signer");
    let advert = Advert {
        node: identity.peer_id(),
        epoch: 1,
        seq: 1,
        ttl: Duration::from_secs(60),
        name: name.into(),
        version: "1".into(),
        addresses: Vec::new(),
        capabilities: model(name).into(),
        load: 0,
        relay: false,
    };
    signer.advert(&advert).expect("signed").wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_malformed_statements_are_refused_and_nothing_else_is_disturbed() {
    let a = run(on_loopback("a"));
    let honest = run(with_seed(on_loopback("honest"), &a.seed()));
    honest.mesh.advertise(model("before"), 0).await;
    a.until_offered(honest.id(), "before").await;

    let (mut swarm, identity) = hostile(&a).await;
    let good = advert_of(&identity, "good");
    let mut forged = good.clone();
    forged.signature = vec![7; 64].into();
    // Its own words in another node's name.
    let mut impostor = good.clone();
    impostor.node = honest.id().to_bytes().into();
    let mut changed = good.clone();
    changed.statement = [&good.statement[..], &[0x50, 0x01]].concat().into();
    let mut swapped = good.clone();
    swapped.body = advert_of(&identity, "else").body;
    let gossip_topic = topic(MeshId::open(super::super::DEFAULT_MESH_NAME));
    let bad = [forged.clone(), impostor, changed, swapped];
    for message in bad.iter().map(Message::encode_to_vec).chain([vec![0xff; 300], Vec::new()]) {
        let _ = swarm.behaviour_mut().gossip.publish(gossip_topic.hash(), message);
    }
    // And by sync: too large a body, and forged ones.
    let mut huge = good.clone();
    huge.body = vec![0; limits::BODY_BYTES + 1].into();
    for statement in bad.into_iter().chain([huge]) {
        let push = vec![v1::AgedStatement { statement: Some(statement), ..Default::default() }];
        let digest = v1::SyncDigest { push, ..Default::default() };
        let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
        swarm.behaviour_mut().sync.send_request(&a.id(), request);
    }
    let hostile = tokio::spawn(async move {
        let mut swarm = swarm;
        loop {
            if let SwarmEvent::Behaviour(Event::Gossip(_)) = swarm.select_next_some().await {}
        }
    });
    // What the honest node says afterwards arrives as before.
    honest.mesh.advertise(model("after"), 0).await;
    a.until_offered(honest.id(), "after").await;
    let adverts = Arc::clone(&a.mesh.adverts().borrow());
    assert!(!adverts.contains_key(&identity.peer_id()), "nothing of what it said was valid");
    assert_eq!(adverts[&honest.id()].name, "honest");
    hostile.abort();

    // The same member is believed once it tells the truth: its words were refused for what they were.
    let (mut swarm, identity) = self::hostile(&a).await;
    let good = advert_of(&identity, "good");
    let _ = swarm.behaviour_mut().gossip.publish(gossip_topic.hash(), good.encode_to_vec());
    let driven = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    a.until_offered(identity.peer_id(), "good").await;
    driven.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_notices_that_another_one_has_its_identity() {
    let hub = run(on_loopback("hub"));
    let identity = Identity::generate();
    let first = run_as(with_seed(on_loopback("first"), &hub.seed()), identity.clone());
    first.mesh.advertise(model("of-first"), 0).await;
    hub.until_offered(first.id(), "of-first").await;
    let mut events = first.events.subscribe();
    let second = run_as(with_seed(on_loopback("second"), &hub.seed()), identity);
    let clash = next_event(&mut events, "mesh.identity_clash").await;
    assert_eq!(clash.data["node"], first.id().to_base58());

    // When the other one is gone, all is as before.
    second.mesh.advertise(model("of-second"), 0).await;
    drop(second);
    first.mesh.advertise(model("again"), 0).await;
    hub.until_offered(first.id(), "again").await;
    first.mesh.advertise(model("and-again"), 0).await;
    hub.until_offered(first.id(), "and-again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_seed_has_its_own_identity_says_so_and_keeps_trying() {
    let identity = Identity::generate();
    let first = run_as(on_loopback("first"), identity.clone());
    let second = run_as(on_loopback("second"), identity);
    let (mut at_first, mut at_second) = (first.events.subscribe(), second.events.subscribe());
    let error = second.mesh.join(first.seed()).await.expect_err("a double").to_string();
    assert!(error.contains("runs with this node's identity"), "{error}");
    assert!(!error.contains("is atmosphere running there"), "{error}");
    for events in [&mut at_first, &mut at_second] {
        let clash = next_event(events, "mesh.identity_clash").await;
        assert_eq!(clash.data["node"], first.id().to_base58());
    }
    let seed = second.mesh.view().seeds[0].clone();
    assert_eq!((seed.connected, seed.error), (false, Some(error)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_is_heard_while_its_former_connection_still_stands() {
    let hub = run(on_loopback("hub"));
    let identity = Identity::generate();
    let short = |name| Settings { advert_ttl: Duration::from_secs(4), ..on_loopback(name) };
    let before = run_as(with_seed(short("node"), &hub.seed()), identity.clone());
    before.mesh.advertise(model("before"), 0).await;
    hub.until_offered(before.id(), "before").await;
    // It cannot close its connection, and the hub does not know yet that it is dead.
    let after = run_as(with_seed(short("node"), &hub.seed()), identity);
    after.until_connected(hub.id()).await;
    before.mesh.fail().await;
    after.mesh.advertise(model("after"), 0).await;
    hub.until_offered(after.id(), "after").await;
    // What it says from then on comes by gossip, as sync comes by too rarely for its beats.
    after.mesh.advertise(model("later"), 0).await;
    hub.until_offered(after.id(), "later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_about_a_node_cannot_silence_it() {
    let a = run(on_loopback("a"));
    let honest = run(with_seed(on_loopback("honest"), &a.seed()));
    honest.mesh.advertise(model("before"), 0).await;
    a.until_offered(honest.id(), "before").await;
    let (mut swarm, _) = hostile(&honest).await;
    for epoch in [u64::MAX, (1 << 53) - 2, 1 << 53] {
        let position = v1::Position { node: honest.id().to_bytes().into(), epoch, seq: 1, issued_at_ms: 0 };
        let digest = v1::SyncDigest { positions: vec![position], ..Default::default() };
        let request = v1::SyncRequest { body: Some(v1::sync_request::Body::Digest(digest)) };
        swarm.behaviour_mut().sync.send_request(&honest.id(), request);
    }
    let mut answers = 0;
    let answered = async {
        while answers < 3 {
            if let SwarmEvent::Behaviour(Event::Sync(event)) = swarm.select_next_some().await
                && let libp2p::request_response::Event::Message {
                    message: libp2p::request_response::Message::Response { .. },
                    ..
                } = *event
            {
                answers += 1;
            }
        }
    };
    tokio::time::timeout(LIMIT, answered).await.expect("answered");
    honest.mesh.advertise(model("after"), 0).await;
    a.until_offered(honest.id(), "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_the_mesh_hears_when_its_driver_fails() {
    for runtime in [Some(tokio::runtime::Handle::current()), None] {
        let mut node = run(Settings { runtime, ..on_loopback("a") });
        let mut view = node.mesh.watch_view();
        node.mesh.fail().await;
        // This is what ends the node: see `node::run`.
        let lost = async { while view.changed().await.is_ok() {} };
        tokio::time::timeout(LIMIT, lost).await.expect("the sender is gone");
        let ended = async {
            assert!(node.mesh.join("127.0.0.1:1".parse().expect("a seed")).await.is_err());
            assert!(node.mesh.call(PeerId::random(), super::calls::call()).await.is_err());
            node.mesh.advertise(Vec::new(), 0).await;
            node.mesh.leave().await;
            assert!(node.calls.recv().await.is_none());
        };
        tokio::time::timeout(LIMIT, ended).await.expect("nothing waits for it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_show_the_mesh_without_naming_anybody() {
    let a = run(on_loopback("a"));
    let b = run(with_seed(on_loopback("b"), &a.seed()));
    let stranger = run(Settings { mesh_name: "other".into(), ..on_loopback("stranger") });
    stranger.mesh.join(a.seed()).await.expect_err("refused");
    b.mesh.advertise(model("of-b"), 0).await;
    a.until_offered(b.id(), "of-b").await;
    a.until_view("a round trip", |view| view.peers.get(&b.id())?.rtt).await;
    let text = a.metrics.encode();
    for line in [
        "atmosphere_mesh_gate_handshakes_total{direction=\"Inbound\",outcome=\"Admitted\"}",
        "atmosphere_mesh_gate_handshakes_total{direction=\"Inbound\",outcome=\"OtherMesh\"}",
        "atmosphere_mesh_connections{path=\"local\",transport=\"quic\"}",
        "atmosphere_mesh_adverts 2",
        "atmosphere_mesh_statements_total{outcome=\"changed\"}",
        "atmosphere_mesh_calls_dropped_total 0",
        "atmosphere_libp2p_swarm_connections_established_total",
        "atmosphere_libp2p_ping_rtt",
        "atmosphere_libp2p_gossip_",
        "atmosphere_libp2p_identify_received_total",
        "atmosphere_libp2p_bandwidth_bytes_total{",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    for node in [&a, &b, &stranger] {
        assert!(!text.contains(&node.id().to_base58()), "a node is named in\n{text}");
    }
}
